"""Questions about one state that come in one tick go out as one request."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from decimal import Decimal

import pytest

from moa.context import RunContext
from moa.endpoints import Decision
from moa.endpoints.dialects import UNKNOWN
from moa.errors import (
    BudgetExceeded,
    EndpointUnavailable,
)
from moa.usage import Budget, Price

from .conftest import Answer, Asked, Served
from .decider import ALL, ANSWERS, REFUND, TOPIC, URGENCY, endpoint, reply


async def test_questions_of_one_tick_about_one_state_are_one_request(served: Served) -> None:
    served.will(reply())
    decider = endpoint(price=Price(input=Decimal(1), output=Decimal(1)))
    context = RunContext()
    nested = [context.nested(q.name) for q in ALL]
    decisions = await asyncio.gather(
        *(decider.decide("text", [q], c) for q, c in zip(ALL, nested, strict=True))
    )
    assert len(served.requests) == 1
    assert [d.answers[0].question for d in decisions] == list(ALL)
    total = context.usage.total
    assert (total.calls, total.input_tokens, total.output_tokens) == (1, 101, 3)
    assert total.cost == Decimal("0.000104")
    assert [c.usage.input_tokens for c in nested] == [35, 33, 33]
    assert [note.kind for note in nested[2].trace] == ["answered"]


async def test_other_states_go_out_by_themselves(served: Served) -> None:
    served.will(reply())
    decider = endpoint()
    await asyncio.gather(*(decider.decide(s, [REFUND], RunContext()) for s in ("a", "b")))
    assert [body["state"] for body in served.bodies] == ["a", "b"]


async def test_questions_of_one_name_are_told_apart(served: Served) -> None:
    served.will(reply({"refund": {"noul": 0.9}, "refund_2": {"noul": 0.2}}))
    decider = endpoint()
    first, second = await asyncio.gather(
        *(decider.decide("text", [REFUND], RunContext()) for _ in range(2))
    )
    assert first.answers[0].best == 0
    assert second.answers[0].best == 1
    assert second.answers[0].question is REFUND


async def test_an_error_reaches_everybody_who_asked(served: Served) -> None:
    served.will(Answer(503))
    decider = endpoint()
    contexts = [RunContext(), RunContext()]
    errors = await asyncio.gather(
        *(decider.decide("text", [REFUND], context) for context in contexts),
        return_exceptions=True,
    )
    assert [type(error) for error in errors] == [EndpointUnavailable] * 2
    assert [context.usage.calls for context in contexts] == [1, 0]


async def test_one_who_is_cancelled_does_not_hurt_the_others(served: Served) -> None:
    served.will(reply())
    decider = endpoint()
    async with asyncio.TaskGroup() as group:
        first = group.create_task(decider.decide("text", [REFUND], RunContext()))
        second = group.create_task(decider.decide("text", [TOPIC], RunContext()))
        await asyncio.sleep(0)
        first.cancel()
    assert second.result().answers[0].question is TOPIC


async def test_the_last_one_who_is_cancelled_takes_the_request_along(served: Served) -> None:
    reached, cancelled = asyncio.Event(), asyncio.Event()

    async def hang(request: Asked) -> Answer:
        reached.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError(request)

    served.will(hang)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(endpoint().decide("text", [REFUND], RunContext()))
        await reached.wait()
        task.cancel()
    await cancelled.wait()


async def test_one_who_has_no_budget_left_is_refused_alone(served: Served) -> None:
    served.will(reply())
    decider = endpoint()
    poor, rich = await asyncio.gather(
        decider.decide("text", [REFUND], RunContext(budget=Budget(calls=0))),
        decider.decide("text", [TOPIC], RunContext(budget=Budget(calls=1))),
        return_exceptions=True,
    )
    assert isinstance(poor, BudgetExceeded)
    assert isinstance(rich, Decision)


async def test_questions_that_take_another_request_reserve_it(served: Served) -> None:
    served.will(reply({}))
    decider = endpoint(dialect=replace(UNKNOWN, most_questions=2))
    one, two = [REFUND], [TOPIC, URGENCY]
    context = RunContext(budget=Budget(calls=1))
    with pytest.raises(BudgetExceeded):
        await decider.decide("text", [REFUND, TOPIC, URGENCY], context)
    first, second = await asyncio.gather(
        decider.decide("text", one, context),
        decider.decide("text", two, context),
        return_exceptions=True,
    )
    assert isinstance(first, Decision)
    assert isinstance(second, BudgetExceeded)
    assert (len(served.requests), context.usage.calls) == (1, 1)
    contexts = [RunContext(), RunContext()]
    await asyncio.gather(
        *(decider.decide("text", q, c) for q, c in zip((one, two), contexts, strict=True))
    )
    assert [c.usage.calls for c in contexts] == [1, 1]
    assert len(served.requests) == 3


@pytest.mark.parametrize("most", [64, 1], ids=["one request", "three requests"])
async def test_calls_without_a_price_count_once_and_nobody_s_cost_is_known(
    most: int, served: Served
) -> None:
    decider = endpoint(dialect=replace(UNKNOWN, most_questions=most))
    context = RunContext()
    nested = [context.nested(question.name) for question in ALL]
    served.will(lambda request: reply({q: ANSWERS[q] for q in request.json()["questions"]}))
    await asyncio.gather(
        *(decider.decide("text", [q], c) for q, c in zip(ALL, nested, strict=True))
    )
    total = context.usage.total
    assert total.calls == total.unpriced_calls == len(served.requests)
    assert [c.usage.cost for c in nested] == [None] * 3


async def test_one_who_waited_until_the_request_was_out_reserves_another(served: Served) -> None:
    served.will(reply({"refund": ANSWERS["refund"]}))
    decider = endpoint()
    long = replace(REFUND, text="Is it about a refund? " * 20)  # two don't fit into the budget
    run = RunContext(budget=Budget(tokens=200, calls=1))
    asked = (decider.decide("text", [long], run) for _ in range(2))
    first, second = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(first, Decision)
    assert isinstance(second, BudgetExceeded)
    assert run.usage.calls == 1
