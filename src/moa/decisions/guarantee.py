"""Calibration: guarantees on accepted decisions, and how many errors they allow.

Bounds on an error rate are exact and one-sided: those of Clopper and Pearson, "The use of
confidence or fiducial limits illustrated in the case of the binomial", Biometrika 26 (1934).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Literal

from pydantic import field_serializer

from moa.core.errors import ConfigError
from moa.core.node import Frozen

_NEGLIGIBLE = 1e-18
_HALVINGS = 60
_ALL_LOOKS = 1.2020569031595943
"""The sum of `1 / look**3` over all looks."""
_HELD_OUT, _HELD_OUT_OF_MANY = 0.5, 0.8
"""Share of the randomly drawn texts that is held out. The larger share applies to at least `_MANY`
texts per option, since enough remain to fit to."""
_MANY = 100
Learn = Literal["split", "nothing", "approximate", "all"]
"""Use of the labelled rows. `split` learns from a part and holds out the rest; `nothing` holds out
all; `approximate` uses all for both, by cross-fitting; `all` learns from all, without a guarantee.
"""


@dataclass(frozen=True, slots=True)
class Guarantee:
    """A guarantee: at most `risk` of the accepted decisions are wrong, with `confidence`.

    The confidence is over the held-out labels: among bounds found on many sets of labels, at most
    the share `1 - confidence` breaks its guarantee on inputs like the labelled ones.

    Each recalibration on more rows is one more chance to be wrong. So recalibration `k` spends `1 /
    (1.202 k**3)` of the failure probability: 83 % for the first, 10 % for the second, and 100 %
    over all recalibrations (alpha spending; Lan and DeMets 1983, Biometrika 70).

    Args:
        risk: Maximum share of wrong decisions among the accepted ones.
        confidence: Probability that the guarantee holds.
        look: Number of this calibration on the same growing rows, from 1; `None`: there will be
            only one.

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

    def count_needed(self, errors: int = 0) -> int:
        """Return the minimum number of accepted decisions that proves it, with `errors` wrong."""
        return min_decisions(errors, risk=self.risk, failure=self.failure)

    def smallest_risk(self, decisions: int) -> float:
        """Return the smallest risk provable by this many accepted decisions without an error."""
        return upper_bound(0, decisions, 1.0 - self.failure)

    def loosen(self) -> tuple[Guarantee, ...]:
        """Return two weaker guarantees: twice the failure probability, and 1.4 times the risk."""
        confidence, risk = 1.0 - 2 * (1.0 - self.confidence), 1.4 * self.risk
        pairs = ((self.risk, confidence), (risk, self.confidence))
        return tuple(Guarantee(r, c, self.look) for r, c in pairs if c > 0 and r < 1)

    def split(self, parts: int) -> Guarantee:
        """Return a stricter guarantee: `parts` like it hold together with this confidence.

        Failure probabilities of the parts at most add up (Bonferroni).
        """
        return Guarantee(self.risk, 1.0 - self.failure / parts)

    def __str__(self) -> str:
        looks = "" if self.look is None else f" over all looks, of which this is number {self.look}"
        text = f"at most {percent(self.risk)} wrong, with {percent(self.confidence)} confidence"
        return text + looks


def held_out_share(rows: int, labels: int, guarantee: Guarantee, learn: Learn = "split") -> float:
    """Return the share of labelled rows that a calibration holds out.

    With `split` it is 0 if the held-out rows would be too few to prove the guarantee; the fit then
    uses all rows.
    """
    if learn != "split":
        return float(learn == "nothing")
    share = _HELD_OUT_OF_MANY if rows >= _MANY * labels else _HELD_OUT
    return share if rows * share >= guarantee.count_needed() else 0.0


def min_rows(guarantee: Guarantee, labels: int = 2, *, learn: Learn = "split") -> int:
    """Return the minimum number of labelled rows for a calibration to accept anything.

    It suffices if no held-out decision is wrong; each error requires more rows.
    """
    return min_rows_to_hold_out(guarantee.count_needed(), labels, learn=learn)


def min_rows_to_hold_out(held_out: int, labels: int, *, learn: Learn = "split") -> int:
    """Return the minimum number of labelled rows for `held_out` of them to be held out."""
    if learn != "split":
        return held_out
    many_rows = max(_MANY * labels, math.ceil(held_out / _HELD_OUT_OF_MANY))
    return min(many_rows, math.ceil(held_out / _HELD_OUT))


def explain_too_few_rows(
    rows: int, labels: int, guarantee: Guarantee, *, learn: Learn = "split"
) -> str | None:
    """Explain how many rows are needed and what fewer achieve; `None` if there are enough."""
    fewest_rows = min_rows(guarantee, labels, learn=learn)
    if rows >= fewest_rows:
        return None
    doubled = Guarantee(min(0.5, 2 * guarantee.risk), guarantee.confidence, guarantee.look)
    larger = min_rows(doubled, labels, learn=learn)
    best, goal = percent(guarantee.smallest_risk(rows)), replace(guarantee, look=None)
    gives = {
        "split": f"All {rows} will be learnt from, so that labels get better, but none of them is "
        f"accepted. Held out as a whole (--learn nothing), they could show {best} at best",
        "nothing": f"{rows} could show {best} at best",
        "approximate": f"{rows} could show {best} at best",
        "all": "Nothing is guaranteed of rows that all are learnt from",
    }
    return (
        f"{rows} rows are too few to accept anything: {goal}, takes at least {fewest_rows} "
        f"rows, and more if any of those held out is decided wrong; {percent(doubled.risk)} takes "
        f"at least {larger}. {gives[learn]}"
    )


class Bound(Frozen):
    """The confidence threshold for acceptance, and the evidence for its guarantee.

    It is a part of a calibration's file and can be applied without other libraries.
    """

    guarantee: Guarantee
    threshold: float | None
    """Minimum confidence of accepted decisions; `None` accepts nothing."""
    labels: int
    """Held-out decisions used to find the threshold."""
    accepted: int = 0
    """Held-out decisions that the threshold accepts."""
    errors: int = 0
    """Wrong decisions among the accepted ones."""
    upper: float = 1.0
    """Upper bound of the error rate by these counts, for this threshold alone; at most the risk.
    The guarantee is the risk itself, since the threshold was searched for."""
    more_labels: int | None = None
    """Estimate of the further held-out labels needed to accept something; `None`: something is
    accepted, or more labels alone won't help."""
    summary: str
    """A sentence: the accepted share and its risk, or why nothing is accepted and what would
    help."""

    @field_serializer("guarantee")
    def _dump_guarantee(self, guarantee: Guarantee) -> dict[str, object]:
        """Omit `None`, so that the seals of existing files stay valid."""
        return {name: value for name, value in asdict(guarantee).items() if value is not None}

    @property
    def coverage(self) -> float:
        """Share of the held-out decisions that is accepted."""
        return self.accepted / self.labels if self.labels else 0.0

    def accepts(self, confidence: float) -> bool:
        """Return True if a decision of this confidence is accepted."""
        return self.threshold is not None and confidence >= self.threshold


def percent(share: float) -> str:
    """Format a share in per cent, with enough digits to tell it from 0 and 100."""
    value = 100.0 * share
    digits = 0
    while digits < 4 and (abs(round(value, digits) - value) > 0.05 * min(value, 100 - value)):
        digits += 1
    return f"{value:.{digits}f} %"


def log_choose(n: int, k: int) -> float:
    """Return the logarithm of the number of ways to choose `k` of `n`."""
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def tail(errors: int, n: int, risk: float) -> float:
    """Return the probability of at most `errors` errors in `n` decisions of the given risk."""
    if errors < 0:
        return 0.0
    if errors >= n:
        return 1.0
    if errors > n * risk:  # sum the other side, whose terms decrease
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
    """Return the largest error rate compatible with `errors` in `n`, with `confidence`."""
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
def min_decisions(errors: int, *, risk: float, failure: float) -> int:
    """Return the minimum number of decisions, `errors` of them wrong, that proves a risk.

    `failure` is the maximum probability of a false proof.
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
    """Return, for 0 to `most` decisions, how many errors still prove `risk`; -1 for none."""
    max_errors: list[int] = []
    errors = -1
    for n in range(most + 1):
        if n and tail(errors + 1, n, risk) <= failure:
            errors += 1
        max_errors.append(errors)
    return tuple(max_errors)
