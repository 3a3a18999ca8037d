"""What holds for every adapter: each test file derives a class that makes its node."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from moa import Budget, RunContext
from moa.core.errors import (
    BudgetExceeded,
    DeadlineExceeded,
    EndpointTimeout,
    EndpointUnavailable,
    NodeError,
)


class Conformance:
    """Derive from it, and say how to make a node that asks a model once or twice."""

    def node(self, *, asks: int = 1, error: Any = None, seconds: float = 0, **more: Any) -> Any:
        raise NotImplementedError

    @pytest.mark.parametrize("calls", [0, 1])
    async def test_a_limit_of_calls_stops_it_before_the_next_one(self, calls: int) -> None:
        context = RunContext(budget=Budget(calls=calls))
        with pytest.raises(BudgetExceeded, match=f"calls={calls + 1} of {calls}"):
            await self.node(asks=2).run("x", context)
        assert context.usage.calls == calls

    @pytest.mark.parametrize(
        ("raised", "meant"),
        [
            (TimeoutError("slow"), EndpointTimeout),
            (ConnectionError("lost"), EndpointUnavailable),
            (ZeroDivisionError("a bug"), NodeError),
        ],
    )
    async def test_a_failure_has_a_name_and_its_call_is_charged(
        self, raised: Exception, meant: type[Exception]
    ) -> None:
        context = RunContext()
        with pytest.raises(meant) as caught:
            await self.node(error=raised).run("x", context)
        assert caught.value.__cause__ is not None
        assert context.usage.calls == 1

    async def test_a_deadline_ends_it_and_its_open_call_is_charged(self) -> None:
        context = RunContext()
        with pytest.raises(DeadlineExceeded):
            await self.node(seconds=60, timeout_s=0.1).run("x", context)
        assert context.usage.calls == 1

    async def test_runs_side_by_side_count_their_own(self) -> None:
        node = self.node(asks=2, name="own")
        results = await asyncio.gather(*(node.run(text) for text in "abcdef"))
        assert {one.usage.by_node()["own"].calls for one in results} == {2}
