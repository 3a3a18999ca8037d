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
SKIP, BACK, QUIT = "", "/back", "/quit"
_ANSWERS = f"Give a label's number or name, nothing to skip the text, {BACK} or {QUIT}"


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

    Answer each text with the number of a label, or its name. An empty line skips the text, /back
    takes the last label back, and /quit ends. Answers may come from a pipe, one a line.

    Exit codes: 0 done or ended by /quit, 1 nothing was labelled, 2 usage or configuration, 130
    stopped.

    The texts of a file that help most; each label is on disk at once, and --resume goes on where
    it stopped:

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
        raise typer.Exit(_by_hand(made, rows, picks, file))


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


def _by_hand(
    made: Calibration, rows: Sequence[Unlabelled], picks: Sequence[Pick], file: LabelFile
) -> int:
    """Ask whoever is there for the label of one text after another; the exit code."""
    console = screen.err()
    if not picks:
        console.print("all texts are labelled already")
        return DONE
    console.print(made.question.text, style="bold")
    console.print(_ANSWERS)
    code = DONE
    try:
        ask_for_labels(console, made.labels, rows, picks, file)
    except KeyboardInterrupt:
        code = options.STOPPED
    finally:
        console.print(f"\n{file.added} labelled into {file.path}")
    return code if code or file.added else NOTHING


def ask_for_labels(
    console: Console,
    labels: Sequence[str],
    rows: Sequence[Unlabelled],
    picks: Sequence[Pick],
    file: LabelFile,
) -> None:
    """Show the texts that were picked, and write each label that is given."""
    numbers = {str(number): name for number, name in enumerate(labels, start=1)}
    if not numbers.keys().isdisjoint(labels):  # a label such as 3 is no number of another
        numbers = {}
    answers = {name: name for name in labels} | numbers
    listed = [f"{number} {name}" for number, name in numbers.items()] or labels
    if reconfigure := getattr(sys.stdin, "reconfigure", None):
        reconfigure(errors="replace")
    place, labelled = 0, list[int]()
    while place < len(picks):
        pick = picks[place]
        console.rule(f"{place + 1} of {len(picks)}")
        console.print(rows[pick.place].text)
        console.print(Text("  ".join(listed), "bold"))
        answer = _read_answer()
        if answer == QUIT:
            return
        if answer == BACK:
            if labelled:
                place = labelled.pop()
                file.take_back()
        elif answer == SKIP:
            place += 1
        elif answer in answers:
            file.label(rows[pick.place], answers[answer], by=PERSON, chosen=pick.chosen)
            labelled.append(place)
            place += 1
        elif sys.stdin.isatty():
            console.print(f"{answer!r} is no label. {_ANSWERS}")
        else:  # its next line would be taken for the label of this text
            raise ConfigError(f"{answer!r} is no label. {_ANSWERS}")


def _read_answer() -> str:
    """Wait for one line; where no more will come, it is `QUIT`."""
    line = sys.stdin.readline()
    return line.strip() if line else QUIT
