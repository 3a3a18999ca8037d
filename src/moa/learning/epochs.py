"""Epochs: the guarantee of a head that changes which inputs of a stream get labels.

A large model answers a stream of inputs, and its answers are labels. A head fitted to some of them
takes over the inputs that it is surest of. The guarantee, for each epoch and with 95 % confidence:
every head that was used differs from the large model on at most 5 % of the inputs it accepts, for
inputs drawn like those before. This module reads and writes nothing: `moa.learning.answers`
stores the results.

**Sides.** A keyed coin over the text (or its case) decides, before anything is read, whether an
input is held out: half of them until the first look of an epoch, 2 % afterwards. The coin of a text
is the same in every process and at any time, so the inputs held out later are among those held out
before. A held-out input is always answered by the large model. It is never fitted to, nor is any
other row whose text is held out in the epoch.

**Looks.** An epoch has at most three looks, scheduled by counts of inputs, independently of their
labels: at 200 held-out texts, at row 900 and at row 3,600. If the fit side calls a look unlikely to
pass, or not worth it, it is postponed until the count has grown by a quarter. A look tests one
head, fitted beforehand, at up to eight thresholds chosen by the fit side alone, the strictest
first, until one fails. Each held-out text counts once, by its first label; without a label it
counts as a difference. If `n` of them are accepted and `k` of these differ, a threshold passes if
the exact binomial test at the level of the look refutes a difference above the risk (Clopper and
Pearson 1934).

*One look.* Given the fit side, head and thresholds are fixed, and the held-out texts are
independent draws: given `n`, `k` is binomial. Suppose some thresholds break the guarantee. To use
one of them, the first of them in the sequence must pass, with at most the level's probability. So
the last threshold that passes keeps the risk except with that probability, whether or not the risk
falls from threshold to threshold (fixed sequence testing).

*Later looks.* The outcome of a look determines which rows get labels next, so the head of a later
look depends on held-out labels, but only through the outcomes of earlier looks. There are at most
`outcomes` different ones. For each outcome o let the epoch continue as it would, and call the head
that the later look would test H(o). H(o) is a function of texts, coins and labels of the fit side
alone: a text that an exception (below) sends to the large model is held out and never fitted to. So
H(o) breaks its guarantee with at most the probability of its level; the level is divided by
`outcomes`, and the sum over all o, of which one happens, is at most the alpha of the look
(Bonferroni). The time of a look, and whether it is worth it, depend on counts and the fit side,
too, so they are part of H(o). The alphas of the three looks add up to 5 %. Withdrawing a guarantee
ends the epoch, which removes chances and adds none.

**Exceptions.** A head doesn't answer a text if the large model is known to answer it differently.
With a share `b` accepted and a share `a <= b` different, excluding a share `m` that is different
turns `a/b` into the smaller `(a - m) / (b - m)`.

**Several decisions.** Other decisions made here may affect a text, too. Its label is `OTHERWISE` if
the large model makes any of them differently. `OTHERWISE` is fitted like any other label, and no
head accepts it. So an accepted text differs if any of its decisions does, and the share that
differs in one given decision is no larger. One guarantee covers them all, and no alpha is divided
between them.

**Copies.** A frequent text is on one side with all its copies, so it counts once. A repeated text
of the fit side has a known answer: if the head gives another it is an exception. A threshold must
also keep the risk among all held-out rows, copies counted. And it must pass a second test, on the
held-out texts that are near-copies of no text of the fit side and of no earlier held-out one. Both
only make it stricter. They protect against clusters of inputs, which are right or wrong together.

**People.** A second guarantee is about people's labels: of the inputs that a head accepts, at most
5 % are wrong. It is tested on rows drawn at random from those that the head in use accepted after
it was chosen. So their labels are independent of the head, even if it was fitted to people's
labels. Each head has at most three draws, each with its part of the failure probability of the look
that the head passed. An unlabelled row counts as wrong, so more labels can only prove more, and a
draw may be inspected while labels come in.

**Audit.** Held-out inputs that arrive after the look and that the head would accept are its checks.
`moa.decisions.audit` bets on them, and withdraws a broken guarantee.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, exp, lgamma

from moa.decisions.arrays import Bools, Floats, Ints, coverage_line, np
from moa.decisions.audit import Audit
from moa.decisions.guarantee import allowed_errors, log_choose, tail, upper_bound
from moa.learning.labelled import normalise_text

RISK = 0.05
"""Guaranteed maximum share of accepted answers that differ from the large model's."""
HELD_AT_FIRST, HELD_LATER = 0.5, 0.02
"""Share of the inputs held out until the first look of an epoch, and afterwards."""
TWICE = 0.1
"""Share of the held-out inputs about which the large model is asked twice."""
THRESHOLDS = 8
"""Maximum of thresholds that a look tests."""
_HOPELESS = 0.2
"""Minimum probability that some threshold passes, for a look to be proposed."""
_LIKELY = 0.6
"""Minimum probability that the first threshold passes, for a look to be made."""
_GAIN = 0.03
"""Minimum further share of accepted inputs expected from a later look."""
_SOUGHT = RISK / 2
"""Maximum risk of the accepted inputs, estimated on the fit side. It is half of the guaranteed
risk: a threshold that passes by luck then seldom breaks the guarantee, and more would save few
calls."""
_GROWS = 1.25
_FEARED, _MORE = 1.5, 1.0
"""Pessimistic error count: errors assumed for each error seen, and for none. The best of many
thresholds looks better than it is."""
_LOOKED_AT = 80
"""Thresholds for which the fit side estimates the probability of passing."""
_NEAR = 0.3
"""Two vectors are near-copies if their distance is below this share of the median distance."""
_BLOCK = 1 << 19
"""Distances computed at a time: 4 MB, and a few times that on the way."""


@dataclass(frozen=True, slots=True)
class PlannedLook:
    """The time of a look, and its share of the failure probability."""

    alpha: float
    held_out: int = 0
    """Number of distinct held-out texts of the epoch at which it is due."""
    inputs: int = 0
    """Number of inputs of the epoch, held out or not, at which it is due."""


LOOKS = (
    PlannedLook(0.03, held_out=200),
    PlannedLook(0.015, inputs=900),
    PlannedLook(0.005, inputs=3600),
)


DRAWS = (0.6, 0.3, 0.1)
"""Parts of a head's failure probability that the draws for people spend."""


def level_of_draw(look: int, draw: int) -> float:
    """Return the test level of a draw for people, for the head of a look."""
    return LOOKS[look].alpha * DRAWS[draw]


def count_due(first: int, held_out: int) -> int | None:
    """Return the largest count, up to `held_out`, at which a look is due; `None` below `first`.

    After `first`, a postponed look is due again whenever the count has grown by a quarter. These
    counts depend neither on held-out labels nor on response times.
    """
    if held_out < first:
        return None
    count = first
    while (next_count := ceil(count * _GROWS)) <= held_out:
        count = next_count
    return count


def level_of(look: int) -> float:
    """Return the test level of each threshold of a look, by its number from 0.

    Each earlier look has `THRESHOLDS + 1` possible outcomes: the last threshold that passed, or
    none.
    """
    return LOOKS[look].alpha / (THRESHOLDS + 1) ** look


@dataclass(frozen=True, slots=True)
class Coin:
    """Assigns texts to sides, unpredictably without the secret.

    Args:
        secret: 16 bytes or more, shared by all processes of the stream.
    """

    secret: bytes

    def toss(self, text: str, case: str | None = None) -> Side:
        """Return the side of a text, or of the case that it belongs to."""
        subject = f"text {normalise_text(text)}" if case is None else f"case {case}"
        data = subject.encode("utf-8", "surrogatepass")
        digest = hashlib.blake2b(data, key=self.secret[:64], digest_size=24).digest()
        share, second = (int.from_bytes(part) / 2**64 for part in (digest[:8], digest[16:]))
        return Side(digest[:16].hex(), share, second)


@dataclass(frozen=True, slots=True)
class Side:
    """The side of a text."""

    key: str
    """Identifies the text, without revealing it to anyone who lacks the secret."""
    share: float
    """A uniform number from 0 to 1."""
    again: float
    """A second, independent number."""

    def is_held_out(self, looks: int) -> bool:
        """Return True if the text is held out after this number of looks."""
        return self.share < (HELD_LATER if looks else HELD_AT_FIRST)

    @property
    def is_asked_twice(self) -> bool:
        """True if the large model is asked twice when the text is held out."""
        return self.again < TWICE


NO_SIDE = Side("", 1.0, 1.0)
"""The side of a text that can't be stored. It is never held out."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """The thresholds of a look, with the estimates of the fit side."""

    thresholds: tuple[float, ...] = ()
    """Thresholds, the strictest first; empty if none is likely to pass."""
    likely: float = 0.0
    """Estimated probability that the first one passes."""
    share: float = 0.0
    """Share accepted by the last threshold that passes with a probability of a half or more."""

    def is_worth_it(self, accepted: float) -> bool:
        """Return True if the look is worth it; the head in use accepts the share `accepted`."""
        return self.likely >= _LIKELY and self.share > (accepted + _GAIN if accepted else 0.0)


def propose(
    confidences: Floats, right: Bools, held_out: int, level: float, gap: float = 1.0
) -> Proposal:
    """Choose the thresholds of a look by the fit side alone.

    The first is the likeliest to pass. The last accepts as much as half of the risk allows.

    Args:
        confidences: Confidence of each decision of the fit side, by a fit without its own label.
        right: True for decisions that agree with the large model.
        held_out: Number of held-out texts.
        level: Level of the test.
        gap: Estimated share of texts without near-copies.
    """
    if not len(confidences):
        return Proposal()
    shares, errors = coverage_line(confidences, right)
    levels = np.sort(np.unique(confidences))[::-1]
    sample = np.unique(np.linspace(0, len(levels) - 1, _LOOKED_AT).astype(np.intp))
    shares, errors, levels = shares[sample], errors[sample], levels[sample]
    n = shares * len(confidences)
    wrong, fair = _FEARED * errors * n + _MORE, (1 - errors) * n + _MORE
    likely = _pass_probabilities(
        np.round(shares * held_out * gap).astype(np.intp), wrong, fair, level
    )
    best = float(likely.max())
    if best < _HOPELESS:
        return Proposal()
    start = int(likely.argmax())  # later ones are tested too, and may fail without harm
    safe_indices = np.flatnonzero(wrong <= _SOUGHT * (n + _MORE))
    end = max(start, int(safe_indices[-1]) if len(safe_indices) else 0)
    indices = np.unique(np.round(np.linspace(start, end, THRESHOLDS)).astype(np.intp))
    hopeful = [index for index in indices.tolist() if likely[index] >= 0.5] or [start]
    thresholds = tuple(levels[indices].tolist())
    return Proposal(thresholds, float(likely[start]), float(shares[hopeful[-1]]))


def _pass_probabilities(accepted: Ints, wrong: Floats, fair: Floats, level: float) -> Floats:
    """Estimate the probability that each threshold passes.

    The risk is unknown, so it has a beta distribution, given the errors of the fit side. The
    differences among the accepted texts are then beta-binomial.
    """
    max_errors = allowed_errors(int(accepted.max()), risk=RISK, failure=level)
    counts = zip(map(int, accepted), map(float, wrong), map(float, fair), strict=True)
    probabilities = [
        sum(_beta_binomial(k, n, a, b) for k in range(max_errors[n] + 1)) for n, a, b in counts
    ]
    return np.array(probabilities, float)


def _beta_binomial(k: int, n: int, a: float, b: float) -> float:
    """Return the probability of `k` of `n` if the risk has a beta distribution."""
    return exp(log_choose(n, k) + _log_beta(k + a, n - k + b) - _log_beta(a, b))


def _log_beta(a: float, b: float) -> float:
    return lgamma(a) + lgamma(b) - lgamma(a + b)


@dataclass(frozen=True, slots=True, eq=False)
class HeldOutRows:
    """The held-out rows of an epoch, in order, with the answers of a head."""

    keys: Sequence[str]
    """Keys of their texts."""
    sure: Floats
    """The head's confidence; infinite for a forgotten row, so that it counts as accepted."""
    same: Bools
    """True if head and large model agree; False without an answer of the large model."""
    labelled: Bools
    apart: Bools
    """False for near-copies of a text of the fit side, or of an earlier held-out one."""

    def first_rows(self) -> Ints:
        """Return the rows that count: for each text its first labelled row, else its first."""
        rows: dict[str, int] = {}
        for row, key in enumerate(self.keys):
            first = rows.setdefault(key, row)
            if self.labelled[row] and not self.labelled[first]:
                rows[key] = row
        return np.array(sorted(rows.values()), dtype=np.intp)


@dataclass(frozen=True, slots=True)
class LookResult:
    """The outcome of a look."""

    passed: int
    """Number of thresholds that passed in a row."""
    threshold: float | None
    """The last threshold that passed."""
    held_out: int
    """Number of distinct held-out texts."""
    accepted: int = 0
    """Number of texts that the threshold accepts."""
    differ: int = 0
    """Number of accepted texts whose answers differ."""
    upper: float = 1.0
    """Upper bound of the share of differences, at the level of the look."""


def judge_head(thresholds: Sequence[float], rows: HeldOutRows, level: float) -> LookResult:
    """Test the thresholds in order until one fails."""
    firsts = rows.first_rows()
    distinct = firsts[rows.apart[firsts]]
    counted_rows = rows.labelled.copy()  # without unlabelled copies of a text
    counted_rows[firsts] = True
    verdict = LookResult(0, None, len(firsts))
    for number, threshold in enumerate(thresholds[:THRESHOLDS], start=1):
        takes = rows.sure >= threshold
        wrong = takes & ~rows.same
        accepted, differ = int(takes[firsts].sum()), int(wrong[firsts].sum())
        counts = ((differ, accepted), (int(wrong[distinct].sum()), int(takes[distinct].sum())))
        passes = all(n > 0 and tail(k, n, RISK) <= level for k, n in counts)
        if not passes or wrong[counted_rows].sum() > RISK * takes[counted_rows].sum():
            break
        upper = upper_bound(differ, accepted, 1.0 - level)
        verdict = LookResult(number, threshold, len(firsts), accepted, differ, min(upper, RISK))
    return verdict


def find_distinct(vectors: Floats, known: Floats) -> Bools:
    """Return False for vectors that are near-copies of a known one, or of an earlier one.

    Near-copies are much closer than the median distance of vectors. Distances are computed in
    blocks of rows, so the memory needed grows with the number of vectors, not with its square.
    """
    if not len(vectors):
        return np.zeros(0, bool)
    everything = np.concatenate([known, vectors]).astype(float)
    everything -= everything.mean(0)
    squares = (everything**2).sum(1)
    start, total = len(known), len(everything)
    rows = slice(start, None, 1 + len(vectors) // 100)
    columns = slice(None, None, 1 + total // 1000)
    near = _NEAR**2 * np.median(_distances(everything, squares, rows, columns))
    is_distinct = np.ones(len(vectors), bool)
    step = max(1, _BLOCK // total)
    for first in range(start, total, step):
        end = min(total, first + step)
        distances = _distances(everything, squares, slice(first, end), slice(end))
        is_earlier = np.arange(end) < np.arange(first, end)[:, None]
        is_distinct[first - start : end - start] = ~((distances < near) & is_earlier).any(1)
    return is_distinct


def _distances(vectors: Floats, squares: Floats, rows: slice, columns: slice) -> Floats:
    """Return the squared distances of some vectors to others, given the squares of all."""
    products = vectors[rows] @ vectors[columns].T
    distances: Floats = squares[rows, None] + squares[columns] - 2 * products
    return distances


def start_audit() -> Audit:
    """Start the audit of a head that has passed a look."""
    return Audit(risk=RISK, share=HELD_LATER)
