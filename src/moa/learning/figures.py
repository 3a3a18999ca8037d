"""Figures: the savings of a learning cascade, its guarantee, and the next step."""

from __future__ import annotations

import json
from collections.abc import Sequence

from moa.core._json import object_of
from moa.core.node import Frozen
from moa.decisions.guarantee import percent, tail, upper_bound
from moa.learning.answer_rows import RETRIED, DrawnRow, FigureRow, LearningState
from moa.learning.answers import STALE_S, AnswerStore
from moa.learning.epochs import LOOKS, RISK, level_of_draw
from moa.learning.teacher import COMPARED, describe_teacher

HUNDRED = 100


class Hundred(Frozen):
    """A hundred consecutive inputs; the last group may be smaller."""

    first: int
    last: int
    calls: int
    """Calls of the large model, including those for tests and checks."""
    would: int
    """Calls that would remain if every accepted answer had been used."""
    cost: float | None
    """US dollars of these calls; `None`: unknown."""


class LookFigures(Frozen):
    """A look and its outcome."""

    epoch: int
    look: int
    row: int
    """Index of the last row that takes part."""
    held_out: int = 0
    accepted: int = 0
    differ: int = 0
    passed: bool = False
    in_use: bool = False


class PeopleFigures(Frozen):
    """Rows drawn at random for people to label, from those that the head in use accepts."""

    drawn: int
    labelled: int
    wrong: int
    """Labelled rows for which people chose another label."""
    at_most: float
    """Exact upper bound of the wrong share, at the level of this draw. An unlabelled row counts as
    wrong."""
    passed: bool
    """True if that is at most 5 %."""


class EpochFigures(Frozen):
    """An epoch."""

    epoch: int
    first: int
    why: str
    """Why the epoch began; empty for the first."""


class LearningFigures(Frozen):
    """The state of a learning cascade. Shares are `None` if there is nothing to count."""

    where: str
    inputs: int
    hundreds: tuple[Hundred, ...]
    from_logs: int
    """Labels taken from a log instead of a call."""
    from_people: int
    calls: int
    """Calls of the large model, also those of an earlier try."""
    by_small: int
    """Inputs answered by the small model."""
    epochs: tuple[EpochFigures, ...]
    looks: tuple[LookFigures, ...]
    promise: str
    """The current guarantee, in words."""
    accepts: float | None
    """Share of the last hundred inputs that the head in use accepts."""
    checked: int
    """Number of checks of the head in use."""
    differ: int
    """Number of checks where the large model's answer differs."""
    differ_at_most: float | None
    """Exact upper bound (95 %) of the share that differs, by the checks alone."""
    people: tuple[PeopleFigures, ...]
    """The draws for people under the head in use."""
    missing: int
    """Held-out inputs of this epoch without an answer; each counts as a difference."""
    asked_twice: int
    differs_from_itself: int
    """Inputs asked twice where the large model's two answers differ. No head can agree with it more
    often."""
    doubt: str
    """Why the large model's labels may not depend on the texts; empty without a reason."""
    spent: float | None
    """US dollars spent on the large model; `None`: unknown."""
    saved: float | None
    """US dollars saved by calls not made; `None`: unknown."""
    next: str
    """The next step, or what would help."""

    @property
    def summary(self) -> str:
        """The figures in one to three sentences."""
        last = self.hundreds[-1].calls if self.hundreds else 0
        money = ""
        if self.spent is not None and self.saved is not None:
            money = f" US$ {self.spent:.4f} spent on it, {self.saved:.4f} saved."
        missing = ""
        if self.missing:
            missing = f" {self.missing} held-out inputs have no answer, and count as differences."
        return (
            f"{self.inputs} inputs, {self.calls} calls of the large model ({last} among the last "
            f"hundred).{money} {self.promise}. {self.next}.{missing}"
        )


def figures_of(store: AnswerStore) -> LearningFigures:
    """Compute the figures of a store.

    Raises:
        ConfigError: it has no answers.
        StoreError: it is damaged.
    """
    options = store.read_options()
    state = store.read_state()
    rows = store.read_figure_rows()
    looks = [_read_look(*row, state) for row in store.read_looks()]
    current_look = next((look for look in looks if look.in_use), None)
    people = (
        _count_people(store.read_drawn_rows(state), state.used) if state.used is not None else ()
    )
    head = store.read_head(state)
    audit = head.audit if head else None
    live_rows = [row for row in rows if row.source == "run"]
    # What was asked in vain, and is asked again, was paid all the same.
    large_rows = [row for row in rows if row.source in ("run", RETRIED) and not row.by_small]
    one_call = _cost_of_one_call(large_rows)
    by_small = sum(row.by_small for row in live_rows)
    repeated_rows = [row for row in large_rows if row.again is not None]
    recent_rows = live_rows[-HUNDRED:] if current_look else []
    return LearningFigures(
        where=store.location,
        inputs=len(live_rows),
        hundreds=tuple(
            _count_hundred(live_rows[start : start + HUNDRED], start, one_call)
            for start in range(0, len(live_rows), HUNDRED)
        ),
        from_logs=sum(row.source == "log" for row in rows),
        from_people=sum(row.source == "person" for row in rows),
        calls=sum(map(_count_calls, large_rows)),
        by_small=by_small,
        epochs=tuple(
            EpochFigures(epoch=e, first=f, why=reason) for e, _, f, reason in store.read_epochs()
        ),
        looks=tuple(looks),
        promise=_guarantee_text(current_look, state, people),
        people=people,
        accepts=sum(bool(row.accepts) for row in recent_rows) / len(recent_rows)
        if recent_rows
        else None,
        checked=audit.checked if audit else 0,
        differ=audit.wrong if audit else 0,
        differ_at_most=upper_bound(audit.wrong, audit.checked, 0.95)
        if audit and audit.checked
        else None,
        missing=sum(_is_missing(row, state) for row in rows),
        asked_twice=len(repeated_rows),
        differs_from_itself=sum(row.again != row.label for row in repeated_rows),
        doubt=describe_teacher(store.read_label_pairs(state, options, COMPARED), len(options)),
        spent=_sum_costs(large_rows, one_call),
        saved=_saved_cost(live_rows, one_call),
        next=_describe_next(
            store, state, current_look, sum(row.held and not row.done for row in rows)
        ),
    )


def figures_at(address: str) -> LearningFigures:
    """Compute the figures of a file, or of `postgresql://…#NAME`, without changing it.

    Raises:
        ConfigError: it has no answers.
        StoreError: it is damaged.
    """
    with AnswerStore(address, must_exist=True) as store:
        return figures_of(store)


def _is_missing(row: FigureRow, state: LearningState) -> bool:
    is_held_out = row.held and row.epoch == state.epoch and row.source != RETRIED
    return bool(is_held_out and row.done and row.label is None)


def _saved_cost(rows: Sequence[FigureRow], one_call: float | None) -> float | None:
    calls = sum(bool(row.by_small and not row.moot) for row in rows)
    return 0.0 if not calls else None if one_call is None else calls * one_call


def _cost_of_one_call(rows: Sequence[FigureRow]) -> float | None:
    """Return the mean cost of asking once, without what came from a cache; `None`: unknown."""
    costs = [
        float(row.cost) / (1 if row.again is None else 2)
        for row in rows
        if row.label is not None and row.cost is not None and row.calls
    ]
    return sum(costs) / len(costs) if costs else None


def _sum_costs(rows: Sequence[FigureRow], one_call: float | None) -> float | None:
    """Sum the costs of rows. A call whose end wasn't recorded counts as an average one."""
    total = 0.0
    for row in filter(_count_calls, rows):
        cost = one_call if row.tokens is None else row.cost
        if cost is None:
            return None
        total += float(cost)
    return total


def _count_calls(row: FigureRow) -> int:
    if row.by_small:
        return 0
    return int(row.calls) if row.done else 1


def _is_always_asked(row: FigureRow) -> bool:
    """Return True if the large model is asked even where small answers are used."""
    accepts = row.accepts and not row.excepted
    return bool(row.held or row.moot or not accepts)


def _count_hundred(rows: Sequence[FigureRow], start: int, one_call: float | None) -> Hundred:
    large_rows = [row for row in rows if not row.by_small]
    return Hundred(
        first=start + 1,
        last=start + len(rows),
        calls=sum(map(_count_calls, rows)),
        would=sum(_count_calls(row) for row in large_rows if _is_always_asked(row)),
        cost=_sum_costs(large_rows, one_call),
    )


def _read_look(
    epoch: int, look: int, cut: int, outcome_json: str | None, is_used: int, state: LearningState
) -> LookFigures:
    outcome = object_of(json.loads(outcome_json)) if outcome_json else {}
    counts = {name: outcome[name] for name in ("held_out", "accepted", "differ") if name in outcome}
    return LookFigures.model_validate(
        {
            **counts,
            "epoch": epoch,
            "look": look + 1,
            "row": cut,
            "passed": outcome.get("threshold") is not None,
            "in_use": bool(is_used) and epoch == state.epoch and look == state.used,
        }
    )


def _count_people(drawn_rows: Sequence[DrawnRow], look: int) -> tuple[PeopleFigures, ...]:
    figures: list[PeopleFigures] = []
    for number in sorted({row.draw for row in drawn_rows}):
        rows = [row for row in drawn_rows if row.draw == number]
        labelled = [row for row in rows if row.label is not None]
        wrong = sum(row.label != row.guess for row in labelled)
        errors, level = wrong + len(rows) - len(labelled), level_of_draw(look, number)
        figures.append(
            PeopleFigures(
                drawn=len(rows),
                labelled=len(labelled),
                wrong=wrong,
                at_most=upper_bound(errors, len(rows), 1.0 - level),
                passed=tail(errors, len(rows), RISK) <= level,
            )
        )
    return tuple(figures)


def _guarantee_text(
    look: LookFigures | None, state: LearningState, people: Sequence[PeopleFigures]
) -> str:
    if look is None:
        return f"Nothing is guaranteed yet in epoch {state.epoch}, and all goes to the large model"
    text = (
        f"Epoch {state.epoch}: with 95 % probability every head used differs from the large model "
        f"on at most {percent(RISK)} of what it accepts, for inputs drawn like those before"
    )
    if any(draw.passed for draw in people):
        text += (
            f". With 95 % probability, too, at most {percent(RISK)} of what it accepts is wrong by "
            "people"
        )
    return text


def _describe_next(
    store: AnswerStore, state: LearningState, look: LookFigures | None, waiting: int
) -> str:
    pending = (
        f"The next look waits for {waiting} held-out calls to end; one of a killed process counts "
        f"as failed after {STALE_S / 60:.0f} minutes"
    )
    if state.looks >= len(LOOKS):
        suffix = "" if look else ". Nothing more is learned in this epoch: begin another file"
        return f"All {len(LOOKS)} looks of the epoch are spent{suffix}"
    planned = LOOKS[state.looks]
    if planned.held_out:
        count = store.count_held_out(state)
        if count < planned.held_out:
            return f"The first look takes {planned.held_out} held-out texts, and {count} are there"
        return (
            pending
            if waiting
            else (
                "By the labels that are fitted to, a look would not pass yet: more inputs help, or "
                "labels of people (moa learn from ROWS --people), or fewer and clearer labels"
            )
        )
    count = store.last_place() - state.first + 1
    if count < planned.inputs:
        return f"The next look is possible at input {planned.inputs} of the epoch, now at {count}"
    return pending if waiting else "The next look waits until what it would accept is worth it"
