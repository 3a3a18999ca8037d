"""The audit: a guarantee that holds stays, a broken one is withdrawn."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa.decisions.audit import Audit, Evidence
from moa.decisions.bounds import Outcome, find_bound_among
from moa.decisions.guarantee import Guarantee


def withdrawn_after(risk: float, *, seed: int, most: int, changed: float | None = None) -> int:
    """Checks until the guarantee of at most 5 % is withdrawn; `most` where it isn't."""
    rng = random.Random(seed)
    audit = Audit(risk=0.05)
    for check in range(most):
        now = risk if changed is None or check < 200 else changed
        audit = audit.record(correct=rng.random() >= now)
        if audit.withdrawn:
            return check + 1
    return most


def test_a_promise_that_just_holds_is_withdrawn_no_more_often_than_stated() -> None:
    ends = [withdrawn_after(0.05, seed=seed, most=500) for seed in range(150)]
    false = sum(end < 500 for end in ends) / 150
    assert false <= 0.05 + 3 * (0.05 * 0.95 / 150) ** 0.5


@pytest.mark.parametrize(
    ("risk", "changed", "checks"),
    [(0.1, None, 300), (0.03, 0.15, 200 + 400)],
    ids=["twice", "late"],
)
def test_a_larger_risk_is_found_out(risk: float, changed: float | None, checks: int) -> None:
    ends = [withdrawn_after(risk, seed=seed, most=1500, changed=changed) for seed in range(30)]
    assert sum(ends) / 30 <= checks


@pytest.mark.parametrize("risk", [0.001, 0.05, 0.5, 0.99])
@pytest.mark.parametrize("part", [1.0, 0.3])
def test_no_bet_wins_on_average_where_the_promise_holds(risk: float, part: float) -> None:
    audit = Audit(risk=risk)
    right, wrong = audit.record(correct=True), audit.record(correct=False)
    wealth = [audit.evidence.log_wealth, *(a.evidence.log_wealth for a in (right, wrong))]
    start, if_right, if_wrong = (2.718281828459045**log for log in wealth)
    assert start == 1.0
    assert risk * part * if_wrong + (1 - risk * part) * if_right <= 1.0 + 1e-9


@given(st.lists(st.lists(st.floats(0.01, 3), min_size=2, max_size=2), max_size=30))
def test_wealth_without_a_win_or_a_loss_stays_as_it_is(steps: list[list[float]]) -> None:
    evidence = Evidence()
    for _ in steps:
        evidence = evidence.update([1.0, 1.0])
    assert evidence.log_wealth == pytest.approx(0.0, abs=1e-9)


def test_a_withdrawn_promise_stays_withdrawn() -> None:
    audit = Audit(risk=0.05)
    for _ in range(10):
        audit = audit.record(correct=False)
    assert audit.withdrawn
    for _ in range(300):
        audit = audit.record(correct=True)
    assert audit.withdrawn
    assert "withdrawn: 10 of 310 checked decisions were wrong (3.2 %)" in audit.summary


def test_about_the_stated_share_is_picked_and_again_the_same() -> None:
    def picks(audit: Audit) -> list[bool]:
        found: list[bool] = []
        for _ in range(3000):
            audit, picked = audit.pick()
            found.append(picked)
        assert audit.accepted == 3000
        return found

    first = picks(Audit(risk=0.05, share=0.1, seed=1))
    assert 220 <= sum(first) <= 380
    assert picks(Audit(risk=0.05, share=0.1, seed=1)) == first
    assert picks(Audit(risk=0.05, share=0.1, seed=2)) != first


def test_an_audit_goes_on_from_its_json() -> None:
    outcomes = [Outcome(confidence=0.9, correct=True)] * 100
    audit = Audit.of(find_bound_among((0.5,), outcomes, Guarantee(0.05)), share=0.5)
    for correct in (True, False, True):
        audit, _ = audit.pick()
        audit = audit.record(correct=correct)
    back = Audit.model_validate_json(audit.model_dump_json())
    assert back == audit
    assert back.record(correct=False) == audit.record(correct=False)
    assert "stands: 1 of 3 checked" in back.summary
