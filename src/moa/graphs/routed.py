"""Routed: a model is chosen from the request, before any answer, by a fitted router.

After Ong et al. 2024, "RouteLLM: Learning to Route LLMs with Preference Data", arXiv:2406.18665. A
router that was fitted on answers of the weak model (`moa route fit` with `weak_response`) looks at
its answer too: then the graph is a cascade.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moa.calibration.acceptance import Judgement, Policy, text_of
from moa.context import RunContext, counted
from moa.errors import ConfigError, MoaError
from moa.graphs.building.builder import Graph
from moa.graphs.building.plan import Plan
from moa.graphs.building.signatures import signature_of
from moa.graphs.cascade import Cascade, cascade
from moa.graphs.pattern import Pattern
from moa.node import Node, unique_names
from moa.questions import Choice
from moa.usage import UNLIMITED, Budget

if TYPE_CHECKING:
    from moa.routing import Router
    from moa.routing.recorded import Case

_NO_ROUTER = (
    "{} has no router: give what moa route fit wrote, in Python by routers=, in moa.toml by "
    'router = "ROUTER.json" in [graphs.{}]'
)


class Routed(Pattern[Any, Any]):
    """What `routed` makes of a router that looks at the request alone."""

    def __init__(
        self,
        nodes: Sequence[Node[Any, Any]],
        routers: Sequence[Router],
        *,
        name: str,
        budget: Budget,
        timeout_s: float | None,
    ) -> None:
        signature = signature_of(nodes[0])
        self.input_type, self.output_type = signature.input(0), signature.output
        super().__init__(name=name, budget=budget, timeout_s=timeout_s)
        self.nodes = tuple(nodes)
        self.routers = tuple(routers)

    async def answer(self, request: Any, context: RunContext) -> Any:
        """Choose a model and let it answer; where it can't, the others are asked, the last first.

        Raises:
            ConfigError: there is no router.
            MoaError: every model failed, and it is the chosen one's error; or one broke off when
                some of its text was streamed.
        """
        chosen = self._choose(request, context)
        others = [place for place in reversed(range(len(self.nodes))) if place != chosen]
        failed: MoaError | None = None
        shown, heard = counted(context)
        for place in (chosen, *others):
            try:
                return (await self.nodes[place].run(request, heard)).output
            except MoaError as error:
                if shown() or not error.escalates:
                    raise
                failed = failed or error
                context.note("failed", f"{self.nodes[place].name!r} gave no answer: {error}")
        assert failed is not None, "a model answers, or fails"
        raise failed

    @property
    def plan(self) -> Plan:
        """The router and the models as a graph, to be drawn; it runs otherwise."""
        g: Graph[Any] = Graph(self.name, self.input_type)
        shown = unique_names([node.name for node in self.nodes])
        by_name = dict(zip(shown, self.nodes, strict=True))
        chosen = g.add(router, g.input)
        answer = g.match(
            chosen,
            lambda label: g.add(by_name[label or shown[-1]], g.input, name=label or shown[-1]),
            labels=shown,
        )
        return g.build(answer).plan

    def _choose(self, request: Any, context: RunContext) -> int:
        """Give the place of the model that gains most over the first, beyond its threshold."""
        if not self.routers:
            raise ConfigError(_NO_ROUTER.format(repr(self.name), self.name))
        gains = [float(r.gains([_case(r, request)])[0]) for r in self.routers]
        leads = [gain - r.threshold for gain, r in zip(gains, self.routers, strict=True)]
        best = max(range(len(leads)), key=lambda place: leads[place])
        if leads[best] < 0.0:
            return 0
        context.note(
            "escalated",
            f"to {self.nodes[best + 1].name!r}, before any answer: predicted gain "
            f"{gains[best]:.2f}, from {self.routers[best].threshold:.2f} on",
        )
        return best + 1


@dataclass(frozen=True, slots=True)
class LittleGain(Policy):
    """Accepts a weak model's answer where a router sees little that the next model would gain."""

    router: Router

    async def judge(self, request: Any, reply: Any, context: RunContext) -> Judgement:
        """Predict the gain from request and answer; no model is asked."""
        del context
        gain = float(self.router.gains([_case(self.router, request, text_of(reply))])[0])
        limit = self.router.threshold
        reason = f"predicted gain of the next model {gain:.2f}, it is asked from {limit:.2f} on"
        return Judgement(min(1.0, max(0.0, (1.0 - gain) / 2)), gain < limit, (reason,))


def routed(
    first: Node[Any, Any],
    *others: Node[Any, Any],
    routers: Router | Sequence[Router] = (),
    name: str = "routed",
    budget: Budget = UNLIMITED,
    timeout_s: float | None = None,
) -> Routed | Cascade[Any, Any]:
    """Let a fitted router choose the model that answers, before any has.

    It fails expensive: where the chosen model can't answer, the others are asked, the last first.

    Args:
        first: The cheapest model.
        others: Further ones, the best last.
        routers: What `moa route fit` wrote, one for each of `others`: fitted with `first` as the
            weak model and that one as the strong. The model that gains most beyond its threshold
            is chosen. Where the routers look at the weak model's answer, they make a cascade, and
            each was fitted on a model and the one after it. Without any it can be drawn alone.
        name: Shown in traces, errors and drawings.
        budget: Limits on each run, on top of those of the run it is part of.
        timeout_s: Seconds for each run; `None`: as long as the run it is part of has.

    Raises:
        ConfigError: there is one model alone, not a router for each other model, or one router
            looks at answers and another doesn't.
    """
    given = list(routers) if isinstance(routers, Sequence) else [routers]
    if not others:
        raise ConfigError(f"{name!r} has one model: give it another to choose from")
    if given and len(given) != len(others):
        raise ConfigError(
            f"{name!r} has {len(others) + 1} models and {len(given)} routers: give one for each "
            "model but the first"
        )
    if len(kinds := {router.kind for router in given}) > 1:
        raise ConfigError(
            f"{name!r}: some of its routers look at the weak model's answer, others don't. Fit all "
            "with `weak_response`, or all without"
        )
    nodes = (first, *others)
    if kinds == {"cascade"}:
        policies = [LittleGain(router) for router in given]
        return cascade(*nodes, accept=policies, name=name, budget=budget, timeout_s=timeout_s)
    return Routed(nodes, given, name=name, budget=budget, timeout_s=timeout_s)


def router(request: object) -> Choice[str]:
    """Stand for the routers in drawings; it is not run."""
    del request
    raise AssertionError("a plan that is drawn is not run")


def _case(router: Router, request: Any, reply: str | None = None) -> Case:
    """Give a router what it looks at: the text, and its fields where the request has them."""
    from moa.routing.recorded import Case

    found = {field: getattr(request, field, None) for field in router.fields}
    fields = {field: value for field, value in found.items() if isinstance(value, str)}
    prompt = getattr(request, "text", None)
    return Case(prompt if isinstance(prompt, str) else text_of(request), reply, fields)
