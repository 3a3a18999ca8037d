"""Promotion: what share of an LLM's decisions a small model could make, by a log of them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

from pydantic import computed_field

from moa.agents.classifier import Classifier
from moa.calibration import Bound, Guarantee, percent
from moa.calibration.bounds import Outcome, bound_along
from moa.calibration.features import Progress
from moa.calibration.file import Calibration
from moa.calibration.fit import calibrate
from moa.calibration.labelled import Labelled, Sorted, sort_out
from moa.context import RunContext
from moa.decisions.arrays import coverage_at_risk, np
from moa.endpoints import Endpoint
from moa.endpoints.tokens import approximate_tokens
from moa.errors import InputError
from moa.evals.cases import Cache, Case, DesignAnswer, answers_of
from moa.evals.labelling import question_of
from moa.evals.metrics import ranked
from moa.node import Frozen
from moa.usage import Amount

RISKS = (0.01, 0.02, 0.05, 0.1, 0.2)
ROWS = 512
"""Rows of a log that a calibration is made from, unless told otherwise."""
_WRAPPING = 60
"""Tokens that a prompt is taken to have around the text and its labels."""


class Seen(Frozen):
    """What share would have moved at a risk: what the calibration accepts first, then the surest
    first. As it was seen, and no promise.
    """

    risk: float
    coverage: float


class Saving(Frozen):
    """What moving saves, for 1000 messages."""

    llm_calls: float
    """Calls to the LLM that are left: what isn't accepted, and the audit."""
    llm_alone: float | None
    """US dollars without moving, estimated from the texts; `None`: its price is not known."""
    after: float | None
    """US dollars of the small model and of the LLM's calls that are left."""


class Promotion(Frozen):
    """What promoting a small model comes to."""

    calibrated_on: int
    checked_on: int
    """Rows of the log that took no part in the calibration."""
    bound: Bound
    coverage: float
    """Share of the checked rows that the small model's answer is accepted on."""
    accepted: int
    disagreeing: int
    """Accepted answers that differ from the LLM's."""
    checked: Bound
    """Whether the checked rows show the promise by themselves: its threshold is `None` where they
    don't."""
    accuracy: float
    """Share of all checked rows on which both agree."""
    seen: tuple[Seen, ...]
    saving: Saving

    @computed_field
    @property
    def risk(self) -> float:
        """Share of the accepted answers that differ from the LLM's, as seen."""
        return self.disagreeing / self.accepted if self.accepted else 0.0

    @computed_field
    @property
    def holds(self) -> bool:
        """Whether the checked rows show the promise: by an exact upper bound, not by `risk`."""
        return self.checked.threshold is not None

    @computed_field
    @property
    def verdict(self) -> str:
        """Say in a sentence whether to move, and what that brings."""
        promised = self.bound.guarantee
        if self.bound.threshold is None or not self.accepted:
            return f"This doesn't pay yet, use the LLM: {self.bound.summary}"
        share, risk = percent(self.coverage), percent(promised.risk)
        seen = (
            f"{self.checked_on} rows that took no part ({self.disagreeing} of {self.accepted} "
            f"accepted answers differ from the LLM's, {percent(self.risk)}"
        )
        if self.holds:
            return (
                f"{share} of the decisions can move to the small model at {risk} risk; the promise "
                f"holds on {seen}: at most {percent(self.checked.upper)} with "
                f"{percent(promised.confidence)} confidence)"
            )
        return (
            f"This is not shown to pay, use the LLM: {share} of the decisions would move at {risk} "
            f"risk, which is NOT SHOWN on {seen}; it takes at least "
            f"{promised.needed(self.disagreeing)} accepted ones with no more that differ). Give a "
            "longer log"
        )


class Promoted(NamedTuple):
    """A calibration made from a log, and what it comes to on the rest of it."""

    calibration: Calibration
    promotion: Promotion


async def promote(
    slm: Endpoint,
    rows: Sequence[Labelled],
    *,
    task: str,
    labels: Sequence[str] | None = None,
    guarantee: Guarantee | None = None,
    use: int = ROWS,
    audit: float = 0.02,
    llm: Endpoint | None = None,
    concurrency: int = 8,
    context: RunContext | None = None,
    progress: Progress | None = None,
    seed: int = 0,
) -> Promoted:
    """Calibrate a small model on a part of a log, and look at the rest of it.

    The labels are the LLM's, so what is promised is agreement with it, not truth.

    Args:
        slm: Who shall decide.
        rows: Texts, each with what the LLM decided. A text that comes twice counts once.
        task: The question that the labels answer.
        labels: The labels there may be; `None` takes those of the rows.
        guarantee: What is to be promised; `None`: at most 5 % wrong, with 95 % confidence.
        use: Rows, drawn at random, that the calibration is made from. Rows of one case stay
            together, so it may be a few less.
        audit: Share of what is accepted that the LLM goes on to check.
        llm: Whose price is saved; `None`: what is saved in dollars is not known.
        concurrency: Maximum number of rows that are decided on at once.
        context: Budget, deadline and ledger; `None` starts one.
        progress: Told how far reading is.
        seed: Another one draws other rows.

    Raises:
        InputError: fewer rows are left to look at than can show the promise, 59 by default, or
            the rows are none that a calibration can be made from.
        MoaError: calibrating failed; see `moa.calibration.fit.calibrate`.
    """
    guarantee = guarantee or Guarantee()
    data = sort_out(rows, labels)
    drawn, others = _dealt(data, use, guarantee.needed(), seed)
    names = list(labels or data.counts)
    context = context or RunContext(keep_notes=False)
    question = question_of(task, names)
    made = await calibrate(
        slm, question, drawn, guarantee=guarantee, context=context, progress=progress
    )
    answers = await answers_of(
        "the rest of the log",
        Classifier(slm, names, task=task, none=False, name="label", calibration=made),
        [Case(request=row.text, label=row.label) for row in others],
        cache=Cache(None),
        context=context,
        concurrency=concurrency,
        progress=progress,
    )
    return Promoted(made, promotion_of(made, others, answers, use=len(drawn), audit=audit, llm=llm))


def _dealt(
    data: Sorted, use: int, checked: int, seed: int
) -> tuple[list[Labelled], list[Labelled]]:
    """Draw the rows to calibrate on; rows of one case stay together."""
    if len(data.rows) < use + checked:
        raise InputError(
            f"the log has {len(data.rows)} different texts: {use} to calibrate on and at least "
            f"{checked} to see whether it holds make {use + checked}. Give a longer log, or "
            "calibrate on fewer"
        )
    by_case: dict[str, list[Labelled]] = {}
    for case, row in zip(data.cases, data.rows, strict=True):
        by_case.setdefault(case, []).append(row)
    cases = list(by_case.values())
    random.Random(seed).shuffle(cases)
    drawn: list[Labelled] = []
    rest: list[Labelled] = []
    for rows in cases:
        (drawn if len(drawn) + len(rows) <= use else rest).extend(rows)
    return drawn, rest


def promotion_of(
    made: Calibration,
    rest: Sequence[Labelled],
    answers: Sequence[DesignAnswer],
    *,
    use: int,
    audit: float,
    llm: Endpoint | None,
) -> Promotion:
    """Say what a calibration comes to, by what it answered to rows that took no part in it.

    It was made from `use` others; the other arguments are those of `promote`.
    """
    failed = next((a.error for a in answers if a.error is not None), None)
    if all(a.text is None for a in answers):
        raise InputError(f"nothing of the rest of the log could be decided on: {failed}")
    correct = np.array([a.text == row.label for a, row in zip(answers, rest, strict=True)])
    taken = np.array([a.accepted is True for a in answers])
    bound = made.proven.bound
    coverage, order = float(taken.mean()), ranked(answers)
    # As decisions, of which one threshold, fixed before, accepts those that were taken.
    outcomes = [
        Outcome(confidence=float(took), correct=bool(right), case=row.case)
        for took, right, row in zip(taken, correct, rest, strict=True)
    ]
    seen = [] if order is None else [(r, coverage_at_risk(order, correct, r)) for r in RISKS]
    return Promotion(
        calibrated_on=use,
        checked_on=len(rest),
        bound=bound,
        coverage=coverage,
        accepted=int(taken.sum()),
        disagreeing=int((taken & ~correct).sum()),
        checked=bound_along((1.0,), outcomes, bound.guarantee),
        accuracy=float(correct.mean()),
        seen=tuple(Seen(risk=risk, coverage=covered) for risk, covered in seen),
        saving=_saving(rest, answers, coverage * (1.0 - audit), made.labels, llm),
    )


def _saving(
    rest: Sequence[Labelled],
    answers: Sequence[DesignAnswer],
    moved: float,
    labels: Sequence[str],
    llm: Endpoint | None,
) -> Saving:
    """Estimate the cost of 1000 messages from the length of the texts."""
    around = _WRAPPING + approximate_tokens(", ".join(labels))
    tokens = sum(approximate_tokens(row.text) for row in rest) / len(rest) + around
    each = Amount(calls=1, input_tokens=round(tokens), output_tokens=5)
    price = None if llm is None or llm.tier != "llm" else llm.price.of(each)
    small = [a.cost for a in answers if a.cost is not None]
    left = 1.0 - moved
    alone = None if price is None else 1000 * float(price)
    own = 1000 * sum(small) / len(small) if len(small) == len(answers) else None
    after = None if alone is None or own is None else left * alone + own
    return Saving(llm_calls=1000 * left, llm_alone=alone, after=after)
