"""Runs a bench: builds the endpoint, asks before money is spent, keeps what was measured."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from importlib.metadata import version
from typing import NamedTuple

from moa._terminal import Console
from moa.advisor.bench import PAID_ROUNDS, Bench, Kept, Measurement, Planned, Step, keep
from moa.advisor.hardware import machine
from moa.cli.tables import dollars
from moa.config import Config
from moa.endpoints import Endpoint
from moa.endpoints.client import is_near
from moa.endpoints.wrappers import Retried
from moa.errors import ConfigError, MissingDependency
from moa.tiers import Endpoints
from moa.usage import UNLIMITED, Budget

DOES = {
    "read": "reads new text",
    "reread": "reads known text",
    "write": "writes",
    "decide": "decides",
}


class Found(NamedTuple):
    """What was measured, and what of it is kept."""

    measurement: Measurement
    kept: Kept

    @property
    def told(self) -> str:
        """Say what is kept, and where."""
        file, there = self.kept
        if there is self.measurement:
            return f"kept in {file}"
        return (
            f"not kept: {file} has a complete measurement of {there.date:%Y-%m-%d %H:%M} UTC, "
            "and this one was stopped before it had all its steps"
        )


@dataclass(frozen=True, kw_only=True)
class Benched:
    """What is to be measured, and how."""

    config: Config
    name: str
    concurrencies: tuple[int, ...]
    seconds: float
    hourly_usd: Decimal | None
    may_cost: bool
    """Whether the user has agreed to pay."""

    def run(self, console: Console) -> Found:
        """Measure, with progress on `console`; Ctrl-C ends it, and keeps what there is.

        Raises:
            ConfigError: there is no such endpoint, or it may cost money and nobody agreed.
            EndpointError: it does not answer.
            KeyboardInterrupt: nothing was measured yet.
        """
        found: list[Step] = []
        stopped = False
        try:
            model = asyncio.run(self._measure(found, console))
        except KeyboardInterrupt:
            if not found:
                raise
            stopped = True
            model = self._model
        measurement = Measurement(
            endpoint=self.name,
            model=model,
            machine=_this_machine(),
            date=datetime.now(UTC).replace(microsecond=0),
            moa_version=version("mixture-of-agents"),
            hourly_usd=self.hourly_usd,
            stopped=stopped,
            steps=tuple(found),
        )
        return Found(measurement, keep(measurement, self.config.file))

    @property
    def _model(self) -> str:
        return Endpoints(self.config, read_keys=False).named(self.name).model

    async def _measure(self, found: list[Step], console: Console) -> str:
        async with Endpoints(self.config) as endpoints:
            named = endpoints.named(self.name)
            endpoint = named.endpoint if isinstance(named, Retried) else named
            bench = self._agreed(endpoint)
            with console.bars() as progress:
                bar = progress.add_task("asking once", total=len(bench.planned))

                def tell(planned: Planned, count: int) -> None:
                    text = f"{DOES[planned.work]}, {planned.concurrency} in flight: {count} answers"
                    progress.update(bar, description=text)

                bench.listener = tell
                async with aclosing(bench.steps()) as steps:
                    async for step in steps:
                        found.append(step)
                        progress.advance(bar)
            return endpoint.model

    def _agreed(self, endpoint: Endpoint) -> Bench:
        """Build the bench; one that costs money is bounded, and needs a yes.

        Raises:
            ConfigError: there was none.
        """
        bench = Bench(endpoint=endpoint, concurrencies=self.concurrencies, seconds=self.seconds)
        if not self._may_be_billed:
            return bench
        bench.rounds = PAID_ROUNDS
        most = bench.estimate(endpoint.price)
        bench.budget = UNLIMITED if most is None else Budget(cost=most)
        if not self.may_cost:
            said = "unknown: it has no price" if most is None else f"at most {dollars(most)}"
            raise ConfigError(
                f"{self.name} may be billed, and nothing was sent. Estimated cost of "
                f"{bench.most_requests} requests: {said}. Run it again with --yes to go on"
            )
        return bench

    @property
    def _may_be_billed(self) -> bool:
        """Whether somebody else serves it: a vendor, or a server outside of this network."""
        if self.config.embeds(self.name) or self.config.serves(self.name):
            return False
        entry = self.config.endpoints[self.name]
        return entry.vendor is not None or not all(map(is_near, entry.urls))


def counts(text: str) -> tuple[int, ...]:
    """Read numbers of requests in flight.

    Raises:
        ConfigError: one is no positive number.
    """
    found = tuple(int(part) for part in text.split(",") if part.strip().isdecimal())
    if len(found) != len(text.split(",")) or min(found) < 1:
        raise ConfigError(f"--concurrency {text!r} is no list of positive numbers, such as 1,8,32")
    return found


def hourly(
    hourly_usd: float | None, watts: float | None, usd_per_kwh: float | None
) -> Decimal | None:
    """Add the price of an hour and of the energy in it; `None`: neither was given.

    Raises:
        ConfigError: of watts and the price of energy, one is missing.
    """
    if (watts is None) != (usd_per_kwh is None):
        raise ConfigError("--watts and --usd-per-kwh go together: give both, or neither")
    energy = None
    if watts is not None and usd_per_kwh is not None:
        energy = Decimal(str(watts)) / 1000 * Decimal(str(usd_per_kwh))
    rent = None if hourly_usd is None else Decimal(str(hourly_usd))
    given = [part for part in (rent, energy) if part is not None]
    return sum(given, Decimal(0)) if given else None


def _this_machine() -> str:
    try:
        return machine().hardware
    except MissingDependency:
        return "not known: psutil is not installed"
