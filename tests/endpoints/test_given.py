"""A client of OpenAI's library sends what an endpoint asks; see also the conformance tests."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any, cast

import httpx2
import openai
import pytest
from openai._models import FinalRequestOptions
from tenacity import stop_after_attempt, wait_none

import moa
from moa.core.budget import Budget
from moa.core.context import RunContext
from moa.core.errors import (
    BudgetExceeded,
    ConfigError,
    DeadlineExceeded,
    EndpointError,
    EndpointRejected,
    EndpointTimeout,
    EndpointUnavailable,
    InvalidResponse,
    OutputError,
)
from moa.endpoints import Endpoint, Prompt, ToolSchema, wire
from moa.endpoints.dialects import OPENAI
from moa.endpoints.named import as_endpoint
from moa.endpoints.openai import OpenAIEndpoint
from moa.endpoints.retries import Retried
from moa.endpoints.wrappers import innermost

from .conftest import (
    LOST,
    REFUSED,
    Answer,
    Ask,
    Served,
    both_ways,
    chat,
    completed,
    events,
    piece,
    streamed,
)
from .test_faulty_servers import FAULTS
from .test_vllm import LAST, TOPIC, FakeVLLM

KEY = "sk-very-secret"
PROMPT = Prompt.of("Hello?", max_tokens=32)


class Counting(openai.AsyncOpenAI):
    """Counts its requests, and takes an argument of its own."""

    def __init__(self, counter: list[str], **settings: Any) -> None:
        super().__init__(**settings)
        self.counter = counter

    async def _prepare_options(self, options: FinalRequestOptions) -> FinalRequestOptions:
        self.counter.append(options.url)
        return options


@pytest.fixture
async def client(served: Served) -> AsyncIterator[Counting]:
    address = f"http://127.0.0.1:{served.port}/v1"
    async with Counting([], base_url=address, api_key=KEY) as made:
        yield made


@pytest.fixture
def endpoint(client: Counting) -> OpenAIEndpoint:
    return OpenAIEndpoint("writer", model="m", client=client)


@both_ways
@FAULTS
async def test_a_fault_is_named_as_that_of_the_pool_is(
    served: Served,
    endpoint: OpenAIEndpoint,
    client: Counting,
    ask: Ask,
    answer: Answer,
    kind: type[EndpointError],
    words: str,
) -> None:
    served.will(answer)
    if answer is REFUSED:
        client.base_url = "http://127.0.0.1:9/v1"
    if answer.stuck:
        endpoint.client.timeout_s = 0.1
    context = RunContext()
    with pytest.raises(EndpointError) as caught:
        await ask(endpoint, PROMPT, context)
    assert type(caught.value) is kind
    assert words.replace("0.05", "0.1") in str(caught.value)
    assert context.usage.calls == len(client.counter) == 1


@both_ways
async def test_who_asks_again_is_the_wrapper_and_the_client_sees_each_request(
    served: Served, endpoint: OpenAIEndpoint, client: Counting, ask: Ask
) -> None:
    served.will(Answer(500))
    assert client.max_retries > 0
    with pytest.raises(EndpointUnavailable):
        await ask(endpoint, PROMPT, RunContext())
    assert len(served.requests) == 1
    again = Retried(endpoint, stop=stop_after_attempt(4), wait=wait_none())
    with pytest.raises(EndpointUnavailable, match="4 tries"):
        await ask(again, PROMPT, RunContext())
    assert len(served.requests) == len(client.counter) == 5


async def test_what_is_sent_and_charged_is_what_the_pool_sends_and_charges(
    served: Served, endpoint: OpenAIEndpoint
) -> None:
    tool = ToolSchema("look", "Looks.", {"type": "object", "properties": {}})
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    prompt = Prompt(messages=PROMPT.messages, tools=(tool,), temperature=0.5, stop=("x",))
    schema = Prompt.of("Hello?", json_schema={"type": "object", "properties": {}})
    served.will(chat(None, tool_calls=[call]))
    pooled = OpenAIEndpoint("writer", model="m", base_url="http://model.test/v1")
    for asked in (prompt, schema):
        found: list[object] = []
        for one in (endpoint, pooled):
            context = RunContext()
            if asked is schema:
                served.will(chat("{}"))
            answer = await one.complete(asked, context)
            total = context.usage.total
            found.append((answer.text, answer.tool_calls, total.input_tokens, total.tokens))
        assert found[0] == found[1]
        assert served.bodies[-1] == served.bodies[-2]
    await pooled.close()


async def test_an_answer_that_was_cut_is_charged_and_said(
    served: Served, endpoint: OpenAIEndpoint
) -> None:
    served.will(chat(None, finish_reason="length"))
    context = RunContext()
    with pytest.raises(OutputError, match="max_tokens"):
        await endpoint.complete(PROMPT, context)
    assert context.usage.output_tokens == 4


async def test_labels_are_read_from_log_probabilities(served: Served, client: Counting) -> None:
    served.will(FakeVLLM({LAST: {" card": 0.6, " app": 0.2}}))
    judge = OpenAIEndpoint("judge", model="smollm2-135m", client=client)
    (answer,) = (await judge.decide("Help", [TOPIC], RunContext())).answers
    assert answer.probabilities == pytest.approx((0.75, 0.25))
    assert {"/v1/models", "/v1/systemone", "/tokenize"} <= set(served.paths)


@pytest.mark.parametrize("deployed", [True, False])
async def test_a_deployment_of_azure_is_asked_by_its_client(served: Served, deployed: bool) -> None:
    served.will(chat("hello"))
    async with openai.AsyncAzureOpenAI(
        azure_endpoint=f"http://127.0.0.1:{served.port}",
        azure_deployment="mine" if deployed else None,
        api_version="2026-01-01",
        api_key=KEY,
    ) as client:
        large = OpenAIEndpoint("large", model="mine", client=client)
        assert (await large.complete(PROMPT, RunContext())).text == "hello"
        assert large.dialect is OPENAI
        served.will(Answer(401, json={"error": {"message": f"No: {KEY}"}}))
        with pytest.raises(EndpointRejected, match=r"\*\*\*") as caught:
            await large.complete(PROMPT, RunContext())
        assert KEY not in str(caught.value)
    assert served.paths[0] == "/openai/deployments/mine/chat/completions"
    assert served.requests[0].headers["api-key"] == KEY


@both_ways
async def test_a_key_that_the_client_gets_at_each_call_is_shown_by_nobody(
    served: Served, ask: Ask
) -> None:
    async def key() -> str:
        return "fresh-secret-1"

    served.will(Answer(401, json={"error": {"message": "No: fresh-secret-1"}}))
    address = f"http://127.0.0.1:{served.port}/v1"
    async with openai.AsyncOpenAI(base_url=address, api_key=key) as client:
        large = OpenAIEndpoint("large", model="m", client=client)
        with pytest.raises(EndpointRejected, match=r"\*\*\*") as caught:
            await ask(large, PROMPT, RunContext())
    assert "fresh" not in str(caught.value)


@both_ways
async def test_a_token_that_the_client_of_azure_gets_is_shown_by_nobody(
    served: Served, ask: Ask
) -> None:
    async def token() -> str:
        return "fresh-secret-1"

    served.will(Answer(401, json={"error": {"message": "No: fresh-secret-1"}}))
    async with openai.AsyncAzureOpenAI(
        azure_endpoint=f"http://127.0.0.1:{served.port}",
        api_version="2026-01-01",
        azure_ad_token_provider=token,
    ) as client:
        large = OpenAIEndpoint("large", model="m", client=client)
        with pytest.raises(EndpointRejected, match=r"\*\*\*") as caught:
            await ask(large, PROMPT, RunContext())
    assert "fresh" not in str(caught.value)


async def test_a_password_in_its_address_is_shown_by_nobody(served: Served) -> None:
    served.will(Answer(text="<p>no"))
    address = f"http://user:word@127.0.0.1:{served.port}/v1?secret=1"
    async with openai.AsyncOpenAI(base_url=address, api_key=KEY) as client:
        large = OpenAIEndpoint("large", model="m", client=client)
        with pytest.raises(InvalidResponse) as caught:
            await large.complete(PROMPT, RunContext())
    for shown in (repr(large), str(caught.value)):
        assert "word" not in shown
        assert "secret" not in shown


async def test_its_own_http_client_and_its_time_are_kept(served: Served) -> None:
    seen: list[str] = []

    async def see(request: httpx2.Request) -> None:
        seen.append(request.headers["x-team"])

    async with httpx2.AsyncClient(event_hooks={"request": [see]}, timeout=0.1) as http:
        client = openai.AsyncOpenAI(
            base_url=f"http://127.0.0.1:{served.port}/v1",
            api_key=KEY,
            default_headers={"x-team": "support"},
            http_client=http,
        )
        large = OpenAIEndpoint("large", model="m", client=client)
        served.will(Answer(stuck=True))
        context = RunContext()
        with pytest.raises(EndpointTimeout):
            await large.complete(PROMPT, context)
    assert seen == ["support"]
    assert context.usage.output_tokens == PROMPT.max_tokens  # it may have been answered


@both_ways
async def test_what_was_lost_after_it_was_sent_is_charged_as_estimated(
    served: Served, endpoint: OpenAIEndpoint, ask: Ask
) -> None:
    served.will(LOST)
    context = RunContext()
    with pytest.raises(EndpointUnavailable):
        await ask(endpoint, PROMPT, context)
    assert context.usage.output_tokens == PROMPT.max_tokens


async def test_a_stream_that_is_cut_in_the_middle_is_an_error(
    served: Served, endpoint: OpenAIEndpoint
) -> None:
    served.will(events(piece("Good "), done=False, cut=True))
    pieces = endpoint.stream(PROMPT, RunContext())
    assert await anext(pieces) == "Good "
    with pytest.raises((EndpointUnavailable, InvalidResponse)):
        await anext(pieces)


@both_ways
async def test_what_is_larger_than_an_answer_may_be_is_not_read_on(
    served: Served, endpoint: OpenAIEndpoint, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "LARGEST_ANSWER", 1000)
    served.will(Answer(text=" " * 5000))
    with pytest.raises(InvalidResponse):
        await ask(endpoint, PROMPT, RunContext())


async def test_a_redirect_is_not_followed(served: Served, endpoint: OpenAIEndpoint) -> None:
    served.will(Answer(307, headers={"location": f"http://127.0.0.1:{served.port}/other"}))
    with pytest.raises(EndpointRejected):
        await endpoint.complete(PROMPT, RunContext())
    assert len(served.requests) == 1


@pytest.mark.parametrize("raised", ["the vault is shut", "Event loop is closed"])
async def test_a_client_that_can_t_even_ask_is_an_error_that_says_so(
    served: Served, raised: str
) -> None:
    async def no_key() -> str:
        raise RuntimeError(raised)

    address = f"http://127.0.0.1:{served.port}/v1"
    async with openai.AsyncOpenAI(base_url=address, api_key=no_key) as client:
        with pytest.raises(EndpointRejected, match=raised):
            await OpenAIEndpoint("e", model="m", client=client).complete(PROMPT, RunContext())


async def test_budget_and_deadline_hold(served: Served, endpoint: OpenAIEndpoint) -> None:
    served.will(Answer(stuck=True))
    with pytest.raises(DeadlineExceeded):
        await endpoint.complete(PROMPT, RunContext(timeout_s=0.1))
    with pytest.raises(BudgetExceeded):
        await endpoint.complete(PROMPT, RunContext(budget=Budget(calls=0)))
    assert len(served.requests) == 1


async def test_no_request_is_sent_before_its_limit_is_renewed(
    served: Served, endpoint: OpenAIEndpoint
) -> None:
    made = chat()
    used = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "150ms"}
    served.will(Answer(text=made.text, headers=used), made)
    await endpoint.complete(PROMPT, RunContext())
    context = RunContext()
    start = asyncio.get_running_loop().time()
    await endpoint.complete(PROMPT, context)
    assert asyncio.get_running_loop().time() - start > 0.12
    assert [note.kind for note in context.trace] == ["waited", "answered"]


async def test_half_of_a_surrogate_pair_is_sent_as_no_letter(
    served: Served, endpoint: OpenAIEndpoint
) -> None:
    served.will(chat())
    await completed(endpoint, Prompt.of("half \ud83d of it"), RunContext())
    assert served.bodies[0]["messages"][0]["content"] == "half \ufffd of it"


async def test_closing_leaves_the_client_open(
    served: Served, endpoint: OpenAIEndpoint, client: Counting
) -> None:
    served.will(events(piece("hello"), piece(finish_reason="stop")))
    async with endpoint:
        await streamed(endpoint, PROMPT, RunContext())
    assert not client.is_closed()
    assert len(await streamed(endpoint, PROMPT, RunContext())) == 2
    assert len({request.peer for request in served.requests}) == 1  # a stream's connection is kept


@pytest.mark.parametrize("beside", [{"base_url": "http://m.test/v1"}, {"api_key": "sk-1"}])
async def test_an_address_and_a_key_are_the_clients(
    client: Counting, beside: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match="of its own"):
        OpenAIEndpoint("e", model="m", client=client, **beside)
    with pytest.raises(ConfigError, match="AsyncOpenAI"):
        OpenAIEndpoint("e", model="m", client=cast("Any", openai.OpenAI(api_key=KEY)))


async def test_a_client_and_a_model_are_an_endpoint(served: Served, client: Counting) -> None:
    served.will(chat("hello"))
    large = moa.endpoint(client, model="m", tier="slm")
    assert isinstance(large, Retried)
    assert (large.name, large.tier, large.price.known) == ("m", "slm", False)
    assert (await large.complete(PROMPT, RunContext())).text == "hello"
    there = openai.AsyncOpenAI(base_url="https://api.openai.com/v1", api_key=KEY)
    hosted = moa.endpoint(there, model="gpt-5-mini", name="large")
    assert hosted.price.known
    assert cast("OpenAIEndpoint", innermost(hosted)).dialect is OPENAI
    with pytest.raises(ConfigError, match="model=…"):
        moa.endpoint(client)
    with pytest.raises(ConfigError, match="model=…"):
        as_endpoint(cast("Endpoint", client))
    with pytest.raises(ConfigError):
        moa.endpoint("embedded", model="m")


def test_nothing_else_loads_the_library(tmp_path: Any) -> None:
    script = """
import asyncio, sys
import moa.core.errors
endpoint = moa.endpoint("openai:m@http://127.0.0.1:9/v1")
assert "openai" not in sys.modules
try:
    moa.Agent(endpoint.endpoint, "Greet.").run_sync("Hi")
except moa.core.errors.EndpointUnavailable:
    pass
assert "aiohttp" in sys.modules and "openai" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path)
