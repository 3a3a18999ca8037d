"""Spans of runs: what there are, whose child each is, and what they add up to."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command
from tenacity import wait_none

from moa import (
    Agent,
    Budget,
    Cascade,
    Classifier,
    Fallback,
    Filter,
    Graph,
    MoaError,
    RunContext,
    Text,
)
from moa.core.batch import Row
from moa.core.errors import EndpointUnavailable
from moa.core.journal import Journal
from moa.core.messages import ToolCall
from moa.core.node import run_alone
from moa.core.trace import TextDelta
from moa.core.usage import Price
from moa.endpoints.retries import Retried
from moa.guards.guarded import Guarded
from moa.guards.pii import Pii
from moa.guards.recognizers import Pattern
from moa.testing import ScriptedEndpoint, SimulatedEndpoint

from .conftest import OfSdk, Recorder, Seen, module

PRICE = Price(input=Decimal(1), output=Decimal(2))


def down(**about: Any) -> EndpointUnavailable:
    return EndpointUnavailable("busy with ada@example.org", endpoint="small", **about)


def sure(label: str, probability: float) -> SimulatedEndpoint:
    rest = {"app": 1 - probability} if label == "card" else {"card": 1 - probability}
    return SimulatedEndpoint(rule=lambda _: {"classifier": {label: probability, **rest}})


def counts(*texts: object) -> Text:
    return Text(text=f"{len(texts)}")


def leaves(spans: list[Seen]) -> list[Seen]:
    parents = {one.parent for one in spans}
    return [one for one in spans if one.span not in parents]


def by_id(spans: list[Seen]) -> dict[str | None, Seen]:
    return {one.span: one for one in spans}


def of(spans: list[Seen], kind: str) -> list[Seen]:
    return [one for one in spans if one.kind == kind]


async def test_a_fan_out_of_64_is_one_trace_whose_leaves_add_up_to_the_bill(
    heard: Recorder,
) -> None:
    large = SimulatedEndpoint(rule=lambda _: "Yes.", price=PRICE, latency_s=0.01)
    g = Graph("fan", str)
    drafts = [g.add(Agent(large, "Answer.", name=f"draft_{i}"), g.input) for i in range(64)]
    counted: Any = g.join(counts, *drafts)
    graph: Any = g.build(counted)
    result = await graph.run("Is it open?", heard.context())

    spans = heard.spans
    calls, known = of(spans, "call"), by_id(spans)
    assert len({one.trace for one in spans}) == 1
    assert [one.name for one in spans if one.parent is None] == ["invoke_workflow fan"]
    assert len(calls) == 64
    for call in calls:
        agent = known[call.parent]
        assert agent.attributes["moa.node"].startswith("fan/draft_")
        assert known[agent.parent].name == "invoke_workflow fan"
    assert leaves(spans) == calls
    total = result.usage.total
    for name, sum_of in (("input_tokens", total.input_tokens), ("cost", float(total.cost or 0))):
        assert sum(c.attributes[f"gen_ai.usage.{name}"] for c in calls) == pytest.approx(sum_of)
        (root,) = (one for one in spans if one.parent is None)
        assert root.attributes[f"moa.usage.{name}"] == pytest.approx(sum_of)
        assert not any(f"gen_ai.usage.{name}" in s.attributes for s in spans if s not in calls)


async def test_a_stream_that_another_task_closes_is_one_trace_and_all_of_it_ends(
    heard: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    large = ScriptedEndpoint(["one two three four"], piece_s=0.05)
    g = Graph("writes", str)
    graph = g.build(g.add(Agent(large, "Write."), g.input))
    stream: Any = graph.stream("Go", heard.context())
    async for event in stream:
        if isinstance(event, TextDelta):
            break
    async with asyncio.TaskGroup() as group:
        group.create_task(stream.aclose())

    spans = heard.spans
    assert {one.kind for one in spans} == {"call", "agent", "workflow"}
    assert len({one.trace for one in spans}) == 1
    assert [one.attributes.get("moa.ended") for one in spans] == ["cancelled"] * 3
    assert not any(one.failed for one in spans)
    assert "detach" not in caplog.text


async def test_a_stream_of_an_endpoint_that_is_closed_elsewhere_ends_its_span(
    heard: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    from moa.endpoints import Prompt

    large = ScriptedEndpoint(["one two three"])
    pieces: Any = large.stream(Prompt.of("Go"), heard.context())
    await anext(pieces)
    await asyncio.wait([asyncio.ensure_future(pieces.aclose())])
    (call,) = heard.spans
    assert call.attributes["gen_ai.request.stream"] is True
    assert call.attributes["gen_ai.usage.output_tokens"] == 5
    assert "detach" not in caplog.text


async def test_a_run_that_waited_for_a_person_is_one_trace_and_paid_once(heard: Recorder) -> None:
    large = ScriptedEndpoint(["A draft.", "A letter."], price=PRICE)
    g = Graph("letter", str)
    draft = g.add(Agent(large, "Draft.", name="draft"), g.input)
    asked = g.ask_human("Send it?", draft, answer=str, name="approve")
    graph = g.build(g.add(Agent(large, "Write.", name="write"), asked))
    compiled = graph.compile(checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}
    first, second = heard.context(), heard.context()
    await compiled.ainvoke("To Ada", config, context=first)
    await compiled.ainvoke(Command(resume="yes"), config, context=second)

    spans = heard.spans
    assert len({one.trace for one in spans}) == 1
    runs, calls = of(spans, "run"), of(spans, "call")
    assert runs[1].parent == runs[0].span
    assert [by_id(spans)[call.parent].name for call in calls] == [
        "invoke_agent draft",
        "invoke_agent write",
    ]
    cost = sum(call.attributes["gen_ai.usage.cost"] for call in calls)
    assert cost == pytest.approx(float(second.usage.total.cost or 0))
    asks = [one.attributes.get("moa.ended") for one in of(spans, "person")]
    assert asks == ["asks a person", None]
    assert not any(one.failed for one in spans)


async def test_a_row_that_is_tried_again_goes_on_with_its_trace(heard: Recorder) -> None:
    agent = Agent(ScriptedEndpoint([down(), "Hello!"]), "Greet.")
    kept: dict[str, str] = {}

    async def write(key: str, record: str) -> None:
        kept[key] = record

    with pytest.raises(MoaError):
        await run_alone(agent, "Hi", heard.context(), Journal("row", {}, write=write), row=7)
    await run_alone(agent, "Hi", heard.context(), Journal("row", dict(kept), write=write), row=7)
    first, second = of(heard.spans, "run")
    assert (first.trace, first.span) == (second.trace, second.parent)
    assert first.attributes["moa.row.id"] == second.attributes["moa.row.id"] == 7


async def test_each_row_of_a_map_is_a_trace_of_its_own(heard: Recorder) -> None:
    agent = Agent(SimulatedEndpoint(rule=lambda _: "Hello!"), "Greet.")
    rows = [Row(number=n, id=f"r{n}", value="Hi") for n in (1, 2, 3)]
    _ = [item async for item in agent.map(rows, heard.context())]
    runs = of(heard.spans, "run")
    assert len({one.trace for one in runs}) == 3
    assert {one.attributes["moa.row.id"] for one in runs} == {"r1", "r2", "r3"}


async def test_a_call_with_its_retries_is_one_span_and_holds_what_all_of_them_took(
    heard: Recorder,
) -> None:
    small = ScriptedEndpoint([down(status=503), "Hello!"], price=PRICE)
    result = await Agent(Retried(small, wait=wait_none()), "Greet.").run("Hi", heard.context())
    (call,) = of(heard.spans, "call")
    assert call.events == ("moa.retried",)
    assert not call.failed
    assert call.attributes["moa.requests"] == result.usage.calls == 2
    assert call.attributes["gen_ai.usage.input_tokens"] == result.usage.input_tokens


async def test_a_call_that_failed_says_of_which_kind_the_error_is_and_none_of_its_words(
    heard: Recorder,
) -> None:
    with pytest.raises(EndpointUnavailable):
        await Agent(ScriptedEndpoint([down(status=503)]), "Greet.").run("Hi", heard.context())
    call, agent = heard.spans
    assert call.failed
    assert agent.failed
    assert call.attributes["error.type"] == "EndpointUnavailable"
    assert call.attributes["http.response.status_code"] == 503
    assert "ada@" not in str(heard.spans)


async def test_who_stands_in_for_another_model_has_a_call_of_its_own(heard: Recorder) -> None:
    first = ScriptedEndpoint([down()], name="first", model="first-1", price=PRICE)
    second = ScriptedEndpoint(["Here."], name="second", model="second-1", price=PRICE)
    await Agent(Fallback(first, second), "Greet.").run("Hi", heard.context())
    failed, answered = of(heard.spans, "call")
    assert (failed.name, failed.failed) == ("chat first-1", True)
    assert (answered.name, answered.failed) == ("chat second-1", False)
    assert failed.parent == answered.parent
    (agent,) = of(heard.spans, "agent")
    assert agent.events == ("moa.fell_back",)


@pytest.mark.parametrize(
    ("price", "cost"),
    [(Price(), None), (PRICE, 20e-6), (Price(input=Decimal(0), output=Decimal(0)), 0.0)],
)
async def test_a_call_has_a_cost_where_its_price_is_known_and_none_where_it_is_not(
    heard: Recorder, price: Price, cost: float | None
) -> None:
    await Agent(ScriptedEndpoint(["Hello!"], price=price), "Greet.").run("Hi", heard.context())
    call, agent = heard.spans
    assert call.attributes.get("gen_ai.usage.cost") == cost
    assert agent.attributes.get("moa.usage.cost") == cost


async def test_a_decision_says_its_label_and_how_sure_it_is(heard: Recorder) -> None:
    agent = Classifier(sure("card", 0.9), ["card", "app"])
    await agent.run("My card is gone.", heard.context())
    (decision,) = of(heard.spans, "decision")
    (agent_span,) = of(heard.spans, "agent")
    assert decision.parent == agent_span.span
    assert decision.name == "decision classifier"
    assert decision.attributes["moa.decision.label"] == "card"
    assert decision.attributes["moa.decision.probability"] == pytest.approx(0.9)
    assert "moa.decision.accepted" not in decision.attributes


@pytest.mark.parametrize(("probability", "escalated"), [(0.95, False), (0.6, True)])
async def test_a_cascade_says_whether_it_went_on_to_the_large_model(
    heard: Recorder, probability: float, escalated: bool
) -> None:
    small, large = (
        Classifier(one, ["card", "app"]) for one in (sure("card", probability), sure("app", 0.99))
    )
    cascades: Any = Cascade(small=small, large=large, confidence=0.9)
    await cascades.run("My card is gone.", heard.context())
    (cascade,) = of(heard.spans, "workflow")
    assert cascade.attributes["moa.decision.escalated"] is escalated
    assert cascade.attributes["moa.decision.accepted"] is True
    assert cascade.attributes["moa.decision.label"] == ("app" if escalated else "card")
    assert ("moa.escalated" in cascade.events) is escalated


async def test_a_guard_that_stops_a_request_is_no_error(heard: Recorder) -> None:
    says_yes = SimulatedEndpoint(rule=lambda _: {"filter": {"yes": 0.9}})
    advice = Filter(says_yes, "medical advice", action="drop")
    node = Guarded(node=Agent(ScriptedEndpoint([]), "Answer."), before=[advice])
    await node.run("What helps?", heard.context())
    (guard,) = of(heard.spans, "guard")
    assert guard.attributes["moa.guard.kept"] is False
    assert guard.attributes["moa.guard.position"] == "before"
    assert not any(one.failed for one in heard.spans)
    (agent,) = of(heard.spans, "agent")
    assert agent.parent == guard.span


async def test_a_tool_has_a_span_that_says_how_it_failed(heard: Recorder) -> None:
    def in_stock(item: str) -> int:
        """Look up how many pieces of an item are in stock."""
        raise LookupError(f"no {item} in the list")

    large = ScriptedEndpoint([ToolCall.of("in_stock", item="pens"), "I don't know."])
    agent = Agent(large, "Answer.", tools=[in_stock])
    await agent.run("Pens left?", heard.context())
    (tool,) = of(heard.spans, "tool")
    assert tool.name == "execute_tool in_stock"
    assert tool.attributes["error.type"] == "LookupError"
    assert tool.parent == of(heard.spans, "agent")[0].span
    assert "pens" not in str(heard.spans)


async def test_what_a_tool_asks_itself_hangs_below_the_tool(heard: Recorder) -> None:
    helper = Agent(ScriptedEndpoint(["137"], name="helper"), "Count.", name="counter")

    async def in_stock(item: str, context: RunContext) -> str:
        """Look up how many pieces of an item are in stock."""
        return (await helper.run(item, context)).output.text

    large = ScriptedEndpoint([ToolCall.of("in_stock", item="pens"), "There are 137."])
    await Agent(large, "Answer.", tools=[in_stock]).run("Pens left?", heard.context())
    known = by_id(heard.spans)
    (inner,) = (one for one in heard.spans if one.name == "invoke_agent counter")
    assert known[inner.parent].name == "execute_tool in_stock"


async def test_a_node_that_nothing_needs_any_more_is_no_error(heard: Recorder) -> None:
    slow = Agent(SimulatedEndpoint(rule=lambda _: "late", latency_s=5.0), "Answer.", name="slow")
    context = heard.context()
    running = asyncio.ensure_future(slow.run("Hi", context))
    await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.wait([running])
    assert [one.attributes["moa.ended"] for one in heard.spans] == ["cancelled"] * 2
    assert not any(one.failed for one in heard.spans)


async def test_no_text_is_in_a_span_unless_it_is_asked_for(heard: Recorder) -> None:
    large = ScriptedEndpoint(["not JSON with SECRET", '{"text": "SECRET"}'])
    agent = Agent(large, "SECRET rules.", output=Text)
    await agent.run("The SECRET", heard.context())
    assert of(heard.spans, "agent")[0].events == ("moa.repaired",)
    assert "SECRET" not in str(heard.spans)


async def test_texts_are_recorded_where_that_is_asked_for(heard: Recorder) -> None:
    large = ScriptedEndpoint([ToolCall.of("in_stock", item="pens"), "There are 137."])

    def in_stock(item: str) -> int:
        """Look up how many pieces of an item are in stock."""
        return len(item)

    agent = Agent(large, "Answer by the list.", tools=[in_stock])
    await agent.run("Pens left?", heard.context(content=True))
    first, last = of(heard.spans, "call")
    assert "Pens left?" in first.attributes["gen_ai.input.messages"]
    assert "Answer by the list." in first.attributes["gen_ai.system_instructions"]
    assert "There are 137." in last.attributes["gen_ai.output.messages"]
    (tool,) = of(heard.spans, "tool")
    assert tool.attributes["gen_ai.tool.call.arguments"] == '{"item": "pens"}'
    assert tool.attributes["gen_ai.tool.call.result"] == "4"


async def test_texts_are_masked_first_where_that_is_asked_for(heard: Recorder) -> None:
    mask = Pii(recognizers=[Pattern("ORDER", "A-[0-9]{6}")])
    large = ScriptedEndpoint(["Your order\nA-123456 comes."])
    await Agent(large, "Answer.").run("A-123456?", heard.context(content=True, pii=mask))
    (call,) = of(heard.spans, "call")
    assert "[ORDER_1]" in call.attributes["gen_ai.input.messages"]
    assert "[ORDER_1]" in call.attributes["gen_ai.output.messages"]
    assert "A-123456" not in str(heard.spans)


async def test_where_masking_fails_a_text_is_left_out_and_the_run_goes_on(
    heard: Recorder,
) -> None:
    class Broken(Pattern):
        def analyze(self, *given: Any, **named: Any) -> Any:
            raise ValueError("no")

        find = analyze

    large = ScriptedEndpoint(["A-123456 comes."])
    mask = Pii(recognizers=[Broken("ORDER", "A-[0-9]{6}")])
    result = await Agent(large, "Answer.").run("A-123456?", heard.context(content=True, pii=mask))
    assert result.output.text == "A-123456 comes."
    assert "A-123456" not in str(heard.spans)


async def test_a_call_that_a_budget_refuses_ends_its_span(heard: Recorder) -> None:
    agent = Agent(ScriptedEndpoint(["Hello!"]), "Greet.", budget=Budget(calls=0))
    with pytest.raises(MoaError):
        await agent.run("Hi", heard.context())
    call, _ = heard.spans
    assert call.attributes["error.type"] == "BudgetExceeded"
    assert "gen_ai.usage.input_tokens" not in call.attributes


async def test_a_run_hangs_below_the_span_that_is_current_where_it_begins(sdk: OfSdk) -> None:
    from opentelemetry import trace

    agent = Agent(ScriptedEndpoint(["Hello!"]), "Greet.")
    with trace.get_tracer("mine").start_as_current_span("request"):
        await agent.run("Hi")
    call, agent_span, mine = (one for one in sdk.exporter.get_finished_spans())
    assert agent_span.parent.span_id == mine.context.span_id
    assert call.parent.span_id == agent_span.context.span_id


async def test_a_users_own_span_in_a_tool_hangs_below_the_tool(sdk: OfSdk) -> None:
    from opentelemetry import trace

    def in_stock(item: str) -> int:
        """Look up how many pieces of an item are in stock."""
        with trace.get_tracer("mine").start_as_current_span("look up"):
            return len(item)

    large = ScriptedEndpoint([ToolCall.of("in_stock", item="pens"), "There are 4."])
    await Agent(large, "Answer.", tools=[in_stock]).run("Pens left?")
    spans = {one.name: one for one in sdk.exporter.get_finished_spans()}
    assert spans["look up"].parent.span_id == spans["execute_tool in_stock"].context.span_id


async def test_the_version_of_the_conventions_is_said_with_each_span(sdk: OfSdk) -> None:
    from moa.core.telemetry import names

    await Agent(ScriptedEndpoint(["Hello!"]), "Greet.").run("Hi")
    scope = sdk.exporter.get_finished_spans()[0].instrumentation_scope
    assert scope.attributes == {"moa.conventions": names.CONVENTIONS}


async def test_a_provider_that_samples_nothing_is_not_told_of_texts(
    set_provider: Any, sdk: OfSdk
) -> None:
    never = module("trace.sampling").ALWAYS_OFF
    set_provider(module("trace").TracerProvider(sampler=never, shutdown_on_exit=False))
    masked: list[str] = []

    class Counts:
        def session(self) -> Any:
            masked.append("asked")
            raise AssertionError("nothing is recorded")

    agent = Agent(ScriptedEndpoint(["Hello!"]), "Greet.")
    from moa.core.telemetry import Tracer

    await agent.run("Hi", RunContext(tracer=Tracer(content=True, pii=Counts())))
    assert not masked
    assert not sdk.spans


async def test_a_provider_that_raises_ends_no_run(sdk: OfSdk) -> None:
    from opentelemetry import trace

    class Raises:
        def on_start(self, span: Any, parent_context: Any = None) -> None:
            if span.name.startswith("invoke_agent"):
                raise ValueError("no")

        def on_end(self, span: Any) -> None:
            raise ValueError("no")

        def _on_ending(self, span: Any) -> None: ...

    provider: Any = trace.get_tracer_provider()
    provider.add_span_processor(Raises())
    result = await Agent(ScriptedEndpoint(["Hello!"]), "Greet.").run("Hi")
    assert result.output.text == "Hello!"
