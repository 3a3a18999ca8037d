"""Calibration: what is guaranteed of accepted decisions, and how many errors keep it.

The bounds on an error rate are exact, and one-sided: those of Clopper and Pearson, "The use of
confidence or fiducial limits illustrated in the case of the binomial", Biometrika 26 (1934).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any, Literal

from pydantic import field_serializer

from moa.errors import ConfigError
from moa.node import Frozen

_NEGLIGIBLE = 1e-18
_HALVINGS = 60
_ALL_LOOKS = 1.2020569031595943
"""The sum of `1 / look**3` over all looks."""
_HELD_OUT, _HELD_OUT_OF_MANY = 0.5, 0.8
"""Share of the texts drawn at random that is held out; the larger one where there are at least
`_MANY` of them an option, so that enough are left to fit to."""
_MANY = 100
Learn = Literal["split", "nothing", "approximate", "all"]
"""What labelled rows are for: a part to learn from and the rest to be held out; all to be held out;
all for both, by cross-fitting; or all to learn from, so that nothing is guaranteed."""


@dataclass(frozen=True, slots=True)
class Guarantee:
    """The guarantee "among the decisions accepted, at most `risk` are wrong, with `confidence`".

    The confidence is over the held-out labels: of many bounds found on as many sets of labels, at
    most one part in `1 / (1 - confidence)` breaks its guarantee on inputs like those labelled.

    Each recalibration on more rows is one more chance to be wrong. So recalibration `k` spends
    `1 / (1.202 k**3)` of the probability of failure: 83 % for the first, 10 % for the second, and
    100 % over all that may ever come (alpha spending; Lan and DeMets 1983, Biometrika 70).

    Args:
        risk: Maximum share of wrong decisions among the accepted ones.
        confidence: Probability that the guarantee holds.
        look: Number of this calibration on the same, growing rows, from 1 on; `None`: there will
            be no other.

    Raises:
        ConfigError: risk or confidence is not strictly between 0 and 1, or `look` is below 1.

    Examples:
        >>> Guarantee(risk=0.02).confidence
        0.95
    """

    risk: float = 0.05
    confidence: float = 0.95
    look: int | None = None

    def __post_init__(self) -> None:
        if self.look is not None and self.look < 1:
            raise ConfigError(f"look={self.look}, but looks are counted from 1 on")
        if not (0.0 < self.risk < 1.0 and 0.0 < self.confidence < 1.0):
            raise ConfigError(
                f"risk={self.risk} and confidence={self.confidence}, but both must lie between 0 "
                "and 1, as in 0.05 and 0.95"
            )

    @property
    def failure(self) -> float:
        """Largest probability that the guarantee is broken, at this look."""
        spent = 1.0 if self.look is None else 1.0 / (_ALL_LOOKS * self.look**3)
        return (1.0 - self.confidence) * spent

    def needed(self, errors: int = 0) -> int:
        """Minimum of decisions accepted, with `errors` wrong ones, that shows the risk."""
        return fewest(errors, risk=self.risk, failure=self.failure)

    def shown_by(self, decisions: int) -> float:
        """Smallest risk that so many decisions can show: all of them accepted, and none wrong."""
        return upper_bound(0, decisions, 1.0 - self.failure)

    def looser(self) -> tuple[Guarantee, ...]:
        """Give what it may be weighed against: twice the failures, and 1.4 times the risk."""
        confidence, risk = 1.0 - 2 * (1.0 - self.confidence), 1.4 * self.risk
        others = ((self.risk, confidence), (risk, self.confidence))
        return tuple(Guarantee(r, c, self.look) for r, c in others if c > 0 and r < 1)

    def shared(self, parts: int) -> Guarantee:
        """Make one so strict that `parts` of them hold together with this confidence.

        The failures of the parts add up at most (Bonferroni).
        """
        return Guarantee(self.risk, 1.0 - self.failure / parts)

    def __str__(self) -> str:
        looks = "" if self.look is None else f" over all looks, of which this is number {self.look}"
        said = f"at most {percent(self.risk)} wrong, with {percent(self.confidence)} confidence"
        return said + looks


def share_held_out(rows: int, labels: int, guarantee: Guarantee, learn: Learn = "split") -> float:
    """Give the share of labelled rows that a calibration holds out.

    To learn from a part, it holds out none where those could show nothing: all are learnt from.
    """
    if learn != "split":
        return float(learn == "nothing")
    share = _HELD_OUT_OF_MANY if rows >= _MANY * labels else _HELD_OUT
    return share if rows * share >= guarantee.needed() else 0.0


def rows_needed(guarantee: Guarantee, labels: int = 2, *, learn: Learn = "split") -> int:
    """Give the fewest labelled rows with which a calibration can accept anything at all.

    Then it accepts all that is held out, if none of it is wrong. With wrong ones it takes more.
    """
    return rows_holding(guarantee.needed(), labels, learn=learn)


def rows_holding(held_out: int, labels: int, *, learn: Learn = "split") -> int:
    """Give the fewest labelled rows of which so many are held out."""
    if learn != "split":
        return held_out
    many = max(_MANY * labels, math.ceil(held_out / _HELD_OUT_OF_MANY))
    return min(many, math.ceil(held_out / _HELD_OUT))


def prospect(rows: int, labels: int, guarantee: Guarantee, *, learn: Learn = "split") -> str | None:
    """Say how many labelled rows it takes, and what fewer give; `None` where there are enough."""
    fewest_rows = rows_needed(guarantee, labels, learn=learn)
    if rows >= fewest_rows:
        return None
    doubled = Guarantee(min(0.5, 2 * guarantee.risk), guarantee.confidence, guarantee.look)
    larger = rows_needed(doubled, labels, learn=learn)
    best, wanted = percent(guarantee.shown_by(rows)), replace(guarantee, look=None)
    gives = {
        "split": f"All {rows} will be learnt from, so that labels get better, but none of them is "
        f"accepted. Held out as a whole (--learn nothing), they could show {best} at best",
        "nothing": f"{rows} could show {best} at best",
        "approximate": f"{rows} could show {best} at best",
        "all": "Nothing is guaranteed of rows that all are learnt from",
    }
    return (
        f"{rows} rows are too few to accept anything: {wanted}, takes at least {fewest_rows} "
        f"rows, and more if any of those held out is decided wrong; {percent(doubled.risk)} takes "
        f"at least {larger}. {gives[learn]}"
    )


class Bound(Frozen):
    """From which confidence on decisions are accepted, and what that was shown to keep.

    It needs nothing to be applied, and is a part of a calibration's file.
    """

    guarantee: Guarantee
    threshold: float | None
    """Decisions from this confidence on are accepted; `None` accepts nothing."""
    labels: int
    """Held-out decisions that it was found on."""
    accepted: int = 0
    """Those of them that it accepts."""
    errors: int = 0
    """Wrong ones among the accepted."""
    upper: float = 1.0
    """Largest error rate that these counts leave possible, at this threshold alone; it never
    passes the risk. What holds is the guarantee's risk, since the threshold was searched for."""
    more_labels: int | None = None
    """About how many more held-out labels it takes to accept something; `None`: something is
    accepted, or labels alone won't help."""
    summary: str
    """In words: what is accepted at which risk, or why nothing is and what it takes."""

    @field_serializer("guarantee")
    def _written(self, guarantee: Guarantee) -> dict[str, Any]:
        """Leave out what isn't said, so that files of before have the same seal."""
        return {name: value for name, value in asdict(guarantee).items() if value is not None}

    @property
    def coverage(self) -> float:
        """Share of the held-out decisions that is accepted."""
        return self.accepted / self.labels if self.labels else 0.0

    def accepts(self, confidence: float) -> bool:
        """Whether a decision of this confidence is accepted."""
        return self.threshold is not None and confidence >= self.threshold


def percent(share: float) -> str:
    """Write a share in per cent, with as many digits as tell it from 0 and 100."""
    value = 100.0 * share
    digits = 0
    while digits < 4 and (abs(round(value, digits) - value) > 0.05 * min(value, 100 - value)):
        digits += 1
    return f"{value:.{digits}f} %"


def log_choose(n: int, k: int) -> float:
    """Logarithm of the number of ways to choose `k` of `n`."""
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def tail(errors: int, n: int, risk: float) -> float:
    """Probability of at most `errors` errors among `n` decisions that are wrong with `risk`."""
    if errors < 0:
        return 0.0
    if errors >= n:
        return 1.0
    if errors > n * risk:  # the other side, whose terms fall from its first one on
        return 1.0 - tail(n - errors - 1, n, 1.0 - risk)
    term = math.exp(
        log_choose(n, errors) + errors * math.log(risk) + (n - errors) * math.log1p(-risk)
    )
    total = 0.0
    for k in range(errors, -1, -1):
        total += term
        if term <= _NEGLIGIBLE * total:
            break
        term *= k / (n - k + 1) * (1.0 - risk) / risk
    return min(1.0, total)


@lru_cache(maxsize=4096)
def upper_bound(errors: int, n: int, confidence: float) -> float:
    """Find the largest error rate that `errors` among `n` leave possible, with `confidence`."""
    if errors >= n:
        return 1.0
    low, high = errors / n, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if tail(errors, n, middle) > 1.0 - confidence:
            low = middle
        else:
            high = middle
    return high


@lru_cache(maxsize=1024)
def fewest(errors: int, *, risk: float, failure: float) -> int:
    """Find the fewest decisions that show an error rate of at most `risk` with `errors` in them.

    `failure` is the largest probability of showing it where it isn't so.
    """
    high = max(1, errors)
    while tail(errors, high, risk) > failure:
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        if tail(errors, middle, risk) > failure:
            low = middle
        else:
            high = middle
    return high


@lru_cache(maxsize=64)
def allowed_errors(most: int, *, risk: float, failure: float) -> tuple[int, ...]:
    """Find how many errors 0 to `most` decisions may have and still show `risk`; -1 for none."""
    allowed: list[int] = []
    errors = -1
    for n in range(most + 1):
        if n and tail(errors + 1, n, risk) <= failure:
            errors += 1
        allowed.append(errors)
    return tuple(allowed)
