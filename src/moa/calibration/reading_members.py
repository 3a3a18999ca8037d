"""Reading members: what each member gives to all labelled texts, within a limit of time."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

import numpy as np

from moa.calibration.members import Member, Sources, VectorMember
from moa.context import RunContext
from moa.decisions.arrays import Floats, Ints
from moa.errors import CapabilityError, EndpointRejected, MissingDependency
from moa.questions import NONE_OF_THESE, Question
from moa.usage import Amount

Progress = Callable[[str, int, int], None]
"""Called with the name of the member, the texts it has read, and those to read in all."""

_AT_ONCE = 8
_PROBE = 6
"""Texts that are read first, to see how long all would take; the first of them warms up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a member gave to all texts, and what a text took on average."""

    member: Member
    values: Floats
    """Texts, options or parts of a vector."""
    seconds: float
    """Wall time of a text, several being read at once."""
    tokens: float
    """Tokens of a text that no cache had, answers included."""
    cost: Decimal | None
    """US dollars of a text; `None` is unknown."""
    names: tuple[Floats, Ints] | None = None
    """What it gave to the names of the options, and which options they are; `None` where it reads
    no names."""


@dataclass(slots=True)
class MemberReader:
    """Reads texts with one member after another, until the time is up."""

    question: Question
    sources: Sources
    texts: Sequence[str]
    context: RunContext
    limit_s: float
    progress: Progress | None = None
    dropped: list[str] = field(default_factory=list[str])
    """Members that were left out, and why, in sentences."""
    _started: float = field(default_factory=time.monotonic)

    @property
    def left_s(self) -> float:
        """Seconds until the limit."""
        return self.limit_s - (time.monotonic() - self._started)

    async def read(self, member: Member) -> Reading | None:
        """Read all texts; `None` where the member was dropped, and `dropped` says why.

        Raises:
            EndpointError: a request failed.
            BudgetExceeded: a limit would be passed.
            DeadlineExceeded: the run's time is up.
        """
        if self.left_s <= 0:
            return self._drop(member, "the time was up before it")
        try:
            async with asyncio.timeout(None if math.isinf(self.limit_s) else self.left_s):
                return await self._reading(member)
        except TimeoutError:
            return self._drop(member, "it got slower on the way, and the time was up")
        except (CapabilityError, MissingDependency, EndpointRejected) as error:
            return self._drop(member, str(error))

    async def _reading(self, member: Member) -> Reading | None:
        context = self.context.nested()
        started = time.perf_counter()
        probe = list(self.texts[:_PROBE])
        found = await self._all(member, probe[:1], context, 0)
        warm = time.perf_counter()
        found += await self._all(member, probe[1:], context, 1)
        each = (time.perf_counter() - warm) / max(1, len(probe) - 1)
        needed = each * (len(self.texts) - len(probe))
        if needed > self.left_s:
            return self._drop(
                member,
                f"{len(self.texts)} texts would take {needed + each * len(probe):.0f} s, and "
                f"{max(0.0, self.left_s):.0f} s are left",
            )
        found += await self._all(member, self.texts[len(probe) :], context, len(probe))
        seconds = (time.perf_counter() - started) / len(self.texts)
        total = context.usage.total
        return Reading(
            member=member,
            values=np.array(found),
            seconds=seconds,
            tokens=_fresh(total) / len(self.texts),
            cost=None if total.cost is None else total.cost / len(self.texts),
            names=await self._names(member),
        )

    async def _names(self, member: Member) -> tuple[Floats, Ints] | None:
        """Read the names of the options like texts, where texts are read as they are."""
        asked = self.question
        if not isinstance(member, VectorMember) or member.prompt or asked.kind != "choice":
            return None
        named = [
            (place, option)
            for place, option in enumerate(asked.options)
            if option.name != NONE_OF_THESE
        ]
        words = [(option.description or option.name).replace("_", " ") for _, option in named]
        read = [await member.read(one, asked, self.sources, self.context) for one in words]
        return np.array(read), np.array([place for place, _ in named])

    def _drop(self, member: Member, why: str) -> None:
        self.dropped.append(f"{member.name} left out: {why}")

    async def _all(
        self, member: Member, texts: Sequence[str], context: RunContext, before: int
    ) -> list[Floats]:
        passes = member.passes
        found: list[list[Floats]] = []
        for number, one in enumerate(passes):

            def told(read: int, earlier: int = number * len(texts)) -> None:
                if self.progress is not None:
                    done = before + (earlier + read) // len(passes)
                    self.progress(member.name, done, len(self.texts))

            found.append(await self._pass(one, texts, context, told))
        return [
            member.merged(text, given)
            for text, given in zip(texts, zip(*found, strict=True), strict=True)
        ]

    async def _pass(
        self, member: Member, texts: Sequence[str], context: RunContext, told: Callable[[int], None]
    ) -> list[Floats]:
        found: dict[int, Floats] = {}
        left = iter(enumerate(texts))

        async def work() -> None:
            for place, text in left:
                found[place] = await member.read(text, self.question, self.sources, context)
                told(len(found))

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(_AT_ONCE, len(texts))):
                    group.create_task(work())
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from failed
        return [found[place] for place in range(len(texts))]


def _fresh(amount: Amount) -> int:
    return amount.input_tokens - amount.cached_input_tokens + amount.output_tokens
