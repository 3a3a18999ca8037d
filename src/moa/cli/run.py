"""moa run, job, draw and graphs: run graphs and agents on many items, draw and list them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing, nullcontext
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moa.cli import options, screen
from moa.core.errors import ConfigError

if TYPE_CHECKING:
    from moa.adapters.drawing import Drawing
    from moa.cli.row_runner import Asked
    from moa.config.endpoints import Endpoints
    from moa.core.context import RunContext
    from moa.core.node import AnyNode

_PACKAGE = Path(__file__).parents[1]

GraphName = Annotated[
    str,
    typer.Argument(help="A built-in graph or agent (see moa graphs), or file.py:object."),
]

JobName = Annotated[
    str,
    typer.Argument(
        metavar="JOB", help="Folder of the job, or postgresql://…#NAME.", show_default=False
    ),
]


def run(
    graph: GraphName,
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="INPUT",
            help=".jsonl, .csv, .txt, .parquet or .xlsx file, - for standard input.",
        ),
    ] = None,
    *,
    text: options.TextItself = False,
    demo: options.Demo = False,
    full: Annotated[
        bool, typer.Option("--full", help="Show whole outcomes in the table, on several lines.")
    ] = False,
    show_prompts: Annotated[
        bool,
        typer.Option(
            "--show-prompts",
            help="Print the prompts on standard error, texts of the rows included.",
        ),
    ] = False,
    writing: options.WritingOptions,
    job: options.JobStore = None,
    ray: options.RayAddress = None,
    tracing: options.TracingOptions,
    given: options.RunOptions,
) -> None:
    """Run a graph or an agent on every item of a file.

    Try it on the example inbox; without a moa.toml the built-in models answer, without a key:

        moa run support --demo

    One text, its answer alone, and a line of JSON for other programs:

        moa run sentiment --text "What a lovely day" --quiet
        moa run support inbox.jsonl --json | jq .status

    A table from a pipe, with the texts in the column body:

        zcat mails.csv.gz | moa run sentiment - --format csv --text-column body --out done.jsonl

    A table for a spreadsheet: the columns of the input, then those of the output:

        moa run sentiment reviews.csv --out result.xlsx --where label=negative

    With --out or --json each row gets a line as soon as it is done, with its id, or else its line
    number; without them a table comes at the end.

    Your own graph, from a file:

        moa run examples/custom_graph.py:graph reviews.txt

    Exit codes: 0 all answered or dropped, 1 some failed, 2 usage or configuration, 130 stopped.

    A large file, stored row by row, for at most two dollars; then continue where that stopped:

        moa run support inbox.csv --out done.jsonl --concurrency 32 --budget-usd 2
        moa run support inbox.csv --out done.jsonl --concurrency 32 --budget-usd 2 --resume

    A night's work, which the same command resumes after a crash, or shares between processes:

        moa run support "mails/*.parquet" --job nightly --concurrency 32
        moa job export nightly --out done.jsonl

    Times and costs, as spans:

        moa run support --demo --trace spans.jsonl

    On all machines of a Ray cluster, with 256 rows in flight:

        moa run support inbox.csv --out done.jsonl --concurrency 256 --ray 10.0.0.1:6379
    """
    from moa import rows
    from moa.cli.row_display import RowDisplay
    from moa.cli.row_runner import Input, RowRunner, file_of
    from moa.config.loading import endpoint_names, load_graph
    from moa.learning.labelled_graph import find_learned

    source = _input_of(graph, source, text=text, demo=demo)
    hint = "Give --text to run on the words themselves"
    input_rows = (
        rows.literal(source)
        if text
        else rows.read(source, else_do=hint, say=screen.notes().print, **given.row_format)
    )
    if show_prompts:
        screen.show_prompts()
    piped = source == rows.STDIN and not text
    if ray is not None:
        _join_ray(ray, job, tracing)

    async def prepare(endpoints: Endpoints, context: RunContext) -> tuple[AnyNode, Asked]:
        node = load_graph(graph, endpoints)
        if learned := find_learned(node):
            screen.notes().print(f"learned: {learned.summary}")
        if ray is None:
            return node, endpoint_names(node)
        from moa.rows.ray import RayNode

        budget, concurrency = context.budget, given.concurrency
        ray_node = RayNode(
            node, graph, endpoints.config, max_concurrency=concurrency, budget=budget
        )
        return ray_node, frozenset()

    read_from = None if text or piped else source
    total = 1 if text else rows.count(source, given.limit, given.format)
    tabular = not text and rows.format_of(source, given.format) in ("csv", "xlsx")
    runner = RowRunner(
        given,
        Input(rows=islice(input_rows, given.limit), live=piped, source=read_from, tabular=tabular),
        RowDisplay(as_json=writing.as_json, full=full, total=total),
        file=file_of(
            given, writing, source=read_from, line=rows.line, job=job, trace=tracing.trace
        ),
        job=job,
        tracing=tracing,
    )
    with nullcontext() if piped else closing(input_rows):  # a thread may still wait for a pipe
        raise typer.Exit(runner.run(prepare))


def _input_of(graph: str, source: str | None, *, text: bool, demo: bool) -> str:
    """Return INPUT, or the file of the demo."""
    if demo and (text or source is not None):
        raise ConfigError("--demo brings its own INPUT: give one of the two")
    if demo and graph != "support":
        raise ConfigError(f"{graph!r} has no demo. Try: moa run support --demo")
    if demo:
        return str(demo_file())
    if source is None:
        hint = ", or --demo to run on what ships" if graph == "support" else ""
        raise ConfigError(
            f"what is {graph!r} to run on? Give INPUT, a .jsonl, .csv or .txt file{hint}"
        )
    return source


def _join_ray(address: str, job: str | None, tracing: options.TracingOptions) -> None:
    from moa.rows.ray import connect

    if tracing.trace is not None:
        raise ConfigError(
            "--trace writes what happens in this process, and --ray runs rows in others: set a "
            "tracer provider there, or leave out one of them"
        )

    if job is not None:
        raise ConfigError(
            "--job and --ray both share rows out: start the same --job on each machine, or leave "
            "out one of them"
        )
    connect(address)


def demo_file() -> Path:
    """Return the shipped inputs of the support graph: in the package, or beside its sources."""
    shipped = _PACKAGE / "data" / "inbox.jsonl"
    return shipped if shipped.is_file() else _PACKAGE.parents[1] / "examples/support/inbox.jsonl"


def job_status(store: JobName, *, as_json: options.AsJson = False) -> None:
    """Show a job's progress, its cost, and why rows failed.

    It also works while the job runs. Rows are due, leased by a process, done, failed (to be
    retried), or dead (not to be retried).

        moa job status nightly
    """
    from moa.rows.jobs import Job

    with Job(store) as job:
        status = job.status()
    if as_json:
        screen.json_line(
            {
                "total": status.total,
                "left": status.left,
                "rows": dict(status.rows),
                "calls": status.calls,
                "cost": status.cost,
                "needed_llm": status.needed_llm,
                "causes": dict(status.causes),
            }
        )
        return
    out = screen.results_console()
    for state, count in sorted(status.rows.items()):
        out.print(f"{state:<8} {count}")
    out.print(f"calls    {status.calls}, {screen.dollars(Decimal(str(status.cost)))}")
    out.print(f"LLM      needed by {status.needed_llm} of {status.total} rows")
    for cause, count in sorted(status.causes.items(), key=lambda item: -item[1]):
        out.print(f"{cause}: {count} rows")


def job_retry(store: JobName) -> None:
    """Retry the rows of a job that failed or are dead.

    They become due again: the next `moa run GRAPH INPUT --job JOB` runs them.

        moa job retry nightly
    """
    from moa.rows.jobs import Job

    with Job(store) as job:
        screen.results_console().print(f"{job.retry()} rows are due again")


def job_failed(store: JobName) -> None:
    """Print the lines of the rows that failed or are dead, as JSON.

    moa job failed nightly | jq -r .error | sort | uniq -c
    """
    from moa.rows.jobs import Job

    with Job(store) as job:
        for values in job.lines("failed", "dead"):
            screen.json_line(values)


def job_export(
    store: JobName,
    *,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            metavar="FILE",
            help="Write a .jsonl, .csv, .parquet or .xlsx file; .gz compresses.",
        ),
    ],
    where: options.Where = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Write the output lines of moa run --out, in the order of the rows.

    Failed rows have a line with their error; rows that haven't run have none.

        moa job export nightly --out done.jsonl
    """
    from moa.rows.jobs import Job

    if out.is_file() and out.stat().st_size and not overwrite:
        raise ConfigError(f"{out} is there already: --overwrite replaces it")
    with Job(store) as job:
        count = job.export(out, where=where or ())
    screen.results_console().print(f"{count} lines in {out}")


def draw(
    graph: GraphName,
    *,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE.svg|FILE.png",
            help="Write a picture; default: Mermaid text on standard output.",
        ),
    ] = None,
    config: options.ConfigFile = None,
) -> None:
    """Draw a graph.

    It starts and sends nothing, and needs no key.

        moa draw support                                Mermaid, for GitHub or https://mermaid.live
        moa draw support --out support.svg              a picture; .png works too
        moa draw examples/custom_graph.py:graph         your own
    """
    from moa.config.endpoints import Endpoints
    from moa.config.loading import load_graph

    screen.check_target("--out", out)
    node = load_graph(graph, Endpoints(options.load_config(config), read_keys=False))
    draw: Callable[[], Drawing] | None = getattr(node, "draw", None)  # custom nodes may have it
    if draw is None:
        raise ConfigError(f"{graph!r} is a single agent, and there is nothing in it to draw")
    drawing = draw()
    if out is None:
        print(drawing.mermaid, end="")  # noqa: T201
    else:
        drawing.save(out)


def graphs(*, as_json: options.AsJson = False) -> None:
    """List the built-in graphs and agents, with measured results.

    The last column compares one call to a model with the graph on the same model and items: both
    scores, the number of calls, and the verdict. Other models may differ: moa compare measures it
    on your own rows.

    moa run NAME INPUT runs one, moa draw NAME draws it. Name your own by file.py:object.

        moa graphs
        moa graphs --json | jq .settings      what the table of each in moa.toml may say
    """
    from moa.config.loading import READY, read_measurements

    ready_graphs, measurements = sorted(READY.items()), read_measurements()
    if as_json:
        for name, ready in ready_graphs:
            facts = {"name": name, "does": ready.does, "settings": [*ready.settings]}
            results = {"measured": measurements[name].model_dump()} if name in measurements else {}
            screen.json_line(facts | results)
        return
    model = ", ".join(sorted({measurement.model for measurement in measurements.values()}))
    items = sorted(measurement.items for measurement in measurements.values())
    measured = f"beside one call ({model}, {items[0]} to {items[-1]} items)"
    rows = [(name, ready.does, str(measurements.get(name, ""))) for name, ready in ready_graphs]
    screen.results_console().print(screen.make_table(("name", "what it does", measured), rows))
