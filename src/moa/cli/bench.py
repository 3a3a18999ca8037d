"""moa bench: what an endpoint gets done, and what its tokens and decisions cost."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from datetime import UTC, datetime
from decimal import Decimal
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group
from rich.text import Text

from moa.cli import options, screen
from moa.errors import ConfigError
from moa.usage import UNLIMITED, Budget

if TYPE_CHECKING:
    from moa.advisor.bench import Bench, Measurement, Step
    from moa.config import Config

_DOES = {
    "read": "reads new text",
    "reread": "reads known text",
    "write": "writes",
    "decide": "decides",
}
_COLUMNS = (
    "it",
    "in flight",
    "answers",
    "failed",
    "answers/s",
    "tokens in/s",
    "of them cached",
    "tokens out/s",
    "median s",
    "p95 s",
)


def bench(
    endpoint: Annotated[str, typer.Argument(help="Name of a configured endpoint, or embedded.")],
    *,
    steps: Annotated[
        str,
        typer.Option("--steps", help="Requests in flight, a step for each number.", metavar="N,…"),
    ] = "1,8,32",
    seconds: Annotated[
        float,
        typer.Option("--seconds", min=0.1, help="Seconds for which each step begins requests."),
    ] = 5.0,
    hourly_usd: options.HourlyUsd = None,
    watts: Annotated[
        float | None,
        typer.Option("--watts", min=0, help="Watts that the hardware draws under load."),
    ] = None,
    usd_per_kwh: options.UsdPerKwh = None,
    yes: options.MayCost = False,
    config: options.ConfigFile = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure tokens and decisions per second, and what they cost.

    What is measured is kept in moa.bench.json beside moa.toml, where budgets take the price from,
    if moa.toml gives none. Exit codes: 0 measured, 2 usage or configuration, 130 stopped (what was
    measured until then is kept, unless there is a complete measurement).

    A server of your own, rented by the hour, or on your own power:

        moa bench small --hourly-usd 0.80
        moa bench small --watts 350 --usd-per-kwh 0.30

    A vendor's endpoint costs money: it says how much at most, and waits for --yes:

        moa bench large --steps 1,8 --yes

    The small model in this machine, with nothing configured:

        moa bench embedded
        moa bench embedded --steps 1,4 --seconds 10
    """
    from moa.advisor.bench import file_beside, keep
    from moa.cli.session import configured

    there = configured(config)
    found = _measured(
        there,
        endpoint,
        concurrencies=counts(steps),
        seconds=seconds,
        hourly_usd=hourly(hourly_usd, watts, usd_per_kwh),
        may_cost=yes,
    )
    kept, file = keep(found, there.file), file_beside(there.file)
    if as_json:
        screen.json_line(found.model_dump(mode="json"))
    else:
        screen.out().print(_shown(found))
    said = f"kept in {file}"
    if kept is not found:
        said = (
            f"not kept: {file} has a complete measurement of {kept.date:%Y-%m-%d %H:%M} UTC, and "
            "this one was stopped"
        )
    screen.notes().print(Text(said))
    raise typer.Exit(130 if found.stopped else 0)


def _measured(
    config: Config,
    name: str,
    *,
    concurrencies: tuple[int, ...],
    seconds: float,
    hourly_usd: Decimal | None,
    may_cost: bool,
) -> Measurement:
    """Measure, with progress on standard error; Ctrl-C ends it, and keeps what there is.

    Raises:
        ConfigError: there is no such endpoint, or it may cost money and nobody agreed.
        EndpointError: it does not answer.
        KeyboardInterrupt: nothing was measured yet.
    """
    from moa.advisor.bench import Bench, Measurement
    from moa.advisor.hardware import machine as this_machine
    from moa.config.endpoints import Endpoints

    model = Endpoints(config, read_keys=False).named(name).model
    found: list[Step] = []
    stopped = False

    async def measure() -> None:
        from moa.endpoints.wrappers import Retried

        async with Endpoints(config) as endpoints:
            named = endpoints.named(name)
            endpoint = named.endpoint if isinstance(named, Retried) else named
            bench = Bench(endpoint=endpoint, concurrencies=concurrencies, seconds=seconds)
            agree(bench, config, name, may_cost=may_cost)
            await _steps(bench, found)

    try:
        asyncio.run(measure())
    except KeyboardInterrupt:
        if not found:
            raise
        stopped = True
    return Measurement(
        endpoint=name,
        model=model,
        machine=this_machine().hardware,
        date=datetime.now(UTC).replace(microsecond=0),
        moa_version=version("mixture-of-agents"),
        hourly_usd=hourly_usd,
        stopped=stopped,
        steps=tuple(found),
    )


async def _steps(bench: Bench, found: list[Step]) -> None:
    with screen.notes().bars() as progress:
        bar = progress.add_task("asking once", total=len(bench.planned))

        def tell(work: str, concurrency: int, count: int) -> None:
            text = f"{_DOES[work]}, {concurrency} in flight: {count} answers"
            progress.update(bar, description=text)

        bench.listener = tell
        async with aclosing(bench.steps()) as steps:
            async for step in steps:
                found.append(step)
                progress.advance(bar)


def agree(bench: Bench, config: Config, name: str, *, may_cost: bool) -> None:
    """Bound a bench of an endpoint that somebody else serves, who may send a bill.

    Raises:
        ConfigError: it may cost money, and nobody agreed to that.
    """
    from moa.advisor.bench import PAID_ROUNDS
    from moa.endpoints.addresses import is_near

    if config.embeds(name) or config.serves(name):
        return
    entry = config.endpoints[name]
    if entry.vendor is None and all(map(is_near, entry.urls)):
        return
    bench.rounds = PAID_ROUNDS
    most = bench.estimate(bench.endpoint.price)
    bench.budget = UNLIMITED if most is None else Budget(cost=most)
    if not may_cost:
        said = "unknown: it has no price" if most is None else f"at most {screen.dollars(most)}"
        raise ConfigError(
            f"{name} may be billed, and nothing was sent. Estimated cost of "
            f"{bench.most_requests} requests: {said}. Run it again with --yes to go on"
        )


def counts(text: str) -> tuple[int, ...]:
    """Read numbers of requests in flight.

    Raises:
        ConfigError: one is no positive number.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise ConfigError(f"--steps {text!r} is no list of positive numbers, such as 1,8,32")
    return tuple(map(int, parts))


def hourly(
    hourly_usd: float | None, watts: float | None, usd_per_kwh: float | None
) -> Decimal | None:
    """Add the price of an hour and of the energy in it; `None`: neither was given.

    Raises:
        ConfigError: of watts and the price of energy, one is missing.
    """
    if (watts is None) != (usd_per_kwh is None):
        raise ConfigError("--watts and --usd-per-kwh go together: give both, or neither")
    given = [] if hourly_usd is None else [Decimal(str(hourly_usd))]
    if watts is not None and usd_per_kwh is not None:
        given.append(Decimal(str(watts)) / 1000 * Decimal(str(usd_per_kwh)))
    return sum(given, Decimal(0)) if given else None


def _shown(found: Measurement) -> Group:
    """Show what was measured: the steps, and what they come to."""
    title = f"{found.endpoint} ({found.model}), measured by: {found.machine}"
    steps = [_figures(step) for step in found.steps]
    return Group(
        Text(title),
        screen.listed(_COLUMNS, steps),
        screen.listed(("in all", ""), [*_totals(found)]),
    )


def _figures(step: Step) -> tuple[str, ...]:
    return (
        _DOES[step.work],
        f"{step.concurrency}",
        f"{step.requests}",
        f"{step.failed}",
        f"{step.requests_per_s:.1f}",
        f"{step.input_tokens_per_s:.0f}",
        f"{step.cached_input_tokens / (step.input_tokens or 1):.0%}",
        f"{step.output_tokens_per_s:.0f}",
        f"{step.latency_median_s:.2f}",
        f"{step.latency_p95_s:.2f}",
    )


def _totals(found: Measurement) -> Iterator[tuple[str, str]]:

    seconds, rate = found.token_seconds, found.decisions_per_s
    if seconds is not None:
        took = f"{seconds.input * 1e6:.0f} µs to read, {seconds.output * 1e6:.0f} µs to write"
        yield f"a token, {seconds.concurrency} in flight", took
    if rate is not None:
        yield "decisions", f"{rate:.1f}/s at best"
    if found.hourly_usd is None:
        yield "price", "give --hourly-usd, or --watts and --usd-per-kwh, to see it"
        return
    for what, price, count in (
        ("input", found.usd_per_million_input, "million tokens"),
        ("cached input", found.usd_per_million_cached_input, "million tokens"),
        ("output", found.usd_per_million_output, "million tokens"),
        ("decisions", found.usd_per_thousand_decisions, "thousand"),
    ):
        yield (
            what,
            f"{screen.dollars(price)} a {count}" if price is not None else "unknown: not measured",
        )
