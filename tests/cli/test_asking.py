"""Which endpoints a run starts beforehand: those that it will ask, and no others."""

from __future__ import annotations

import pytest
from command import told

from moa.agents.base import TypedNode
from moa.agents.filter import Filter, Verdict
from moa.config.endpoints import Endpoints
from moa.config.loading import endpoint_names, load_graph
from moa.core.context import RunContext
from moa.core.node import Text
from moa.documents.preprocessor import Preprocessor
from moa.graphs.engine.graph import Graph
from moa.guards.guarded import Guarded
from moa.guards.injection import Injection, InjectionRules
from moa.guards.pii import Pii
from moa.guards.spam import Spam
from moa.inbox.support import Support
from moa.local.embedded import EmbeddedEndpoint
from moa.local.encoders import JointEncoder
from moa.testing import SimulatedEndpoint

SMALL, LARGE = SimulatedEndpoint(name="small"), SimulatedEndpoint(name="large", tier="llm")
needs_encoder = pytest.mark.skipif(
    JointEncoder.missing() is not None, reason="needs the encoder for many languages"
)


def test_a_graph_asks_what_its_agents_ask() -> None:
    assert endpoint_names(Support(slm=SMALL, llm=LARGE)) == {"small", "large"}


@needs_encoder
def test_the_support_graph_asks_nobody_where_the_encoder_decides() -> None:
    assert endpoint_names(load_graph("support", Endpoints())) == frozenset()


@needs_encoder
def test_an_agent_whose_head_decides_asks_nobody() -> None:
    beside = SimulatedEndpoint(name="small", encoder=JointEncoder())
    assert endpoint_names(Spam(beside)) == frozenset()


def test_an_agent_without_a_calibration_counts_as_asking() -> None:
    assert endpoint_names(Filter(SMALL, "spam", action="drop")) == {"small"}


def test_what_stands_around_a_decision_is_looked_into() -> None:
    assert endpoint_names(Injection(SMALL)) == {"small"}
    assert endpoint_names(Preprocessor()) == frozenset()
    assert endpoint_names(Preprocessor(rewrite=LARGE)) == {"large"}


def test_guards_and_what_they_stand_around_are_looked_into() -> None:
    inner = Filter(SMALL, "spam", action="drop")
    assert endpoint_names(Guarded(node=inner, before=[Pii(), InjectionRules()])) == {"small"}
    assert endpoint_names(Guarded(node=Preprocessor(), beside=[Injection(LARGE)])) == {"large"}


def test_nodes_that_a_node_holds_in_a_list_are_looked_into() -> None:
    class Both(TypedNode[Text, Text]):
        def __init__(self) -> None:
            super().__init__(name="both")
            self.checks = [Filter(SMALL, "spam", action="drop"), Filter(LARGE, "a", action="drop")]

        async def answer(self, request: Text, context: RunContext) -> Text:
            return request

    assert endpoint_names(Both()) == {"small", "large"}


def test_a_function_that_waits_may_ask_any_and_a_quick_one_asks_none() -> None:
    async def waits(verdict: Verdict) -> Text:
        return Text(text=verdict.reason)

    def quick(verdict: Verdict) -> Text:
        return Text(text=verdict.reason)

    slow, fast = Graph("slow", Text), Graph("fast", Text)
    slowly = slow.build(slow.add(waits, slow.add(Filter(SMALL, "spam", action="drop"), slow.input)))
    assert endpoint_names(slowly) is None
    inner = fast.build(fast.add(quick, fast.add(Filter(SMALL, "spam", action="drop"), fast.input)))
    outer = Graph("outer", Text)
    assert endpoint_names(outer.build(outer.add(inner, outer.input))) == {"small"}


@needs_encoder
def test_a_run_that_asks_no_model_starts_none(monkeypatch: pytest.MonkeyPatch) -> None:
    async def complete(*_: object) -> None:
        raise AssertionError("the engine was started")

    monkeypatch.setattr(EmbeddedEndpoint, "complete", complete)
    assert "settled" in told("run", "support", "--demo", "--limit", "1").out
