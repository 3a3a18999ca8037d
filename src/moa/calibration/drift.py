"""Drift: whether new inputs, and shares of labels, are still those of a calibration or reference.

Each new value is ranked among those of the calibration and all that came since. While nothing has
changed, its rank is as likely to be any as any other (a conformal p-value; Vovk, Nouretdinov and
Gammerman 2003, "Testing exchangeability on-line", ICML), and bets against that win nothing. So the
whole run, however long, raises a false alarm with a probability of at most `alpha`.

A reference is kept as a few of its order statistics and the number of values between them. That
loses nothing: the shares of a distribution between order statistics of a sample of it are those of
Pólya's urn, whatever the distribution.

Where whole windows of labels are compared, that takes far more items than a test of two counts.
So the counts of a label are compared by Fisher's exact test (Fisher 1935, "The logic of inductive
inference", Journal of the Royal Statistical Society 98), whose rate of false alarms holds however
few there are.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Self

from pydantic import Field

from moa.calibration import log_choose, percent
from moa.calibration.audit import Evidence
from moa.errors import ConfigError
from moa.node import Frozen

Value = float | str
"""A number, or a name, such as that of a language."""
Detect = Callable[[str], str | None]
"""Tells the language of a text, or `None` where it can't."""
Counts = Mapping[str, Mapping[str, int]]
"""How often each label came, by the name of the question."""

_BINS = 20
FEWEST = 20
"""Values of each thing watched that it takes to know how it is distributed."""
_STAKES = (0.8, 1.8)
_LEAST = 1e-12
_MEMORY = 0.02
"""How much the newest value weighs in what an alarm says of where the values are now."""


class Alarm(Frozen):
    """What has moved, and since when it is known."""

    name: str
    """What was watched, such as `length`."""
    seen: int
    """New values of it until the alarm."""
    message: str
    """In words."""


class _Watch(Frozen):
    """One watched quantity: its reference, the counts so far, and the evidence of a change."""

    names: tuple[str, ...] = ()
    """Names from the most frequent on; empty where the values are numbers."""
    edges: tuple[tuple[float, float], ...]
    """Order statistics of the reference, each with the lot that decides among equal values."""
    counts: tuple[int, ...]
    """Places between the edges that a new value can take, the new values included."""
    reference: int
    """Values in the reference."""
    ones: float | None = None
    """Share of 1 in the reference, where its values are 0 and 1; `None` for other numbers."""
    evidence: Evidence = Evidence()
    rank: float = 0.5
    """Where the latest values lie among all: 0 is below, 1 above."""
    spread: float = 0.5
    """How far out they lie: 0 is in the middle, 1 at either end."""

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
        ranked = sorted((_number(value, names), rng.random()) for value in values)
        bins = min(_BINS, len(ranked))
        places = [round(len(ranked) * i / bins) for i in range(1, bins + 1)]
        edges = tuple(ranked[place - 1] for place in places)
        sizes = [b - a for a, b in zip([0, *places], places, strict=False)]
        return cls(names=names, edges=edges, counts=(*sizes, 1), reference=len(ranked), ones=ones)

    def after(self, value: Value, rng: random.Random, tolerance: float) -> Self:
        at = bisect_left(self.edges, (_number(value, self.names), rng.random()))
        below, total = sum(self.counts[:at]), sum(self.counts)
        p = (below + rng.random() * self.counts[at]) / total
        out = abs(2.0 * p - 1.0)
        # Where such a share is of another kind, a mean of ranks moves by half of it at most.
        free, stakes = tolerance / 2, [stake / (1.0 + tolerance) for stake in _STAKES]
        factors = [1.0 + s * (way * (p - 0.5) - free) for s in stakes for way in (1, -1)]
        factors += [1.0 + s * (way * (out - 0.5) - free) for s in stakes for way in (1, -1)]
        if not tolerance:
            factors += [0.5 / max(end, _LEAST) ** 0.5 for end in (p, 1.0 - p)]  # a few, far out
        counts = (*self.counts[:at], self.counts[at] + 1, *self.counts[at + 1 :])
        return self.model_copy(
            update={
                "counts": counts,
                "evidence": self.evidence.after(factors),
                "rank": self.rank + _MEMORY * (p - self.rank),
                "spread": self.spread + _MEMORY * (out - self.spread),
            }
        )

    def said(self, name: str) -> str:
        up = self.rank > 0.5
        moved = f"{name} moved {'up' if up else 'down'}"
        at = min(len(self.edges) - 1, int(self.rank * len(self.edges)))
        there = self.edges[at][0]
        middle = self.edges[(len(self.edges) - 1) // 2][0]
        if self.names:
            known = ", ".join(self.names[:3])
            return f"{name} is no longer distributed as in the calibration (mostly {known})"
        if self.ones is not None:
            # Among 0 and 1, the mean rank moves by half of what the share moves by.
            lately = min(1.0, max(0.0, self.ones + 2.0 * (self.rank - 0.5)))
            return (
                f"{moved}: lately in about {percent(round(lately, 2))} of inputs, in the "
                f"calibration in {percent(round(self.ones, 2))}"
            )
        if abs(self.rank - 0.5) < abs(self.spread - 0.5) / 2:
            way = "further apart" if self.spread > 0.5 else "closer together"
            return f"{name} lies {way} than in the calibration (about {middle:.3g} there)"
        if f"{there:.3g}" == f"{middle:.3g}":
            side = "more" if up else "less"
            return f"{moved}: {middle:.3g} in the calibration, lately often {side}"
        return f"{moved}: lately about {there:.3g}, in the calibration {middle:.3g}"


class Drift(Frozen):
    """The state of a running check on drift: a small value, which each step replaces.

    Watch what can be seen of every input (`confidence`, `label_mass`, `length`, `language`), and
    what can be seen of few and late: where a label comes in, the difference between it (1 where the
    answer was right, else 0) and the confidence. Each is watched by itself, with its part of
    `alpha`; a value that isn't there is left out.

    Simulated with a reference of 256 values and four things watched, `alpha` = 0.01: label mass or
    confidence that falls by a standard deviation is found out after 30 inputs, by half of one after
    70, texts twice as long after 20, one input in five in a new language after 160 to 250. A change
    after 500 good inputs takes twice as long. What goes on without an alarm becomes normal, so a
    very small or slow change may never raise one. Inputs that come in clumps of like ones are a
    change too; where that is how they always come, watch a random part of them.
    """

    alpha: float = Field(default=0.01, gt=0, lt=1)
    """Largest probability of any alarm in the whole run, where nothing has changed."""
    tolerance: float = Field(default=0.0, ge=0, lt=1)
    """Share of inputs that may be of another kind without an alarm, however long that goes on: with
    0 an alarm says that something has changed, and not that it has changed much."""
    seed: int = 0
    """Makes the lots that decide among equal values repeatable."""
    seen: int = 0
    """Inputs so far."""
    watches: Mapping[str, _Watch]
    alarms: tuple[Alarm, ...] = ()
    """What has moved, in the order in which it was found out."""

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
            reference: Values on the inputs of the calibration, by the name of what is watched.
                They must not be those that the scorer was fitted on, on which it is surer.
            alpha: The attribute, as are `tolerance` and `seed`.

        Raises:
            ConfigError: there is nothing to watch, or a reference has fewer than 20 values.
        """
        few = [name for name, values in reference.items() if len(values) < FEWEST]
        if few or not reference:
            raise ConfigError(
                f"drift needs a reference of at least {FEWEST} values of each thing watched, and "
                + (f"{few} have fewer" if few else "there is nothing to watch")
            )
        rng = random.Random(f"{seed}/reference")
        watches = {name: _Watch.of(values, rng) for name, values in reference.items()}
        return cls(alpha=alpha, tolerance=tolerance, seed=seed, watches=watches)

    def after(self, values: Mapping[str, Value | None]) -> Self:
        """Take in what is seen of one input; names that are not watched, and `None`, are left out.

        New alarms stand at the end of `alarms`; each thing raises at most one.
        """
        rng = random.Random(f"{self.seed}/{self.seen}")
        watches = dict(self.watches)
        alarms = list(self.alarms)
        for name, watch in self.watches.items():
            value = values.get(name)
            if value is None:
                continue
            watches[name] = now = watch.after(value, rng, self.tolerance)
            known = any(alarm.name == name for alarm in alarms)
            if not known and now.evidence.refutes(self.alpha / len(watches)):
                seen = now.evidence.steps
                message = (
                    f"{now.said(name)}, after {seen} new inputs (in {percent(1 - self.alpha)} of "
                    "runs without a change there is no such alarm)"
                )
                alarms.append(Alarm(name=name, seen=seen, message=message))
        return self.model_copy(
            update={"seen": self.seen + 1, "watches": watches, "alarms": tuple(alarms)}
        )


def _number(value: Value, names: Sequence[str]) -> float:
    """A number for a value: the frequent names come first, unknown ones last."""
    if not isinstance(value, str):
        return float(value)
    return float(names.index(value) if value in names else len(names))


def language_shares(languages: Sequence[str | None]) -> dict[str, float]:
    """Give the share of each language among those that are known, the most frequent first."""
    known = [name for name in languages if name is not None]
    return {
        name: n / len(known) for name, n in Counter(known).most_common() if n >= 0.01 * len(known)
    }


class Moved(Frozen):
    """A label whose share is no longer what it was."""

    question: str
    label: str
    reference: float
    """Its share in the reference, from 0 to 1."""
    now: float
    """Its share in the latest windows."""
    windows: int
    """How many of them that is."""
    p: float
    """Probability of a difference as large, or larger, where nothing has changed."""


def moved(reference: Counts, windows: Sequence[Counts], *, alpha: float) -> tuple[Moved, ...]:
    """Find the labels whose share has moved, in the latest window, or in all of them together.

    Where nothing has changed, and items don't depend on each other, something is found with a
    probability of at most `alpha`: it is shared among the questions, the labels and the two looks.
    The latest window comes last.
    """
    looks = {1, len(windows)} - {0}
    found: dict[tuple[str, str], Moved] = {}
    for look in sorted(looks):
        latest = added(windows[-look:])
        both = added([reference, latest])
        for question, known in both.items():
            free = 1 if len(known) == 2 else len(known)  # of two, what one gains the other loses
            level = alpha / (len(looks) * len(both) * free)
            before, now = reference.get(question, {}), latest.get(question, {})
            for label in known:
                counts = (now.get(label, 0), sum(now.values()))
                p = p_value(*counts, before.get(label, 0), sum(before.values()))
                if p <= level:
                    change = Moved(
                        question=question,
                        label=label,
                        reference=share_of(before, label),
                        now=share_of(now, label),
                        windows=look,
                        p=p,
                    )
                    found.setdefault((question, label), change)
    return tuple(found.values())


def added(counts: Sequence[Counts]) -> dict[str, dict[str, int]]:
    """Add counts up."""
    total: dict[str, Counter[str]] = {}
    for one in counts:
        for question, known in one.items():
            total.setdefault(question, Counter()).update(known)
    return {question: dict(sums) for question, sums in total.items()}


def share_of(known: Mapping[str, int], label: str) -> float:
    """Share of a label among those of its question; 0 where there are none."""
    return known.get(label, 0) / max(1, sum(known.values()))


def p_value(count: int, total: int, reference_count: int, reference_total: int) -> float:
    """Fisher's exact test, two-sided: twice the smaller of both tails, at most 1."""
    with_label, everything = count + reference_count, total + reference_total
    least, most = max(0, with_label - reference_total), min(total, with_label)
    scale = log_choose(everything, total)

    def weight(k: int) -> float:
        return math.exp(
            log_choose(with_label, k) + log_choose(everything - with_label, total - k) - scale
        )

    below = sum(weight(k) for k in range(least, count + 1))
    above = sum(weight(k) for k in range(count, most + 1))
    return min(1.0, 2.0 * below, 2.0 * above)
