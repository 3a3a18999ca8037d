"""Drift: test whether new inputs still follow a reference.

Each new value is ranked among those of the reference and all that came since. While nothing has
changed, every rank is equally likely (a conformal p-value; Vovk, Nouretdinov and Gammerman 2003,
"Testing exchangeability on-line", ICML), and bets against that win nothing. So the whole run,
however long, raises a false alarm with a probability of at most `alpha`.

A reference is stored as a few of its order statistics and the number of values between them. That
loses nothing: the shares of a distribution between order statistics of a sample of it are those of
Pólya's urn, whatever the distribution.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Self

from pydantic import Field

from moa.core.errors import ConfigError
from moa.core.node import Frozen
from moa.decisions.audit import Evidence
from moa.decisions.guarantee import percent

Value = float | str
"""A number, or a name, such as that of a language."""
Detect = Callable[[str], str | None]
"""Detects the language of a text; `None` if it can't."""

_BINS = 20
FEWEST = 20
"""Minimum of reference values for each watched quantity."""
_STAKES = (0.8, 1.8)
_LEAST = 1e-12
_MEMORY = 0.02
"""Weight of the newest value in an alarm's estimate of the current values."""


class Alarm(Frozen):
    """A quantity that has moved."""

    name: str
    """The watched quantity, such as `length`."""
    seen: int
    """Number of its new values until the alarm."""
    message: str
    """A sentence about it."""


class _Watch(Frozen):
    """A watched quantity: its reference, the counts so far, and the evidence of a change."""

    names: tuple[str, ...] = ()
    """Names by falling frequency; empty if the values are numbers."""
    edges: tuple[tuple[float, float], ...]
    """Order statistics of the reference, each with the random number that breaks ties."""
    counts: tuple[int, ...]
    """Counts between the edges, including the new values."""
    reference: int
    """Values in the reference."""
    ones: float | None = None
    """Share of 1 in a reference of zeros and ones; `None` for other numbers."""
    evidence: Evidence = Evidence()
    rank: float = 0.5
    """Moving average of the latest ranks: 0 is below all values, 1 above."""
    spread: float = 0.5
    """Moving average of the distance from the middle: 0 is the middle, 1 either end."""

    @classmethod
    def of(cls, values: Sequence[Value], rng: random.Random) -> Self:
        names: tuple[str, ...] = ()
        if any(isinstance(value, str) for value in values):
            # Names are ordered by one half and counted by the other: ordered by what it is
            # compared with, a new name would seem rarer than it is.
            frequency = Counter(str(value) for value in values[::2])
            names = tuple(sorted(frequency, key=lambda name: (-frequency[name], name)))
            values = values[1::2]
        ones = sum(map(float, values)) / len(values) if set(values) == {0.0, 1.0} else None
        ranked = sorted((_as_number(value, names), rng.random()) for value in values)
        bins = min(_BINS, len(ranked))
        ends = [round(len(ranked) * i / bins) for i in range(1, bins + 1)]
        edges = tuple(ranked[end - 1] for end in ends)
        sizes = [b - a for a, b in zip([0, *ends], ends, strict=False)]
        return cls(names=names, edges=edges, counts=(*sizes, 1), reference=len(ranked), ones=ones)

    def update(self, value: Value, rng: random.Random, tolerance: float) -> Self:
        index = bisect_left(self.edges, (_as_number(value, self.names), rng.random()))
        below, total = sum(self.counts[:index]), sum(self.counts)
        p = (below + rng.random() * self.counts[index]) / total
        distance = abs(2.0 * p - 1.0)
        # Where such a share is of another kind, a mean of ranks moves by half of it at most.
        margin, stakes = tolerance / 2, [stake / (1.0 + tolerance) for stake in _STAKES]
        factors = [1.0 + s * (way * (p - 0.5) - margin) for s in stakes for way in (1, -1)]
        factors += [1.0 + s * (way * (distance - 0.5) - margin) for s in stakes for way in (1, -1)]
        if not tolerance:
            factors += [0.5 / max(end, _LEAST) ** 0.5 for end in (p, 1.0 - p)]  # a few, far out
        counts = (*self.counts[:index], self.counts[index] + 1, *self.counts[index + 1 :])
        return self.model_copy(
            update={
                "counts": counts,
                "evidence": self.evidence.update(factors),
                "rank": self.rank + _MEMORY * (p - self.rank),
                "spread": self.spread + _MEMORY * (distance - self.spread),
            }
        )

    def describe(self, name: str) -> str:
        up = self.rank > 0.5
        move = f"{name} moved {'up' if up else 'down'}"
        index = min(len(self.edges) - 1, int(self.rank * len(self.edges)))
        current = self.edges[index][0]
        middle = self.edges[(len(self.edges) - 1) // 2][0]
        if self.names:
            names = ", ".join(self.names[:3])
            return f"{name} is no longer distributed as in the calibration (mostly {names})"
        if self.ones is not None:
            # Among 0 and 1, the mean rank moves by half of what the share moves by.
            share = min(1.0, max(0.0, self.ones + 2.0 * (self.rank - 0.5)))
            return (
                f"{move}: lately in about {percent(round(share, 2))} of inputs, in the "
                f"calibration in {percent(round(self.ones, 2))}"
            )
        if abs(self.rank - 0.5) < abs(self.spread - 0.5) / 2:
            way = "further apart" if self.spread > 0.5 else "closer together"
            return f"{name} lies {way} than in the calibration (about {middle:.3g} there)"
        if f"{current:.3g}" == f"{middle:.3g}":
            side = "more" if up else "less"
            return f"{move}: {middle:.3g} in the calibration, lately often {side}"
        return f"{move}: lately about {current:.3g}, in the calibration {middle:.3g}"


class Drift(Frozen):
    """The state of a running drift check: an immutable value that each step replaces.

    Watch the quantities known for every input (`confidence`, `label_mass`, `length`, `language`),
    and for labelled inputs the difference between correctness (1 or 0) and confidence. Each
    quantity is tested by itself with its part of `alpha`; missing values are skipped.

    In simulations with a reference of 256 values, four quantities and `alpha` = 0.01, a fall of
    label mass or confidence by a standard deviation is detected after 30 inputs, by half of one
    after 70; texts twice as long after 20, and a new language in one input of five after 160 to
    250. After 500 good inputs a change takes twice as long. A change that goes on without an alarm
    becomes normal, so a very small or slow one may never be detected. Clusters of similar inputs
    count as a change, too; if inputs always come in clusters, watch a random part of them.
    """

    alpha: float = Field(default=0.01, gt=0, lt=1)
    """Maximum probability of any alarm in the whole run if nothing has changed."""
    tolerance: float = Field(default=0.0, ge=0, lt=1)
    """Share of inputs of another kind that never raises an alarm. With 0 an alarm says that
    something has changed, not that it has changed much."""
    seed: int = 0
    """Seed of the random numbers that break ties."""
    seen: int = 0
    """Number of inputs so far."""
    watches: Mapping[str, _Watch]
    alarms: tuple[Alarm, ...] = ()
    """Quantities that have moved, in order of detection."""

    @classmethod
    def of(
        cls,
        reference: Mapping[str, Sequence[Value]],
        *,
        alpha: float = 0.01,
        tolerance: float = 0.0,
        seed: int = 0,
    ) -> Self:
        """Start a check.

        Args:
            reference: Values on the calibration's inputs, by watched quantity. Don't use the inputs
                that the scorer was fitted on, since it is surer of them.
            alpha: The attribute; so are `tolerance` and `seed`.

        Raises:
            ConfigError: there is nothing to watch, or a reference has fewer than 20 values.
        """
        lacking_names = [name for name, values in reference.items() if len(values) < FEWEST]
        if lacking_names or not reference:
            raise ConfigError(
                f"drift needs a reference of at least {FEWEST} values of each thing watched, and "
                + (f"{lacking_names} have fewer" if lacking_names else "there is nothing to watch")
            )
        rng = random.Random(f"{seed}/reference")
        watches = {name: _Watch.of(values, rng) for name, values in reference.items()}
        return cls(alpha=alpha, tolerance=tolerance, seed=seed, watches=watches)

    def update(self, values: Mapping[str, Value | None]) -> Self:
        """Return the state after an input; other names and `None` are skipped.

        New alarms come last in `alarms`; each quantity raises at most one.
        """
        rng = random.Random(f"{self.seed}/{self.seen}")
        watches = dict(self.watches)
        alarms = list(self.alarms)
        for name, watch in self.watches.items():
            value = values.get(name)
            if value is None:
                continue
            watches[name] = new_watch = watch.update(value, rng, self.tolerance)
            has_alarm = any(alarm.name == name for alarm in alarms)
            if not has_alarm and new_watch.evidence.refutes(self.alpha / len(watches)):
                seen = new_watch.evidence.steps
                message = (
                    f"{new_watch.describe(name)}, after {seen} new inputs (in "
                    f"{percent(1 - self.alpha)} of runs without a change there is no such alarm)"
                )
                alarms.append(Alarm(name=name, seen=seen, message=message))
        return self.model_copy(
            update={"seen": self.seen + 1, "watches": watches, "alarms": tuple(alarms)}
        )


def _as_number(value: Value, names: Sequence[str]) -> float:
    """Map a value to a number: frequent names come first, unknown ones last."""
    if not isinstance(value, str):
        return float(value)
    return float(names.index(value) if value in names else len(names))


def language_shares(languages: Sequence[str | None]) -> dict[str, float]:
    """Return the share of each known language, by falling frequency."""
    names = [name for name in languages if name is not None]
    return {
        name: n / len(names) for name, n in Counter(names).most_common() if n >= 0.01 * len(names)
    }
