"""The same weights in two engines: label scores are alike, and so is what is decided by them."""

from __future__ import annotations

import asyncio
import sys
from typing import Any, NamedTuple

import pytest

from moa import EmbeddedEndpoint, RunContext, Sentiment
from moa.agents.sentiment import Mood
from moa.core._json import at, number_of, object_of
from moa.core.node import Text
from moa.core.questions import Option, Question
from moa.core.usage import Amount
from moa.endpoints.openai import OpenAIEndpoint
from moa.inbox.support import READ_TOKENS, Excerpt

from .messages import messages

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(900),
]

NEAR = 0.15
"""Probabilities no further than this from one another are a near thing."""
MOOD = Question(
    "mood",
    "choice",
    "What is the sentiment of the text?",
    (Option("negative", "negative"), Option("positive", "positive")),
)
TEXTS = ("I love it, it is wonderful.", "It broke at once, and nobody answers.", "¿Dónde está?")


class Decided(NamedTuple):
    """What was decided, and how far the probabilities were from deciding otherwise."""

    what: str
    margin: float


def decided(mood: Mood) -> Decided:
    """Take the first of the options, and its lead over the second."""
    (name, first), (_, second), *_ = sorted(mood.probabilities.items(), key=lambda p: -p[1])
    return Decided(name, first - second)


async def all_decided(agent: Sentiment, texts: list[Text]) -> list[Decided]:
    """Decide on every text, in order, some at a time."""
    found: list[Decided] = [Decided("", 0.0)] * len(texts)
    left = iter(enumerate(texts))

    async def worker() -> None:
        for place, text in left:
            found[place] = decided((await agent.run(text)).output)

    async with asyncio.TaskGroup() as group:
        for _ in range(16):
            group.create_task(worker())
    return found


@pytest.mark.parametrize(
    ("neutral", "at_least"),
    [
        pytest.param(False, 0.95, id="two feelings"),
        # On most of these messages three are nearly as probable as each other.
        pytest.param(True, 0.80, id="three feelings"),
    ],
)
async def test_decisions_on_200_messages_agree_but_for_near_things(
    labels: OpenAIEndpoint,
    embedded: EmbeddedEndpoint,
    capsys: pytest.CaptureFixture[str],
    neutral: bool,
    at_least: float,
) -> None:
    excerpt = Excerpt(READ_TOKENS)
    texts = [(await excerpt.run(Text(text=m.text))).output for m in messages() if m.text]
    assert len(texts) >= 200
    through, beside = [
        await all_decided(Sentiment(endpoint, neutral=neutral).alone(), texts)
        for endpoint in (labels, embedded)
    ]
    pairs = zip(through, beside, strict=True)
    other = [(one, two) for one, two in pairs if one.what != two.what]
    reached = 1 - len(other) / len(texts)
    told = [f"{reached:.3f} of {len(texts)} agree; the others:"]
    told += [
        f"{one.what} by {one.margin:.3f}, {two.what} by {two.margin:.3f}" for one, two in other
    ]
    with capsys.disabled():
        sys.stdout.write("\n" + "\n".join(told) + "\n")
    assert reached >= at_least
    assert all(max(one.margin, two.margin) <= NEAR for one, two in other)


@pytest.mark.parametrize("text", TEXTS)
async def test_label_scores_are_those_of_the_embedded_engine(
    labels: OpenAIEndpoint, embedded: EmbeddedEndpoint, text: str
) -> None:
    through, beside = [
        (await endpoint.decide(text, [MOOD], RunContext())).answers[0]
        for endpoint in (labels, embedded)
    ]
    assert through.probabilities == pytest.approx(beside.probabilities, abs=0.03)
    assert through.label_mass == pytest.approx(beside.label_mass, abs=0.03)


async def test_scores_of_chosen_tokens_are_exact(labels: OpenAIEndpoint) -> None:
    """The same tokens, once as chosen ones, once as the most probable of the whole vocabulary."""
    prompt = "The capital of France is"
    body = {"model": labels.model, "prompt": prompt, "max_tokens": 1, "temperature": 0.0}
    body |= {"return_tokens_as_token_ids": True}
    top = await scores(labels, {**body, "logprobs": 20})
    tokens = [int(name.removeprefix("token_id:")) for name in top][:20]
    chosen = await scores(
        labels, {**body, "logprobs": len(tokens), "logprob_token_ids": tokens[::-1]}
    )
    assert {name: chosen[name] for name in top} == pytest.approx(top, abs=0.01)


async def scores(endpoint: OpenAIEndpoint, body: dict[str, Any]) -> dict[str, float]:
    reply, _ = await endpoint.client.post(
        "/completions", body, RunContext(), estimate=Amount(calls=1)
    )
    top = object_of(at(reply, "choices", 0, "logprobs", "top_logprobs", 0))
    return {token: number_of(logprob) for token, logprob in top.items()}
