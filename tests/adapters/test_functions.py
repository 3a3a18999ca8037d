"""Functions that call a client, and what all adapters share: budgets, time, errors, graphs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel

from adapters.conformance import Conformance
from moa import Budget, Cascade, Classifier, Graph, Price, Reply, RunContext
from moa.adapters import Calls, FunctionNode
from moa.core.errors import (
    BudgetExceeded,
    ConfigError,
    EndpointUnauthorized,
    EndpointUnavailable,
    MoaError,
    OutputError,
)
from moa.core.questions import Choice
from moa.core.trace import TextDelta
from moa.core.usage import Part
from moa.testing import SimulatedEndpoint

USED = {"prompt_tokens": 100, "completion_tokens": 10}
PRICE = Price(input=Decimal(1), output=Decimal(2))


class Order(BaseModel):
    item: str


async def ask(question: str, calls: Calls) -> str:
    async with calls.reserve(question, model="gpt") as call:
        call.charge(USED)
    return question.upper()


def raising(error: BaseException) -> Callable[[str, Calls], Awaitable[str]]:
    async def fail(question: str, calls: Calls) -> str:
        async with calls.reserve(question):
            raise error

    return fail


class TestFunctions(Conformance):
    def node(self, *, asks: int = 1, error: Any = None, seconds: float = 0, **more: Any) -> Any:
        async def several(question: str, calls: Calls) -> str:
            for _ in range(asks):
                async with calls.reserve(question):
                    await asyncio.sleep(seconds)
                    if error is not None:
                        raise error
            return question

        return FunctionNode(several, **more)


async def test_a_call_is_in_the_ledger_by_its_model_and_in_the_trace() -> None:
    result = await FunctionNode(ask, price=PRICE).run("pens")
    assert result.output == Reply(text="PENS")
    (entry,) = result.usage.parts.items()
    assert entry[0] == Part("llm", "ask", "gpt")
    assert (entry[1].calls, entry[1].input_tokens, entry[1].output_tokens) == (1, 100, 10)
    assert entry[1].cost == Decimal("0.00012")
    assert [(note.kind, note.endpoint) for note in result.trace] == [("answered", "gpt")]


@pytest.mark.parametrize(
    "usage",
    [
        {"input_tokens": 9, "output_tokens": 2, "input_token_details": {"cache_read": 4}},
        SimpleNamespace(input_tokens=9, output_tokens=2, cache_read_tokens=4),
        {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}},
    ],
)
async def test_usage_is_read_in_the_words_of_each_client(usage: object) -> None:
    async def say(question: str, calls: Calls) -> str:
        async with calls.reserve(question) as call:
            call.charge(usage)
        return "said"

    total = (await FunctionNode(say).run("hi")).usage.total
    assert (total.input_tokens, total.cached_input_tokens, total.output_tokens) == (9, 4, 2)


async def test_a_call_whose_usage_nobody_says_is_charged_by_its_estimate() -> None:
    async def silent(question: str, calls: Calls) -> str:
        async with calls.reserve(question):
            return "said"

    async def say(question: str, calls: Calls) -> str:
        async with calls.reserve(question) as call:
            call.charge(None, "said")
        return "said"

    result = await FunctionNode(silent).run("123456")
    assert result.usage.total.input_tokens == 2
    assert [note.kind for note in result.trace] == ["degraded", "answered"]
    assert (await FunctionNode(say).run("123456")).usage.total.tokens == 4


async def test_dollars_that_an_answer_names_are_charged_where_the_price_is_unknown() -> None:
    async def say(question: str, calls: Calls) -> str:
        async with calls.reserve(question) as call:
            call.charge({**USED, "cost": 0.25})
        return "said"

    assert (await FunctionNode(say).run("hi")).usage.cost == Decimal("0.25")
    assert (await FunctionNode(say, price=PRICE).run("hi")).usage.cost == Decimal("0.00012")


@pytest.mark.parametrize("cost", [-5.0, float("nan"), float("inf"), True, "0.25"])
async def test_dollars_that_cant_be_true_are_no_price(cost: object) -> None:
    async def say(question: str, calls: Calls) -> str:
        async with calls.reserve(question) as call:
            call.charge({**USED, "cost": cost})
        return "said"

    assert (await FunctionNode(say).run("hi")).usage.cost is None


async def test_an_unknown_price_is_an_unknown_cost_and_passes_no_limit_of_dollars() -> None:
    result = await FunctionNode(ask, budget=Budget(cost=0)).run("pens")
    assert result.usage.cost is None


async def test_without_a_call_left_it_does_not_begin() -> None:
    async def careless(question: str, calls: Calls) -> str:
        raise AssertionError(f"{calls} has begun")

    context = RunContext(budget=Budget(calls=0))
    with pytest.raises(BudgetExceeded, match="calls=1 of 0"):
        await FunctionNode(careless).run("pens", context)
    assert not context.usage.parts


async def test_tokens_that_passed_a_limit_stop_the_next_call() -> None:
    async def twice(question: str, calls: Calls) -> str:
        await ask(question, calls)
        return await ask(question, calls)

    context = RunContext(budget=Budget(tokens=60))
    with pytest.raises(BudgetExceeded, match="tokens="):
        await FunctionNode(twice).run("pens", context)
    assert context.usage.calls == 1


async def test_side_by_side_no_more_calls_are_made_than_a_budget_allows() -> None:
    async def slow(question: str, calls: Calls) -> str:
        async with calls.reserve(question) as call:
            await asyncio.sleep(0.01)
            call.charge(USED)
        return question

    context = RunContext(budget=Budget(calls=4), keep_notes=False)
    items = [item async for item in FunctionNode(slow).map(map(str, range(9)), context)]
    assert sum(item.status == "answered" for item in items) == 4
    assert {type(item.error) for item in items if item.error} == {BudgetExceeded}
    assert context.usage.calls == 4


async def test_a_run_that_is_cancelled_charges_its_open_call() -> None:
    begun, context = asyncio.Event(), RunContext()

    async def stuck(question: str, calls: Calls) -> str:
        async with calls.reserve(question):
            begun.set()
            await asyncio.sleep(60)
        return question

    running = asyncio.ensure_future(FunctionNode(stuck).run("pens", context))
    await begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert context.usage.calls == 1


class Refused(Exception):
    status_code = 401


class APIConnectionError(Exception):
    pass


@pytest.mark.parametrize(
    ("raised", "meant"),
    [
        (Refused("bad key"), EndpointUnauthorized),
        (APIConnectionError("lost"), EndpointUnavailable),
        (ExceptionGroup("all failed", [APIConnectionError("lost")]), EndpointUnavailable),
        (OutputError("nothing", node="inner", text=""), OutputError),
    ],
)
async def test_what_it_raises_is_an_error_of_moa(raised: Exception, meant: type[MoaError]) -> None:
    with pytest.raises(meant) as caught:
        await FunctionNode(raising(raised)).run("pens")
    assert caught.value is raised or caught.value.__cause__ is not None


async def test_a_call_that_was_refused_takes_no_tokens() -> None:
    context = RunContext()
    with pytest.raises(EndpointUnauthorized):
        await FunctionNode(raising(Refused("bad key"))).run("pens", context)
    assert (context.usage.calls, context.usage.total.tokens) == (1, 0)


async def test_in_a_graph_it_is_checked_counted_and_waits_as_a_large_model_does() -> None:
    async def order(text: str, calls: Calls) -> Order:
        async with calls.reserve(text) as call:
            call.charge(USED)
        return Order(item=text)

    async def item(order: Order) -> str:
        return order.item

    g = Graph("desk", str)
    found = g.add(FunctionNode(order), g.input, when=g.input.map(lambda text: text != "no"))
    graph = g.build(g.add(item, found, otherwise=g.input))
    result = await graph.run("pens")
    assert result.output == "pens"
    assert result.usage.by_node()["desk/order"].calls == 1
    assert (await graph.run("no")).usage.calls == 0
    assert "ORDER" in str(graph.draw()).upper()


@pytest.mark.parametrize("failing", [False, True])
async def test_a_cascade_goes_on_to_it_from_doubt_and_from_one_that_is_down(failing: bool) -> None:
    async def topic(text: str, calls: Calls) -> Choice[str]:
        await ask(text, calls)
        return Choice[str](label="app")

    async def down(text: str, calls: Calls) -> Choice[str]:
        del text, calls
        raise APIConnectionError("lost")

    unsure = SimulatedEndpoint(rule=lambda _: {"classifier": {"card": 0.6}})
    small = FunctionNode(down, tier="slm") if failing else Classifier(unsure, ["card", "app"])
    large = FunctionNode(topic, name="large")
    result = await Cascade(small=small, large=large, confidence=0.8).run("It crashes")
    assert result.output.label == "app"
    assert result.usage.by_tier()["llm"].calls == 1


async def test_what_it_writes_goes_to_who_listens_from_any_thread() -> None:
    async def write(question: str, calls: Calls) -> str:
        calls.show("one ")
        await asyncio.to_thread(calls.show, "two")
        return question

    events = [event async for event in FunctionNode(write).stream("x")]
    assert [event.text for event in events if isinstance(event, TextDelta)] == ["one ", "two"]


def test_a_function_that_says_no_types_or_does_not_wait_is_refused() -> None:
    async def untyped(question: Any, calls: Calls) -> Any:
        return question, calls

    def quick(question: str, calls: Calls) -> str:
        del calls
        return question

    for wrong in (untyped, quick):
        bad: Any = wrong
        with pytest.raises(ConfigError, match="asynchronous"):
            FunctionNode(bad)
