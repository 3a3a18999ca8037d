"""Thinning: which part of a mixture a thin budget still pays for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from moa.context import RunContext
from moa.usage import Amount, Tier

Call = tuple[Tier, Amount]
"""A call that is still to be made: the tier of who is asked, and what it is expected to take."""


@dataclass(frozen=True, slots=True)
class Share:
    """The part that is run. All of it, unless `limit` says what stands against that."""

    layers: tuple[int, ...]
    """How many proposers of each layer, the first ones. Without a layer, one model is alone."""
    limit: str = ""
    """The limit that the whole would pass, such as `calls=9 of 8`."""

    @property
    def thinned(self) -> bool:
        """Whether it is less than was asked for."""
        return bool(self.limit)


def affordable(
    layers: Sequence[Sequence[Call]],
    ending: Sequence[Call],
    context: RunContext,
    *,
    fewest: int = 2,
) -> Share:
    """Find the largest part of a mixture that the budget pays for.

    A thin budget takes proposers away first, the last ones of each layer, then layers, and leaves
    one model alone at last; whether it pays for that one is seen when it is asked.

    Args:
        layers: The calls that each layer still to be run would make.
        ending: The calls at the end, which the aggregator makes.
        context: Holds the budget, and what has been spent of it.
        fewest: Proposers below which a layer is left out; a layer may have fewer from the start.
    """
    whole = Share(tuple(len(layer) for layer in layers))
    limit = ""
    for share in _shares(whole, fewest):
        calls = [
            call
            for layer, taken in zip(layers, share.layers, strict=False)
            for call in layer[:taken]
        ]
        passed = context.limit_ahead([*calls, *ending])
        if passed is None:
            return Share(share.layers, limit)
        limit = limit or passed
    return Share((), limit)


def _shares(whole: Share, fewest: int) -> Iterator[Share]:
    """All parts, the largest first."""
    yield whole
    for depth in range(len(whole.layers), 0, -1):
        kept = whole.layers[:depth]
        if depth < len(whole.layers):
            yield Share(kept)
        for most in range(max(kept) - 1, fewest - 1, -1):
            yield Share(tuple(min(taken, most) for taken in kept))
