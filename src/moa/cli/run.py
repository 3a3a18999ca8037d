"""moa run: many items through an agent or a graph."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Annotated, Protocol, runtime_checkable

import typer

from moa.cli import options

if TYPE_CHECKING:
    from moa.config.endpoints import Endpoints
    from moa.context import RunContext

EXAMPLES = """

Try it on the shipped inbox, on a small model in this machine, without a key:

    moa run support --demo

One text, and a line of JSON for other programs:

    moa run sentiment --text "What a lovely day"
    moa run support inbox.jsonl --json | jq .status

A big file, kept on disk as it goes, at no more than two dollars; and on from where that stopped:

    moa run support inbox.csv --out done.jsonl --concurrency 32 --budget-usd 2
    moa run support inbox.csv --out done.jsonl --concurrency 32 --budget-usd 2 --resume

A table from a pipe, whose texts stand in the column body:

    zcat mails.csv.gz | moa run sentiment - --format csv --text-column body --out done.jsonl

Lines are written as rows are done, each with the id of its row, or else its line number.

Your own graph, from a file:

    moa run examples/custom_graph.py:graph reviews.txt

Exit codes: 0 all answered or dropped, 1 some failed, 2 usage or configuration, 130 stopped.
"""


_ELSE_TEXT = "Give --text to run on the words themselves"


@runtime_checkable
class Watching(Protocol):
    """A node that has something to say once all rows are through."""

    @property
    def summary(self) -> str:
        """What it saw, in words."""
        ...


def run(
    graph: Annotated[
        str,
        typer.Argument(help="A ready graph or agent, which moa graphs lists, or file.py:object."),
    ],
    source: Annotated[
        str | None,
        typer.Argument(metavar="INPUT", help=".jsonl, .csv or .txt file, - for standard input."),
    ] = None,
    *,
    text: Annotated[
        bool, typer.Option("--text", help="Take INPUT as the text itself, not as a file.")
    ] = False,
    demo: Annotated[
        bool, typer.Option("--demo", help="Run on the inputs that ship, instead of INPUT.")
    ] = False,
    out: options.OutFile = None,
    resume: options.Resume = False,
    overwrite: options.Overwrite = False,
    format: options.Format = None,
    text_column: options.TextColumn = None,
    limit: options.Limit = None,
    concurrency: options.Concurrency = 8,
    budget_usd: options.BudgetUsd = None,
    config: options.ConfigFile = None,
    as_json: options.AsJson = False,
) -> None:
    """Run a graph or an agent on every item of a file."""
    from moa import rows
    from moa.cli.asking import asked_by
    from moa.cli.inputs import reader_of
    from moa.cli.report import Report
    from moa.cli.session import Prepared, Session
    from moa.graphs.loading import load_graph

    said: list[Watching] = []

    async def prepare(endpoints: Endpoints, context: RunContext) -> Prepared:
        del context
        node = load_graph(graph, endpoints)
        if isinstance(node, Watching):
            said.append(node)
        read = reader_of(node)
        return Prepared(
            node, read, asked=asked_by(node), needs_text=tabular and read is rows.text_of
        )

    source = _given(graph, source, text=text, demo=demo)
    tabular = not text and rows.format_of(source, format) == "csv"
    found = (
        rows.literal(source)
        if text
        else rows.read(source, format=format, text_column=text_column, else_do=_ELSE_TEXT)
    )
    piped = source == rows.STDIN and not text
    session = Session(
        config=config,
        concurrency=concurrency,
        budget_usd=budget_usd,
        live=piped,
    )
    with Report(
        rows.line,
        source=None if text or piped else source,
        out=out,
        existing=options.existing(out, resume=resume, overwrite=overwrite),
        as_json=as_json,
        total=1 if text else rows.count(source, limit, format),
        limited=limit is not None,
        counts_dollars=budget_usd is not None,
    ) as report:
        code = session.run(prepare, islice(found, limit), report)
        for node in said:
            report.say(node.summary)
        raise typer.Exit(code)


def _given(graph: str, source: str | None, *, text: bool, demo: bool) -> str:
    """Give INPUT, or the file of the demo.

    Raises:
        ConfigError: neither is given, or both, or the graph has no demo.
    """
    from moa.cli.demo import DEMOS, demo_of
    from moa.errors import ConfigError

    if demo and (text or source is not None):
        raise ConfigError("--demo brings its own INPUT: give one of the two")
    if demo:
        return demo_of(graph)
    if source is None:
        hint = ", or --demo to run on what ships" if graph in DEMOS else ""
        raise ConfigError(
            f"what is {graph!r} to run on? Give INPUT, a .jsonl, .csv or .txt file{hint}"
        )
    return source
