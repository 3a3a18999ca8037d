"""Acceptance: policies combine, are lazy, say why, and can be fitted."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from moa import Agent, Budget, Classifier, Decider, Filter, RunContext
from moa.core.errors import BudgetExceeded, ConfigError, EndpointTimeout, InputError
from moa.core.node import Reply
from moa.core.questions import Choice, Predicate, Score, choice, predicate, score
from moa.decisions.acceptance import Confident, GradedReply, Judgement, Policy, confidence_of
from moa.decisions.guarantee import Bound, Guarantee
from moa.graphs.mixing.answer_extraction import answer_of
from moa.guards.verifiers import (
    Agreement,
    Arithmetic,
    Format,
    Grounded,
    Length,
    Plausible,
    Signs,
)
from moa.testing import ScriptedEndpoint, SimulatedEndpoint, Step


@dataclass(frozen=True)
class Fixed(Policy):
    """Says what it is told to, and remembers that it was asked."""

    accepted: bool
    asked: list[bool]
    score: float = 0.5

    async def judge(self, request: Any, reply: Any, context: RunContext) -> Judgement:
        self.asked.append(True)
        return Judgement(self.score, self.accepted, (f"fixed at {self.score}",))


Rule = Callable[[bool, bool], bool]
COMBINED: list[tuple[Callable[[Policy, Policy], Policy], Rule]] = [
    (lambda a, b: a & b, lambda a, b: a and b),
    (lambda a, b: a | b, lambda a, b: a or b),
    (lambda a, b: ~a & b, lambda a, b: not a and b),
    (lambda a, b: ~(a | ~b), lambda a, b: not (a or not b)),
]


async def judged(policy: Policy, reply: Any, request: Any = "") -> Judgement:
    return await policy.judge(request, reply, RunContext())


@given(st.sampled_from(COMBINED), st.booleans(), st.booleans(), st.floats(0, 1), st.floats(0, 1))
async def test_policies_combine_by_their_truth_tables(
    combined: tuple[Callable[[Policy, Policy], Policy], Rule],
    a: bool,
    b: bool,
    first: float,
    second: float,
) -> None:
    build, rule = combined
    found = await judged(build(Fixed(a, [], first), Fixed(b, [], second)), "reply")
    assert found.accepted == rule(a, b)
    assert 0.0 <= found.score <= 1.0
    assert found.reasons


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
async def test_a_stricter_threshold_never_accepts_more(
    confidence: float, one: float, other: float
) -> None:
    reply = Predicate(value=True, probabilities={"yes": confidence, "no": 0.0})
    loose, strict = sorted((one, other))
    if (await judged(Confident(strict), reply)).accepted:
        assert (await judged(Confident(loose), reply)).accepted


async def test_what_cannot_change_the_judgement_is_not_asked() -> None:
    asked: list[bool] = []
    await judged(Fixed(False, []) & Fixed(True, asked), "reply")
    await judged(Fixed(True, []) | Fixed(True, asked), "reply")
    assert not asked


class Triage(BaseModel):
    refund: Predicate = predicate("Money back?")
    topic: Choice[Literal["card", "app"] | None] = choice("What about?")
    urgency: Score = score("How urgent?", levels=["can wait", "now"])


def a_triage(**probabilities: float) -> Triage:
    def of(name: str) -> float:
        return probabilities.get(name, 0.9)

    return Triage(
        refund=Predicate(value=True, probabilities={"yes": of("refund")}),
        topic=Choice(label="card", probabilities={"card": of("topic")}),
        urgency=Score(value=0.0, level="can wait", probabilities={"can wait": of("urgency")}),
    )


async def test_of_several_questions_the_least_sure_one_counts() -> None:
    found = await judged(Confident(0.8), a_triage(topic=0.6))
    assert not found.accepted
    assert found.score == 0.6
    assert (await judged(Confident(0.8), a_triage())).accepted


async def test_a_written_label_has_no_confidence_and_is_not_accepted() -> None:
    found = await judged(Confident(0.0), Predicate(value=True, source="text"))
    assert not found.accepted
    assert found.reasons == ("it has no confidence",)
    assert confidence_of("a text") is None


async def test_a_bound_accepts_what_it_was_found_for() -> None:
    bound = Bound(guarantee=Guarantee(), threshold=0.8, labels=100, summary="")
    nothing = bound.model_copy(update={"threshold": None})
    assert (await judged(Confident(bound), a_triage())).accepted
    refused = await judged(Confident(nothing), a_triage())
    assert "nothing is accepted" in refused.reasons[0]


async def test_a_bound_follows_what_a_calibration_says_of_its_answer() -> None:
    bound = Bound(guarantee=Guarantee(), threshold=0.8, labels=100, summary="")

    def answer(yes: float, *, accepted: bool) -> Predicate:
        return Predicate(value=True, probabilities={"yes": yes}, accepted=accepted)

    refused = await judged(Confident(bound), answer(0.99, accepted=False))
    assert not refused.accepted
    assert refused.reasons == ("not accepted by its calibration",)
    assert (await judged(Confident(bound), answer(0.7, accepted=True))).accepted
    several = a_triage().model_copy(update={"refund": answer(0.99, accepted=False)})
    assert not (await judged(Confident(bound), several)).accepted
    assert (await judged(Confident(0.8), several)).accepted


@pytest.mark.parametrize(
    ("reply", "score", "accepted"),
    [
        pytest.param("3 * 4 = 12, and 12 + 1 = 13", 1.0, True, id="right"),
        pytest.param("3 * 4 = 12, and 12 + 1 = 14", 0.5, False, id="one wrong"),
        pytest.param("no sums here", 0.5, True, id="none"),
        pytest.param("__import__('os').system('x') = 1", 0.5, True, id="code is never run"),
    ],
)
async def test_sums_are_computed_again(reply: str, score: float, accepted: bool) -> None:
    found = await judged(Arithmetic(), reply)
    assert (found.score, found.accepted) == (score, accepted)
    shown = "=" in reply and "import" not in reply
    assert (await judged(Arithmetic(least=1), reply)).accepted == (accepted and shown)


class Invoice(BaseModel):
    total: float


@pytest.mark.parametrize(
    ("form", "good", "bad", "said"),
    [
        pytest.param("json", '{"a": [1]}', "a: 1", "no JSON", id="json"),
        pytest.param("json", "[[]]", "[" * 100_000, "no JSON", id="nested deeply"),
        pytest.param(
            re.compile(r"The answer is \d+"),
            "so The answer is 12",
            "so 12",
            "not found",
            id="pattern",
        ),
        pytest.param(Invoice, '{"total": 3}', '{"sum": 3}', "total Field required", id="model"),
    ],
)
async def test_a_form_is_asked_for(form: Any, good: str, bad: str, said: str) -> None:
    assert (await judged(Format(form), Reply(text=good))).accepted
    refused = await judged(Format(form), Reply(text=bad))
    assert not refused.accepted
    assert said in refused.reasons[0]


@pytest.mark.parametrize(
    ("policy", "reply", "score"),
    [
        pytest.param(Length(least=2, most=4), "one two three", 1.0, id="within"),
        pytest.param(Length(least=2), "one", 0.5, id="short"),
        pytest.param(Length(most=2), "one two three four", 0.5, id="long"),
        pytest.param(Length(most=4, unit="characters"), "12345678", 0.5, id="characters"),
        pytest.param(Length(), "  ", 0.0, id="empty"),
    ],
)
async def test_a_length_is_scored_by_how_near_it_comes(
    policy: Policy, reply: str, score: float
) -> None:
    found = await judged(policy, reply)
    assert (found.score, found.accepted) == (score, score == 1.0)


PASSAGES = ["The library opened in 1921 and holds 3,400 manuscripts of medieval physicians."]


@pytest.mark.parametrize(
    ("reply", "accepted"),
    [
        pytest.param("It holds 3400 medieval manuscripts.", True, id="grounded"),
        pytest.param("It holds 3500 medieval manuscripts.", False, id="made-up number"),
        pytest.param("Astronomers founded university campuses.", False, id="other words"),
        pytest.param("It is so.", False, id="nothing to look up"),
    ],
)
async def test_what_is_not_in_the_passages_is_seen(reply: str, accepted: bool) -> None:
    def passages(request: Any) -> Sequence[str]:
        return PASSAGES if request == "library" else []

    found = await judged(Grounded(passages=passages), reply, "library")
    assert found.accepted == accepted
    assert found.reasons


class Verdict(BaseModel):
    right: Predicate = predicate("Is the reply a correct answer to the request?")


async def test_a_model_is_asked_whether_a_reply_is_plausible_and_charged_for_it() -> None:
    endpoint = ScriptedEndpoint(steps=[{"right": {"yes": 0.7}}, {"right": {"yes": 0.2}}])
    policy = Plausible(Decider(endpoint, Verdict), least=0.6)
    context = RunContext()
    first = await policy.judge("Capital of Australia?", Reply(text="Canberra"), context)
    second = await policy.judge("Capital of Australia?", Reply(text="Sydney"), context)
    assert (first.accepted, second.accepted) == (True, False)
    assert first.score == pytest.approx(0.7)
    assert endpoint.states[0] == "Request:\nCapital of Australia?\n\nReply:\nCanberra"
    assert context.usage.calls == 2


async def test_without_an_answer_nothing_is_plausible_and_without_a_predicate_it_is_a_mistake() -> (
    None
):
    found = await judged(Plausible(Decider(ScriptedEndpoint(steps=[{}]), Verdict)), "Canberra")
    assert (found.score, found.accepted) == (0.0, False)
    node = Filter(SimulatedEndpoint(rule=lambda _: {"filter": {"yes": 0.5}}), "spam", action="drop")
    with pytest.raises(ConfigError):
        await judged(Plausible(node), "Canberra")


async def test_samples_that_agree_accept_a_reply() -> None:
    endpoint = ScriptedEndpoint(
        steps=["So it is 12.\nThe answer is 12", "12", "The answer is 13", "twelve"]
    )
    node = Agent(endpoint, "Work it out.", temperature=0.7)
    found = await judged(Agreement(node), Reply(text="3 * 4 is 12 The answer is 12"), "3 * 4")
    assert found.score == 0.5
    assert found.reasons == ("2 of 4 samples agree",)


@pytest.mark.parametrize(
    ("calls", "answer", "error"),
    [
        pytest.param(2, "12", BudgetExceeded, id="over the budget"),
        pytest.param(9, EndpointTimeout("late", endpoint="s"), EndpointTimeout, id="fails"),
    ],
)
async def test_a_sample_that_fails_is_its_own_error_and_no_judgement(
    calls: int, answer: Step, error: type[Exception]
) -> None:
    node = Agent(SimulatedEndpoint(rule=lambda _: answer), "Work it out.", temperature=0.7)
    with pytest.raises(error):
        await Agreement(node).judge("3 * 4", "12", RunContext(budget=Budget(calls=calls)))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("The answer is 1,200.", "So: The answer is 1200", True),
        ("12 apples", "12", True),
        ("Canberra.", "canberra", True),
        ("the answer is Canberra", "Canberra", True),
        ("Sydney", "Canberra", False),
        ("It was built in 1921 by two masons", "It was pulled down in 1921 by the city", False),
        (Predicate(value=True, probabilities={"yes": 0.9}), Predicate(value=True), True),
        (Choice(label="card"), Choice(label="app"), False),
    ],
)
def test_answers_are_compared_by_what_they_say(one: Any, other: Any, same: bool) -> None:
    assert (answer_of(one) == answer_of(other)) == same


def graded(n: int, *, seed: int = 0) -> list[GradedReply]:
    """Replies whose length tells whether they are good, of 1 to 20 words."""
    rng = random.Random(seed)
    found: list[GradedReply] = []
    for number in range(n):
        words = rng.randint(1, 20)
        good = rng.random() < (0.99 if words > 6 else 0.1)
        found.append(GradedReply(request=f"request {number}", reply="word " * words, good=good))
    return found


async def test_a_fitted_policy_promises_and_keeps_a_risk() -> None:
    policy = await (Length(least=20) & Signs()).fit(graded(400), Guarantee(0.1, 0.9))
    assert policy.bound.threshold is not None
    new = graded(300, seed=1)
    accepted = [g for g in new if (await judged(policy, g.reply, g.request)).accepted]
    assert len(accepted) >= 150
    assert sum(not g.good for g in accepted) / len(accepted) <= 0.1


async def test_a_policy_fitted_on_few_replies_accepts_nothing_and_says_what_it_takes() -> None:
    policy = await Length(least=20).fit(graded(30), Guarantee(0.05, 0.95))
    found = await judged(policy, "word " * 20)
    assert not found.accepted
    assert "nothing is accepted" in found.reasons[0]
    assert "more held-out labels" in policy.bound.summary


async def test_how_many_wrong_replies_are_held_out_is_left_to_chance() -> None:
    """Split by correctness, half of them always are, and one half tells the other's errors."""
    some, orders = graded(60), random.Random(0)
    half = sum(not g.good for g in some) / 2
    lenient = Guarantee(0.9, 0.5)
    held_out = [
        (await Length(least=1).fit(orders.sample(some, 60), lenient)).bound.errors
        for _ in range(40)
    ]
    spread = sum((errors - half) ** 2 for errors in held_out) / len(held_out)
    assert 1.5 < spread < 4.5  # 2.7, where 30 of 60 are drawn without a look (hypergeometric)


@pytest.mark.parametrize(("n", "cases"), [(9, 9), (12, 1), (12, 2)])
async def test_hardly_any_graded_replies_or_cases_are_refused(n: int, cases: int) -> None:
    few = [replace(g, case=str(place % cases)) for place, g in enumerate(graded(n))]
    with pytest.raises(InputError):
        await Length().fit(few, Guarantee())


@pytest.mark.parametrize("seed", range(3))
async def test_ten_cases_are_enough_to_fit(seed: int) -> None:
    some = [replace(g, case=str(n % 10)) for n, g in enumerate(graded(30, seed=seed))]
    assert (await Length().fit(some, Guarantee())).bound.threshold is None


@pytest.mark.parametrize("good", [True, False])
async def test_replies_that_are_all_alike_can_be_fitted(good: bool) -> None:
    alike = [GradedReply(request="", reply="a word", good=good) for _ in range(200)]
    policy = await Length().fit(alike, Guarantee(0.1, 0.9))
    assert (await judged(policy, "a word")).accepted == good


async def test_a_fitted_policy_combines_with_others() -> None:
    fitted = await Length(least=20).fit(graded(400), Guarantee(0.1, 0.9))
    both = fitted & Format(re.compile("word"))
    assert (await judged(both, "word " * 20)).accepted
    assert not (await judged(both, "text " * 20)).accepted


async def test_a_classifier_is_judged_by_its_confidence() -> None:
    endpoint = SimulatedEndpoint(rule=lambda _: {"classifier": {"card": 0.95}})
    result = await Classifier(endpoint, ["card", "app"]).run("My card is lost")
    assert (await judged(Confident(0.9), result.output)).accepted


@pytest.mark.parametrize(
    "build",
    [
        lambda: Confident(1.5),
        lambda: Length(least=3, most=2),
        lambda: Grounded(least=-1),
        lambda: Agreement(Agent(SimulatedEndpoint(), "Work it out.", temperature=0.7), samples=0),
    ],
)
def test_a_policy_that_cannot_be_is_refused(build: Callable[[], Policy]) -> None:
    with pytest.raises(ConfigError):
        build()
