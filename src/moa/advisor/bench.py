"""Bench: gives an endpoint work, counts what it gets done, and keeps what that costs.

A measurement is kept in `moa.bench.json` beside the configuration, where budgets take prices from.
"""

from __future__ import annotations

import random
import secrets
import statistics
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from math import ceil
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, computed_field

from moa._async import gather
from moa._files import replace_text
from moa.config import Config, find
from moa.context import RunContext
from moa.endpoints import Endpoint, Prompt
from moa.endpoints.tokens import approximate_tokens
from moa.endpoints.weights import cache_folder
from moa.errors import BudgetExceeded, ConfigError, EndpointError, MoaError, OutputError
from moa.questions import Option, Question
from moa.usage import NOTHING, UNKNOWN_PRICE, UNLIMITED, Amount, Budget, Price

FILE = "moa.bench.json"
PAID_ROUNDS = 2
"""Requests of each slot in a step of an endpoint that costs money; time alone bounds the others."""

Work = Literal["read", "reread", "write", "decide"]
"""What a model was given to do: long new prompts and next to no answer, long prompts of which it
has seen the most, short prompts and long answers, or decisions about short texts."""

_WORDS = (
    *("river", "market", "garden", "winter", "copper", "letter", "signal", "harbour", "planet"),
    *("engine", "window", "silver", "forest", "paper", "bridge", "summer", "kitchen", "mountain"),
    *("village", "doctor", "painter", "library", "station", "morning", "evening", "island"),
    *("candle", "mirror", "bottle", "carpet", "ladder", "needle", "pocket", "saddle", "tunnel"),
)
_LONG, _SHORT = 320, 40
"""Words of a text that is read, and of one that is decided about."""
_TAIL = 24
"""Words that are new in a prompt of which the most has been seen."""
_WRITTEN = 128
"""Maximum tokens of a long answer."""
_TOPIC = Question(
    "topic",
    "choice",
    "What is the text about?",
    tuple(Option(name, name) for name in ("travel", "food", "money", "weather")),
)
_NEEDS: dict[Work, str] = {
    "read": "complete",
    "reread": "complete",
    "write": "complete",
    "decide": "decide",
}
"""What an endpoint has to be able to do for each kind of work, in the order they are measured."""
_INPUT_TO_OUTPUT = 3
"""How many tokens are read for one that is written, where one concurrency has to be picked."""
_HOUR_S = Decimal(3600)
_MILLION, _THOUSAND = Decimal(1_000_000), Decimal(1000)


def percentile(values: Sequence[float], share: float) -> float:
    """Give the least of the values that at least `share` of them don't pass (nearest rank).

    Args:
        values: In any order; of none it is 0.
        share: From 0 to 1: 0.95 is the 95th percentile.
    """
    rank = ceil(share * len(values) - 1e-9)  # 0.07 * 100 is a little more than 7
    return sorted(values)[max(0, rank - 1)] if values else 0.0


class Step(BaseModel):
    """One kind of work at one concurrency."""

    model_config = ConfigDict(frozen=True)

    work: Work
    concurrency: int = Field(gt=0)
    """Requests in flight all the time, until the time was up."""
    seconds: float = Field(gt=0)
    """Wall time from the start of the first request to the end of the last."""
    requests: int = Field(ge=0)
    """Those that were answered."""
    failed: int = Field(default=0, ge=0)
    """Those that were not."""
    input_tokens: int = 0
    """Cached ones included."""
    cached_input_tokens: int = 0
    """As far as the server says."""
    output_tokens: int = 0
    latency_median_s: float = 0.0
    latency_p95_s: float = 0.0
    """95th percentile, by nearest rank."""

    @property
    def fresh_input_tokens(self) -> int:
        """Those that the server did not have in its cache."""
        return self.input_tokens - self.cached_input_tokens

    @property
    def requests_per_s(self) -> float:
        """Answered requests in a second; of `decide`, each is one decision."""
        return self.requests / self.seconds

    @property
    def input_tokens_per_s(self) -> float:
        """Prompt tokens in a second, cached ones included."""
        return self.input_tokens / self.seconds

    @property
    def output_tokens_per_s(self) -> float:
        """Generated tokens in a second."""
        return self.output_tokens / self.seconds


class TokenSeconds(NamedTuple):
    """Seconds of the hardware that a token takes, all of it being busy."""

    input: float
    cached_input: float | None
    """`None`: the server tells of no cached tokens."""
    output: float
    concurrency: int
    """Where that was measured."""


class Measurement(BaseModel):
    """What `moa bench` found out about one endpoint, the steps as they were measured."""

    model_config = ConfigDict(frozen=True)

    endpoint: str
    """Its name in the configuration."""
    model: str
    machine: str
    """The machine that measured, as `Machine.hardware` says it. A server elsewhere has hardware of
    its own."""
    date: datetime
    moa_version: str
    hourly_usd: Decimal | None = Field(default=None, ge=0)
    """US dollars per hour of the hardware; `None`: not given, so there are no prices."""
    stopped: bool = False
    """Whether it was stopped before it was done."""
    steps: tuple[Step, ...] = ()

    def of(self, work: Work) -> tuple[Step, ...]:
        """Give the steps of one kind of work."""
        return tuple(step for step in self.steps if step.work == work)

    @property
    def token_seconds(self) -> TokenSeconds | None:
        """Seconds of the hardware a token, at the concurrency that uses it best.

        A step's wall time is the time that its tokens took: `read` and `write` are two equations,
        of which the seconds an input token and an output token are the two unknowns; `reread`
        then gives those of a cached one. Of several concurrencies, the one is taken that works
        off three input tokens and one output token the soonest.

        `None` where `read` and `write` were not both measured at one concurrency.
        """
        solved = [found for step in self.of("read") for found in self._solved(step)]
        return min(solved, key=lambda it: _INPUT_TO_OUTPUT * it.input + it.output, default=None)

    @computed_field
    @property
    def decisions_per_s(self) -> float | None:
        """Decisions in a second at the best concurrency; `None`: not measured."""
        rates = [step.requests_per_s for step in self.of("decide") if step.requests]
        return max(rates, default=None)

    @computed_field
    @property
    def usd_per_million_input(self) -> Decimal | None:
        """US dollars per million input tokens that were not cached."""
        seconds = self.token_seconds
        return None if seconds is None else self._dollars(seconds.input, _MILLION)

    @computed_field
    @property
    def usd_per_million_cached_input(self) -> Decimal | None:
        """US dollars per million input tokens that were cached."""
        seconds = self.token_seconds
        return None if seconds is None else self._dollars(seconds.cached_input, _MILLION)

    @computed_field
    @property
    def usd_per_million_output(self) -> Decimal | None:
        """US dollars per million output tokens."""
        seconds = self.token_seconds
        return None if seconds is None else self._dollars(seconds.output, _MILLION)

    @computed_field
    @property
    def usd_per_thousand_decisions(self) -> Decimal | None:
        """US dollars per thousand decisions about short texts."""
        rate = self.decisions_per_s
        return None if rate is None else self._dollars(1 / rate, _THOUSAND)

    @property
    def price(self) -> Price:
        """What its tokens cost; unknown without a price per hour, or where steps are missing."""
        if self.usd_per_million_input is None or self.usd_per_million_output is None:
            return UNKNOWN_PRICE
        return Price(
            input=self.usd_per_million_input,
            cached_input=self.usd_per_million_cached_input,
            output=self.usd_per_million_output,
            measured=True,
        )

    def _dollars(self, seconds: float | None, count: Decimal) -> Decimal | None:
        if seconds is None or self.hourly_usd is None:
            return None
        exact = Decimal(repr(seconds)) * self.hourly_usd / _HOUR_S * count
        return Decimal(f"{exact:.4g}")

    def _solved(self, read: Step) -> Iterator[TokenSeconds]:
        same = [step for step in self.of("write") if step.concurrency == read.concurrency]
        for write in same[:1]:
            found = _two_unknowns(read, write)
            if found is not None:
                again = [s for s in self.of("reread") if s.concurrency == read.concurrency]
                cached = _cached_seconds(again[0], *found) if again else None
                yield TokenSeconds(found[0], cached, found[1], read.concurrency)


class Measurements(BaseModel):
    """The file: the last measurement of each endpoint."""

    version: Literal[1] = 1
    endpoints: dict[str, Measurement] = Field(default_factory=dict[str, Measurement])


def file_beside(config_path: Path | None) -> Path:
    """Say where measurements are kept: beside the configuration, or without one in the cache."""
    return (cache_folder() if config_path is None else config_path.parent) / FILE


def measured(endpoint_name: str, config_path: str | Path | None = None) -> Measurement | None:
    """Look up what was measured of an endpoint; `None`: nothing.

    Args:
        endpoint_name: Its name in the configuration, or `embedded`.
        config_path: The configuration; `None` looks for it as `moa.config.find` does.

    Raises:
        ConfigError: the file of measurements can't be read, or `config_path` is not there.
    """
    return _read(file_beside(find(config_path))).endpoints.get(endpoint_name)


def keep(measurement: Measurement, config_path: str | Path | None = None) -> Measurement:
    """Write a measurement in place of the last one of its endpoint.

    One that was stopped never takes the place of a complete one of the same model on the same
    machine. The file is replaced in one go, so that a reader finds the old one or the new one.

    Returns:
        The measurement of the endpoint that stands in the file now.

    Raises:
        ConfigError: the file can't be read or written.
    """
    path = file_beside(find(config_path))
    kept = _read(path)
    before = kept.endpoints.get(measurement.endpoint)
    if before is not None and measurement.stopped and not before.stopped:
        same = (before.model, before.machine) == (measurement.model, measurement.machine)
        if same:
            return before
    kept.endpoints[measurement.endpoint] = measurement
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, kept.model_dump_json(indent=2) + "\n")
    except OSError as error:
        raise ConfigError(
            f"the measurement can't be kept in {path}: {error.strerror or error}"
        ) from error
    return measurement


def price_of(config: Config, name: str) -> Price:
    """What a configured endpoint charges: as configured or published, else as measured.

    Raises:
        ConfigError: the file of measurements can't be read.
    """
    entry = config.endpoints[name]
    stated = entry.price()
    return stated if stated.known else measured_price(name, entry.known_as, config.file)


def measured_price(name: str, model: str, config_path: Path | None) -> Price:
    """What an endpoint was measured to cost; unknown where another model was measured.

    Raises:
        ConfigError: the file of measurements can't be read.
    """
    found = _read(file_beside(config_path)).endpoints.get(name)
    return found.price if found is not None and found.model == model else UNKNOWN_PRICE


def _two_unknowns(read: Step, write: Step) -> tuple[float, float] | None:
    """Solve for the seconds of an input token and of an output token, neither below 0."""
    read_in, write_in = read.fresh_input_tokens, write.fresh_input_tokens
    read_out, write_out = read.output_tokens, write.output_tokens
    determinant = read_in * write_out - write_in * read_out
    if determinant <= 0:  # one is no more of reading, or of writing, than the other
        return None
    per_input = (read.seconds * write_out - write.seconds * read_out) / determinant
    per_output = (write.seconds * read_in - read.seconds * write_in) / determinant
    if per_input < 0:
        return 0.0, write.seconds / write_out
    if per_output < 0:
        return read.seconds / read_in, 0.0
    return per_input, per_output


def _cached_seconds(again: Step, per_input: float, per_output: float) -> float | None:
    if not again.cached_input_tokens:
        return None
    others = again.fresh_input_tokens * per_input + again.output_tokens * per_output
    return min(per_input, max(0.0, again.seconds - others) / again.cached_input_tokens)


def _read(path: Path) -> Measurements:
    try:
        return Measurements.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return Measurements()
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror or error}") from error
    except ValidationError as error:
        raise ConfigError(
            f"{path} holds no measurements of this version of moa. Remove it, and measure again"
        ) from error


@dataclass(kw_only=True)
class Bench:
    """Measures one endpoint, a step at a time.

    A step keeps `concurrency` requests in flight: each slot sends its next request when the last
    is answered, and none after `seconds`; the step ends with the last answer. Every prompt begins
    with words of its own, drawn anew for each run, so neither a cache of answers nor one of
    prompts answers for the model. In `reread` the first nine tenths of the prompt are the same for
    all of the step, after one request that nobody counts; in `decide`, only the question is.

    Args:
        endpoint: What is measured; give it without retries, which would hide failures.
        concurrencies: Requests in flight, one step of each kind for each.
        seconds: After which no request of a step is begun.
        budget: Limits on all of it.
        rounds: Maximum requests of a slot in a step; `None`: as many as the time allows.
        listener: Told of each answer: the work, the requests in flight, and how many answers the
            step has had.
    """

    endpoint: Endpoint
    concurrencies: Sequence[int] = (1, 8, 32)
    seconds: float = 5.0
    budget: Budget = UNLIMITED
    rounds: int | None = None
    listener: Callable[[Work, int, int], None] | None = None
    _seed: str = field(default_factory=lambda: secrets.token_hex(8))

    def __post_init__(self) -> None:
        if not self.concurrencies or min(self.concurrencies) < 1 or self.seconds <= 0:
            raise ConfigError("bench: concurrencies and seconds must be positive")

    @property
    def planned(self) -> list[tuple[Work, int]]:
        """The steps: work and requests in flight, without those that the endpoint can't do."""
        return [(work, count) for count in sorted(set(self.concurrencies)) for work in self._able]

    @property
    def most_requests(self) -> int | None:
        """How many requests it sends at most; `None`: only time bounds them."""
        if self.rounds is None:
            return None
        return sum(count * self.rounds + 2 for _, count in self.planned)

    def estimate(self, price: Price) -> Decimal | None:
        """Say what all steps cost at most, as far as lengths tell; `None`: no price is known.

        Raises:
            ConfigError: nothing bounds the number of requests.
        """
        if self.rounds is None:
            raise ConfigError("bench: without `rounds`, nothing bounds what it costs")
        spent = NOTHING
        for work, count in self.planned:
            text = next(self._texts(work, "estimate"))
            one = Amount(
                calls=1,
                input_tokens=approximate_tokens(text) + 200,  # the template, and the question
                output_tokens=_WRITTEN if work == "write" else 16,
            )
            spent += sum([one] * (count * self.rounds + 2), NOTHING)  # with those that warm up
        return price.of(spent)

    async def steps(self) -> AsyncGenerator[Step, None]:
        """Measure, and yield each step when it is done.

        Raises:
            EndpointError: no request of a step was answered.
            BudgetExceeded: the budget is spent.
            ConfigError: the endpoint can do none of it.
        """
        if not self.planned:
            raise ConfigError(f"{self.endpoint.name} can neither complete nor decide")
        context = RunContext(budget=self.budget, keep_notes=False)
        for work in self._able:
            await self._ask(work, next(self._texts(work, "warm")), context)
        for work, count in self.planned:
            yield await self._step(work, count, context)

    @property
    def _able(self) -> list[Work]:
        return [work for work, needed in _NEEDS.items() if needed in self.endpoint.capabilities]

    async def _step(self, work: Work, concurrency: int, context: RunContext) -> Step:
        texts = self._texts(work, f"{concurrency}")
        if work == "reread":
            await self._ask(work, next(texts), context)
        step_context = context.nested()
        latencies: list[float] = []
        failures: list[MoaError] = []
        start = time.monotonic()

        async def slot() -> None:
            """Ask one after another; a slot whose request fails ends, so that it hammers nobody."""
            sent = 0
            while sent != self.rounds and (not sent or time.monotonic() - start < self.seconds):
                sent += 1
                begun = time.monotonic()
                try:
                    await self._ask(work, next(texts), step_context)
                except OutputError as error:  # it wrote a label that was not asked for
                    failures.append(error)
                    continue
                except (EndpointError, BudgetExceeded) as error:
                    failures.append(error)
                    return
                latencies.append(time.monotonic() - begun)
                if self.listener is not None:
                    self.listener(work, concurrency, len(latencies))

        await gather(slot() for _ in range(concurrency))
        if failures and not latencies:
            raise failures[-1]
        spent = step_context.usage.total
        return Step(
            work=work,
            concurrency=concurrency,
            seconds=time.monotonic() - start,
            requests=len(latencies),
            failed=len(failures),
            input_tokens=spent.input_tokens,
            cached_input_tokens=spent.cached_input_tokens,
            output_tokens=spent.output_tokens,
            latency_median_s=statistics.median(latencies),
            latency_p95_s=percentile(latencies, 0.95),
        )

    async def _ask(self, work: Work, text: str, context: RunContext) -> None:
        if work == "decide":
            await self.endpoint.decide(text, (_TOPIC,), context)
            return
        asked = "Write a long story." if work == "write" else "Is that a story? Say yes or no."
        prompt = Prompt.of(f"{text}\n\n{asked}", max_tokens=_WRITTEN if work == "write" else 1)
        with suppress(OutputError):  # it thought, and wrote nothing yet: its tokens are counted
            await self.endpoint.complete(prompt, context)

    def _texts(self, work: Work, step: str) -> Iterator[str]:
        """Give texts of which each begins with other words than all others."""
        draw = random.Random(f"{self._seed} {work} {step}")
        shared = " ".join(draw.choices(_WORDS, k=_LONG - _TAIL))
        while True:
            if work == "reread":
                yield f"{shared} {' '.join(draw.choices(_WORDS, k=_TAIL))}"
            else:
                count = _LONG if work == "read" else _SHORT
                yield f"{draw.getrandbits(48):012x} {' '.join(draw.choices(_WORDS, k=count))}"
