"""Recipe: a ready graph as one class, whose fields are its arguments and its table in moa.toml."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Self, TypeVar, cast, dataclass_transform

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic.dataclasses import dataclass as validated
from pydantic_core import ArgsKwargs

from moa._files import replace_text
from moa.agents.base import In, Out, TypedNode, fault_in, ready
from moa.budget import UNLIMITED, Budget
from moa.config.endpoints import Endpoints
from moa.config.faults import explain, fields_of, nearest
from moa.context import RunContext, count_text_deltas
from moa.endpoints import Endpoint
from moa.errors import ConfigError
from moa.graphs.engine.bridges import Compilable
from moa.graphs.engine.drawing import Sketch as Sketch
from moa.graphs.engine.graph import BuiltGraph
from moa.graphs.engine.plan import Plan
from moa.graphs.engine.run import Run
from moa.graphs.engine.types import Work
from moa.graphs.fields import Table, markers_in, settings_of
from moa.node import Reply, Result
from moa.telemetry.names import Kind
from moa.trace import TextDelta

S = TypeVar("S", bound=BaseModel)
_CONFIG = ConfigDict(arbitrary_types_allowed=True, extra="forbid")


@dataclass_transform(kw_only_default=True, field_specifiers=(Field,))
class _KeywordOnly:
    """Tells type checkers that the fields of what derives from it are its keywords."""


@validated(kw_only=True, config=_CONFIG)
class Recipe(_KeywordOnly, TypedNode[In, Out], Compilable[In, Out]):
    """A node made of nodes that runs by plain Python, and can be drawn and streamed.

        class SelfConsistency(Recipe[In, VotedReply], Generic[In], recipe="self_consistency"):
            node: Annotated[Node[In, object], FromEndpoint(sampler, "slm")]
            samples: int = Field(default=5, ge=1)

    It is a dataclass of pydantic: its fields are its keywords in Python and its table in moa.toml,
    checked alike. The class's docstring begins with what `moa graphs` says of it. Answer in
    `answer`, draw in `sketch`, and work out what follows from the fields in `prepare`.

    Raises:
        ConfigError: a keyword is unknown, or a value is wrong; each is named.
    """

    span_kind: ClassVar[Kind] = "workflow"
    name: str = ""
    """Shown in traces, errors and drawings; empty: the recipe's own."""
    budget: Budget = UNLIMITED
    """Limits on each run, on top of those of the run it is part of."""
    timeout_s: float | None = Field(default=None, gt=0)
    """Seconds for each run; `None`: as long as the run it is part of has."""

    def __init_subclass__(cls, *, recipe: str = "") -> None:
        super().__init_subclass__()
        if recipe:
            cls.name = recipe
            ready(recipe, (cls.__doc__ or "").partition("\n")[0].rstrip("."))(cls)
        validated(cls, kw_only=True, config=_CONFIG)

    @model_validator(mode="wrap")
    @classmethod
    def _explain_faults(
        cls, arguments: object, handler: ModelWrapValidatorHandler[Self], info: ValidationInfo
    ) -> Self:
        """Say in sentences what is wrong with its keywords; a table says it by itself."""
        if isinstance(arguments, ArgsKwargs) and arguments.args:
            fields = fields_of(cls)
            keywords = (f"{name}=…" for name, field in fields.items() if field.is_required())
            raise ConfigError(
                f"{cls._default_name()}: its fields are given by name, as in "
                f"{cls.__name__}({', '.join(keywords)}){nearest('', [*fields])}"
            )
        try:
            return handler(arguments)
        except ValidationError as error:
            if info.context is not None:
                raise
            raise ConfigError(explain(error, cls, path=f"{cls._default_name()}:")) from None

    def __post_init__(self) -> None:
        self.name = self.name or self._default_name()
        self.prepare()
        super().__init__(name=self.name, budget=self.budget, timeout_s=self.timeout_s)

    @classmethod
    def _default_name(cls) -> str:
        """Return the name that it is run by, else that of the class."""
        return cls.name or super()._default_name()

    def prepare(self) -> None:
        """Work out what follows from the fields, such as `input_type` where a field decides it."""

    @classmethod
    def from_table(cls, table: Mapping[str, object], context: Table) -> Self:
        """Build it from its table in moa.toml.

        Fields that take a node or an endpoint may be left out. What isn't a field is a setting of
        those of its nodes that have it, if they don't say otherwise.

        Raises:
            ConfigError: a key is unknown, or a value is wrong; each is named.
        """
        fields, table = fields_of(cls), cls.complete(table, context.endpoints)
        values = {name: value for name, value in table.items() if name in fields}
        for name, field in fields.items():
            if field.is_required() and any(markers_in(field)):
                values.setdefault(name, None)
        shared = {name: value for name, value in table.items() if name not in fields}
        makers = [
            marker.make for name in values for marker in markers_in(fields[name]) if marker.make
        ]
        keys = [*fields, *dict.fromkeys(key for make in makers for key in settings_of(make))]
        recipe, faults = None, list[str]()
        try:
            adapter = TypeAdapter(cls)
            recipe = adapter.validate_python(values, context=replace(context, shared=shared))
        except ValidationError as error:
            faults.append(context.explain(error, cls))
        location = f"{context.file}: [graphs.{context.name}]"
        unknown = (name for name in shared if name not in keys)
        faults += [f"{location} has no key {name!r}{nearest(name, keys)}" for name in unknown]
        if recipe is None or faults:
            raise ConfigError("\n".join(faults))
        return recipe

    @classmethod
    def complete(cls, table: Mapping[str, object], endpoints: Endpoints) -> Mapping[str, object]:
        """Complete a table by what it may leave out, before it is read; by default nothing.

        If the endpoints are not `can_be_asked`, the recipe is only drawn.

        Raises:
            ConfigError: something is missing without which it can't run.
        """
        del endpoints
        return table

    async def run(self, request: In, /, context: RunContext | None = None) -> Result[Out]:
        """Answer one request; a reply of which nothing was shown while it was written is shown.

        Raises:
            InputError: `request` is not of the type that the recipe takes; nothing was sent.
            MoaError: see `answer`.
        """
        if context is None or context.listener is None:
            return await super().run(request, context)
        pieces, heard = count_text_deltas(context)
        result = await super().run(request, heard)
        show(result.output, context.nested(self.name), pieces())
        return result


def show(output: object, context: RunContext, limit: int) -> None:
    """Show a reply as a whole, unless some pieces of it were shown already."""
    if isinstance(output, Reply) and not limit:
        context.emit(TextDelta(context.node, output.text))


def read_state(file: Path | None, kind: type[S], *, what: str) -> S | None:
    """Read the state of a recipe that learns while it is used, if an earlier process kept one.

    Raises:
        ConfigError: it is there, and can't be read.
    """
    if file is None or not file.exists():
        return None
    try:
        return kind.model_validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        reason = fault_in(error) if isinstance(error, ValidationError) else str(error.strerror)
        raise ConfigError(
            f"{file} keeps {what}, and can't be read: {reason}. Mend it, or remove it to start anew"
        ) from error


def write_state(file: Path | None, state: BaseModel) -> None:
    """Write a state in place of the one before it; `None` keeps nothing.

    Raises:
        ConfigError: it can't be written.
    """
    if file is None:
        return
    try:
        replace_text(file, state.model_dump_json())
    except OSError as error:
        raise ConfigError(f"{file} can't be written: {error.strerror}") from error


class WiredRecipe(Recipe[In, Out]):
    """A recipe that is wired by the builder, and runs as any graph does."""

    settles_by: ClassVar[str] = ""
    """The question whose answer has to be right where something is settled without a large model;
    empty if that is none."""

    def prepare(self) -> None:
        """Wire it; what a recipe prepares itself comes before that, or after."""
        self.graph: BuiltGraph[In, Out] = self.wire()
        self.input_type, self.output_type = self.graph.input_type, self.graph.output_type

    @abstractmethod
    def wire(self) -> BuiltGraph[In, Out]:
        """Wire its nodes."""

    @property
    def plan(self) -> Plan:
        """What it runs by, and what is drawn."""
        return self.graph.plan

    async def answer(self, request: In, context: RunContext) -> Out:
        """Run every node that the answer needs."""
        return cast("Out", await Run(self.plan, context).output(request))

    def sketch(self, sketch: Sketch) -> None:
        """Its wiring."""
        self.graph.sketch(sketch)

    def members(self) -> Iterator[Work]:
        """Return the nodes that are wired."""
        return self.graph.members()

    def list_endpoints(self) -> list[Endpoint] | None:
        """List none: its nodes ask; `None` if a function among them may ask any."""
        return self.graph.list_endpoints()
