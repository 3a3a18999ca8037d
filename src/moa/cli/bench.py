"""moa bench: what an endpoint gets done, and what its tokens and decisions cost."""

from __future__ import annotations

from typing import Annotated

import typer

from moa.cli import options

EXAMPLES = """

The small model in this machine, with nothing configured:

    moa bench embedded
    moa bench embedded --concurrency 1,4 --seconds 10

A server of your own, rented by the hour, or on your own power:

    moa bench small --hourly-usd 0.80
    moa bench small --watts 350 --usd-per-kwh 0.30

A vendor's endpoint costs money: it says how much at most, and waits for --yes:

    moa bench large --concurrency 1,8 --yes

What is measured is kept in moa.bench.json beside moa.toml, where budgets take the price from, if
moa.toml gives none. Exit codes: 0 measured, 2 usage or configuration, 130 stopped (what was
measured until then is kept, unless there is a complete measurement).
"""


def bench(
    endpoint: Annotated[str, typer.Argument(help="Name of a configured endpoint, or embedded.")],
    *,
    concurrency: Annotated[
        str,
        typer.Option(
            "--concurrency", help="Concurrent requests, one step for each number.", metavar="N,…"
        ),
    ] = "1,8,32",
    seconds: Annotated[
        float,
        typer.Option("--seconds", min=0.1, help="Seconds for which each step begins requests."),
    ] = 5.0,
    hourly_usd: Annotated[
        float | None,
        typer.Option("--hourly-usd", min=0, help="US dollars that the hardware costs an hour."),
    ] = None,
    watts: Annotated[
        float | None,
        typer.Option("--watts", min=0, help="Watts that the hardware draws under load."),
    ] = None,
    usd_per_kwh: Annotated[
        float | None,
        typer.Option("--usd-per-kwh", min=0, help="US dollars a kilowatt-hour of electricity."),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Agree to ask an endpoint that may cost money.")
    ] = False,
    config: options.ConfigFile = None,
    as_json: options.AsJson = False,
) -> None:
    """Measure tokens and decisions per second, and what they cost."""
    from rich.text import Text

    from moa.cli import screen
    from moa.cli.bench_run import Benched, counts, hourly
    from moa.cli.bench_tables import shown
    from moa.cli.configuration import configured

    benched = Benched(
        config=configured(config),
        name=endpoint,
        concurrencies=counts(concurrency),
        seconds=seconds,
        hourly_usd=hourly(hourly_usd, watts, usd_per_kwh),
        may_cost=yes,
    )
    result = benched.run(screen.err())
    found = result.measurement
    if as_json:
        screen.json_line(found.model_dump(mode="json"))
    else:
        console = screen.out()
        console.print(shown(found))
    screen.err().print(Text(result.told))
    raise typer.Exit(130 if found.stopped else 0)
