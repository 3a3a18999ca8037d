"""moa studio and moa report: a page to look at runs, and to correct them."""

from __future__ import annotations

import asyncio
import os
import secrets
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moa.cli import options, screen
from moa.core.errors import ConfigError, MoaError, require_package

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from moa.config.tables import Config
    from moa.graphs.engine.sketch import Drawable
    from moa.serving.server import Server
    from moa.studio.sources import Source, View

KEY = "MOA_STUDIO_KEY"
"""The variable with the key of the page."""
Rows = Annotated[
    str,
    typer.Argument(metavar="RUN", help="Output of moa run --out, or the folder of a job."),
]
Trace = Annotated[
    Path | None, typer.Option("--spans", metavar="FILE", help="Output of moa run --trace.")
]
Graph = Annotated[
    str | None,
    typer.Option(
        "--of", metavar="NAME", help="The graph that ran: a built-in one, or file.py:object."
    ),
]
Port = Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0: any that is free.")]
OpenPage = Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser.")]


def studio(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[SOURCE]",
            help="What moa run --out wrote, the folder of a job, or the answers of a cascade that "
            "learns; default: the example.",
        ),
    ] = None,
    *,
    trace: Trace = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            "--labels-file",
            metavar="FILE.jsonl",
            help="Write labels into this file; default: labelled.jsonl, of the example "
            "labelled-example.jsonl.",
        ),
    ] = None,
    calibration: options.CalibrationFile = None,
    graph: Graph = None,
    port: Port = 8090,
    open_page: OpenPage = True,
    config: options.ConfigFile = None,
    quiet: options.Quiet = False,
) -> None:
    """Look at a run in the browser, and correct it.

    The example, before anything was run:

        moa studio

    A run with its trace; moa learn reads the labels:

        moa run support inbox.jsonl --out done.jsonl --trace spans.jsonl
        moa studio done.jsonl --spans spans.jsonl --labels-file labelled.jsonl
        moa learn labelled.jsonl --graph support --out learned.json

    A running job, and a cascade that learns:

        moa studio nightly
        moa studio answers.db

    With --of you can also try inputs on the page, which calls models. The page listens on 127.0.0.1
    only; with $MOA_STUDIO_KEY it asks for that key.

    Exit codes: 0 or 143 SIGTERM, 2 usage or configuration, 130 Ctrl-C.

        moa studio done.jsonl --of support
    """
    check_extra()
    from moa.config.tables import Config
    from moa.studio.sources import find_source

    run_source = find_source(source)
    settings = Config() if run_source.demo else options.load_config(config)
    view = _open_view(run_source, trace, calibration, graph, settings)
    _enable_labels(view, labels, config)
    app = page_of(view, graph or (run_source.graph if run_source.demo else None), settings)
    show(view, app, port=port, open_page=open_page)


def check_extra() -> None:
    """Raise `MissingDependency` if the page can't be shown."""
    with require_package("uvicorn", extra="serve", purpose="to show the page"):
        import_module("uvicorn")


def show(view: View, app: Starlette, *, port: int, open_page: bool) -> None:
    """Serve the page until it is stopped."""
    from moa.serving.listening import address_of, listen_on, uvicorn_for

    view.start()
    with listen_on("127.0.0.1", port) as listener:
        address = f"{address_of(listener)}/studio/"
        screen.details().print(
            f"{view.source.name} on {address}", markup=False, highlight=False, soft_wrap=True
        )
        if open_page:
            typer.launch(address)
        serving = uvicorn_for(app, drain_s=1)
        try:
            asyncio.run(serving.serve(sockets=[listener]))
        finally:
            view.close()


def _enable_labels(view: View, labels: Path | None, config: Path | None) -> None:
    """Enable corrections on the page, and learning from them if the graph learns."""
    from moa.learning.labelled_graph import learns
    from moa.studio.labels import Labels
    from moa.studio.learning import Learning

    path = labels or Path("labelled-example.jsonl" if view.source.demo else "labelled.jsonl")
    view.labels = Labels(path)
    if view.graph and learns(view.graph[0]):
        view.learning = Learning(path, view.graph[0], config)


def page_of(view: View, graph: str | None = None, config: Config | None = None) -> Starlette:
    """Make the page; if a graph is named, inputs can be tried on it."""
    from moa.config.endpoints import Endpoints
    from moa.serving.app import app_of, server_of
    from moa.studio.app import mount, studio_app
    from moa.studio.trials import Trials

    key = os.environ.get(KEY, "")
    if graph is None:
        return mount(studio_app(view, key=key))
    server = server_of([graph], Endpoints(config))
    page = studio_app(view, key=key, trials=Trials(server))
    return mount(page, app_of(server, closes=True), only_page=True)


def report(
    source: Rows,
    *,
    out: Annotated[Path, typer.Option("--out", metavar="FILE.html", help="Write this file.")],
    trace: Trace = None,
    calibration: options.CalibrationFile = None,
    graph: Graph = None,
    texts: Annotated[bool, typer.Option("--texts", help="Include the texts of the rows.")] = False,
    limit: Annotated[
        int, typer.Option("--rows", min=1, help="Maximum rows in it; figures count all.")
    ] = 1000,
    overwrite: options.Overwrite = False,
    config: options.ConfigFile = None,
    quiet: options.Quiet = False,
) -> None:
    """Write the page about a run into one file.

    It opens anywhere, and loads nothing. Without --texts it has only labels, figures and times, no
    text of a row.

        moa report done.jsonl --out run.html
        moa report done.jsonl --spans spans.jsonl --texts --out run.html
    """
    from moa.studio.report import write_report
    from moa.studio.sources import find_source

    if out.exists() and not overwrite:
        raise ConfigError(f"{out} is there already: --overwrite replaces it")
    view = _open_view(find_source(source), trace, calibration, graph, options.load_config(config))
    view.texts = texts
    with screen.waiting() as say:
        view.on_read = lambda read, total: say(_describe_progress(read, total))
        rows = write_report(view, out, rows=limit)
    view.close()
    screen.results_console().print(f"{rows} of {len(view.book.entries)} rows in {out}")


def _describe_progress(read: int, total: int | None) -> str:
    return f"{read:,} rows are read" if total is None else f"{read:,} of {total:,} rows are read"


def key_of_page() -> str:
    """Return the key of a server's page: from the environment, else a new one."""
    return os.environ.get(KEY) or secrets.token_urlsafe(24)


def add_page(server: Server, app: Starlette, key: str) -> Starlette:
    """Add the page of a server's last runs to its app."""
    from moa.studio.app import mount, recent_runs, studio_app
    from moa.studio.sources import View
    from moa.studio.trials import Trials

    first = next(iter(server.served.values()))
    drawable = _drawable(first.node)
    view = View(recent_runs(server), graph=drawable and (first.node.name, drawable), texts=False)
    page = studio_app(view, settings=server.settings, key=key, trials=Trials(server))
    return mount(page, app)


def _open_view(
    source: Source,
    trace: Path | None,
    calibration: Path | None,
    graph: str | None,
    config: Config,
) -> View:
    from moa.studio.sources import View, read_calibrations

    view = View(source, trace=trace, calibrations=read_calibrations(calibration))
    name = graph or source.graph or source.guess()
    view.graph = _load_drawing(name, config, asked_for=graph is not None)
    return view


def _load_drawing(name: str, config: Config, *, asked_for: bool) -> tuple[str, Drawable] | None:
    """Load the graph that ran, to draw it; a guessed one that can't be loaded isn't drawn."""
    from moa.config.endpoints import Endpoints
    from moa.config.loading import READY, load_graph

    if not name or not (asked_for or name in READY):
        return None
    try:
        node = load_graph(name, Endpoints(config, read_keys=False))
    except MoaError:
        if asked_for:
            raise
        return None
    drawable = _drawable(node)
    return None if drawable is None else (node.name, drawable)


def _drawable(node: object) -> Drawable | None:
    from moa.graphs.engine.sketch import Drawable

    return node if isinstance(node, Drawable) else None
