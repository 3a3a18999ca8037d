"""Base: the base class of agents, a node with a name, limits and checked input."""

from __future__ import annotations

import asyncio
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from types import UnionType
from typing import Any, ClassVar, NamedTuple, TypedDict, TypeGuard, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError
from typing_extensions import TypeIs, TypeVar

from moa.core._async import run_sync, time_limit
from moa.core._json import is_mapping, is_sequence
from moa.core.batch import faults_of
from moa.core.budget import UNLIMITED, Budget
from moa.core.context import RunContext, run_context
from moa.core.errors import CapabilityError, ConfigError, InputError
from moa.core.node import AnyNode, Reply, Result, finish
from moa.core.node_base import NodeBase
from moa.core.telemetry.names import Kind
from moa.core.usage import Tier
from moa.endpoints import PHRASES, Capability, Endpoint
from moa.endpoints.named import as_endpoint
from moa.endpoints.rehearsal import at_work, rehearse
from moa.endpoints.sent import SentPrompt

T = TypeVar("T")
In = TypeVar("In", default=str | BaseModel)
Out = TypeVar("Out", default=Reply)
Make = TypeVar("Make", bound=Callable[..., AnyNode])

_WHO_CAN: dict[Capability, str] = {
    "complete": "any OpenAI-compatible server, and the embedded model",
    "stream": "any OpenAI-compatible server, and the embedded model",
    "decide": (
        "a server with System One, OpenAI Decisions or log-probabilities, and the embedded model"
    ),
    "embed": "a server that serves an embedding model, and the embedded model",
    "images": "a server with a model that sees",
    "files": "a server with a model that reads files",
}


class NamedAgent(NamedTuple):
    """An agent that can be run, drawn and configured by its name."""

    make: Callable[..., AnyNode]
    """Class or function that makes it; its keywords are the keys of its table in moa.toml."""
    does: str
    """Description for listings."""
    tier: Tier | None
    """Tier of the endpoint that it asks by default; `None`: it asks none."""


_ROLES: dict[object, str] = {In: "input_type", Out: "output_type"}
_LONG = 4000
"""Maximum characters of a text that is processed in the event loop, not in a thread."""
AGENTS: dict[str, NamedAgent] = {}
"""Registered agents, by name."""


def ready(name: str, does: str, tier: Tier | None = None) -> Callable[[Make], Make]:
    """Register an agent, to be run by its name, as in `moa run NAME`; see `NamedAgent`."""

    def enter(make: Make) -> Make:
        AGENTS[name] = NamedAgent(make, does, tier)
        return make

    return enter


class Limits(TypedDict, total=False):
    """Keywords of every agent."""

    name: str | None
    """Name in traces, errors and drawings; `None`: the class's name, in snake case."""
    budget: Budget
    """Limits on each of its runs, on top of those of the run it is part of."""
    timeout_s: float | None
    """Seconds for each of its runs; `None`: as many as the run it is part of has left."""


class TypedNode(ABC, NodeBase[In, Out]):
    """A node that checks its input, and runs in a nested context of its own.

    `input_type` and `output_type` come from the type arguments of the class, so that graphs can
    check their wiring. A generic class sets them in its constructor.

    Args:
        name, budget, timeout_s: See `Limits`.

    Raises:
        ConfigError: the class has no input or output type.
    """

    span_kind: ClassVar[Kind] = "agent"
    """The kind of its spans."""
    input_type: Any
    """The input type: a class, or a union of classes."""
    output_type: Any
    """The output type: a pydantic model, or another type that JSON can hold."""

    def __init__(
        self, *, name: str | None = None, budget: Budget = UNLIMITED, timeout_s: float | None = None
    ) -> None:
        self.name = name or type(self)._default_name()
        self.budget = budget
        self.timeout_s = timeout_s
        for which in ("input_type", "output_type"):
            if not hasattr(self, which):
                raise ConfigError(
                    f"agent {self.name!r} has no {which}: name its types, as in "
                    f"class {type(self).__name__}({type(self).__mro__[1].__name__}[Text, Reply])"
                )
        is_class = isinstance(self.input_type, type | UnionType)
        self._input: TypeAdapter[In] | None = None if is_class else TypeAdapter(self.input_type)

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for base in cls.__dict__.get("__orig_bases__", ()):
            parameters = getattr(get_origin(base), "__parameters__", ())
            for parameter, argument in zip(parameters, get_args(base), strict=False):
                which = _ROLES.get(parameter)
                if which and not isinstance(argument, TypeVar) and which not in cls.__dict__:
                    setattr(cls, which, argument)

    def members(self) -> Iterator[object]:
        """Yield the nodes that it runs: those in its attributes, lists and mappings included."""
        nodes = {id(node): node for node in _parts_in(vars(self).values()) if _is_node(node)}
        yield from nodes.values()

    def list_endpoints(self) -> list[Endpoint] | None:
        """List the endpoints that it may ask itself, without those of its members.

        Calibrations may read others. `None`: unknown.
        """
        endpoints = {
            id(endpoint): endpoint
            for endpoint in _parts_in(vars(self).values())
            if is_endpoint(endpoint)
        }
        return [*endpoints.values()]

    def list_settings(self) -> Mapping[str, object]:
        """Return what its answers depend on, by name: by default its public attributes.

        What members and endpoints depend on is theirs to tell.
        """
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    @classmethod
    def _default_name(cls) -> str:
        """Return the class's name in snake case."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()

    async def run(self, request: In, /, context: RunContext | None = None) -> Result[Out]:
        """Answer one request.

        Args:
            request: The input.
            context: Budget, deadline and ledger of the run it is part of; `None` starts one.

        Raises:
            InputError: `request` is not of the agent's input type; nothing was sent.
            OutputError: the model answered, but not with a valid output.
            EndpointError: a request to the endpoint failed.
            BudgetExceeded: the next call would exceed a limit, and was not sent.
            DeadlineExceeded: the time is up.
        """
        started = time.perf_counter()
        context = run_context(context).nested(
            self.name, budget=self.budget, timeout_s=self.timeout_s
        )
        with context.span(self.span_kind, self.name), at_work(self):
            request = self._check_input(request)
            if context.journal is None:
                output = await self.answer(request, context)
            else:
                with context.journal.inside(context.node, request) as context.journal:
                    output = await self.answer(request, context)
        return finish(output, context, seconds=time.perf_counter() - started)

    def prompt(self, request: In, /) -> tuple[SentPrompt, ...]:
        """Return the first model calls of a request as they would be sent, without making them.

        All work before them is done: texts are cleaned, passages are found, and encoders in this
        process decide. A server may be asked for its identity or to count tokens, but its model
        isn't called. Calls that depend on answers are missing. If no model is asked, the result is
        empty, or describes what decides instead.

        Args:
            request: The input.

        Raises:
            InputError: `request` is not of the agent's input type.
            EndpointError: the server must tell its identity, and doesn't answer; or the prompt is
                too long to be sent.
        """
        return run_sync(lambda: rehearse(partial(self.run, request), root=self.name))

    @abstractmethod
    async def answer(self, request: In, context: RunContext) -> Out:
        """Compute the output.

        Args:
            request: The checked input.
            context: The agent's own context, nested in the run's.
        """

    def _check_input(self, request: object) -> In:
        if self._input is None:
            # Only instances: pydantic would turn a dictionary into an empty `BaseModel`.
            if not self._is_input(request):
                raise InputError(self._misfit(request))
            return request
        try:
            return self._input.validate_python(request, strict=True)
        except ValidationError as error:
            raise InputError(f"{self._misfit(request)}: {fault_in(error)}") from error

    def _is_input(self, request: object) -> TypeGuard[In]:
        return isinstance(request, self.input_type)

    def _misfit(self, request: object) -> str:
        input_name = getattr(self.input_type, "__name__", None) or str(self.input_type)
        return f"{self.name}: takes {input_name}, but was given {type(request).__name__}"


def _parts_in(values: Iterable[object]) -> Iterator[object]:
    """Yield the values, and the items of lists and mappings among them."""
    for value in values:
        if is_mapping(value):
            yield from _parts_in(value.values())
        elif is_sequence(value):
            yield from _parts_in(value)
        else:
            yield value


def _is_node(value: object) -> TypeIs[AnyNode]:
    if isinstance(value, type) or get_origin(value) is not None:  # `__orig_class__` is an attribute
        return False
    return hasattr(value, "run") and isinstance(getattr(value, "name", None), str)


def is_endpoint(value: object) -> TypeIs[Endpoint]:
    """Return True if a value is an endpoint, not the class of one."""
    return hasattr(value, "capabilities") and not isinstance(value, type)


async def run_off_loop(work: Callable[[], T], context: RunContext, *, characters: int | None) -> T:
    """Process a text, a long one in a thread and until the run's deadline.

    No single call of `re` in that thread may take long: it blocks all other threads.

    Args:
        work: Function to call; it can't be stopped.
        context: Context with the deadline.
        characters: Length of the text; `None`: even a short one may take long.

    Raises:
        DeadlineExceeded: the time is up; the thread runs on.
    """
    if characters is not None and characters <= _LONG:
        return work()
    message = (
        f"{context.node or 'run'}: the time given to the run is up, and the text is not read; "
        "give it more time or a shorter text"
    )
    async with time_limit(context.remaining_s(), message):
        return await asyncio.to_thread(work)


def require(endpoint: Endpoint | str, capability: Capability, *, agent: str) -> Endpoint:
    """Return an endpoint, or the one that a string names, if it has a capability.

    Raises:
        CapabilityError: it lacks the capability.
        ConfigError: it isn't an endpoint, or a string that names none; see `moa.endpoint`.
    """
    if isinstance(endpoint, type) or not (
        isinstance(endpoint, str) or hasattr(endpoint, "capabilities")
    ):
        raise ConfigError(f"agent {agent!r} takes an endpoint, {no_endpoint(endpoint)}")
    endpoint = as_endpoint(endpoint)
    if capability in endpoint.capabilities:
        return endpoint
    able = ", ".join(sorted(endpoint.capabilities)) or "nothing"
    verb = PHRASES.get(capability, capability)
    raise CapabilityError(
        f"agent {agent!r} needs an endpoint that can {verb}, and {endpoint.name!r} "
        f"({endpoint.model}) can {able}. Those that can {verb}: {_WHO_CAN[capability]}"
    )


def no_endpoint(value: object) -> str:
    """Return the end of an error's sentence: what was given, and advice if it is a class."""
    if isinstance(value, type):
        return f"but was given the class {value.__name__}: give an object of it"
    return f"but was given {value!r}"


def fault_in(error: Exception) -> str:
    """Describe an error in one line; a pydantic error by each field and its fault."""
    return faults_of(error) if isinstance(error, ValidationError) else str(error)
