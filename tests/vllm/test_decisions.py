"""The deciding agents on a real vLLM: form on every kind of question, quality on shipped texts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from moa import Classifier, Decider, Filter, Sentiment
from moa.agents.deciding import DecidingAgent
from moa.endpoints import Example
from moa.endpoints.openai import OpenAIEndpoint
from moa.inbox.support import INTENTS

from .messages import EXAMPLES, messages
from .test_systemone import Triage

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(300),
]


async def outputs(agent: DecidingAgent[Any], texts: Sequence[str]) -> list[Any]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(agent.run(text)) for text in texts]
    return [task.result().output for task in tasks]


def share(found: Sequence[object], right: Sequence[object]) -> float:
    return sum(a == b for a, b in zip(found, right, strict=True)) / len(right)


async def test_sentiment_tells_praise_from_complaint(labels: OpenAIEndpoint) -> None:
    reviews = [m for m in messages() if m.sentiment in ("negative", "positive")]
    moods = await outputs(Sentiment(labels, neutral=False), [r.text for r in reviews])
    reached = share([mood.label for mood in moods], [r.sentiment for r in reviews])
    assert len(reviews) >= 50
    assert reached >= 0.7, reached


async def test_a_filter_tells_spam_from_the_rest(labels: OpenAIEndpoint) -> None:
    texts = [message for message in messages() if message.spam is not None]
    shown, asked = texts[:16], texts[16:]
    spam = await Filter(labels, "spam", action="drop", name="spam").adapt(
        labelled=[Example(m.text, {"spam": "yes" if m.spam else "no"}) for m in shown],
        unlabelled=[m.text for m in texts],
    )
    verdicts = await outputs(spam, [m.text for m in asked])
    reached = share([v.met for v in verdicts], [m.spam for m in asked])
    assert reached >= 0.7, reached


async def test_a_classifier_knows_intents_from_examples(labels: OpenAIEndpoint) -> None:
    rows = [json.loads(line) for line in (EXAMPLES / "fitting.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["intent"] in INTENTS]
    means = {name: intent.means for name, intent in INTENTS.items()}
    agent = Classifier(labels, means, task="What is this message about?", name="intent", none=False)
    agent = await agent.adapt(
        labelled=[
            Example(text, {"intent": name})
            for name, intent in INTENTS.items()
            for text in intent.examples
        ],
        unlabelled=[row["text"] for row in rows],
    )
    choices = await outputs(agent, [row["text"] for row in rows])
    reached = share([c.label for c in choices], [row["intent"] for row in rows])
    assert reached >= 0.5, reached  # of seven intents, in four languages


async def test_a_decider_answers_all_kinds_of_questions_adapted_to_its_texts(
    labels: OpenAIEndpoint,
) -> None:
    texts = [message.text for message in messages() if message.text][:40]
    agent = await Decider(labels, Triage).adapt(unlabelled=texts)
    result = await agent.run("My card was charged twice, give it back!")
    triage = result.output
    for answer in (triage.refund, triage.topic, triage.urgency):
        assert (answer.status, answer.source) == ("answered", "logprob")
        assert sum(answer.probabilities.values()) == pytest.approx(1.0)
    assert any("bias removed on 40 unlabelled" in note.text for note in result.trace)


async def test_a_classifier_weighs_many_labels(labels: OpenAIEndpoint) -> None:
    many = [f"topic number {n}" for n in range(60)]
    choice = (await Classifier(labels, many, none=False).run("My card is blocked.")).output
    assert len(choice.probabilities) == 60
    assert sum(choice.probabilities.values()) == pytest.approx(1.0)
