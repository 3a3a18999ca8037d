"""EmbeddedEndpoint, on the real engine and the real model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import psutil
import pytest
import pytest_asyncio

from moa.core.context import RunContext
from moa.core.errors import DeadlineExceeded, EndpointRejected, EndpointUnavailable
from moa.core.questions import Option, Question
from moa.endpoints import Completion, Example, Prompt
from moa.local.embedded import EmbeddedEndpoint, EngineSettings

pytestmark = [pytest.mark.embedded, pytest.mark.asyncio(loop_scope="module")]

MOOD = Question(
    "mood",
    "choice",
    "What is the sentiment of the text?",
    (Option("negative", "negative"), Option("positive", "positive")),
)
EXAMPLES = [
    Example("The worst two hours of my life, boring and far too long.", {"mood": "negative"}),
    Example("A lovely film, I laughed and cried.", {"mood": "positive"}),
    Example("Nothing works and nobody answers.", {"mood": "negative"}),
    Example("Great service, thank you!", {"mood": "positive"}),
]
ENDLESS = Prompt.of(
    "Tell me a story.",
    max_tokens=3000,
    json_schema={
        "type": "array",
        "minItems": 500,
        "items": {"type": "string", "enum": ["and so it went on and on"]},
    },
)
"""The model can't end it before it has written thousands of tokens."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def slm() -> AsyncIterator[EmbeddedEndpoint]:
    endpoint = EmbeddedEndpoint(settings=EngineSettings(context_window=1024))
    yield endpoint
    await endpoint.close()


def engines() -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process().children()
        if any("engine_server" in word for word in child.cmdline())
    ]


async def test_it_writes(slm: EmbeddedEndpoint) -> None:
    context = RunContext()
    hello = Prompt.of("Say hello.", max_tokens=20, temperature=0.0)
    completion = await slm.complete(hello, context)
    assert completion.text.strip()
    assert completion.model == slm.model == "SmolLM2-135M-Instruct.Q4_1"
    assert 0 < completion.amount.output_tokens <= 20
    assert context.usage.total.calls == 1
    assert context.usage.cost == 0  # it runs here


async def test_whoever_watches_is_told_how_much_is_written(slm: EmbeddedEndpoint) -> None:
    seen: list[int] = []
    context = RunContext()
    context.watcher = lambda _, tokens: seen.append(tokens)
    prompt = Prompt.of("Count to five.", max_tokens=6, temperature=0.0)
    watched = await slm.complete(prompt, context)
    assert watched.text
    assert watched.amount.output_tokens <= 6
    assert seen
    assert seen == sorted(seen)


async def test_it_writes_json_that_follows_a_schema(slm: EmbeddedEndpoint) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"enum": ["Rome", "Oslo"]}, "warm": {"type": "boolean"}},
        "required": ["city", "warm"],
    }
    prompt = Prompt.of("Name a city.", json_schema=schema, max_tokens=60)
    answer = json.loads((await slm.complete(prompt, RunContext())).text)
    assert answer["city"] in ("Rome", "Oslo")
    assert isinstance(answer["warm"], bool)


async def test_it_decides_by_the_words_of_the_labels(slm: EmbeddedEndpoint) -> None:
    texts = ("An awful, stupid, ugly mess.", "I love it, a wonderful and joyful film!")
    decisions = [await slm.decide(t, [MOOD], RunContext(), examples=EXAMPLES) for t in texts]
    negative = [d.answers[0].by_name()["negative"] for d in decisions]
    assert negative[0] > negative[1]
    assert decisions[0].answers[0].source == "logprob"
    assert 0 < (decisions[0].answers[0].label_mass or 0) <= 1


async def test_the_question_and_its_examples_are_read_once(slm: EmbeddedEndpoint) -> None:
    await slm.decide("The first text.", [MOOD], RunContext(), examples=EXAMPLES)
    decision = await slm.decide("Another one.", [MOOD], RunContext(), examples=EXAMPLES)
    fresh = decision.amount.input_tokens - decision.amount.cached_input_tokens
    assert fresh < 15 < decision.amount.cached_input_tokens


async def test_the_same_decision_has_the_same_probabilities(slm: EmbeddedEndpoint) -> None:
    both = [await slm.decide("Fine.", [MOOD], RunContext(), examples=EXAMPLES) for _ in range(2)]
    first, second = (d.answers[0].probabilities for d in both)
    assert first == pytest.approx(second, abs=0.02)


async def test_embeddings_of_like_texts_are_alike(slm: EmbeddedEndpoint) -> None:
    texts = ("My card was stolen.", "Someone stole my card.", "def f(x): return x * 2")
    card, same, other = (await slm.embed(texts, RunContext())).vectors
    assert dot(card, same) > dot(card, other)


def dot(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


async def test_a_control_token_in_a_message_does_not_end_its_turn(slm: EmbeddedEndpoint) -> None:
    counts = [
        (await slm.complete(Prompt.of(text, max_tokens=1), RunContext())).amount.input_tokens
        for text in ("a b", "a<|im_end|>b")
    ]
    assert counts[1] - counts[0] >= 5  # parsed, it would be one token


async def test_a_prompt_that_does_not_fit_is_refused_and_the_window_said(
    slm: EmbeddedEndpoint,
) -> None:
    text = "word " * 1500
    for call in (
        slm.complete(Prompt.of(text), RunContext()),
        slm.decide(text, [MOOD], RunContext()),
        slm.embed([text], RunContext()),
    ):
        with pytest.raises(EndpointRejected, match=r"102[34]"):
            await call


async def test_a_deadline_holds_while_the_engine_starts() -> None:
    endpoint = EmbeddedEndpoint(settings=EngineSettings(context_window=256))
    with pytest.raises(DeadlineExceeded):
        await endpoint.complete(Prompt.of("Hi"), RunContext(timeout_s=0.05))
    await endpoint.close()


async def test_calls_at_once_are_all_answered(slm: EmbeddedEndpoint) -> None:
    calls = (slm.complete(Prompt.of(f"Say {n}.", max_tokens=5), RunContext()) for n in range(12))
    assert len(await asyncio.gather(*calls)) == 12


async def test_endpoints_share_an_engine_until_the_last_is_closed() -> None:
    before = len(engines())
    settings = EngineSettings(context_window=300)
    slm, llm = EmbeddedEndpoint(settings=settings), EmbeddedEndpoint(tier="llm", settings=settings)
    await asyncio.gather(slm.start(RunContext()), llm.start(RunContext()))
    assert len(engines()) == before + 1
    await slm.close()
    await slm.close()
    assert (await llm.complete(Prompt.of("Hi", max_tokens=2), RunContext())).text
    await llm.close()
    assert len(engines()) == before


async def test_an_endpoint_that_was_closed_can_be_used_again() -> None:
    endpoint = EmbeddedEndpoint(settings=EngineSettings(context_window=256))
    for _ in range(2):
        assert (await endpoint.complete(Prompt.of("Hi", max_tokens=2), RunContext())).text
        await endpoint.close()


@pytest_asyncio.fixture(loop_scope="module")
async def mortal() -> AsyncIterator[tuple[EmbeddedEndpoint, psutil.Process]]:
    """An endpoint, and the engine that it alone uses."""
    before = set(engines())
    endpoint = EmbeddedEndpoint(settings=EngineSettings(context_window=3600))
    await endpoint.start(RunContext())
    (own,) = set(engines()) - before
    yield endpoint, own
    await endpoint.close()


async def test_an_engine_killed_in_mid_run_fails_its_calls_and_serves_the_next(
    mortal: tuple[EmbeddedEndpoint, psutil.Process],
) -> None:
    endpoint, process = mortal
    context = RunContext()
    others: list[asyncio.Future[Completion]] = []

    async def ask() -> Completion:
        return await endpoint.complete(Prompt.of("Hi", max_tokens=2), context.nested())

    async def kill_while_it_writes() -> None:
        async for _ in endpoint.stream(ENDLESS, RunContext()):
            if not others:
                others.extend(asyncio.ensure_future(ask()) for _ in range(3))
                await asyncio.sleep(0)  # they are on their way, how far is all the same
                process.kill()

    with pytest.raises(EndpointUnavailable, match="SIGKILL"):
        await kill_while_it_writes()
    ends = await asyncio.gather(*others, return_exceptions=True)
    assert (await ask()).text
    assert ("retried", "with the engine started again") in [(n.kind, n.text) for n in context.trace]
    # Each was in time, was killed along, or came late enough for the next engine.
    assert all(isinstance(end, EndpointUnavailable | Completion) for end in ends), ends
