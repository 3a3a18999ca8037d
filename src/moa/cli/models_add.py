"""moa models add: a known model becomes an endpoint of the configuration."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moa.usage import Tier

if TYPE_CHECKING:
    from moa.adding import Added

EXAMPLES = """

    moa models add mistral-7b --name small        served here by vLLM: moa up small
    moa models add qwen3-8b --concurrency 64 --context 2048
    moa models add gpt-5-mini --name large        served by its vendor
    moa models add laya                           a decision model, with the command that starts it

How an open model is served (its quantisation, length and share of the GPU's memory) is worked out
from the memory of this machine, and is an estimate. Comments and order of the file are kept.
"""


def add(
    model: Annotated[str, typer.Argument(help="A name from: moa models list", metavar="MODEL")],
    *,
    name: Annotated[
        str | None,
        typer.Option("--name", help="Of the endpoint; else the model's.", show_default=False),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", help="File to write; else $MOA_CONFIG, else ./moa.toml.", metavar="FILE"
        ),
    ] = None,
    tier: Annotated[
        Tier | None, typer.Option("--tier", help="Of the endpoint; else the model's.")
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option("--concurrency", min=1, help="Requests at once to have room for.")
    ] = None,
    context: Annotated[
        int | None,
        typer.Option("--context", min=1, help="Tokens of the longest prompt and its answer."),
    ] = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Overwrite an endpoint; write a model that does not fit."),
    ] = False,
) -> None:
    """Write a known model into moa.toml as an endpoint, with what serving it here takes."""
    from moa.adding import Wish, added
    from moa.advisor.catalogue import model as known
    from moa.advisor.hardware import machine
    from moa.cli.configuration import configured
    from moa.config import Config
    from moa.config_file import target, write_endpoint

    file = target(config)
    chosen = known(model)
    endpoint = name or chosen.name.replace(".", "-")
    made = added(
        chosen,
        endpoint,
        machine=machine(),
        config=configured(file) if file.exists() else Config(),
        wish=Wish(tier=tier, tokens=context, concurrency=concurrency, anyway=force),
    )
    write_endpoint(file, endpoint, made.table, tiers=made.tiers, force=force)
    _tell(made, endpoint, file)


def _tell(made: Added, endpoint: str, file: Path) -> None:
    from rich.text import Text

    from moa.cli import screen

    console = screen.out()
    console.print(Text(f"Wrote [endpoints.{endpoint}] into {file}: {made.model.title}"))
    for line in made.notes:
        console.print(Text(f"  {line}"))
    for number, line in enumerate(made.steps):
        console.print(Text(("Next: " if number == 0 else "      ") + line, "bold"))
