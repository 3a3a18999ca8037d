"""Figures: what a cascade that learns has saved so far, what it guarantees, and what would help."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from moa.calibration import percent, tail, upper_bound
from moa.calibration.answer_rows import FIGURES, Drawn, State
from moa.calibration.answers import AnswerStore
from moa.calibration.audit import Audit
from moa.calibration.epochs import LOOKS, RISK, level_of_draw
from moa.node import Frozen

HUNDRED = 100
_AT = {name: place for place, name in enumerate(FIGURES)}


class Hundred(Frozen):
    """A hundred inputs, one after another; of the last ones perhaps fewer."""

    first: int
    last: int
    calls: int
    """Calls of the large model, those included that were made to test and to check."""
    would: int
    """Calls there would have been, where its answers are given though others were accepted."""
    cost: float | None
    """US dollars of these calls; `None`: unknown."""


class LookFigures(Frozen):
    """A look, and what it said."""

    epoch: int
    look: int
    row: int
    """The last row that took part."""
    held_out: int = 0
    accepted: int = 0
    differ: int = 0
    passed: bool = False
    in_use: bool = False


class PeopleFigures(Frozen):
    """Rows that were drawn at random for people, of those that the head in use accepts."""

    drawn: int
    labelled: int
    wrong: int
    """Those of the labelled ones to which people gave another label."""
    at_most: float
    """Exact upper bound of the share that is wrong, at the level of this draw; what has no label
    counts as wrong."""
    passed: bool
    """Whether that is at most 5 %."""


class EpochFigures(Frozen):
    """An epoch."""

    epoch: int
    first: int
    why: str
    """Why it was begun; empty for the first."""


class LearningFigures(Frozen):
    """Where a cascade stands that learns. Shares are None where there is nothing to share."""

    where: str
    inputs: int
    hundreds: tuple[Hundred, ...]
    from_logs: int
    """Labels that came from a log, and not from a call."""
    from_people: int
    calls: int
    """Calls of the large model."""
    by_small: int
    """Inputs that the small one answered."""
    epochs: tuple[EpochFigures, ...]
    looks: tuple[LookFigures, ...]
    promise: str
    """In words; what holds now."""
    accepts: float | None
    """Share of the last hundred inputs that the head in use accepts."""
    checked: int
    """Checks of the head in use."""
    differ: int
    """Those in which the large model answered otherwise."""
    differ_at_most: float | None
    """Exact upper bound (95 %) of the share that differs, by the checks alone."""
    people: tuple[PeopleFigures, ...]
    """What people say of the head in use, a draw each."""
    missing: int
    """Held-out inputs of this epoch without an answer of the large model: each is a difference."""
    asked_twice: int
    differs_from_itself: int
    """Of these, how often the large model gave another answer: nobody can differ less from it."""
    spent: float | None
    """US dollars for the large model; `None`: unknown."""
    saved: float | None
    """US dollars that the calls would have cost that were not made; `None`: unknown."""
    next: str
    """What is awaited, or would help."""

    @property
    def summary(self) -> str:
        """In a sentence or three."""
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
    """Work the figures out of what is kept.

    Raises:
        ConfigError: nothing is kept there.
    """
    store.question()
    state = store.state()
    rows = store.rows()
    looks = [_look(*one, state) for one in store.looks()]
    used = next((look for look in looks if look.in_use), None)
    people = _people(store.drawn(state), state.used) if state.used is not None else ()
    audit = Audit.model_validate_json(store.watching(state)[0]) if used else None
    live = [row for row in rows if _of(row, "source") == "run"]
    asked = [row for row in live if not _of(row, "by_small")]
    one_call = _cost_of_one_call(asked)
    by_small = len(live) - len(asked)
    twice = [row for row in asked if _of(row, "again") is not None]
    recent = live[-HUNDRED:] if used else []
    return LearningFigures(
        where=store.where,
        inputs=len(live),
        hundreds=tuple(
            _hundred(live[at : at + HUNDRED], at, one_call) for at in range(0, len(live), HUNDRED)
        ),
        from_logs=sum(_of(row, "source") == "log" for row in rows),
        from_people=sum(_of(row, "source") == "person" for row in rows),
        calls=sum(map(_calls, asked)),
        by_small=by_small,
        epochs=tuple(EpochFigures(epoch=e, first=f, why=why) for e, _, f, why in store.epochs()),
        looks=tuple(looks),
        promise=_guarantee_text(used, state, people),
        people=people,
        accepts=sum(bool(_of(row, "accepts")) for row in recent) / len(recent) if recent else None,
        checked=audit.checked if audit else 0,
        differ=audit.wrong if audit else 0,
        differ_at_most=upper_bound(audit.wrong, audit.checked, 0.95)
        if audit and audit.checked
        else None,
        missing=sum(_is_missing(row, state) for row in rows),
        asked_twice=len(twice),
        differs_from_itself=sum(_of(row, "again") != _of(row, "label") for row in twice),
        spent=_spent(asked, one_call),
        saved=_saved(live, one_call),
        next=_next(store, state, used),
    )


def figures_at(where: str) -> LearningFigures:
    """Work out the figures of a file, or of `postgresql://…#NAME`, which is only read.

    Raises:
        ConfigError: there are no answers there.
    """
    with AnswerStore(where, begun=True) as store:
        return figures_of(store)


def _saved(live: Sequence[Sequence[Any]], one_call: float | None) -> float | None:
    calls = sum(map(_saves, live))
    return 0.0 if not calls else None if one_call is None else calls * one_call


def _of(row: Sequence[Any], name: str) -> Any:
    return row[_AT[name]]


def _is_missing(row: Sequence[Any], state: State) -> bool:
    held = _of(row, "held") and _of(row, "epoch") == state.epoch
    return bool(held and _of(row, "done") and _of(row, "label") is None)


def _cost_of_one_call(asked: Sequence[Sequence[Any]]) -> float | None:
    """Give what it costs on average to ask once; `None`: nothing is known."""
    known = [
        float(cost) / (1 if _of(row, "again") is None else 2)
        for row in asked
        if _of(row, "label") is not None and (cost := _of(row, "cost")) is not None
    ]
    return sum(known) / len(known) if known else None


def _spent(asked: Sequence[Sequence[Any]], one_call: float | None) -> float | None:
    """Add up what rows cost; a call whose end nobody saw counts as an average one."""
    total = 0.0
    for row in filter(_calls, asked):
        cost = one_call if _of(row, "tokens") is None else _of(row, "cost")
        if cost is None:
            return None
        total += float(cost)
    return total


def _calls(row: Sequence[Any]) -> int:
    if _of(row, "by_small"):
        return 0
    return int(_of(row, "calls")) if _of(row, "done") else 1


def _saves(row: Sequence[Any]) -> bool:
    return bool(_of(row, "by_small") and not _of(row, "moot"))


def _is_asked(row: Sequence[Any]) -> bool:
    """Whether a row goes to the large model also where small answers are given."""
    accepts = _of(row, "accepts") and not _of(row, "excepted")
    return bool(_of(row, "held") or _of(row, "moot") or not accepts)


def _hundred(rows: Sequence[Sequence[Any]], at: int, one_call: float | None) -> Hundred:
    asked = [row for row in rows if not _of(row, "by_small")]
    return Hundred(
        first=at + 1,
        last=at + len(rows),
        calls=sum(map(_calls, rows)),
        would=sum(_calls(row) for row in asked if _is_asked(row)),
        cost=_spent(asked, one_call),
    )


def _look(
    epoch: int, look: int, cut: int, said: str | None, used: int, state: State
) -> LookFigures:
    found: dict[str, Any] = json.loads(said) if said else {}
    return LookFigures(
        epoch=epoch,
        look=look + 1,
        row=cut,
        held_out=found.get("held_out", 0),
        accepted=found.get("accepted", 0),
        differ=found.get("differ", 0),
        passed=found.get("threshold") is not None,
        in_use=bool(used) and epoch == state.epoch and look == state.used,
    )


def _people(drawn: Sequence[Drawn], look: int) -> tuple[PeopleFigures, ...]:
    found: list[PeopleFigures] = []
    for number in sorted({one.draw for one in drawn}):
        rows = [one for one in drawn if one.draw == number]
        labelled = [one for one in rows if one.label is not None]
        wrong = sum(one.label != one.guess for one in labelled)
        counted, level = wrong + len(rows) - len(labelled), level_of_draw(look, number)
        found.append(
            PeopleFigures(
                drawn=len(rows),
                labelled=len(labelled),
                wrong=wrong,
                at_most=upper_bound(counted, len(rows), 1.0 - level),
                passed=tail(counted, len(rows), RISK) <= level,
            )
        )
    return tuple(found)


def _guarantee_text(used: LookFigures | None, state: State, people: Sequence[PeopleFigures]) -> str:
    if used is None:
        return f"Nothing is guaranteed yet in epoch {state.epoch}, and all goes to the large model"
    guaranteed = (
        f"Epoch {state.epoch}: with 95 % probability every head used differs from the large model "
        f"on at most {percent(RISK)} of what it accepts, for inputs drawn like those before"
    )
    if any(one.passed for one in people):
        guaranteed += (
            f". With 95 % probability, too, at most {percent(RISK)} of what it accepts is wrong by "
            "people"
        )
    return guaranteed


def _next(store: AnswerStore, state: State, used: LookFigures | None) -> str:
    if state.looks >= len(LOOKS):
        also = "" if used else ". Nothing more is learned in this epoch: begin another file"
        return f"All {len(LOOKS)} looks of the epoch are spent{also}"
    planned = LOOKS[state.looks]
    if planned.held_out:
        there = store.held_out(state)
        if there < planned.held_out:
            return f"The first look takes {planned.held_out} held-out texts, and {there} are there"
        return (
            "By the labels that are fitted to, a look would not pass yet: more inputs help, or "
            "labels of people (moa learn from ROWS --people), or fewer and clearer labels"
        )
    there = store.last() - state.first + 1
    if there < planned.inputs:
        return f"The next look is possible at input {planned.inputs} of the epoch, now at {there}"
    return "The next look waits until what it would accept is worth it"
