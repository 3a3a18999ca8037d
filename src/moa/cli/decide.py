"""moa decide: a label for every text, without writing Python."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from moa.cli import options

if TYPE_CHECKING:
    from rich.console import Console

    from moa.agents.classifier import Classifier
    from moa.cli.items import Item, Malformed, Row
    from moa.context import RunContext
    from moa.endpoints import Example
    from moa.tiers import Endpoints

SAMPLE = 256
"""Most texts of the input that its bias is removed on; the first ones."""

EXAMPLES = """

Labels alone, and a file of rows with id and text:

    moa decide mails.jsonl --task "Which team does this mail belong to?" \\
        --labels billing,delivery,technical --out decided.jsonl

With a few labelled rows ({"text": …, "label": …}), which help a small model most:

    moa decide mails.jsonl --task "…" --labels billing,delivery,technical \\
        --examples labelled.jsonl --out decided.jsonl

"None of these" as an answer, and decisions that don't depend on the other rows of the file:

    moa decide mails.jsonl --task "…" --labels billing,delivery --none \\
        --unlabelled last-month.jsonl --out decided.jsonl

Each line has id, label, confidence (the label's probability) and scores (one a label, adding up
to 1). In the line of a row that failed they are null, null and {}, and error says why.

Exit codes: 0 all decided, 1 some failed, 2 usage or configuration, 130 stopped.
"""


def decide(
    source: Annotated[
        str,
        typer.Argument(metavar="INPUT", help=".jsonl, .csv or .txt file, - for standard input."),
    ],
    *,
    task: Annotated[str, typer.Option("--task", help="The question that the labels answer.")],
    labels: Annotated[str, typer.Option("--labels", metavar="A,B,C", help="The labels.")],
    examples: Annotated[
        Path | None,
        typer.Option("--examples", metavar="FILE", help="Labelled rows: text and label."),
    ] = None,
    none: Annotated[
        bool, typer.Option("--none", help='Let "none of these" be an answer too.')
    ] = False,
    unlabelled: Annotated[
        Path | None,
        typer.Option("--unlabelled", metavar="FILE", help="Texts to remove bias on; else INPUT."),
    ] = None,
    out: options.OutFile = None,
    limit: options.Limit = None,
    concurrency: options.Concurrency = 8,
    budget_usd: options.BudgetUsd = None,
    config: options.ConfigFile = None,
    as_json: options.AsJson = False,
) -> None:
    """Decide on a label for every text of a file."""
    from moa.agents.classifier import Classifier
    from moa.cli import rows
    from moa.cli.inputs import text_of
    from moa.cli.report import Report
    from moa.cli.session import Prepared, Session

    names = _labels(labels)
    labelled = tuple(_labelled(examples, names, none=none)) if examples else ()
    found = islice(rows.read(source), limit)
    sample = list(islice(found, SAMPLE))
    texts = list(_texts(rows.read(str(unlabelled)) if unlabelled else iter(sample)))

    async def prepare(endpoints: Endpoints, context: RunContext) -> Prepared:
        agent = Classifier(endpoints.slm, names, task=task, none=none, name="label")
        fitted = await _adapted(agent, labelled, texts, context, report.errors)
        return Prepared(fitted, text_of)

    session = Session(
        config=config,
        concurrency=concurrency,
        budget_usd=budget_usd,
        live=source == rows.STDIN,
    )
    with Report(
        line,
        source=source,
        out=out,
        as_json=as_json,
        total=rows.count(source, limit),
        counts_dollars=budget_usd is not None,
    ) as report:
        raise typer.Exit(session.run(prepare, chain(sample, found), report))


def line(item: Item) -> dict[str, object]:
    """Write a decision as a line of JSON."""
    from moa.cli.lines import plain, usage_of
    from moa.questions import Choice

    output = item.output
    written: dict[str, object] = {
        "id": item.row.id,
        "label": None,
        "confidence": None,
        "scores": {},
    }
    if isinstance(output, Choice):
        decided = cast("Choice[str]", output)
        written |= {
            "label": decided.label,
            "confidence": decided.confidence,
            "scores": decided.probabilities,
        }
    if item.error is not None:
        written["error"] = item.error
    return {
        **written,
        "seconds": round(item.seconds, 4),
        "usage": usage_of(item),
        "trace": [plain(note) for note in item.trace],
    }


async def _adapted(
    agent: Classifier[str],
    labelled: Sequence[Example],
    unlabelled: Sequence[str],
    context: RunContext,
    console: Console,
) -> Classifier[str]:
    """Fit the agent to its task before the first decision, and show how far it is."""
    from rich.progress import Progress

    with Progress(console=console, transient=True) as bar:
        reading = bar.add_task("fitting to the task", total=None)
        fitted = await agent.adapt(
            labelled=labelled,
            unlabelled=unlabelled,
            context=context,
            progress=lambda done, total: bar.update(reading, completed=done, total=total),
        )
    if fitted.adaptation is not None:
        console.print(f"fitted to the task: {fitted.adaptation.origin}", highlight=False)
    return fitted


def _labels(given: str) -> list[str]:
    from moa.errors import ConfigError

    names = [name.strip() for name in given.split(",")]
    if len(names) < 2 or len(set(names)) < len(names) or not all(names):
        raise ConfigError(
            f"--labels takes at least two different labels between commas, got {given!r}"
        )
    return names


def _labelled(path: Path, labels: list[str], *, none: bool) -> Iterator[Example]:
    from moa.cli import rows
    from moa.cli.inputs import text_of
    from moa.cli.items import Malformed
    from moa.config import nearest
    from moa.endpoints import Example
    from moa.errors import ConfigError
    from moa.questions import NONE_OF_THESE

    allowed = [*labels, NONE_OF_THESE] if none else labels
    for row in rows.read(str(path)):
        where = f"--examples {path}, line {row.number}"
        if isinstance(row, Malformed):
            raise ConfigError(f"{where}: {row.error}")
        label = row.value.get("label") if isinstance(row.value, dict) else None
        if not isinstance(label, str) or label not in allowed:
            raise ConfigError(f"{where}: {label!r} is no label{nearest(str(label), allowed)}")
        yield Example(text_of(row.value), {"label": label})


def _texts(found: Iterator[Row | Malformed]) -> Iterator[str]:
    from moa.cli.inputs import text_of
    from moa.cli.items import Row
    from moa.errors import InputError

    for row in found:
        if isinstance(row, Row):
            try:
                yield text_of(row.value)
            except InputError:
                continue  # reported when its turn comes
