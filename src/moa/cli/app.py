"""The commands of `moa`, and what its help teaches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from moa.cli import (
    bench,
    calibrate,
    chat,
    choose,
    compare,
    decide,
    draw,
    graphs,
    index,
    label,
    models,
    route,
    run,
    serve,
)

app = typer.Typer(
    name="moa",
    help="Mixtures of agents: small models decide, large ones write.",
    epilog="Start with: moa run support --demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


catalogue = typer.Typer(rich_markup_mode=None)
routing = typer.Typer(
    help="Routers: which of two models a request goes to, by what the strong one gains.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def _show_version(asked: bool) -> None:
    from importlib.metadata import version

    if asked:
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


def _add(command: Callable[..., None], examples: str) -> None:
    app.command(command.__name__, help=_shown(command, examples))(command)


def _shown(command: Callable[..., None], examples: str) -> str:
    """Put the examples below the description, as they are written."""
    return (command.__doc__ or "").strip() + examples.replace("\n\n", "\n\n\b\n")


_add(run.run, run.EXAMPLES)
_add(chat.chat, chat.EXAMPLES)
_add(decide.decide, decide.EXAMPLES)
_add(calibrate.calibrate, calibrate.CALIBRATE)
app.command("eval", help=_shown(calibrate.evaluate, calibrate.EVAL))(calibrate.evaluate)
_add(label.label, label.EXAMPLES)
_add(graphs.graphs, graphs.EXAMPLES)
_add(draw.draw, draw.EXAMPLES)
_add(index.index, index.EXAMPLES)
_add(choose.choose, choose.EXAMPLES)
_add(compare.compare, compare.EXAMPLES)
_add(calibrate.promote, calibrate.PROMOTE)
app.add_typer(routing, name="route")
app.add_typer(catalogue, name="models")
_add(serve.up, serve.UP_EXAMPLES)
_add(serve.down, serve.DOWN_EXAMPLES)
_add(serve.status, serve.STATUS_EXAMPLES)
_add(bench.bench, bench.EXAMPLES)
_add(serve.doctor, serve.DOCTOR_EXAMPLES)

catalogue.callback(invoke_without_command=True, help=_shown(models.models, models.EXAMPLES))(
    models.models
)
catalogue.command("list", help=_shown(models.list_models, models.LIST_EXAMPLES))(models.list_models)
catalogue.command("add", help=_shown(models.add, models.ADD_EXAMPLES))(models.add)
catalogue.command("fetch", help=_shown(models.fetch_model, models.FETCH_EXAMPLES))(
    models.fetch_model
)
catalogue.command("probe", help=_shown(models.probe_model, models.PROBE_EXAMPLES))(
    models.probe_model
)
routing.command("fit", help=_shown(route.fit, route.FIT))(route.fit)
routing.command("score", help=_shown(route.score, route.SCORE))(route.score)
routing.command("eval", help=_shown(route.evaluate, route.EVAL))(route.evaluate)
