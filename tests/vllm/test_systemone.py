"""`/v1/systemone` of vLLM: on a Qwen3 it decides, on the embedded model's architecture it can't."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from moa import Choice, Decider, Predicate, RunContext, Score, choice, predicate, score
from moa.core.errors import ConfigError, EndpointUnsupported
from moa.core.questions import Option, Question, questions_of
from moa.core.usage import Amount
from moa.endpoints.openai import OpenAIEndpoint

from .conftest import served

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="module")]

TEXT = "My card was charged twice, and I need the money today."


class Triage(BaseModel):
    refund: Predicate = predicate("Does the customer ask for money back?", yes="asks for money")
    topic: Choice[str | None] = choice("What is it about?", labels=["card", "loan"])
    urgency: Score = score("How urgent is it?", levels=["can wait", "today", "now"])


@pytest.mark.parametrize("question", questions_of(Triage), ids=lambda q: q.kind)
async def test_a_qwen3_decides_by_itself(tiny: OpenAIEndpoint, question: Question) -> None:
    context = RunContext()
    (answer,) = (await tiny.decide(TEXT, [question], context)).answers
    assert (answer.status, answer.source) == ("answered", "native")
    assert sum(answer.by_name().values()) == pytest.approx(1.0)
    assert set(answer.by_name()) == {option.name for option in question.options}
    assert 0 < (answer.label_mass or 0) <= 1
    assert [note.kind for note in context.trace] == ["answered"]


async def test_questions_about_one_text_are_one_request(tiny: OpenAIEndpoint) -> None:
    result = await Decider(tiny, Triage).run(TEXT)
    assert result.usage.calls == 1
    assert 0 <= result.output.urgency.value <= 2
    assert result.output.topic.label in ("card", "loan", None)
    alone = [
        (await tiny.decide(TEXT, [question], RunContext())).answers[0]
        for question in questions_of(Triage)
    ]
    together = (await tiny.decide(TEXT, questions_of(Triage), RunContext())).answers
    for one, other in zip(alone, together, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=0.02)


async def test_more_options_than_vllm_takes_are_refused_before_sending() -> None:
    letters = tuple(Option(f"option {n}", n) for n in range(27))
    async with served("tiny") as endpoint:
        await endpoint.decide(TEXT, questions_of(Triage), RunContext())
        context = RunContext()
        with pytest.raises(ConfigError):
            await endpoint.decide(TEXT, [Question("many", "choice", "Which?", letters)], context)
    assert context.usage.calls == 0


async def test_another_architecture_falls_back_to_label_scores_and_the_trace_says_so() -> None:
    async with served("small") as endpoint:
        first, second = RunContext(), RunContext()
        decision = await endpoint.decide(TEXT, questions_of(Triage), first)
        await endpoint.decide(TEXT, questions_of(Triage), second)
    assert {answer.source for answer in decision.answers} == {"logprob"}
    (note,) = [note for note in first.trace if note.kind == "fell back"]
    assert "label log-probabilities" in note.text
    assert "does not support" in note.text
    assert (first.usage.calls, second.usage.calls) == (4, 3)  # the trial is made once


async def test_what_vllm_answers_there_is_501() -> None:
    async with served("small") as endpoint:
        body = {
            "model": endpoint.model,
            "state": "x",
            "questions": {"q": {"type": "noul", "instructions": "Is it?"}},
        }
        with pytest.raises(EndpointUnsupported) as raised:
            await endpoint.client.post("/systemone", body, RunContext(), estimate=Amount(calls=1))
    assert raised.value.status == 501
