"""The same weights in two engines: label scores are alike, and so is what is decided by them."""

from __future__ import annotations

import asyncio
import sys
from typing import Any, NamedTuple

import pytest

from moa import EmbeddedEndpoint, RunContext, Sentiment
from moa.agents.deciding import DecidingAgent
from moa.agents.filter import Verdict
from moa.endpoints import Endpoint
from moa.endpoints.openai import OpenAIEndpoint
from moa.graphs.shop import SupportSettings
from moa.graphs.support import Excerpt, intent_of, spam_filter
from moa.handoffs import Text
from moa.questions import Choice, Option, Question
from moa.usage import Amount

from .messages import messages

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(900),
]

SHOP = SupportSettings()
AT_LEAST = 200
AGREE = 0.95
NEAR = 0.1
"""Probabilities no further than this from the threshold, or from one another, are a near thing."""
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


def agents(endpoint: Endpoint) -> tuple[DecidingAgent[Any], ...]:
    """Build one with a threshold, one with a correction, and one with many options."""
    return (
        spam_filter(endpoint, SHOP.spam, threshold=SHOP.threshold),
        Sentiment(endpoint),
        intent_of(endpoint, SHOP),
    )


def decided(output: object) -> Decided:
    """Read the output of any of them."""
    match output:
        case Verdict(met=met, confidence=confidence):
            sure = confidence or 0.0
            return Decided(str(met), abs((sure if met else 1 - sure) - SHOP.threshold))
        case Choice():
            probabilities = output.probabilities
        case _:
            raise AssertionError(output)
    (name, first), (_, second), *_ = sorted(probabilities.items(), key=lambda p: -p[1])
    return Decided(name, first - second)


async def all_decided(endpoint: Endpoint, texts: list[Text]) -> list[Decided]:
    """Decide everything on every text, in order, some at a time."""
    work = [(agent, text) for agent in agents(endpoint) for text in texts]
    found: list[Decided] = [Decided("", 0.0)] * len(work)
    left = iter(enumerate(work))

    async def worker() -> None:
        for place, (agent, text) in left:
            found[place] = decided((await agent.run(text)).output)

    async with asyncio.TaskGroup() as group:
        for _ in range(16):
            group.create_task(worker())
    return found


async def test_decisions_on_200_messages_agree_but_for_near_things(
    labels: OpenAIEndpoint, embedded: EmbeddedEndpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    excerpt = Excerpt(SHOP.read_tokens)
    texts = [
        (await excerpt.run(Text(text=message.text))).output
        for message in messages()
        if message.text
    ]
    assert len(texts) >= AT_LEAST
    pairs = list(
        zip(await all_decided(labels, texts), await all_decided(embedded, texts), strict=True)
    )
    other = [(one, two) for one, two in pairs if one.what != two.what]
    by_agent = [
        sum(one.what == two.what for one, two in pairs[start : start + len(texts)]) / len(texts)
        for start in range(0, len(pairs), len(texts))
    ]
    told = [f"{len(texts)} messages, agreement by agent: {[f'{a:.3f}' for a in by_agent]}"]
    told += [
        f"{one.what!r} by {one.margin:.3f} through vLLM, {two.what!r} by {two.margin:.3f} embedded"
        for one, two in other
    ]
    with capsys.disabled():
        sys.stdout.write("\n" + "\n".join(told) + "\n")
    assert min(by_agent) >= AGREE
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
    return reply["choices"][0]["logprobs"]["top_logprobs"][0]
