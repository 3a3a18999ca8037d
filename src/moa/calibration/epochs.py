"""Guarantee: what a head may answer alone, tested on held-out inputs of a stream that it changes.

A large model answers a stream of inputs, and its answers are labels. A head that is fitted to some
of them takes over what it is surest of. Guaranteed is, of each epoch and with 95 % confidence:
every head that was used differs from the large model on at most 5 % of what it accepts, for inputs
drawn like those before. Nothing here reads or writes: `moa.calibration.answers` keeps what is said
here.

**Sides.** A keyed coin over the text (or its case) says before anything is read whether an input is
held out: half of them until the first look of an epoch, 2 % afterwards. The coin of a text is the
same in every process and at every time, so the inputs that stay held out are among those that were.
What is held out is always answered by the large model. It is never fitted to, nor is any other row
whose text is held out in the epoch.

**Looks.** An epoch has at most three looks, which are planned by counts of inputs, whatever their
labels: at 200 held-out texts, at row 900 and at row 3,600. One that the fit side calls unlikely to
pass, or not worth it, is put off until there are a quarter more. A look tests one head, fitted
beforehand, at up to eight thresholds that the fit side alone has chosen, the strictest first, until
one fails. Of the texts that are held out, each counts once, by its first label; one without a label
counts as a difference. With `n` of them accepted and `k` of these different, a threshold passes
where the exact binomial test at the level of the look refutes that more than the risk differs
(Clopper and Pearson 1934).

*One look.* Given the fit side, head and thresholds are fixed, and held-out texts are draws that
they don't depend on: given `n`, `k` is binomial. Say that some thresholds break the guarantee. To
use one of these, the first of them in the sequence must pass, which has at most the level's
probability. So the last threshold that passes keeps the risk but with that probability, whether the
risk falls from threshold to threshold or not (fixed sequence testing).

*Later looks.* What a look says decides which rows get labels next, so the head of a later look
depends on held-out labels, though only through what earlier looks said. These had at most
`outcomes` different things to say. For each of them let the epoch go on as it would have, and call
the head that the later look would test then H(o). H(o) is a function of texts, coins and labels of
the fit side alone: what an exception (below) sends to the large model is a held-out text and never
fitted to. So H(o) breaks its guarantee with at most the probability of the level that it is tested
at; the level is divided by `outcomes`, and the sum over all o, of which one happens, is at most the
alpha of the look (Bonferroni). When a look is made, and whether it is worth it, is a matter of
counts and of the fit side too, so it is a part of H(o). The alphas of the three looks add up to 5
%. When a guarantee is withdrawn the epoch ends, which takes chances away and adds none.

**Exceptions.** A head doesn't answer a text that the large model was seen to answer otherwise. With
a share `b` accepted and `a <= b` of it different, leaving out `m` that is different makes of `a/b`
the smaller `(a - m) / (b - m)`.

**Several decisions.** What becomes of a text may hang on other decisions too, which are made here.
Then the label of a text for which the large model makes any of them otherwise is `OTHERWISE`, which
is fitted to like another label, and which no head accepts. So an accepted text differs where any of
its decisions does, and the share in which one given decision differs is no larger. One guarantee
covers them all, and no alpha is divided between them.

**Copies.** A text that comes often is on one side with all its copies, so it counts once. Texts of
the fit side that come again have a known answer: where the head gives another it is an exception. A
threshold must also keep the risk among all held-out rows, copies counted; and it must pass a second
time, tested on those held-out texts alone that are near-copies of no text of the fit side and of no
held-out one before them. Both only make it stricter. They are for inputs that come in clumps, which
are right or wrong together.
 **People.** A second guarantee says how often a head is right by people: of what it accepts at most
5 % is wrong. It takes rows that are drawn at random for them, among those that the head in use has
accepted, and which came after it was chosen. So their labels are draws that it doesn't depend on,
whatever people's labels it was fitted to. Each head has at most three draws, each with its part of
the failure probability of the look that the head has passed. A row that nobody labels counts as
wrong; so more labels can only show more, and a draw may be looked at while they come in.

**Audit.** Held-out inputs that come after the look, and that the head would accept, are checks of
it. They are the bets of `moa.calibration.audit`, which withdraw a guarantee that is broken.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, exp, lgamma

from moa.calibration import allowed_errors, log_choose, tail, upper_bound
from moa.calibration.audit import Audit
from moa.calibration.labelled import same_text
from moa.decisions.arrays import Bools, Floats, Ints, coverage_line, np

RISK = 0.05
"""Largest share of the accepted answers that may differ from the large model's."""
HELD_AT_FIRST, HELD_LATER = 0.5, 0.02
"""Share of the inputs that is held out until the first look of an epoch, and afterwards."""
TWICE = 0.1
"""Share of the held-out inputs that the large model is asked twice."""
THRESHOLDS = 8
"""Most thresholds that a look tests."""
_HOPELESS = 0.2
"""A look isn't worth it where no threshold is likelier to pass."""
_LIKELY = 0.6
"""How likely the first threshold of a look must be to pass."""
_GAIN = 0.03
"""Further share of the inputs that a later look must be expected to accept."""
_SOUGHT = RISK / 2
"""Largest risk, by the fit side, of what a look would accept: half as large as the guaranteed one,
so that what passes by luck is seldom worse, and right answers are not lost for few calls more."""
_GROWS = 1.25
_FEARED, _MORE = 1.5, 1.0
"""Wrong ones that are feared for one that the fit side has seen, and for none: what is chosen as
the best of many thresholds looks better than it is."""
_LOOKED_AT = 80
"""Thresholds of which the fit side is asked how likely they pass."""
_NEAR = 0.3
"""Two vectors are near-copies that are closer than this share of the median distance."""


@dataclass(frozen=True, slots=True)
class PlannedLook:
    """When a look is due, and how much of the failure probability it spends."""

    alpha: float
    held_out: int = 0
    """Different held-out texts of the epoch that it takes."""
    inputs: int = 0
    """Inputs of the epoch, held out or not, that it takes."""


LOOKS = (
    PlannedLook(0.03, held_out=200),
    PlannedLook(0.015, inputs=900),
    PlannedLook(0.005, inputs=3600),
)


DRAWS = (0.6, 0.3, 0.1)
"""Parts of a head's failure probability that the draws of rows for people spend."""


def level_of_draw(look: int, draw: int) -> float:
    """Level that a draw of rows for people is tested at, which the head of a look has accepted."""
    return LOOKS[look].alpha * DRAWS[draw]


def count_due(first: int, there: int) -> int | None:
    """Return the count at which a look is considered; `None`: it isn't due before `first`.

    Where a look was not worth it, it is considered again when the count has grown by a quarter. So
    neither a label that is held out nor how long an answer takes says when a look is made.
    """
    if there < first:
        return None
    count = first
    while (more := ceil(count * _GROWS)) <= there:
        count = more
    return count


def level_of(look: int) -> float:
    """Level that each threshold of a look is tested at, by its number from 0 on.

    An earlier look may have said that none of its thresholds passes, or which is the last to pass.
    """
    return LOOKS[look].alpha / (THRESHOLDS + 1) ** look


@dataclass(frozen=True, slots=True)
class Coin:
    """The sides of texts: it can't be foretold without the secret.

    Args:
        secret: 16 bytes or more, the same for all who share the rows.
    """

    secret: bytes

    def toss(self, text: str, case: str | None = None) -> Side:
        """Toss for a text, or for the case that it belongs to."""
        what = f"text {same_text(text)}" if case is None else f"case {case}"
        data = what.encode("utf-8", "surrogatepass")
        digest = hashlib.blake2b(data, key=self.secret[:64], digest_size=24).digest()
        share, again = (int.from_bytes(part) / 2**64 for part in (digest[:8], digest[16:]))
        return Side(digest[:16].hex(), share, again)


@dataclass(frozen=True, slots=True)
class Side:
    """Where the coin of a text fell."""

    key: str
    """Tells the text from others, and what is in it only to who has both it and the secret."""
    share: float
    """From 0 to 1."""
    again: float
    """The same of another coin."""

    def is_held_out(self, looks: int) -> bool:
        """Whether the text is held out, after so many looks of the epoch."""
        return self.share < (HELD_LATER if looks else HELD_AT_FIRST)

    @property
    def is_asked_twice(self) -> bool:
        """Whether the large model is asked twice, where the text is held out."""
        return self.again < TWICE


@dataclass(frozen=True, slots=True)
class Proposal:
    """Thresholds that a look would test, and what the fit side says of them."""

    thresholds: tuple[float, ...] = ()
    """The strictest first; none, where none is likely to pass."""
    likely: float = 0.0
    """Probability that the first one passes, if the fit side tells the truth."""
    share: float = 0.0
    """Share that is accepted by the last one that is as likely as not to pass."""

    def is_worth_it(self, accepted: float) -> bool:
        """Whether to look, where the head in use accepts such a share of the held-out inputs."""
        return self.likely >= _LIKELY and self.share > (accepted + _GAIN if accepted else 0.0)


def propose(
    sure: Floats, right: Bools, held_out: int, level: float, apart: float = 1.0
) -> Proposal:
    """Choose the thresholds of a look by the fit side alone.

    The first is the likeliest to pass; the last accepts as much as leaves half of the risk.

    Args:
        sure: How sure each decision of the fit side is, by a fit without its own label.
        right: Whether it is the large model's answer.
        held_out: Texts that are held out.
        level: Of the test.
        apart: Share of texts that are near-copies of no others, by the fit side.
    """
    if not len(sure):
        return Proposal()
    shares, errors = coverage_line(sure, right)
    levels = np.sort(np.unique(sure))[::-1]
    some = np.unique(np.linspace(0, len(levels) - 1, _LOOKED_AT).astype(np.intp))
    shares, errors, levels = shares[some], errors[some], levels[some]
    n = shares * len(sure)
    wrong, fair = _FEARED * errors * n + _MORE, (1 - errors) * n + _MORE
    likely = _likely(np.round(shares * held_out * apart).astype(np.intp), wrong, fair, level)
    best = float(likely.max())
    if best < _HOPELESS:
        return Proposal()
    start = int(likely.argmax())  # those behind it are tested too, and may fail without harm
    within = np.flatnonzero(wrong <= _SOUGHT * (n + _MORE))
    end = max(start, int(within[-1]) if len(within) else 0)
    places = np.unique(np.round(np.linspace(start, end, THRESHOLDS)).astype(np.intp))
    hopeful = [place for place in places.tolist() if likely[place] >= 0.5] or [start]
    found = tuple(levels[places].tolist())
    return Proposal(found, float(likely[start]), float(shares[hopeful[-1]]))


def _likely(accepted: Ints, wrong: Floats, fair: Floats, level: float) -> Floats:
    """Give the probability that each threshold passes, by the fit side.

    Its risk isn't known, only how many of the fit side were wrong. So the risk is drawn from a beta
    distribution, and the differences among those accepted are beta-binomial.
    """
    allowed = allowed_errors(int(accepted.max()), risk=RISK, failure=level)
    known = zip(map(int, accepted), map(float, wrong), map(float, fair), strict=True)
    found = [sum(_share_of(k, n, a, b) for k in range(allowed[n] + 1)) for n, a, b in known]
    return np.array(found, float)


def _share_of(k: int, n: int, a: float, b: float) -> float:
    """Probability of `k` of `n`, whose risk is drawn from a beta distribution."""
    return exp(log_choose(n, k) + _log_beta(k + a, n - k + b) - _log_beta(a, b))


def _log_beta(a: float, b: float) -> float:
    return lgamma(a) + lgamma(b) - lgamma(a + b)


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """Held-out rows of an epoch, in their order, and what a head says of each."""

    keys: Sequence[str]
    """Of their texts."""
    sure: Floats
    """How sure the head is; infinite of a row that was forgotten, so that it counts as accepted."""
    same: Bools
    """Whether it gives the large model's answer; where there is none, it doesn't."""
    labelled: Bools
    apart: Bools
    """Whether it is a near-copy of no text of the fit side, and of no held-out one before it."""

    def firsts(self) -> Ints:
        """Give the rows that count: of each text its first one with a label, else its first."""
        found: dict[str, int] = {}
        for row, key in enumerate(self.keys):
            known = found.setdefault(key, row)
            if self.labelled[row] and not self.labelled[known]:
                found[key] = row
        return np.array(sorted(found.values()), dtype=np.intp)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a look says."""

    passed: int
    """Thresholds that passed, one after another from the first."""
    threshold: float | None
    """The last of them."""
    held_out: int
    """Different texts that were held out."""
    accepted: int = 0
    """Those of them that it accepts."""
    differ: int = 0
    """Those of these that differ."""
    upper: float = 1.0
    """Largest share of differences that these counts leave possible at the look's level."""


def look(thresholds: Sequence[float], rows: HeldOut, level: float) -> Verdict:
    """Test the thresholds in their order until one fails."""
    firsts = rows.firsts()
    unlike = firsts[rows.apart[firsts]]
    counted = rows.labelled.copy()  # a text that was answered at last isn't missing
    counted[firsts] = True
    verdict = Verdict(0, None, len(firsts))
    for number, threshold in enumerate(thresholds[:THRESHOLDS], start=1):
        takes = rows.sure >= threshold
        wrong = takes & ~rows.same
        accepted, differ = int(takes[firsts].sum()), int(wrong[firsts].sum())
        counts = ((differ, accepted), (int(wrong[unlike].sum()), int(takes[unlike].sum())))
        shown = all(n > 0 and tail(k, n, RISK) <= level for k, n in counts)
        if not shown or wrong[counted].sum() > RISK * takes[counted].sum():
            break
        upper = upper_bound(differ, accepted, 1.0 - level)
        verdict = Verdict(number, threshold, len(firsts), accepted, differ, min(upper, RISK))
    return verdict


def unlike(vectors: Floats, known: Floats) -> Bools:
    """Tell which vectors are near-copies of no known one, and of none before them.

    Two are near-copies that are much closer than vectors are on the whole.
    """
    if not len(vectors):
        return np.zeros(0, bool)
    everything = np.concatenate([known, vectors]).astype(float)
    everything -= everything.mean(0)
    squares = (everything**2).sum(1)
    start = len(known)
    own = everything[start:]
    far = squares[start:, None] + squares - 2 * own @ everything.T
    near = far < _NEAR**2 * np.median(far[:: 1 + len(far) // 100, :: 1 + far.shape[1] // 1000])
    before = np.arange(len(everything)) < (start + np.arange(len(vectors)))[:, None]
    found: Bools = ~(near & before).any(1)
    return found


def started_audit() -> Audit:
    """Start the audit of a head that has passed a look."""
    return Audit(risk=RISK, share=HELD_LATER)
