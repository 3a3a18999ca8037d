"""Evals: metrics and intervals on small data, checked by hand or by their definition."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from moa.agents.base import TypedNode
from moa.core.context import RunContext
from moa.core.errors import ConfigError, InputError, Unanswered
from moa.core.node import Reply
from moa.core.questions import Choice, Predicate
from moa.decisions.arrays import coverage_at_risk
from moa.evals import compare
from moa.evals.cases import DesignAnswer, answer_text, cases_of, read_cases
from moa.evals.comparison import MARGIN, DesignReport, cost_ratio, judge_design, judge_designs
from moa.evals.metrics import (
    Interval,
    difference,
    exact_match,
    label_metrics,
    mcnemar,
    mean_of,
    metric_for,
    numeric_match,
    rouge_l,
)


def says(label: str, confidence: float, *, accepted: bool | None = None) -> DesignAnswer:
    other = "b" if label == "a" else "a"
    probabilities = {label: confidence, other: 1 - confidence}
    return DesignAnswer(
        text=label, probabilities=probabilities, confidence=confidence, accepted=accepted
    )


def test_labels_are_measured_as_by_hand() -> None:
    answers = [says("a", 0.9), says("a", 0.8), says("b", 0.6), says("b", 0.7)]
    found = label_metrics(answers, ["a", "b", "b", "b"], risk=0.3)
    assert found.accuracy == 0.75
    assert found.macro_f1 == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert found.brier == pytest.approx(2 * (0.01 + 0.64 + 0.16 + 0.09) / 4)
    assert found.coverage_at_risk == 1.0
    assert found.coverage is None


def test_a_case_without_an_answer_is_wrong_and_never_sure() -> None:
    answers = [says("a", 0.9, accepted=True), DesignAnswer(text=None, error="down")]
    found = label_metrics(answers, ["a", "a"], risk=0.0)
    assert (found.accuracy, found.coverage_at_risk) == (0.5, 0.5)
    assert (found.coverage, found.accepted_error) == (0.5, 0.0)


def test_what_a_calibration_accepts_is_covered_before_what_is_only_sure() -> None:
    answers = [
        says("a", 0.8, accepted=True),
        says("a", 0.99, accepted=False),
        says("a", 0.7, accepted=True),
    ]
    found = label_metrics(answers, ["a", "b", "a"], risk=0.0)
    assert found.coverage_at_risk == found.coverage == pytest.approx(2 / 3)
    assert found.ece == pytest.approx((0.2 + 0.99 + 0.3) / 3)


def test_written_labels_have_no_calibration_to_measure() -> None:
    found = label_metrics([DesignAnswer(text="a"), DesignAnswer(text="b")], ["a", "a"], risk=0.1)
    assert (found.accuracy, found.ece, found.brier, found.coverage_at_risk) == (0.5, *[None] * 3)


def test_cases_of_one_confidence_are_covered_together() -> None:
    sure, correct = np.array([0.9, 0.9, 0.5]), np.array([True, False, True])
    assert coverage_at_risk(sure, correct, 0.0) == 0.0
    assert coverage_at_risk(sure, correct, 0.4) == 1.0


@pytest.mark.parametrize(
    ("reply", "reference", "score"),
    [
        ("the cat sat", "the cat sat", 1.0),
        ("the cat sat", "a dog ran", 0.0),
        ("the cat lay down", "The cat sat.", 2 * 2 / 7),
        ("", "", 1.0),
        ("", "something", 0.0),
    ],
)
def test_rouge_l_is_the_f1_of_the_longest_common_subsequence(
    reply: str, reference: str, score: float
) -> None:
    assert rouge_l(reply, reference) == pytest.approx(score)


@given(st.lists(st.sampled_from("abc"), max_size=8), st.lists(st.sampled_from("abc"), max_size=8))
def test_rouge_l_is_symmetric_and_whole_only_for_the_same_words(
    first: list[str], second: list[str]
) -> None:
    one, other = " ".join(first), " ".join(second)
    assert rouge_l(one, other) == pytest.approx(rouge_l(other, one))
    assert (rouge_l(one, other) == 1.0) == (first == second)


def test_numbers_are_compared_by_value_and_words_without_punctuation() -> None:
    assert numeric_match("12 + 30 is 42, so the answer is 1,200.", "The answer is 1200") == 1.0
    assert numeric_match("No idea.", "3") == 0.0
    assert exact_match("Yes!", "yes") == 1.0
    assert metric_for(["12", "7.5"]) == "numeric"
    assert metric_for(["yes", "no"]) == "exact"
    assert metric_for(["a long summary of what was said"]) == "rouge-l"


def test_mcnemar_is_the_sign_test_of_the_cases_apart() -> None:
    first = [True] * 9 + [False] + [True] * 50
    second = [False] * 9 + [True] + [True] * 50
    expected = 2 * sum(math.comb(10, k) for k in (0, 1)) / 2**10
    assert mcnemar(first, second) == pytest.approx(expected)
    assert mcnemar(first, first) == 1.0


def test_a_difference_is_paired() -> None:
    hard = [0.0, 1.0] * 50
    better = [0.0, 1.0] * 49 + [1.0, 1.0]
    apart = difference(better, hard)
    assert apart.value == pytest.approx(0.01)
    assert apart.high - apart.low < 0.1 < mean_of(hard).high - mean_of(hard).low


def test_the_interval_of_a_share_is_wilsons() -> None:
    assert mean_of([1.0] * 9 + [0.0]) == pytest.approx((0.9, 0.596, 0.982), abs=1e-3)
    assert mean_of([1.0] * 4) == pytest.approx((1.0, 0.510, 1.0), abs=1e-3)


def test_scores_that_are_all_alike_leave_room_for_others() -> None:
    low, high = mean_of([0.5] * 20)[1:]
    assert low < 0.45
    assert high > 0.55
    assert mean_of([]) == Interval(0.0, 0.0, 1.0)


def test_rows_are_cases_of_one_kind() -> None:
    found = cases_of([{"id": 7, "prompt": "2+2", "answer": 4}, {"question": "1+1", "answer": "2"}])
    assert found.kind == "texts"
    assert [(case.request, case.expected) for case in found.cases] == [("2+2", "4"), ("1+1", "2")]
    assert cases_of([{"text": "x", "label": "b"}, {"text": "y", "label": "a"}]).labels == ("a", "b")


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [{"text": "x"}],
        [{"label": "a"}],
        [{"text": "x", "label": "a"}, {"text": "y", "reference": "b"}],
    ],
)
def test_rows_that_cannot_be_compared_are_refused(rows: list[dict[str, str]]) -> None:
    with pytest.raises(InputError):
        cases_of(rows)


def test_the_answer_of_an_output_is_its_label_or_its_text() -> None:
    assert answer_text(Choice[str](label="card")) == "card"
    assert answer_text(Choice[str](label=None)) == "none of these"
    assert answer_text(Predicate(value=True)) == "yes"
    assert answer_text(Reply(text="hello")) == "hello"
    with pytest.raises(Unanswered):
        answer_text(Choice[str](status="refused"))


class Ticket(BaseModel):
    text: str
    subject: str = ""


class Decisions(BaseModel):
    intent: Choice[str | None]
    urgent: Predicate


class Outcome(BaseModel):
    decisions: Decisions


class Desk(TypedNode[Ticket, Outcome]):
    """Decides by the subject alone."""

    async def answer(self, request: Ticket, context: RunContext) -> Outcome:
        intent = Choice[str | None](label=request.subject or None)
        return Outcome(decisions=Decisions(intent=intent, urgent=Predicate(value=True)))


async def test_one_of_several_decisions_is_compared_with_the_column_of_its_name(
    tmp_path: Path,
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        '{"text": "a", "subject": "bill", "intent": "bill", "urgent": true}\n'
        '{"text": "b", "intent": null, "urgent": false}\n'
        '{"text": "c", "subject": "bill", "intent": "lost", "urgent": true}\n'
    )
    right = {"intent": [True, True, False], "urgent": [True, False, True]}
    for decision, expected in right.items():
        data = read_cases(rows, decision=decision)
        found = await compare(data, {"desk": Desk(name="desk")})
        assert found.design("desk").quality.value == pytest.approx(sum(expected) / 3)
    with pytest.raises(ConfigError, match="'wish'"):
        read_cases(rows, decision="wish")


async def test_an_output_of_several_decisions_asks_which_is_compared() -> None:
    found = await compare([{"text": "a", "label": "bill"}], {"desk": Desk(name="desk")})
    assert "decisions.intent, decisions.urgent" in (found.design("desk").error or "")


def design(name: str, quality: float, cost: float | None, llm_calls: float = 1.0) -> DesignReport:
    return DesignReport(
        name=name,
        answered=9,
        quality=Interval(quality, quality, quality),
        labels=None,
        cost=cost,
        tokens=1,
        llm_calls=llm_calls,
        seconds_mean=1,
        seconds_p95=1,
    )


@pytest.mark.parametrize(
    ("cost", "lead", "pays", "said"),
    [
        (
            0.1,
            Interval(0.0, -0.01, 0.01),
            True,
            "pays: less than 0.05 worse than llm, .* 10 % of the cost",
        ),
        (0.1, Interval(0.0, -0.09, 0.09), None, "don't exclude that it is 0.090 worse"),
        (0.1, Interval(-0.1, -0.2, -0.05), None, "pays only if that loss is fine"),
        (2.0, Interval(0.1, 0.05, 0.2), True, "better than llm .* at 2.0 times the cost"),
        (2.0, Interval(0.01, -0.05, 0.06), False, "doesn't pay: not shown to be better"),
        (2.0, Interval(-0.1, -0.2, -0.05), False, "doesn't pay: llm is cheaper, and better"),
        (2.0, Interval(0.0, -0.02, 0.02), False, "doesn't pay: llm .* less than 0.05 worse"),
    ],
)
def test_a_design_pays_where_it_is_better_or_cheaper(
    cost: float, lead: Interval, pays: bool | None, said: str
) -> None:
    llm = design("llm", 0.9, 1.0)
    found = judge_design(design("mine", 0.9 + lead.value, cost), [llm], llm, {"llm": lead})
    assert found[0] is pays
    assert re.search(said, found[1]), found[1]


def share_that_pays(n: int, *, worse: float, either: float, runs: int = 2000) -> float:
    """How often a design at half the cost is told to pay.

    Args:
        n: Cases of a run.
        worse: By how much it is truly worse than the reference.
        either: How often only the one of both is right, and how often only the other, beside that.
        runs: Repetitions.
    """
    chance = np.random.default_rng(5).random((runs, n))
    llm = design("llm", 0.9, 1.0)
    pays = 0
    for row in chance:
        first, second = row > worse + either, (row < worse + either) | (row > worse + 2 * either)
        lead = difference(first, second)
        pays += judge_design(design("mine", 0.9, 0.5), [llm], llm, {"llm": lead})[0] is True
    return pays / runs


@pytest.mark.parametrize("n", [10, 30, 54, 100, 300])
@pytest.mark.parametrize("either", [0.0, 0.02, 0.1])
def test_a_design_that_is_worse_by_the_margin_is_hardly_ever_told_to_pay(
    n: int, either: float
) -> None:
    # The interval allows for 0.025; 54 cases, none of which the design does better on, are worst.
    assert share_that_pays(n, worse=MARGIN, either=either) < (0.07 if n == 54 else 0.05)


def test_a_design_that_is_as_good_at_half_the_cost_is_told_to_pay() -> None:
    assert share_that_pays(300, worse=0.0, either=0.02) > 0.9
    assert share_that_pays(300, worse=0.0, either=0.05) > 0.7


def told_of(worse: Mapping[str, float], costs: Mapping[str, float]) -> list[dict[str, str]]:
    """Verdicts of 300 comparisons on 300 cases, where designs are worse than `llm` by so much."""
    rng = np.random.default_rng(7)
    found: list[dict[str, str]] = []
    for _ in range(300):
        chances = rng.random((len(worse), 300))
        scores = {
            name: (row < 0.9 - less).astype(float)
            for (name, less), row in zip(worse.items(), chances, strict=True)
        }
        designs = [design(name, float(scores[name].mean()), costs[name]) for name in worse]
        verdicts = judge_designs(designs, scores, "llm", binary=True)
        found.append({one.name: one.verdict for one in verdicts})
    return found


def test_of_many_designs_that_are_worse_by_the_margin_hardly_ever_one_is_told_to_pay() -> None:
    worse = {"llm": 0.0, **{f"mine {n}": MARGIN for n in range(8)}}
    found = told_of(worse, {name: 1.0 if name == "llm" else 0.5 for name in worse})
    some = [any(text.startswith("pays") for text in verdicts.values()) for verdicts in found]
    assert np.mean(some) <= 0.05


def test_a_cheaper_design_that_is_worse_by_the_margin_is_hardly_ever_recommended() -> None:
    """Of five such, the best on the cases at hand often seems as good."""
    worse = {"llm": 0.0, "mine": 0.0, **{f"slm {n}": MARGIN for n in range(5)}}
    costs = dict.fromkeys(worse, 0.1) | {"llm": 1.0, "mine": 0.5}
    found = told_of(worse, costs)
    assert np.mean(["Use slm" in verdicts["mine"] for verdicts in found]) <= 0.05


def test_without_a_verdict_in_common_every_difference_is_possible() -> None:
    assert difference([], []) == Interval(0.0, -1.0, 1.0)


def test_a_cascade_that_the_small_model_alone_beats_does_not_pay() -> None:
    llm, slm = design("llm", 0.9, 1.0), design("slm", 0.9, 0.01)
    leads = {"llm": Interval(0.0, -0.01, 0.01), "slm": Interval(0.0, -0.01, 0.01)}
    found = judge_design(design("cascade", 0.9, 0.4), [llm, slm], llm, leads)
    assert found[0] is False
    assert "Use slm" in found[1]


def test_without_prices_calls_to_large_models_are_the_cost() -> None:
    slm, llm = design("slm", 0.8, None, 0.0), design("llm", 0.9, None, 1.0)
    assert cost_ratio(slm, llm) == 0.0
    assert cost_ratio(llm, slm) is None
    found = judge_design(slm, [llm], llm, {"llm": Interval(0.0, -0.01, 0.01)})
    assert "calls to large models (prices are not known)" in found[1]
