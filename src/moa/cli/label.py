"""moa label: labels for the texts that help a calibration most, by a person or an LLM."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.text import Text

from moa.cli import options, screen
from moa.errors import ConfigError

if TYPE_CHECKING:
    from moa._terminal import Console
    from moa.agents.classifier import Classifier
    from moa.calibration.file import Calibration
    from moa.config.endpoints import Endpoints
    from moa.context import RunContext
    from moa.evals.labelling import LabelFile, Pick, Unlabelled

PERSON = "person"
DONE, NOTHING = 0, 1
KEYS = "123456789abcdefghijklmnopqrstuvwxyz0ABCDEFGHIJKLMNOPQRSTUVWXYZ!#$%&()*+,-./:;<=>?@[]_{|}"
"""One for each label, in their order: enough for 87."""
_SKIP, _BACK, _END, _STOP = " ", "\x7f\b", "\r\n", "\x03"


def label(
    source: options.Source,
    *,
    calibration: options.NeededCalibration,
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE.jsonl", help="Write one labelled row a line.")
    ] = Path("labelled.jsonl"),
    kept: options.Keeping,
    reading: options.Reading,
    by_llm: Annotated[
        bool, typer.Option("--by-llm", help="Let the large model label them.")
    ] = False,
    limit: options.DefaultLimit = 100,
    read: Annotated[
        int, typer.Option("--read", min=2, help="Texts that are read to choose among.")
    ] = 500,
    asking: options.Asking,
) -> None:
    """Label the texts that help a calibration most.

    By the large model instead, at no more than one dollar:

        moa label inbox.jsonl --calibration teams.json --by-llm --budget-usd 1 --out labelled.jsonl

    Half of the texts are drawn at random, since a promise can only be found on such; the others are
    those that the calibration is in doubt of. Each line says which by chosen, and who labelled it
    by labelled_by. Then calibrate again, on the rows of before and these:

        cat before.jsonl labelled.jsonl > all.jsonl
        moa calibrate all.jsonl --task "Which team does this mail belong to?" --out teams.json

    Keys: those shown before the labels; space passes over a text, backspace takes the last label
    back, return or Ctrl-C ends.

    Exit codes: 0 done or ended by a key, 1 nothing was labelled, 2 usage or configuration, 130
    stopped.

    The texts of a file that help most, one key a label; what is labelled is kept at once, and
    --resume goes on where it stopped:

        moa label inbox.jsonl --calibration teams.json --out labelled.jsonl
        moa label inbox.jsonl --calibration teams.json --out labelled.jsonl --resume
    """
    from moa.calibration.file import Calibration
    from moa.evals.calibrations import connected
    from moa.evals.labelling import LabelFile, picked, read_unlabelled

    made = Calibration.load(calibration)
    picks: list[Pick] = []
    with LabelFile(out, existing=kept.existing(out), source=source) as file:
        rows = read_unlabelled(
            source,
            format=reading.format,
            text_column=reading.text_column,
            encoding=reading.encoding,
        )

        async def body(endpoints: Endpoints, context: RunContext) -> int:
            with screen.progress("reading") as progress:
                picks.extend(
                    await picked(
                        connected(made, endpoints.slm),
                        [row.text for row in rows],
                        most=limit,
                        known=file.texts,
                        most_read=read,
                        context=context,
                        progress=progress,
                    )
                )
            if not by_llm:
                return DONE
            return await _by_llm(made, endpoints, rows, picks, file, context)

        stopped = f"stopped; what was labelled is kept: {options.how_to_go_on(out)}"
        code = asking.run(body, stopped=stopped)
        if code or by_llm:
            raise typer.Exit(code)
        raise typer.Exit(_by_keys(made, rows, picks, file))


async def _by_llm(
    made: Calibration,
    endpoints: Endpoints,
    rows: Sequence[Unlabelled],
    picks: Sequence[Pick],
    file: LabelFile,
    context: RunContext,
) -> int:
    """Let the large model label each text; the exit code."""
    from moa.evals.labelling import label_by_model
    from moa.graphs.single_model import single_model

    if not endpoints.has_llm:
        raise ConfigError(
            "--by-llm needs a large model, and none is configured: a small one would only repeat "
            'what it believes already. Add one to moa.toml, with tier = "llm"'
        )
    llm = endpoints.llm
    with screen.progress() as progress:
        found = await label_by_model(
            cast("Classifier[str | None]", single_model(llm, calibration=made, calibrated=False)),
            rows,
            picks,
            file,
            by=f"{llm.name}: {llm.model}",
            labels=made.labels,
            context=context,
            progress=partial(progress, f"labels by {llm.name}"),
        )
    for line in found.problems:
        screen.err().print(line)
    screen.notes().print(f"{file.added} of {len(picks)} labelled into {file.path}")
    return DONE if file.added or not picks else NOTHING


def _by_keys(
    made: Calibration, rows: Sequence[Unlabelled], picks: Sequence[Pick], file: LabelFile
) -> int:
    """Show one text after another, and write the label whose key is pressed; the exit code."""
    console = screen.err()
    keys = dict(zip(KEYS, made.labels, strict=False))
    if len(keys) < len(made.labels):
        raise ConfigError(
            f"{len(made.labels)} labels are more than there are keys ({len(KEYS)}): let the large "
            "model label by --by-llm"
        )
    if not picks:
        console.print("all texts are labelled already")
        return DONE
    console.print(made.question.text, style="bold")
    code = _labelled(console, keys, rows, picks, file)
    console.print(f"\n{file.added} labelled into {file.path}")
    return code if file.added or code == options.STOPPED else NOTHING


def _labelled(
    console: Console,
    keys: dict[str, str],
    rows: Sequence[Unlabelled],
    picks: Sequence[Pick],
    file: LabelFile,
) -> int:
    place, labelled = 0, list[int]()
    while place < len(picks):
        row = rows[picks[place].place]
        _show(console, keys, row.text, f"{place + 1} of {len(picks)}")
        key = _key()
        if not key or key in _END:
            return DONE
        if key == _STOP:
            return options.STOPPED
        if key in _BACK:
            if labelled:
                place = labelled.pop()
                file.take_back()
        elif key == _SKIP:
            place += 1
        elif key in keys:
            file.label(row, keys[key], by=PERSON, chosen=picks[place].chosen)
            labelled.append(place)
            place += 1
    return DONE


def _show(console: Console, keys: dict[str, str], text: str, where: str) -> None:
    console.rule(where)
    console.print(text)
    console.print(Text("  ".join(f"{key} {name}" for key, name in keys.items()), "bold"))


def _key() -> str:
    """Wait for one key; empty where no more will come."""
    if not sys.stdin.isatty():
        return sys.stdin.read(1)
    try:
        return typer.getchar()
    except KeyboardInterrupt:
        return _STOP
    except EOFError:
        return ""
