"""Benching: gives an endpoint work for some seconds, and counts what it gets done."""

from __future__ import annotations

import asyncio
import random
import secrets
import statistics
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import NamedTuple

from moa.advisor.bench import Step, Work, percentile
from moa.context import RunContext
from moa.endpoints import Endpoint, Prompt
from moa.endpoints.tokens import approximate_tokens
from moa.errors import BudgetExceeded, ConfigError, EndpointError, MoaError, OutputError
from moa.questions import Option, Question
from moa.usage import NOTHING, UNLIMITED, Amount, Budget, Price

CONCURRENCIES = (1, 8, 32)
SECONDS = 5.0
PAID_ROUNDS = 2
"""Requests of each slot in a step of an endpoint that costs money; time alone bounds the others."""

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
"""Most tokens of a long answer."""
_TOPIC = Question(
    "topic",
    "choice",
    "What is the text about?",
    tuple(Option(name, name) for name in ("travel", "food", "money", "weather")),
)
_NEEDS = {"read": "complete", "reread": "complete", "write": "complete", "decide": "decide"}
_ORDER: tuple[Work, ...] = ("read", "reread", "write", "decide")


class Planned(NamedTuple):
    """A step that is to be measured."""

    work: Work
    concurrency: int


@dataclass(slots=True)
class _Count:
    """What one step got done."""

    spent: Amount = NOTHING
    latencies_s: list[float] = field(default_factory=list[float])
    failed: int = 0
    error: MoaError | None = None


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
        rounds: Most requests of a slot in a step; `None`: as many as the time allows.
        listener: Told of each answer: the step, and how many it has had.
    """

    endpoint: Endpoint
    concurrencies: Sequence[int] = CONCURRENCIES
    seconds: float = SECONDS
    budget: Budget = UNLIMITED
    rounds: int | None = None
    listener: Callable[[Planned, int], None] | None = None
    _seed: str = field(default_factory=lambda: secrets.token_hex(8))

    def __post_init__(self) -> None:
        if not self.concurrencies or min(self.concurrencies) < 1 or self.seconds <= 0:
            raise ConfigError("bench: concurrencies and seconds must be positive")

    @property
    def planned(self) -> tuple[Planned, ...]:
        """The steps, those left out that the endpoint can't do."""
        counts = sorted(set(self.concurrencies))
        return tuple(Planned(work, count) for count in counts for work in self._able)

    @property
    def most_requests(self) -> int | None:
        """How many requests it sends at most; `None`: only time bounds them."""
        if self.rounds is None:
            return None
        return sum(planned.concurrency * self.rounds + 2 for planned in self.planned)

    @property
    def _able(self) -> tuple[Work, ...]:
        return tuple(work for work in _ORDER if _NEEDS[work] in self.endpoint.capabilities)

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
        for planned in self.planned:
            yield await self._step(planned, context)

    def estimate(self, price: Price) -> Decimal | None:
        """Say what all steps cost at most, as far as lengths tell; `None`: no price is known.

        Raises:
            ConfigError: nothing bounds the number of requests.
        """
        if self.rounds is None:
            raise ConfigError("bench: without `rounds`, nothing bounds what it costs")
        spent = NOTHING
        for planned in self.planned:
            text = next(self._texts(planned.work, "estimate"))
            one = Amount(
                calls=1,
                input_tokens=approximate_tokens(text) + 200,  # the template, and the question
                output_tokens=_WRITTEN if planned.work == "write" else 16,
            )
            count = planned.concurrency * self.rounds + 2  # those that warm up
            spent += sum([one] * count, NOTHING)
        return price.of(spent)

    async def _step(self, planned: Planned, context: RunContext) -> Step:
        count = _Count()
        texts = self._texts(planned.work, f"{planned.concurrency}")
        if planned.work == "reread":
            await self._ask("reread", next(texts), context)
        start = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for _ in range(planned.concurrency):
                group.create_task(self._slot(planned, texts, count, start, context))
        if count.error is not None and not count.latencies_s:
            raise count.error
        return _summary(planned, count, time.monotonic() - start)

    async def _slot(
        self,
        planned: Planned,
        texts: Iterator[str],
        count: _Count,
        start: float,
        context: RunContext,
    ) -> None:
        """Ask one after another; a slot whose request fails ends, so that it hammers nobody."""
        sent = 0
        while sent != self.rounds and (not sent or time.monotonic() - start < self.seconds):
            sent += 1
            own = context.nested()
            begun = time.monotonic()
            try:
                await self._ask(planned.work, next(texts), own)
            except OutputError as error:  # it wrote a label that was not asked for
                count.failed += 1
                count.error = error
                continue
            except (EndpointError, BudgetExceeded) as error:
                count.failed += 1
                count.error = error
                return
            finally:
                count.spent += own.usage.total
            count.latencies_s.append(time.monotonic() - begun)
            if self.listener is not None:
                self.listener(planned, len(count.latencies_s))

    async def _ask(self, work: Work, text: str, context: RunContext) -> None:
        if work == "decide":
            await self.endpoint.decide(text, (_TOPIC,), context)
            return
        asked = "Write a long story." if work == "write" else "Is that a story? Say yes or no."
        max_tokens = _WRITTEN if work == "write" else 1
        try:
            await self.endpoint.complete(
                Prompt.of(f"{text}\n\n{asked}", max_tokens=max_tokens), context
            )
        except OutputError:
            return  # it thought, and wrote nothing yet: its tokens are counted all the same

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


def _summary(planned: Planned, count: _Count, seconds: float) -> Step:
    return Step(
        work=planned.work,
        concurrency=planned.concurrency,
        seconds=seconds,
        requests=len(count.latencies_s),
        failed=count.failed,
        input_tokens=count.spent.input_tokens,
        cached_input_tokens=count.spent.cached_input_tokens,
        output_tokens=count.spent.output_tokens,
        latency_median_s=statistics.median(count.latencies_s),
        latency_p95_s=percentile(count.latencies_s, 0.95),
    )
