"""What every endpoint must do, run over each of them."""

from __future__ import annotations

import asyncio
import json
import math
import os
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import openai
import pytest

from moa.config import load
from moa.config.endpoints import Endpoints
from moa.core.budget import Budget
from moa.core.context import RunContext
from moa.core.errors import (
    BudgetExceeded,
    CapabilityError,
    DeadlineExceeded,
    EndpointError,
    EndpointUnsupported,
    InvalidResponse,
)
from moa.core.questions import NONE_OF_THESE, Option, Question
from moa.endpoints import Completion, Decision, Endpoint, EndpointBase, Prompt
from moa.endpoints.openai import OpenAIEndpoint
from moa.endpoints.retries import Retried
from moa.endpoints.wrappers import Cached, Fallback, Limited, Wrapping
from moa.local.embedded import EmbeddedEndpoint
from moa.testing import ALL, SimulatedEndpoint, Step
from moa.vllm.endpoint import VLLMEndpoint
from moa.vllm.replicas import Replicas

from .conftest import Answer, Asked, Served, chat, events, piece
from .servers import server

PROMPT = Prompt.of("Good morning?", max_tokens=16)
SPAM = Question("spam", "predicate", "Is it spam?", (Option("yes", True), Option("no", False)))
MOOD = Question(
    "mood",
    "choice",
    "How does the writer feel?",
    (Option("happy", 1, "glad"), Option("angry", 2), Option(NONE_OF_THESE, None)),
)
URGENCY = Question(
    "urgency",
    "score",
    "How urgent?",
    tuple(Option(n, i) for i, n in enumerate(["low", "mid", "high"])),
)
QUESTIONS = (SPAM, MOOD, URGENCY)


def answer(request: Asked) -> Answer:
    """A server that can do everything."""
    body = json.loads(request.content or b"{}")
    found: dict[str, Any]
    usage = {"input_tokens": 9, "output_tokens": 2, "prompt_tokens": 9, "completion_tokens": 2}
    match request.path:
        case "/v1/models":
            found = {"object": "list", "data": [{"id": "m", "owned_by": "me"}]}
        case "/v1/chat/completions" if body.get("stream"):
            end = {**piece(finish_reason="stop"), "usage": usage}
            return events(piece("good "), piece("morning"), end)
        case "/v1/chat/completions":
            return chat("good morning")
        case "/v1/embeddings":
            rows = [{"index": i, "embedding": [1.0, i]} for i in range(len(body["input"]))]
            found = {"model": "m", "data": rows[::-1], "usage": usage}
        case "/v1/systemone":
            uniform = {
                "spam": {"noul": 0.5},
                "mood": {"probabilities": {"happy": 0.25, "angry": 0.5, NONE_OF_THESE: 0.25}},
                "urgency": {"probabilities": {"0": 0.25, "1": 0.5, "2": 0.25}},
            }
            answers = {name: uniform[name.partition("_")[0]] for name in body["questions"]}
            found = {"model": "m", "answers": answers, "usage": usage}
        case path:
            raise AssertionError(path)
    return Answer(json=found)


def simulated() -> SimulatedEndpoint:
    def rule(text: str) -> Step:
        if text == "Good morning?":
            return "good morning"
        return {"spam": {"yes": 0.5}, "mood": {"angry": 0.5}, "urgency": {"mid": 0.5}}

    return SimulatedEndpoint(rule=rule)


class Renamed(Wrapping):
    """The same server as another replica."""

    @property
    def name(self) -> str:
        return "another"


WRAPPERS: dict[str, Callable[[Endpoint], Endpoint]] = {
    "retried": Retried,
    "limited": lambda inner: Limited(inner, concurrency=4),
    "cached": Cached,
    "fallback": lambda inner: Fallback(inner, simulated()),
    "replicas": lambda inner: Replicas("all", [inner, Renamed(inner)]),
}


KINDS = [
    "scripted",
    "openai",
    "client",
    *WRAPPERS,
    pytest.param("embedded", marks=pytest.mark.embedded),
]
VLLM_CONFIG = os.environ.get("MOA_VLLM_CONFIG")
"""Names the server that `.ci/vllm` starts."""
if VLLM_CONFIG:
    KINDS.append(pytest.param("vllm", marks=pytest.mark.vllm))


@pytest.fixture(scope="module")
def kept_engine() -> Iterator[None]:
    """Keeps the engine of the embedded endpoints running from one test to the next."""
    keeper = EmbeddedEndpoint()
    asyncio.run(keeper.start(RunContext()))
    yield
    asyncio.run(keeper.close())


def calls_of(endpoint: Endpoint, what: str) -> int:
    """How many requests a job takes: labels are read for one question at a time."""
    one_by_one = isinstance(endpoint, EmbeddedEndpoint | VLLMEndpoint) and what == "decide"
    return len(QUESTIONS) if one_by_one else 1


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    if request.param == "embedded":
        request.getfixturevalue("kept_engine")
    return request.param


@pytest.fixture
async def endpoint(kind: str, served: Served) -> AsyncIterator[Endpoint]:
    if kind in ("embedded", "vllm"):
        config = load(VLLM_CONFIG if kind == "vllm" else None)
        model = EmbeddedEndpoint() if kind == "embedded" else Endpoints(config).server("labels")
        yield model
        await model.close()
        return
    served.will(answer)
    real = OpenAIEndpoint("real", model="m", base_url="http://m.test/v1", capabilities=ALL)
    if kind == "client":
        address = f"http://127.0.0.1:{served.port}/v1"
        async with openai.AsyncOpenAI(base_url=address, api_key="key") as client:
            yield OpenAIEndpoint("real", model="m", capabilities=ALL, client=client)
        return
    match kind:
        case "scripted":
            yield simulated()
        case "openai":
            yield real
        case _:
            yield WRAPPERS[kind](real)
    await real.close()


async def asked(endpoint: Endpoint, what: str, context: RunContext) -> object:
    match what:
        case "complete":
            return await endpoint.complete(PROMPT, context)
        case "stream":
            return [part async for part in endpoint.stream(PROMPT, context)]
        case "decide":
            return await endpoint.decide("some text", QUESTIONS, context)
        case _:
            return await endpoint.embed(["a", "b"], context)


JOBS = ["complete", "stream", "decide", "embed"]


@pytest.fixture(params=JOBS)
def what(request: pytest.FixtureRequest, endpoint: Endpoint) -> str:
    if request.param not in endpoint.capabilities:
        pytest.skip(f"{endpoint.name} is a server that can't {request.param}")
    return request.param


def check(decision: Decision) -> None:
    """Every answer is a distribution over its own question's options."""
    assert [a.question for a in decision.answers] == list(QUESTIONS)
    for given in decision.answers:
        assert given.status == "answered"
        assert given.probabilities is not None
        assert len(given.probabilities) == len(given.question.options)
        assert all(0 <= p <= 1 for p in given.probabilities)
        assert math.isclose(sum(given.probabilities), 1)


async def test_a_call_is_charged_once_and_says_who_answered(endpoint: Endpoint, what: str) -> None:
    context = RunContext(node="work")
    await asked(endpoint, what, context)
    assert context.usage.calls == calls_of(endpoint, what)
    (part,) = context.usage.parts
    replicas = isinstance(endpoint, Replicas)
    name = endpoint.replicas[0].name if replicas else endpoint.name  # who answered is told
    assert (part.tier, part.node, part.endpoint) == (endpoint.tier, "work", name)
    if what != "embed":
        notes = [note.kind for note in context.trace if note.kind != "truncated"]  # at max_tokens
        assert notes == ["answered"]


async def test_nothing_is_sent_past_the_budget(endpoint: Endpoint, what: str) -> None:
    context = RunContext(budget=Budget(calls=0))
    with pytest.raises(BudgetExceeded):
        await asked(endpoint, what, context)
    assert context.usage.calls == 0


async def test_parallel_calls_cannot_pass_the_budget_together(
    endpoint: Endpoint, what: str
) -> None:
    context = RunContext(budget=Budget(calls=3))
    results = await asyncio.gather(
        *(asked(endpoint, what, context) for _ in range(8)), return_exceptions=True
    )
    failed = [result for result in results if isinstance(result, BudgetExceeded)]
    assert context.usage.calls <= 3
    if calls_of(endpoint, what) == 1:
        # What a cache asks for at once is one call.
        assert len(failed) == (5 if context.usage.calls == 3 else 0)
    else:
        assert len(failed) >= 7


async def test_a_deadline_that_has_passed_is_told(endpoint: Endpoint, what: str) -> None:
    with pytest.raises(DeadlineExceeded):
        await asked(endpoint, what, RunContext(timeout_s=0))


async def test_the_pieces_of_a_stream_are_the_whole_text(endpoint: Endpoint) -> None:
    *pieces, whole = [part async for part in endpoint.stream(PROMPT, RunContext())]
    assert isinstance(whole, Completion)
    assert "".join(map(str, pieces)) == whole.text
    assert whole.text == "good morning" or isinstance(endpoint, EmbeddedEndpoint | VLLMEndpoint)
    assert whole.amount.calls == 1


async def test_a_decision_is_a_distribution_for_each_question(endpoint: Endpoint) -> None:
    check(await endpoint.decide("some text", QUESTIONS, RunContext()))


async def test_a_vector_comes_for_each_text_in_order(endpoint: Endpoint) -> None:
    if "embed" not in endpoint.capabilities:
        pytest.skip(f"{endpoint.name} is a server that can't embed")
    found = await endpoint.embed(["a", "b"], RunContext())
    assert len(found.vectors) == 2
    if found.model == "m":
        assert found.vectors == ((1.0, 0.0), (1.0, 1.0))


@pytest.mark.parametrize("what", JOBS)
async def test_what_an_endpoint_can_t_do_it_refuses(what: str) -> None:
    nothing = frozenset[str]()
    for endpoint in (
        SimulatedEndpoint(capabilities=frozenset()),
        OpenAIEndpoint("x", model="m", base_url="http://m.test/v1", capabilities=()),
    ):
        assert endpoint.capabilities == nothing
        with pytest.raises(CapabilityError):
            await asked(endpoint, what, RunContext())


# Real servers of other makers


@pytest.fixture(scope="module")
def jev() -> Iterator[str]:
    with server("jevcompat.cli", "mock") as url:
        yield url


@pytest.fixture(scope="module")
def sparrow() -> Iterator[str]:
    with server("sparrow_decider.cli", "serve") as url:
        yield url


@pytest.mark.parametrize("which", ["jev", "sparrow"])
@pytest.mark.parametrize("decides", ["auto", "systemone"])
async def test_a_real_server_decides(
    which: str, decides: str, request: pytest.FixtureRequest
) -> None:
    url: str = request.getfixturevalue(which)
    endpoint = OpenAIEndpoint("real", model="jev-latest", base_url=url, decides=decides)  # pyright: ignore[reportArgumentType]
    context = RunContext()
    decision = await endpoint.decide("Where is my money?", QUESTIONS, context)
    check(decision)
    assert decision.model != "jev-latest"
    assert context.usage.calls == 1
    await endpoint.close()


async def test_a_real_small_decider_tells_topics_apart(sparrow: str) -> None:
    card = Option("card", "card", "a lost or stolen bank card")
    topic = Question("topic", "choice", "What?", (card, Option("app", "app", "the app crashes")))
    async with OpenAIEndpoint("s", model="nano", base_url=sparrow, decides="systemone") as endpoint:
        picked = [
            (await endpoint.decide(text, [topic], RunContext())).answers[0].best
            for text in ("I lost my card, it was stolen.", "The app crashes when I log in.")
        ]
    assert picked == [0, 1]


READ_ANYWAY = """
    nfd-keys no-usage float-usage extra-answer boolean-type nan choice-no-confidence choice-key-case
    choice-second score-no-legend legend-1-based score-argmax confidence-over plain-content-type
"""
"""Breakages that do not reach the probabilities."""
GARBLED = ["xssi-200", "noul-range", "choice-sum", "score-keys-1-based", "score-sum"]


@pytest.mark.parametrize("fault", READ_ANYWAY.split())
async def test_what_does_not_reach_the_probabilities_does_no_harm(fault: str) -> None:
    check(await faulty(fault))


@pytest.mark.parametrize("fault", GARBLED)
async def test_broken_probabilities_are_refused(fault: str) -> None:
    with pytest.raises(InvalidResponse):
        await faulty(fault)


async def test_a_question_that_a_server_forgets_is_missing() -> None:
    decision = await faulty("first-question-only")
    assert [answer.status for answer in decision.answers] == ["answered", "missing", "missing"]


@pytest.mark.parametrize(
    ("fault", "kind"), [("wrong-route", EndpointUnsupported), ("reject-jev-latest", EndpointError)]
)
async def test_a_server_that_refuses_is_told(fault: str, kind: type[EndpointError]) -> None:
    with pytest.raises(kind):
        await faulty(fault)


async def faulty(fault: str) -> Decision:
    with server("jevcompat.cli", "mock", "--fault", fault) as url:
        async with OpenAIEndpoint(
            "jev", model="jev-latest", base_url=url, decides="systemone"
        ) as jev:
            return await jev.decide("Where is my money?", QUESTIONS, RunContext())


async def test_it_is_closed_at_the_end_of_an_async_with_and_may_be_again(
    endpoint: Endpoint,
) -> None:
    assert isinstance(endpoint, EndpointBase)
    async with endpoint as same:
        assert same is endpoint
    await endpoint.close()
