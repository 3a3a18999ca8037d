"""Chat completions: what the official SDK sends and reads, and what is refused."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.testclient import TestClient

from moa import Agent, Classifier, Decider, Filter, Graph, Node, Predicate, choice, predicate
from moa.agents.base import TypedNode
from moa.chat.graph import Chat
from moa.config.endpoints import Endpoints
from moa.core.context import RunContext
from moa.core.messages import ToolCall
from moa.core.node import Reply
from moa.core.questions import Choice
from moa.core.usage import Price
from moa.guards.guarded import Guarded
from moa.serving.app import serve
from moa.testing import ScriptedEndpoint, SimulatedEndpoint, SimulatedRequest

from .harness import listening

PIXEL = "data:image/png;base64," + base64.b64encode(b"\x89PNG....").decode()
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Look up the weather of a town.",
        "parameters": {
            "type": "object",
            "properties": {"town": {"type": "string"}},
            "required": ["town"],
        },
    },
}


def app_of(*nodes: Node[Any, Any]) -> Starlette:
    return serve(*nodes, endpoints=Endpoints.of(small=SimulatedEndpoint()))


@asynccontextmanager
async def sdk(app: Starlette) -> AsyncGenerator[openai.AsyncOpenAI]:
    """Serve an application, and give the official client of it."""
    async with (
        listening(app) as url,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client,
    ):
        yield client


@pytest.fixture
def ask() -> Iterator[Callable[..., Any]]:
    """Posts a chat request about a node, and gives the response."""
    open_clients: list[TestClient] = []

    def post(node: Node[Any, Any], messages: Any = "Hi", **more: Any) -> Any:
        client = TestClient(app_of(node), base_url="http://localhost")
        open_clients.append(client.__enter__())
        told = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
        body = {"model": node.name, "messages": told, **more}
        return client.post("/v1/chat/completions", json=body)

    yield post
    for client in open_clients:
        client.__exit__()


def said(response: Any) -> str:
    assert response.status_code == 200, response.text
    content: str = response.json()["choices"][0]["message"]["content"]
    return content


def echo(name: str = "echo") -> Agent[Any, Reply]:
    return Agent(SimulatedEndpoint(rule=lambda text: text), "Repeat.", name=name, tag="")


class Order(BaseModel):
    item: str
    count: int


# -- with the official SDK


@pytest.fixture
def writer() -> ScriptedEndpoint:
    return ScriptedEndpoint(
        ["It comes on Friday."], price=Price(input=Decimal(1), output=Decimal(2))
    )


async def test_the_official_sdk_reads_an_answer_and_what_it_cost(writer: ScriptedEndpoint) -> None:
    async with sdk(app_of(Agent(writer, "Answer.", name="greeter"))) as client:
        found = await client.chat.completions.create(
            model="greeter", messages=[{"role": "user", "content": "When?"}]
        )
    assert found.choices[0].message.content == "It comes on Friday."
    assert found.choices[0].finish_reason == "stop"
    assert (found.object, found.model) == ("chat.completion", "greeter")
    assert found.usage is not None
    assert found.usage.total_tokens == found.usage.prompt_tokens + found.usage.completion_tokens
    assert found.usage.model_extra == {"cost": pytest.approx(2e-05)}


async def test_the_official_sdk_streams_text_as_it_comes_and_the_usage_last() -> None:
    writer = ScriptedEndpoint(["It comes on Friday."], piece_s=0.01)
    async with sdk(app_of(Agent(writer, "Answer.", name="greeter"))) as client:
        stream = await client.chat.completions.create(
            model="greeter",
            messages=[{"role": "user", "content": "When?"}],
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
    texts = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    assert "".join(text or "" for text in texts) == "It comes on Friday."
    assert len([text for text in texts if text]) > 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]][-1] == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert {chunk.id for chunk in chunks} == {chunks[0].id}


async def test_the_official_sdk_parses_a_structured_answer() -> None:
    writer = ScriptedEndpoint([Order(item="pens", count=3)])
    async with sdk(app_of(Agent(writer, "Find the order.", name="orders"))) as client:
        found = await client.chat.completions.parse(
            model="orders",
            messages=[{"role": "user", "content": "Three pens, please."}],
            response_format=Order,
        )
    assert found.choices[0].message.parsed == Order(item="pens", count=3)
    assert writer.prompts[0].json_schema is not None


async def test_the_official_sdk_has_its_own_tools_called() -> None:
    writer = ScriptedEndpoint([ToolCall.of("weather", town="Bergen"), "It rains."])
    async with sdk(app_of(Agent(writer, "Answer.", name="greeter"))) as client:
        messages: list[Any] = [{"role": "user", "content": "Bergen?"}]
        first = await client.chat.completions.create(
            model="greeter", messages=messages, tools=[WEATHER]
        )
        asked = first.choices[0].message
        assert first.choices[0].finish_reason == "tool_calls"
        (call,) = asked.tool_calls or []
        assert call.type == "function"
        assert json.loads(call.function.arguments) == {"town": "Bergen"}
        messages += [
            asked.model_dump(exclude_none=True),
            {"role": "tool", "tool_call_id": call.id, "content": "rain, 9 degrees"},
        ]
        second = await client.chat.completions.create(
            model="greeter", messages=messages, tools=[WEATHER]
        )
    assert second.choices[0].message.content == "It rains."
    roles = [message.role for message in writer.prompts[1].messages]
    assert roles == ["system", "user", "assistant", "tool"]
    assert "rain, 9 degrees" in writer.prompts[1].messages[-1].content


async def test_the_official_sdk_raises_what_went_wrong_in_the_middle_of_a_stream() -> None:
    def rule(text: str) -> str:
        raise openai.OpenAIError("nobody expects it")

    async with sdk(
        app_of(Agent(SimulatedEndpoint(rule=rule), "Answer.", name="greeter"))
    ) as client:
        stream = await client.chat.completions.create(
            model="greeter", messages=[{"role": "user", "content": "?"}], stream=True
        )
        with pytest.raises(openai.APIError, match="fault"):
            _ = [chunk async for chunk in stream]


# -- what a node is given


def test_an_agent_reads_the_whole_conversation(ask: Callable[..., Any]) -> None:
    writer = ScriptedEndpoint(["Ada."])
    conversation = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "I am Ada."}]},
        {"role": "assistant", "content": "Hello, Ada."},
        {"role": "user", "content": "Who am I?"},
    ]
    assert said(ask(Agent(writer, "Talk.", name="talker", tag=""), conversation)) == "Ada."
    assert [(one.role, one.content) for one in writer.prompts[0].messages] == [
        ("system", "Talk.\n\nBe brief."),
        ("user", "I am Ada."),
        ("assistant", "Hello, Ada."),
        ("user", "Who am I?"),
    ]


def test_a_chat_reads_the_whole_conversation_and_keeps_none_of_it(
    ask: Callable[..., Any],
) -> None:
    large = ScriptedEndpoint(["Ada."], name="large", tier="llm")
    chat = Chat(slm=large, llm=large, store=":memory:")
    conversation = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "I am Ada."},
        {"role": "assistant", "content": "Hello, Ada."},
        {"role": "user", "content": "Who am I?"},
    ]
    assert said(ask(chat, conversation)) == "Ada."
    told = [(one.role, one.content) for one in large.prompts[0].messages]
    assert "Be brief." in told[0][1]
    assert told[1:] == [
        ("user", "I am Ada."),
        ("assistant", "Hello, Ada."),
        ("user", "Who am I?"),
    ]
    assert asyncio.run(chat.threads.list()) == ()


def test_any_other_node_is_given_the_last_message(ask: Callable[..., Any]) -> None:
    g = Graph("shout", str)
    graph = g.build(g.add(str.upper, g.input))
    conversation = [
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "FIRST"},
        {"role": "user", "content": "second"},
    ]
    assert said(ask(graph, conversation)) == "SECOND"


def test_a_node_that_takes_an_object_reads_the_message_as_json(ask: Callable[..., Any]) -> None:
    class Ship(TypedNode[Order, Reply]):
        async def answer(self, request: Order, context: RunContext) -> Reply:
            return Reply(text=f"{request.count} {request.item}")

    assert said(ask(Ship(), json.dumps({"item": "pens", "count": 3}))) == "3 pens"
    assert ask(Ship(), "three pens").status_code == 400
    assert ask(Ship(), json.dumps({"item": "pens"})).status_code == 400


def test_an_agent_whose_model_sees_is_shown_images_of_the_client(ask: Callable[..., Any]) -> None:
    writer = ScriptedEndpoint(["A pixel."])
    parts = [
        {"type": "text", "text": "What is it?"},
        {"type": "image_url", "image_url": {"url": PIXEL}},
    ]
    shown = [{"role": "user", "content": parts}]
    assert said(ask(Agent(writer, "Look.", name="eye"), shown)) == "A pixel."
    assert [file.url for file in writer.prompts[0].messages[-1].files] == [PIXEL]
    blind = ScriptedEndpoint(["?"], capabilities=frozenset({"complete"}))
    assert ask(Agent(blind, "Look.", name="blind"), shown).status_code == 400


def test_no_address_of_the_client_is_fetched_for_it(ask: Callable[..., Any]) -> None:
    parts = [{"type": "image_url", "image_url": {"url": "http://169.254.169.254/latest"}}]
    refused = ask(echo(), [{"role": "user", "content": parts}])
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "messages[0]")


# -- what comes out


def topic(probabilities: dict[str, float] | None = None) -> Classifier[str]:
    small = SimulatedEndpoint(rule=lambda _: {"topic": probabilities or {"card": 0.9}})
    return Classifier(small, ["card", "app"], name="topic")


class Triage(BaseModel):
    refund: Predicate = predicate("Does the customer ask for money back?")
    topic: Choice[Literal["card", "app"]] = choice("What is it about?")


def triage() -> Decider[Triage]:
    asked = {"refund": {"yes": 0.9}, "topic": {"card": 0.8}}
    return Decider(SimulatedEndpoint(rule=lambda _: asked), Triage, name="triage")


def test_an_agent_that_decides_says_its_label(ask: Callable[..., Any]) -> None:
    assert said(ask(topic(), "My card is gone.")) == "card"
    assert json.loads(said(ask(triage()))) == {"refund": "yes", "topic": "card"}
    spam = Filter(SimulatedEndpoint(rule=lambda _: {"filter": {"yes": 0.9}}), "spam", action="drop")
    assert said(ask(spam)) == "dropped"


def test_the_headers_say_how_sure_a_label_is(ask: Callable[..., Any]) -> None:
    assert ask(topic(), "My card is gone.").headers["x-moa-confidence"] == "0.9000"


@pytest.mark.parametrize(
    ("fields", "given"),
    [
        ({"label": {"enum": ["card", "app"]}}, {"label": "card"}),
        ({"topic": {"enum": ["card", "app"]}}, {"topic": "card"}),
    ],
)
def test_a_label_is_given_in_the_clients_schema(
    ask: Callable[..., Any], fields: Any, given: Any
) -> None:
    schema = {"type": "object", "properties": fields, "required": [*fields]}
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    assert json.loads(said(ask(topic(), response_format=wanted))) == given


def test_what_was_decided_is_given_as_values_where_the_schema_wants_these(
    ask: Callable[..., Any],
) -> None:
    fields = {"refund": {"type": "boolean"}, "topic": {"type": "string"}}
    schema = {
        "type": "object",
        "properties": fields,
        "required": [*fields],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    given = said(ask(triage(), response_format=wanted))
    assert json.loads(given) == {"refund": True, "topic": "card"}


def test_a_schema_that_no_output_fits_is_refused_before_anybody_is_asked(
    ask: Callable[..., Any],
) -> None:
    small = SimulatedEndpoint(rule=lambda _: {"topic": {"card": 0.9}})
    schema = {"type": "object", "properties": {"price": {"type": "number"}}, "required": ["price"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    node = Classifier(small, ["card", "app"], name="topic")
    assert ask(node, response_format=wanted).status_code == 400
    assert small.states == []


def test_an_answer_that_breaks_the_clients_schema_is_written_anew(ask: Callable[..., Any]) -> None:
    writer = ScriptedEndpoint(['{"n": "three"}', '{"n": 3}'])
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    node = Agent(writer, "Count.", name="counter")
    assert json.loads(said(ask(node, response_format=wanted))) == {"n": 3}


def test_what_max_tokens_cut_says_so(ask: Callable[..., Any]) -> None:
    class Cut(ScriptedEndpoint):
        async def complete(self, prompt: Any, context: RunContext, /) -> Any:
            whole = await super().complete(prompt, context)
            return type(whole)(
                text=whole.text,
                endpoint=whole.endpoint,
                model=whole.model,
                amount=whole.amount,
                finish_reason="length",
            )

    writer = Cut(["It comes on"])
    found = ask(Agent(writer, "Answer.", name="greeter"), max_completion_tokens=3)
    assert found.json()["choices"][0]["finish_reason"] == "length"
    assert writer.prompts[0].max_tokens == 3


def test_what_a_guard_stops_is_said_to_be_filtered(ask: Callable[..., Any]) -> None:
    small = SimulatedEndpoint(rule=lambda _: {"filter": {"yes": 0.9}})
    spam = Filter(small, "spam", action="drop")
    found = ask(Guarded(node=echo(), before=[spam], name="guarded"))
    assert found.json()["choices"][0]["finish_reason"] == "content_filter"


def test_a_stream_holds_no_text_that_a_graph_wrote_on_the_way() -> None:
    draft = Agent(ScriptedEndpoint(["a draft of it"]), "Draft.", name="draft")
    final = Agent(ScriptedEndpoint(["the final text"]), "Finish.", name="final")
    g = Graph("write", str)
    graph = g.build(g.add(final, g.add(draft, g.input)))
    with TestClient(app_of(graph), base_url="http://localhost") as client:
        body = {"model": "write", "messages": [{"role": "user", "content": "?"}], "stream": True}
        lines = client.post("/v1/chat/completions", json=body).text.splitlines()
    sent = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    assert sent[-1] == "[DONE]"
    deltas = [json.loads(one)["choices"][0]["delta"] for one in sent[:-1]]
    assert "".join(delta.get("content") or "" for delta in deltas) == "the final text"


# -- tools


def test_a_tool_that_has_to_be_called_is_the_only_form_that_a_model_is_shown(
    ask: Callable[..., Any],
) -> None:
    def rule(text: str, asked: SimulatedRequest) -> str:
        assert asked.schema is not None
        assert "answer" not in json.dumps(asked.schema)
        return json.dumps({"tool": "weather", "arguments": {"town": "Bergen"}})

    node = Agent(SimulatedEndpoint(rule=rule), "Answer.", name="greeter")
    for tool_choice in ("required", {"type": "function", "function": {"name": "weather"}}):
        found = ask(node, tools=[WEATHER], tool_choice=tool_choice).json()["choices"][0]
        assert found["message"]["tool_calls"][0]["function"]["name"] == "weather"


def test_a_client_may_have_one_call_at_a_time(ask: Callable[..., Any]) -> None:
    both = [ToolCall.of("weather", town=town) for town in ("Bergen", "Oslo")]
    node = Agent(ScriptedEndpoint([both]), "Answer.", name="greeter")
    found = ask(node, tools=[WEATHER], parallel_tool_calls=False).json()["choices"][0]
    assert len(found["message"]["tool_calls"]) == 1


def test_a_result_without_its_call_is_told_in_words(ask: Callable[..., Any]) -> None:
    writer = ScriptedEndpoint(["It rains."])
    result = {"role": "tool", "tool_call_id": "lost", "content": "rain, 9 degrees"}
    conversation = [{"role": "user", "content": "Bergen?"}, result]
    assert said(ask(Agent(writer, "Answer.", name="greeter"), conversation, tools=[WEATHER]))
    told = writer.prompts[0].messages
    assert [one.role for one in told] == ["system", "user"]
    assert "rain, 9 degrees" in told[-1].content


def test_tools_are_refused_where_no_single_agent_would_call_them(ask: Callable[..., Any]) -> None:
    def own(town: str) -> str:
        """Look up a town."""
        return town

    tooled = Agent(ScriptedEndpoint(["?"]), "Answer.", name="greeter", tools=[own])
    for node in (topic(), tooled):
        assert ask(node, tools=[WEATHER]).status_code == 400


# -- what is refused


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"n": 2}, "n"),
        ({"top_p": 0.5}, "top_p"),
        ({"logprobs": True}, "logprobs"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"chat_template_kwargs": {}}, "chat_template_kwargs"),
        ({"stream": "yes"}, "stream"),
    ],
)
def test_what_would_change_the_answer_is_refused_by_name(
    ask: Callable[..., Any], more: Any, param: str
) -> None:
    refused = ask(echo(), **more)
    error = refused.json()["error"]
    assert (refused.status_code, error["type"]) == (400, "invalid_request_error")
    assert error["param"].split(".")[0].split("[")[0] == param


def test_what_changes_nothing_is_ignored(ask: Callable[..., Any]) -> None:
    harmless: Any = {
        "user": "ann",
        "metadata": {"a": "b"},
        "store": False,
        "seed": 7,
        "n": 1,
        "top_p": 1,
        "logprobs": None,
        "stop": None,
        "service_tier": "auto",
        "presence_penalty": 0,
        "response_format": {"type": "text"},
        "tools": [],
    }
    assert said(ask(echo(), **harmless)) == "Hi"
    assert said(ask(topic(), **harmless, temperature=0, max_tokens=5)) == "card"


CONVERSATIONS: list[Any] = [
    [],
    [{"role": "user"}, 5],
    [{"role": "wizard", "content": "Hi"}],
    [{"role": "user", "content": 5}],
    [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}],
    [{"role": "user", "content": [{"type": "image_url"}]}],
    [{"role": "user", "content": " "}],
    [{"role": "user", "content": "Hi"}, {"role": "tool", "tool_call_id": {}, "content": "?"}],
    [{"role": "system", "content": "Hi"}],
    [{"role": "user", "content": "Hi"}] * 2049,
]


@pytest.mark.parametrize("content", [" ", 5, [{"type": "text"}]])
def test_the_place_of_a_fault_is_one_in_the_request(ask: Callable[..., Any], content: Any) -> None:
    refused = ask(echo(), [{"role": "user", "content": content}]).json()
    place = "messages[0].content" + ("[0].text" if isinstance(content, list) else "")
    assert refused["error"]["param"] == place
    assert refused["detail"][0]["loc"] == ["body", "messages", 0, "content"]


@pytest.mark.parametrize("messages", CONVERSATIONS)
def test_no_conversation_is_refused(ask: Callable[..., Any], messages: Any) -> None:
    assert ask(echo(), messages).status_code == 400


def test_a_model_that_is_not_served_is_not_found(ask: Callable[..., Any]) -> None:
    refused = ask(echo(), model="../../etc/passwd\u202e{}")
    assert refused.status_code == 404
    assert refused.json()["error"]["code"] == "model_not_found"


SCHEMAS: list[Any] = [
    {"$ref": "https://example.org/schema.json"},
    {"$ref": "#"},
    {"type": "object", "patternProperties": {"^(a+)+$": {}}},
    {"type": 5},
    {
        "$defs": {
            str(place): {"allOf": [{"$ref": f"#/$defs/{place + 1}"}] * 2} for place in range(40)
        }
        | {"40": {}},
        "$ref": "#/$defs/0",
    },
]


@pytest.mark.parametrize("schema", SCHEMAS)
def test_a_schema_can_neither_fetch_nor_go_on_for_ever(
    ask: Callable[..., Any], schema: Any
) -> None:
    node = Agent(ScriptedEndpoint(['{"a": 1}', '{"a": 1}']), "Answer.", name="greeter")
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    assert ask(node, response_format=wanted).status_code in (400, 502)


def test_a_pattern_of_a_client_has_little_time(ask: Callable[..., Any]) -> None:
    text = json.dumps({"a": "a" * 60 + "!"})
    node = Agent(ScriptedEndpoint([text, text]), "Answer.", name="greeter")
    schema = {"properties": {"a": {"type": "string", "pattern": "^(a|a)*$"}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    assert ask(node, response_format=wanted).status_code == 502


async def test_a_client_that_goes_away_in_the_middle_ends_its_run() -> None:
    writer = SimulatedEndpoint(rule=lambda _: "word " * 1000, piece_s=0.01)
    app = app_of(Agent(writer, "Answer.", name="greeter"))
    ended: list[Any] = []
    app.state.server.runs.listeners.append(ended.append)
    async with sdk(app) as client:
        stream = await client.chat.completions.create(
            model="greeter", messages=[{"role": "user", "content": "?"}], stream=True
        )
        async for _ in stream:
            break
        await stream.close()
        for _ in range(200):
            if ended:
                break
            await asyncio.sleep(0.02)
    assert ended[0].item.error is not None
