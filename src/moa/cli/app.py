"""The commands of `moa`, under headings, and their help."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from moa.cli import (
    chat,
    compare,
    decide,
    docs,
    index,
    keys,
    label,
    learn,
    learning,
    models,
    new,
    options,
    prompt,
    route,
    run,
    serve,
    servers,
    show,
    studio,
    trust,
)


class HeadedGroup(TyperGroup):
    """Lists its commands under their headings."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List the commands under each heading, in the order they were added."""
        width = max(map(len, self.commands))
        rows_by_heading: dict[str, list[tuple[str, str]]] = {}
        for name, command in self.commands.items():
            heading = getattr(command, "rich_help_panel", None) or "Commands"
            summary = command.get_short_help_str(formatter.width - 6 - width)
            rows_by_heading.setdefault(heading, []).append((f"{name:<{width}}", summary))
        for heading, rows in rows_by_heading.items():
            with formatter.section(heading):
                formatter.write_dl(rows)


class PlainCommand(TyperCommand):
    """A command whose errors about wrong values drop Pydantic's prefix."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the command line."""
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            error.message = error.message.removeprefix("Value error, ")
            raise


class RayCommand(PlainCommand):
    """A command whose `--ray` may lack an address, before another option or at the end."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Add an empty address, since Typer has no options with an optional value."""
        alone = [
            word == "--ray" and (args[index : index + 1] or ["-"])[0].startswith("-")
            for index, word in enumerate(args, start=1)
        ]
        words = ["--ray=" if is_alone else word for word, is_alone in zip(args, alone, strict=True)]
        return super().parse_args(ctx, words)


class LearnCommand(PlainCommand):
    """`moa learn`, which also has subcommands: `moa learn status answers.db`."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any
    ) -> Any:
        """Pass the arguments of a subcommand to it."""
        group: Any = get_command(lessons)
        if args and args[0] in group.commands:
            return group.make_context(info_name, args, parent=parent, **extra)
        return super().make_context(info_name, args, parent=parent, **extra)


def _typer(**further: Any) -> typer.Typer:
    return typer.Typer(
        cls=HeadedGroup,
        context_settings={"help_option_names": ["-h", "--help"]},
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        **further,
    )


app = _typer(
    name="moa",
    no_args_is_help=True,
    help="Mixtures of agents: small models decide, large ones write.",
    epilog="Start with: moa run support --demo",
)


def _show_version(is_requested: bool) -> None:
    from importlib.metadata import version

    if is_requested:
        print(f"moa {version('mixture-of-agents')}")  # noqa: T201
        raise typer.Exit


@app.callback()
def _about(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    del version


def _add(
    group: typer.Typer,
    command: Callable[..., None],
    name: str | None = None,
    heading: str | None = None,
) -> None:
    kind = {run.run: RayCommand, learn.learn: LearnCommand}.get(command, PlainCommand)
    decorator = group.command(
        name or command.__name__, cls=kind, rich_help_panel=heading, **_split_docstring(command)
    )
    decorator(options.flat(command))


def _split_docstring(command: Callable[..., None]) -> dict[str, Any]:
    """Split a docstring into the help above the options, and the epilog below.

    Indented examples stay as they are written; prose is wrapped.
    """
    summary, *paragraphs = inspect.cleandoc(command.__doc__ or "").split("\n\n")
    epilog = "\n\n".join(f"\b\n{p}" if p.startswith((" ", "moa ")) else p for p in paragraphs)
    return {"help": summary, "epilog": epilog}


lessons = _typer(no_args_is_help=True, help="Watch a cascade that learns, and feed it.")
_add(lessons, learning.status)
_add(lessons, learning.from_log, "from")
_add(lessons, learning.draw)
_add(lessons, learning.forget)

for heading, commands in {
    "Ask": (
        run.run,
        show.show,
        studio.studio,
        studio.report,
        prompt.prompt,
        chat.chat,
        run.draw,
        run.graphs,
        index.index,
    ),
    "Decide with guarantees": (
        label.label,
        learn.learn,
        decide.decide,
        learn.evaluate,
        compare.compare,
    ),
    "Serve graphs": (serve.serve, serve.mcp),
    "Choose and serve models": (models.choose, servers.up, servers.down, servers.status),
    "Set up": (new.new, docs.docs, servers.doctor, trust.trust),
}.items():
    for command in commands:
        _add(app, command, "eval" if command is learn.evaluate else "", heading)

jobs = _typer(
    no_args_is_help=True,
    help="Show the jobs of moa run --job, and export them.",
    epilog="After moa run support inbox.jsonl --job nightly: moa job status nightly",
)
app.add_typer(jobs, name="job", rich_help_panel="Ask")
for command in (run.job_status, run.job_retry, run.job_failed, run.job_export):
    _add(jobs, command, command.__name__.removeprefix("job_"))

callers = _typer(
    no_args_is_help=True,
    help="Make, list and revoke the keys of moa serve.",
    epilog="Start with: moa keys new alice --usd-per-day 5",
)
app.add_typer(callers, name="keys", rich_help_panel="Serve graphs")
_add(callers, keys.new)
_add(callers, keys.list_keys, "list")
_add(callers, keys.revoke)

catalogue = _typer()
app.add_typer(catalogue, name="models", rich_help_panel="Set up")
catalogue.callback(invoke_without_command=True, **_split_docstring(models.models))(models.models)
_add(catalogue, models.list_models, "list")
_add(catalogue, models.add)
_add(catalogue, models.fetch_model, "fetch")
_add(catalogue, models.probe_model, "probe")

routing = _typer(
    no_args_is_help=True,
    help="Send each request to the weaker or the stronger of two models.",
    epilog="Start with: moa route fit log.jsonl --out router.json",
)
app.add_typer(routing, name="route", rich_help_panel="Decide with guarantees")
_add(routing, route.fit)
_add(routing, route.score)
_add(routing, route.evaluate, "eval")
