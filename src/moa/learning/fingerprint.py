"""Fingerprint: what a node's answers depend on, to notice that it was changed.

It covers what a node and all nodes in it ask, and of whom: questions, examples, instructions,
output types, sampling, wiring, models and addresses of endpoints. Of your own nodes, endpoints and
functions it covers the source of the class or function, and public attributes that hold data; of
your own nodes also texts in private attributes, such as a prompt. It doesn't cover what your source
imports or calls, nor what a server does under the same model name.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol, runtime_checkable

from pydantic import BaseModel, PydanticUserError, TypeAdapter

from moa.agents.base import is_endpoint
from moa.core._json import is_mapping, is_sequence, is_set
from moa.core.context import RunContext
from moa.core.journal import digest
from moa.endpoints import Endpoint
from moa.endpoints.known import identity_of
from moa.endpoints.transport import is_loopback
from moa.endpoints.wrappers import Fallback, Wrapping
from moa.graphs.engine.graph import BuiltGraph
from moa.graphs.engine.plan import Plan
from moa.graphs.engine.steps import FunctionStep, MatchStep, Step, label_name
from moa.graphs.engine.types import describe_type, is_node
from moa.vllm.endpoint import VLLMEndpoint
from moa.vllm.replicas import Replicas

_WITHOUT_EFFECT = ("name", "tier", "price", "budget", "timeout_s", "concurrency")
"""Attributes that no answer depends on."""
_OF_TYPES = ("input_type", "output_type")
"""Attributes that an agent's schema, or the class, describes."""
_DATA = (str, int, float, bool, bytes, Path, Enum, type(None))


@runtime_checkable
class _HasSettings(Protocol):
    def list_settings(self) -> Mapping[str, object]: ...


async def fingerprint_of(node: object, context: RunContext) -> dict[str, str]:
    """Return a digest of each part of a node, by the part's name.

    Args:
        node: The node.
        context: Context in which the weights of models in this process are identified.

    Raises:
        ModelNotFound: the weights of the embedded model are not available.
    """
    description = _Description()
    parts = description.describe_node(node)
    weights = [
        (await identity_of(endpoint, context)).digest
        for endpoint in description.endpoints
        if not hasattr(endpoint, "base_url")  # a server tells no digest, and may be away
    ]
    parts["weights"] = [weight for weight in weights if weight]
    return {name: digest(part)[:16] for name, part in parts.items()}


class _Description:
    """Describes nodes as JSON that is the same in each process; each node once."""

    def __init__(self) -> None:
        self.endpoints: list[Endpoint] = []
        """The endpoints beneath all wrappers."""
        self._seen: dict[int, object] = {}

    def describe_node(self, node: object) -> dict[str, object]:
        """Describe a node by part."""
        self._seen[id(node)] = node
        settings = node.list_settings() if isinstance(node, _HasSettings) else _data_of(node)
        parts = self._describe_settings(settings)
        members: Callable[[], Iterator[object]] = getattr(node, "members", lambda: iter(()))
        parts["nodes"] = [self._describe(member) for member in members()]
        parts["class"] = _code_of(type(node))
        if isinstance(node, BuiltGraph):
            plan: Plan = node.plan
            parts["wiring"] = [_describe_step(step, plan) for step in plan.steps]
        return parts

    def _describe_settings(self, settings: Mapping[str, object]) -> dict[str, object]:
        without = (*_WITHOUT_EFFECT, *_OF_TYPES)
        return {n: self._describe(value) for n, value in settings.items() if n not in without}

    def _describe(self, value: object) -> object:
        if isinstance(value, _DATA):
            return value
        if is_mapping(value):
            return {str(key): self._describe(item) for key, item in value.items()}
        if is_sequence(value):
            return [self._describe(item) for item in value]
        if is_set(value):
            return sorted(digest(self._describe(item)) for item in value)
        if isinstance(value, type):
            return _schema_of(value)
        return "described above" if id(value) in self._seen else self._describe_object(value)

    def _describe_object(self, value: object) -> object:
        """Describe an object; one whose parts are unknown by its class alone."""
        if is_endpoint(value):
            return self._describe_endpoint(value)
        if is_node(value):
            return self.describe_node(value)
        if isinstance(value, BaseModel):
            names = type(value).model_fields
            return {name: self._describe(getattr(value, name)) for name in names}
        if is_dataclass(value) and not isinstance(value, type):
            parts = {part.name: self._describe(getattr(value, part.name)) for part in fields(value)}
            return [type(value).__qualname__, parts]
        if hasattr(value, "__code__"):
            return _code_of(value)
        values: Callable[[], object] | None = getattr(value, "tolist", None)  # an array
        return type(value).__qualname__ if values is None else self._describe(values())

    def _describe_endpoint(self, endpoint: Endpoint) -> object:
        self._seen[id(endpoint)] = endpoint
        wrapped = [*_wrapped_in(endpoint)]
        if not wrapped:
            self.endpoints.append(endpoint)
        address: object = getattr(endpoint, "base_url", None)
        if isinstance(endpoint, VLLMEndpoint) and is_loopback(str(address)):
            address = "this machine"  # it may be started on any free port
        inner = [self._describe(one) for one in wrapped]
        if isinstance(endpoint, Replicas):
            inner.sort(key=digest)  # any of them answers
        settings = {} if _is_of_moa(type(endpoint)) else self._describe_settings(_data_of(endpoint))
        return {
            "class": _code_of(type(endpoint)),
            "model": endpoint.model,
            "address": address and str(address).rstrip("/"),
            "decides": getattr(endpoint, "decides", None),
            "settings": settings,
            "chat model": self._describe(getattr(endpoint, "chat_model", None)),
            "endpoints": inner,
        }


def _data_of(value: object) -> dict[str, object]:
    """Return the nodes and endpoints of an object of unknown class, and its public data.

    Of a node, private texts are returned, too. Those of an endpoint may be keys, which change.
    """
    has_prompts = is_node(value) and not _is_of_moa(type(value))
    attributes: Mapping[str, object] = getattr(value, "__dict__", {})
    return {
        name: attribute
        for name, attribute in attributes.items()
        if is_node(attribute)
        or is_endpoint(attribute)
        or (not name.startswith("_") and isinstance(attribute, (*_DATA, list, tuple, dict)))
        or (has_prompts and isinstance(attribute, str))
    }


def _wrapped_in(endpoint: Endpoint) -> Iterator[Endpoint]:
    """Yield the endpoints that one wraps, such as replicas."""
    if isinstance(endpoint, Replicas):
        yield from endpoint.replicas
    elif isinstance(endpoint, Fallback):
        yield from endpoint.endpoints
    elif isinstance(endpoint, Wrapping):
        yield endpoint.endpoint


def _describe_step(step: Step, plan: Plan) -> object:
    sources = [plan.steps.index(source) for source in (*step.needs, *step.may_need)]
    own: object = None
    if isinstance(step, FunctionStep):
        own = _code_of(step.function)
    elif isinstance(step, MatchStep):
        own = [label_name(label) for label in step.cases]
    return [type(step).__name__, step.name, sources, own]


def _is_of_moa(value: object) -> bool:
    return str(getattr(value, "__module__", "")).partition(".")[0] == "moa"


def _code_of(value: object) -> object:
    """Return the source of a class or function that isn't of `moa`, otherwise its name."""
    name = str(getattr(value, "__qualname__", type(value).__qualname__))
    if _is_of_moa(value):
        return name
    try:
        return [name, inspect.getsource(value)]  # pyright: ignore[reportArgumentType]
    except (OSError, TypeError):  # it was typed into a prompt, or isn't written in Python
        return name


def _schema_of(kind: type) -> object:
    try:
        return TypeAdapter[object](kind).json_schema()
    except PydanticUserError:
        return describe_type(kind)
