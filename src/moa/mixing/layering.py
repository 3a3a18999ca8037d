"""Layering: one run of a mixture's proposers, layer by layer, as far as budget and time go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pydantic import BaseModel

from moa.context import RunContext
from moa.errors import BudgetExceeded, DeadlineExceeded, QuorumNotMet
from moa.mixing.fan_out import fan_out
from moa.mixing.packing import Asked, Reader
from moa.mixing.thinning import Call, affordable
from moa.mixing.voting import agree, most_agreed

_READ_EACH_OTHER = (
    "small models that read what others wrote tend to write worse; a larger model, or choosing "
    "among what small ones wrote, does better"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """Who is waited for, and how long; see `fan_out`."""

    quorum: int | None = None
    timeout_s: float | None = None
    patience_s: float | None = 0.2
    agree: int | None = None
    """Answers that say the same, from which on nobody else is asked; `None`: never."""


@dataclass(slots=True, kw_only=True)
class Layering:
    """The proposers of one run, and what they have answered."""

    layers: Sequence[Sequence[Reader]]
    aggregator: Reader
    terms: Terms
    request: str | BaseModel
    context: RunContext
    aggregations: int = 1
    """Calls that the aggregator will make."""
    asked: Asked = field(init=False)
    """What the next layer, or the aggregator, is given."""
    missing: list[str] = field(default_factory=list[str])
    """Who gave no answer in a layer."""
    agreed: int | None = None
    """Place of the answer that enough of the last layer agree on."""
    _told: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        self.asked = Asked(self.request)
        self._told = tuple(len(layer) for layer in self.layers)

    async def run(self) -> None:
        """Ask layer after layer, until all are through, enough agree, or the budget is too thin.

        Where a further layer gives too few answers in its part of the time, those of the one before
        stand.

        Raises:
            MoaError: the first layer gave too few answers; see `fan_out`.
        """
        self._warn()
        for depth in range(len(self.layers)):
            members = self._members(depth)
            affords = self._affords(depth, members)
            if not affords:
                return
            try:
                await self._ask(depth, members[:affords])
            except (QuorumNotMet, BudgetExceeded, DeadlineExceeded) as error:
                if not depth:
                    raise
                said = f"the answers of layer {depth} stand, since the next gave too few: {error}"
                self.context.note("degraded", said)
                return
            if self.agreed is not None:
                return

    def _members(self, depth: int) -> list[Reader]:
        """Those of a layer, without who gave no answer in one before, if others are left."""
        layer = self.layers[depth]
        members = [member for member in layer if member.name not in self.missing]
        if not members:
            return list(layer)
        for member in layer:
            if member.name in self.missing:
                said = f"{member.name!r} is not asked again, since it gave no answer before"
                self.context.note("skipped", said)
        return members

    async def _ask(self, depth: int, members: Sequence[Reader]) -> None:
        terms, context = self.terms, self.context
        if len(self.layers) > 1:
            context = context.nested(f"layer {depth + 1}")
        hurry_s, timeout_s = self._part_of_the_time(depth), terms.timeout_s
        if depth and hurry_s is not None:  # what is there can wait for no answer that is late
            timeout_s = min(hurry_s, timeout_s or hurry_s)
        drawn = await fan_out(
            members,
            self.asked,
            context,
            quorum=terms.quorum and min(terms.quorum, len(members)),
            timeout_s=timeout_s,
            patience_s=terms.patience_s,
            hurry_s=hurry_s,
            enough=None if terms.agree is None else agree(terms.agree),
        )
        answers = tuple(one.output for one in drawn)
        names = tuple(one.name for one in drawn)
        self.asked = Asked(self.request, answers, names)
        if terms.agree is not None and agree(terms.agree)(answers):
            self.agreed = most_agreed(answers)
        else:
            self.missing += [member.name for member in members if member.name not in names]

    def _part_of_the_time(self, depth: int) -> float | None:
        """Seconds that a layer has, so that as many are left for each that follows."""
        left = self.context.remaining_s()
        return None if left is None else left / (len(self.layers) - depth + 1)

    def _affords(self, depth: int, members: Sequence[Reader]) -> int:
        """Say how many of a layer the budget pays for, all that follows included."""
        read, further = self.asked.answers, 0
        calls: list[list[Call]] = []
        for layer in (members, *self.layers[depth + 1 :]):
            calls.append([member.expected(self.request, read, further) for member in layer])
            read, further = (), sum(member.max_tokens for member in layer)
        ending = self.aggregator.expected(self.request, read, further)
        share = affordable(calls, [ending] * self.aggregations, self.context)
        if share.thinned and share.layers != self._told:
            whole = tuple(len(layer) for layer in calls)
            self.context.note(
                "degraded",
                f"the budget is thin ({share.limit}): {_shown(share.layers, depth)} "
                f"instead of {_shown(whole, depth)}",
            )
        self._told = share.layers[1:]
        return share.layers[0] if share.layers else 0

    def _warn(self) -> None:
        small = {m.name: m for layer in self.layers[1:] for m in layer if m.is_small}
        if self.aggregator.is_small:
            small[self.aggregator.name] = self.aggregator
        for name in small:
            self.context.note("degraded", f"{name!r} is a small model: {_READ_EACH_OTHER}")


def _shown(layers: Sequence[int], depth: int) -> str:
    if not layers:
        return "no further layer" if depth else "one model alone"
    sizes = " and ".join(str(size) for size in layers)
    return f"{len(layers)} {'layer' if len(layers) == 1 else 'layers'} of {sizes}"
