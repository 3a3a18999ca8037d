"""Routed: a fitted router chooses a model by the request, before any answer.

After Ong et al. 2024, "RouteLLM: Learning to Route LLMs with Preference Data", arXiv:2406.18665. A
router fitted on answers of the weak model (`moa route fit` with `weak_response`) also looks at its
answer: then the graph is a cascade.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic

from moa.agents.base import In, Out
from moa.core._json import is_object
from moa.core.context import RunContext, count_text_deltas
from moa.core.errors import ConfigError, MoaError
from moa.core.node import Node, Result, text_of, unique_names
from moa.decisions.acceptance import Judgement, Policy
from moa.endpoints.calls import mark_replaceable
from moa.graphs.cascade import Cascade
from moa.graphs.engine.types import signature_of
from moa.graphs.fields import FromEndpoint, NamedEndpoints, TableReader, from_file, lists_in_tables
from moa.graphs.recipe import Recipe, Sketch
from moa.graphs.single_model import single_model

if TYPE_CHECKING:
    from moa.routing.recorded import Case
    from moa.routing.router import Router
else:
    Router = object  # numpy is imported only if a router is read

_NO_ROUTER = (
    "{} has no router: give what moa route fit wrote, in Python by router=, in moa.toml by "
    'router = "ROUTER.json" in [graphs.{}]'
)


def load_router(file: Path) -> Router:
    """Read a router that `moa route fit` wrote.

    Raises:
        ConfigError: it can't be read.
    """
    from moa.routing.router import Router

    return Router.load(file)


def _complete_models(models: list[object] | None, table: TableReader) -> list[object]:
    """Use the small and the large model by default. A calibration is for the first model only."""
    first, *others = models or [
        {"endpoint": table.endpoints.slm},
        {"endpoint": table.endpoints.llm},
    ]
    tables = [model if is_object(model) else {"endpoint": model} for model in others]
    return [first, *({"calibrated": False, **entry} for entry in tables)]


class Routed(Recipe[In, Out], Generic[In, Out], recipe="routed"):
    """The small model or the large one, chosen before.

    A fitted router chooses the model before any has answered. If the chosen model can't answer, the
    others are asked, the last first. If the routers look at the weak model's answer, the graph runs
    as a cascade. In a table with labels the models decide; without labels they write.

    Raises:
        ConfigError: there is only one model, the number of routers is wrong, or only some routers
            look at answers.

    Examples:
        >>> from moa.routing.router import Router
        >>> small, large = ScriptedEndpoint(["7"]), ScriptedEndpoint(["7"])
        >>> models = [Agent(small, "Solve.", name="small"), Agent(large, "Solve.", name="large")]
        >>> Routed(models=models, router=Router.load("router.json"))  # doctest: +SKIP
    """

    models: Annotated[
        Sequence[Annotated[Node[In, Out], FromEndpoint(single_model)]],
        lists_in_tables(_complete_models),
    ]
    """Models, the cheapest first and the best last. Default in a table: the small and the large
    model."""
    router: Annotated[Router | Sequence[Router], from_file(load_router)] = ()
    """Routers written by `moa route fit`, one for each model but the first, fitted with the first
    as the weak model and that one as the strong. The model that gains most beyond its threshold is
    chosen. Routers that look at the weak model's answer are each fitted on a model and the next
    one. Without routers the graph can only be drawn."""

    def prepare(self) -> None:
        """Check that each model but the first has a router, and that all are of one kind."""
        routers = self.router
        self.routers: tuple[Router, ...] = tuple(
            routers if isinstance(routers, Sequence) else [routers]
        )
        if len(self.models) < 2:
            raise ConfigError(f"{self.name!r} has one model: give it another to choose from")
        if self.routers and len(self.routers) != len(self.models) - 1:
            raise ConfigError(
                f"{self.name!r} has {len(self.models)} models and {len(self.routers)} routers: "
                "give one for each model but the first"
            )
        kinds = {router.kind for router in self.routers}
        if len(kinds) > 1:
            raise ConfigError(
                f"{self.name!r}: some of its routers look at the weak model's answer, others "
                "don't. Fit all with `weak_response`, or all without"
            )
        signature = signature_of(self.models[0])
        self.input_type, self.output_type = signature.input(0), signature.output
        self.cascade = self._cascade() if kinds == {"cascade"} else None

    def members(self) -> Iterator[Node[In, Out]]:
        """Return the models. Routers only use encoders, or the answers of these models."""
        return iter(self.models)

    @classmethod
    def complete(
        cls, table: Mapping[str, object], endpoints: NamedEndpoints
    ) -> Mapping[str, object]:
        """Require a router, unless the graph is only drawn."""
        if not table.get("router") and endpoints.can_be_asked:
            raise ConfigError(
                f'graphs.{cls.name}: it needs router = "ROUTER.json", the file that moa route fit '
                "wrote"
            )
        return table

    async def run(self, request: In, /, context: RunContext | None = None) -> Result[Out]:
        """Answer one request. For a cascade, the result says which model settled it.

        Raises:
            MoaError: see `answer`, or `Cascade`.
        """
        if self.cascade is not None:
            return await self.cascade.run(request, context)
        return await super().run(request, context)

    def _cascade(self) -> Cascade[In, Out]:
        small, *between, large = self.models
        return Cascade(
            small=small,
            between=between,
            large=large,
            accept=[LittleGain(router) for router in self.routers],
            name=self.name,
            budget=self.budget,
            timeout_s=self.timeout_s,
        )

    async def answer(self, request: In, context: RunContext) -> Out:
        """Choose a model and ask it. If it fails, ask the others, the last first.

        Raises:
            ConfigError: there is no router.
            MoaError: every model failed (it is the chosen one's error), or one failed after some of
                its text was streamed.
        """
        choice = self._choose(request, context)
        others = [index for index in reversed(range(len(self.models))) if index != choice]
        first_error: MoaError | None = None
        pieces, heard = count_text_deltas(context)
        for index in (choice, *others):
            try:
                with mark_replaceable(index != (others or [choice])[-1]):
                    return (await self.models[index].run(request, heard)).output
            except MoaError as error:
                if pieces() or not error.escalates:
                    raise
                first_error = first_error or error
                context.note("failed", f"{self.models[index].name!r} gave no answer: {error}")
        assert first_error is not None, "a model answers, or fails"
        raise first_error

    def sketch(self, sketch: Sketch) -> None:
        """Draw the router and the models, or the cascade."""
        if self.cascade is not None:
            return self.cascade.sketch(sketch)
        router = sketch.box(label="router")
        sketch.arrow(sketch.input, router)
        names = unique_names([model.name for model in self.models])
        for model, name in zip(self.models, names, strict=True):
            box = sketch.box(model, name)
            sketch.arrow(sketch.input, box, sketch.output)
            sketch.arrow(router, box, label=name, decides=True)
        return None

    def _choose(self, request: object, context: RunContext) -> int:
        """Return the index of the model that gains most over the first, beyond its threshold."""
        if not self.routers:
            raise ConfigError(_NO_ROUTER.format(repr(self.name), self.name))
        gains = [float(r.gains([_case(r, request)])[0]) for r in self.routers]
        leads = [gain - r.threshold for gain, r in zip(gains, self.routers, strict=True)]
        best = max(range(len(leads)), key=lambda index: leads[index])
        if leads[best] < 0.0:
            return 0
        context.note(
            "escalated",
            f"to {self.models[best + 1].name!r}, before any answer: predicted gain "
            f"{gains[best]:.2f}, from {self.routers[best].threshold:.2f} on",
        )
        return best + 1


@dataclass(frozen=True, slots=True)
class LittleGain(Policy):
    """Accepts a weak model's answer if a router predicts little gain from the next model."""

    router: Router

    async def judge(self, request: object, reply: object, context: RunContext) -> Judgement:
        """Predict the gain from request and answer; no model is asked."""
        del context
        gain = float(self.router.gains([_case(self.router, request, text_of(reply))])[0])
        limit = self.router.threshold
        reason = f"predicted gain of the next model {gain:.2f}, it is asked from {limit:.2f} on"
        return Judgement(min(1.0, max(0.0, (1.0 - gain) / 2)), gain < limit, (reason,))


def _case(router: Router, request: object, reply: str | None = None) -> Case:
    """Return what a router looks at: the text, and the fields and features that the request has."""
    from moa.routing.recorded import Case

    values = {field: getattr(request, field, None) for field in router.fields}
    fields = {field: value for field, value in values.items() if isinstance(value, str)}
    prompt = getattr(request, "text", None)
    text = prompt if isinstance(prompt, str) else text_of(request)
    request_features: Any = getattr(request, "features", None) or {}
    features = {
        name: request_features[name] for name in router.features if name in request_features
    }
    return Case(text, reply, fields, features)
