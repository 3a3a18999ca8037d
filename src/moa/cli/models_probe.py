"""moa models probe: how a model is asked best, found out with texts whose labels are known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from moa.cli import options

if TYPE_CHECKING:
    from moa.config import Config
    from moa.context import RunContext
    from moa.decisions.probe import Probe

EXAMPLES = """

    moa models probe embedded             the built-in model, or that of $MOA_MODEL
    moa models probe small                the model of [endpoints.small]

About two hundred texts with known labels, of many tasks and in thirteen languages, are read as a
text to be continued and as a turn of a chat. For each kind of question the layout with the lower
log loss is kept in the cache, with how much the model counts beside the encoder, and is used from
then on. A model that costs nothing is probed by itself when it is first needed, for a minute at
most; this command reads all the texts. An endpoint that may cost money waits for --yes.
"""


def probe_model(
    name: Annotated[str, typer.Argument(help="An endpoint, or embedded.", metavar="NAME")],
    *,
    yes: Annotated[
        bool, typer.Option("--yes", help="Agree to ask an endpoint that may cost money.")
    ] = False,
    budget_usd: options.BudgetUsd = None,
    config: options.ConfigFile = None,
) -> None:
    """Find out in which layout of the prompt a model decides best, and keep it."""
    import asyncio

    from moa.cli import screen
    from moa.cli.configuration import configured
    from moa.cli.tables import listed
    from moa.context import RunContext
    from moa.decisions.probe import LAYOUTS
    from moa.endpoints.known import keep
    from moa.errors import ConfigError
    from moa.usage import Budget

    context = RunContext(budget=Budget(cost=budget_usd), keep_notes=False)
    made = asyncio.run(_probed(configured(config), name, context, may_cost=yes))
    rows = [
        (
            kind,
            *(f"{losses[layout]:.3f}" for layout in LAYOUTS),
            made.found.layout_of(kind),
            f"{made.found.weight[kind]:g}",
        )
        for kind, losses in made.losses.items()
    ]
    columns = ("question", *(f"log loss, {it}" for it in LAYOUTS), "kept", "weight")
    console = screen.out()
    console.print(listed(columns, rows))
    used = context.usage.total
    console.print(
        f"{made.texts} texts in {len(LAYOUTS)} layouts, {used.input_tokens:,} tokens read"
    )
    try:
        console.print(f"kept in {keep(made.found)}")
    except OSError as error:
        raise ConfigError(f"what was found can't be kept: {error}") from error


async def _probed(config: Config, name: str, context: RunContext, *, may_cost: bool) -> Probe:
    """Probe an endpoint, with progress.

    Raises:
        ConfigError: there is no such endpoint, or it may cost money and nobody agreed.
    """
    from moa.agents.deciding import costs_nothing
    from moa.cli import screen
    from moa.decisions.probe import probe, shipped_trials
    from moa.endpoints.encoders import encoder_beside
    from moa.errors import ConfigError
    from moa.tiers import Endpoints

    async with Endpoints(config) as endpoints:
        endpoint = endpoints.named(name)
        if not (may_cost or costs_nothing(endpoint)):
            raise ConfigError(
                f"{name} may cost money, and nothing was sent: {2 * len(shipped_trials())} "
                "requests of about 100 tokens. Run it again with --yes to go on"
            )
        with screen.err().bars() as bar:
            reading = bar.add_task(f"asking {endpoint.model}", total=None)
            return await probe(
                endpoint,
                encoder=encoder_beside(endpoint),
                context=context,
                progress=lambda done, total: bar.update(reading, completed=done, total=total),
            )
