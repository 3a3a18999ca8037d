"""moa new: a small project that runs at once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from moa.cli import options, screen
from moa.core.errors import ConfigError

if TYPE_CHECKING:
    from moa.config.endpoints import Endpoints
    from moa.core.context import RunContext
    from moa.inbox.intents import Proposal

TEMPLATES = Path(__file__).with_name("templates")
"""Folder with a folder of files for each template."""
Template = Literal["inbox", "moderation", "extraction", "cascade", "rag"]
_CONFIG, _MESSAGES = "moa.toml", "messages.jsonl"
_SHOWN = 10
"""Number of messages of an inbox to write into a new project."""


def new(
    template: Annotated[
        Template, typer.Argument(metavar="TEMPLATE", help="inbox, moderation, … as listed below.")
    ],
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder of the project; created if missing.")
    ],
    *,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="INPUT",
            help="With inbox: draft the intents of these messages, a .jsonl, .csv or .txt file.",
        ),
    ] = None,
    overwrite: options.Overwrite = False,
    yes: options.Agree = False,
    reading: options.ReadingOptions,
    asking: options.AskingOptions,
) -> None:
    """Make a small project that runs at once, with no key.

    It runs on the built-in models, and has a configuration, ten rows of data, a graph in Python, a
    test, and a short README:

        inbox         reply to messages, or send them to the people who take care of them
        moderation    publish, hold or remove comments
        extraction    turn mails into typed fields
        cascade       a small model answers if it is sure; a large one or people do the rest
        rag           answer questions from a handbook, with sources

    With --from a configured large model drafts intents in moa.toml from 120 of your messages, for
    you to edit in your own words. The command leaves out spam and prompt injections, states the
    cost first, and needs --yes if it may cost money. In a folder with a moa.toml it writes only the
    intents into that file.

    It replaces nothing without --overwrite.

    Exit codes: 0 written, 2 usage, data or configuration, 130 stopped: then nothing is written.

    A project, and how it is tried:

        moa new moderation comments
        cd comments
        moa run graph.py:graph comments.jsonl

    With messages of yours:

        moa new inbox shop --from messages.jsonl
        moa new inbox shop --from mails.csv --text-column body
    """
    if source is None:
        if yes:
            raise ConfigError("--yes is about the intents of an inbox: give --from")
        _write(template, folder, _plan_files(template, folder, overwrite=overwrite))
        _say_what_is_next(template, folder)
    elif template != "inbox":
        raise ConfigError(f"--from is for moa new inbox; {template} has rows of its own to replace")
    else:
        drafts = _Drafts(source, folder, reading, overwrite=overwrite)
        raise typer.Exit(asking.run(partial(drafts.write, yes=yes)))


class _Drafts:
    """Drafts the intents of an inbox, and writes them into its project.

    Args:
        messages: File of the messages, or `-`.
        folder: Folder of the project; if it has no configuration yet, the template is written too.
        reading: Options for reading the messages.
        overwrite: Replace what exists already.

    Raises:
        ConfigError: something exists already, without `overwrite`.
    """

    def __init__(
        self, messages: str, folder: Path, reading: options.ReadingOptions, *, overwrite: bool
    ) -> None:
        from moa.cli.intents import PLACE
        from moa.config.file import check_block

        self._messages, self._folder, self._reading = messages, folder, reading
        self._overwrite = overwrite
        self._config = folder / _CONFIG
        check_block(self._config, PLACE, overwrite=overwrite)  # before anything is paid for
        self._files: Sequence[Path] = ()
        if not self._config.is_file():
            user_files = (self._config, Path(messages))
            self._files = _plan_files("inbox", folder, overwrite=overwrite, paths=user_files)

    async def write(self, endpoints: Endpoints, context: RunContext, *, yes: bool) -> int:
        """Draft the intents, write all files, and print the next steps; return the exit code."""
        from moa.cli.intents import PLACE, as_toml, draft
        from moa.config.file import add_block
        from moa.rows import STDIN

        messages, config = self._messages, self._config
        proposals = await draft(
            messages,
            config,
            endpoints,
            context,
            reading=self._reading,
            yes=yes,
        )
        _write("inbox", self._folder, self._files)
        if Path(_MESSAGES) in self._files and messages != STDIN:
            _write_messages(messages, self._folder / _MESSAGES, self._reading)
        add_block(config, as_toml(proposals), PLACE, overwrite=self._overwrite)
        _say_intents(proposals, messages, config)
        return 0


def _files(template: str) -> list[Path]:
    """List the files of a template, relative to a project."""
    folder = TEMPLATES / template
    paths = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
    return [path for path in paths if not any(part.startswith(("__", ".")) for part in path.parts)]


def _plan_files(
    template: str, folder: Path, *, overwrite: bool, paths: Sequence[Path] = ()
) -> Sequence[Path]:
    """List the files of the template to write, except `paths`.

    Raises:
        ConfigError: one exists already, or the folder is a file.
    """
    if folder.exists() and not folder.is_dir():
        hint = f" --from {folder}" if template == "inbox" else ""
        raise ConfigError(
            f"{folder} is a file, and a project a folder: moa new {template} DIR{hint}"
        )
    given_paths = {path.resolve() for path in paths}
    files = [path for path in _files(template) if (folder / path).resolve() not in given_paths]
    existing = [str(path) for path in files if (folder / path).exists()]
    if existing and not overwrite:
        raise ConfigError(
            f"{folder} has {', '.join(existing)} already, and nothing was written: name another "
            "folder, or replace them by --overwrite"
        )
    return files


def _write(template: str, folder: Path, files: Sequence[Path]) -> None:
    """Write files of a template."""
    for path in files:
        target = folder / path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{target.parent} can't be made: {error.strerror}") from error
        screen.write_text("DIR", target, (TEMPLATES / template / path).read_text("utf-8"))


def _write_messages(source: str, target: Path, reading: options.ReadingOptions) -> None:
    """Write some messages of an inbox as the example rows of its project."""
    from moa.core._files import dump_json
    from moa.learning.labelled_graph import rows_of

    rows = rows_of(source, **reading.row_format)
    lines = "".join(f"{dump_json(fields)}\n" for _, fields in islice(rows, _SHOWN))
    screen.write_text("DIR", target, lines)


def _say_what_is_next(template: str, folder: Path) -> None:
    """Print the written files, and the commands to try."""
    files = _files(template)
    console = screen.results_console()
    for path in files:
        console.print(str(folder / path))
    (rows,) = (path for path in files if path.suffix == ".jsonl")
    screen.details().print(
        f"\nREADME.md says what to change in them. To try it:\n"
        f"  cd {folder}\n  moa run graph.py:graph {rows}\n  pytest"
    )


def _say_intents(proposals: Sequence[Proposal], source: str, config: Path) -> None:
    """Print the drafted intents, and the next steps."""
    rows = [(proposal.name, proposal.means) for proposal in proposals]
    screen.results_console().print(screen.make_table(("intent", "means"), rows))
    option = "" if config == Path(_CONFIG) else f" --config {config}"
    screen.details().print(
        f"{len(proposals)} intents in {config}, as a draft.\n"
        f"1. Edit them: names, means, examples and queues.\n"
        f"2. See what becomes of messages: moa run support {source}{option} --out runs.jsonl\n"
        f"3. Label some: moa label support runs.jsonl{option} --out labelled.jsonl"
    )
