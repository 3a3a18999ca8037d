"""Recipe: a ready graph as one class. Its fields are its arguments and its table in moa.toml."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self, dataclass_transform

from pydantic import (
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic.dataclasses import dataclass as validated
from pydantic.fields import FieldInfo
from pydantic_core import ArgsKwargs

from moa.agents.base import In, Out, TypedNode, ready
from moa.core.budget import UNLIMITED, Budget
from moa.core.context import RunContext, count_text_deltas
from moa.core.errors import ConfigError
from moa.core.node import Reply, Result
from moa.core.telemetry.names import Kind
from moa.core.trace import TextDelta
from moa.graphs.engine.compilable import Compilable
from moa.graphs.engine.sketch import Sketch as Sketch
from moa.graphs.fields import TABLES, NamedEndpoints

_CONFIG = ConfigDict(arbitrary_types_allowed=True, extra="forbid")


@dataclass_transform(kw_only_default=True, field_specifiers=(Field,))
class _KeywordOnly:
    """Tells type checkers that the fields of its subclasses are keyword arguments."""


@validated(kw_only=True, config=_CONFIG)
class Recipe(_KeywordOnly, TypedNode[In, Out], Compilable[In, Out]):
    """A node made of nodes. It runs plain Python code, and can be drawn and streamed.

        class SelfConsistency(Recipe[In, VotedReply], Generic[In], recipe="self_consistency"):
            node: Annotated[Node[In, object], FromEndpoint(sampler, "slm")]
            samples: int = Field(default=5, ge=1)

    It is a pydantic dataclass: its fields are its keyword arguments in Python and the keys of its
    table in moa.toml, validated alike. `moa graphs` shows the first line of the class's docstring.
    Override `answer` to answer, `sketch` to draw, and `prepare` to compute what depends on the
    fields.

    Raises:
        ConfigError: a keyword is unknown, or a value is wrong. The error names each.
    """

    span_kind: ClassVar[Kind] = "workflow"
    name: str = ""
    """Name in traces, errors and drawings; empty: the recipe's name."""
    budget: Budget = UNLIMITED
    """Limits on each run, besides those of the run it is part of."""
    timeout_s: float | None = Field(default=None, gt=0)
    """Timeout of each run in seconds; `None`: the time of the run it is part of."""

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
        """Raise wrong keywords as a `ConfigError` in words. For tables, their reader does so."""
        if isinstance(arguments, ArgsKwargs) and arguments.args:
            fields = cls._list_fields()
            keywords = (f"{name}=…" for name, field in fields.items() if field.is_required())
            raise ConfigError(
                f"{cls._default_name()}: its fields are given by name, as in "
                f"{cls.__name__}({', '.join(keywords)}){TABLES.open().nearest('', [*fields])}"
            )
        try:
            return handler(arguments)
        except ValidationError as error:
            if info.context is not None:
                raise
            path = f"{cls._default_name()}:"
            raise ConfigError(TABLES.open().explain(error, cls, path=path)) from None

    def __post_init__(self) -> None:
        self.name = self.name or self._default_name()
        self.prepare()
        super().__init__(name=self.name, budget=self.budget, timeout_s=self.timeout_s)

    @classmethod
    def _default_name(cls) -> str:
        """Return the recipe's name, or else that of the class."""
        return cls.name or super()._default_name()

    @classmethod
    def _list_fields(cls) -> Mapping[str, FieldInfo]:
        return getattr(cls, "__pydantic_fields__", {})

    def prepare(self) -> None:
        """Compute what depends on the fields, such as `input_type` if a field decides it."""

    def list_settings(self) -> Mapping[str, object]:
        """Return its fields."""
        return {name: getattr(self, name) for name in self._list_fields()}

    @classmethod
    def complete(
        cls, table: Mapping[str, object], endpoints: NamedEndpoints
    ) -> Mapping[str, object]:
        """Fill in the defaults of a table before it is validated; by default there are none.

        If the endpoints' `can_be_asked` is False, the recipe is only drawn.

        Raises:
            ConfigError: something that it needs to run is missing.
        """
        del endpoints
        return table

    async def run(self, request: In, /, context: RunContext | None = None) -> Result[Out]:
        """Answer one request. A reply that wasn't streamed is then shown as a whole.

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
    """Show a reply as a whole, unless pieces of it were streamed already."""
    if isinstance(output, Reply) and not limit:
        context.emit(TextDelta(context.node, output.text))
