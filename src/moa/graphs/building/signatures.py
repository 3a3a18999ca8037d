"""Signatures: what a node or a function takes and gives, read from its annotations."""

from __future__ import annotations

import dis
import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

from moa.graphs.engine.types import UNKNOWN, split_skipped
from moa.node import Node, Result

_PLAIN_READS = frozenset(("RESUME", "LOAD_FAST", "LOAD_FAST_BORROW", "LOAD_ATTR", "RETURN_VALUE"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """Types as annotated; `UNKNOWN` where an annotation is missing or can't be read."""

    inputs: tuple[object, ...]
    """One for each positional parameter."""
    output: object
    """What is given, `Skipped` left out."""
    may_skip: bool
    """Whether `Skipped` can be given."""
    quick: bool = False
    """Whether it is an ordinary function, which nobody has to wait for."""

    def input(self, index: int) -> object:
        """Type of a parameter."""
        return self.inputs[index] if index < len(self.inputs) else UNKNOWN

    def takes_skipped(self, index: int = 0) -> bool:
        """Whether a parameter accepts `Skipped`."""
        return split_skipped(self.input(index))[1]


def is_node(work: object) -> bool:
    """Whether `work` has the shape of a node; else it is a function."""
    return hasattr(work, "run") and not isinstance(work, type)


def signature_of(work: Any) -> Signature:
    """Read the signature of a node or a function.

    A node's own `input_type` and `output_type` come first, so that generic agents can say what
    no annotation does.
    """
    return _node_signature(work) if is_node(work) else _function_signature(work)


def picked(function: Callable[..., Any]) -> tuple[str, ...]:
    """What a function such as `lambda v: v.a.b` picks, as `("a", "b")`; empty for any other."""
    code = getattr(function, "__code__", None)
    if code is None or code.co_argcount != 1:
        return ()
    steps = list(dis.get_instructions(code))
    if any(step.opname not in _PLAIN_READS for step in steps):
        return ()
    return tuple(str(step.argval) for step in steps if step.opname == "LOAD_ATTR")


def field_type(source: object, fields: tuple[str, ...]) -> object:
    """Type of a field of a field … of a value of type `source`, as far as annotations tell."""
    return functools.reduce(_attribute, fields, source) if fields else UNKNOWN


def _attribute(owner: object, name: str) -> object:
    if not isinstance(owner, type):
        return UNKNOWN
    member = inspect.getattr_static(owner, name, None)
    if isinstance(member, property) and member.fget is not None:
        return _hints(member.fget).get("return", UNKNOWN)
    found = _hints(owner).get(name, UNKNOWN)
    return UNKNOWN if _has_type_variables(found) else found


def _node_signature(node: Node[Any, Any]) -> Signature:
    hints = _hints(type(node).run)
    variables = _bound_variables(node)
    parameters = [name for name in hints if name not in ("return", "context")]
    taken = _declared(node, "input_type")
    if taken is UNKNOWN and parameters:
        taken = _resolve(hints[parameters[0]], variables)
    given = _declared(node, "output_type")
    if given is UNKNOWN:
        result = hints.get("return", UNKNOWN)
        if get_origin(result) is Result:
            given = _resolve(get_args(result)[0], variables)
    output, may_skip = split_skipped(given)
    return Signature(inputs=(taken,), output=output, may_skip=may_skip)


def _declared(node: object, name: str) -> object:
    found = getattr(node, name, None)
    return UNKNOWN if found is None or isinstance(found, property | TypeVar) else found


def _function_signature(function: Any) -> Signature:
    inner = function
    while isinstance(inner, functools.partial):
        inner = cast("functools.partial[Any]", inner).func
    plain = isinstance(function, type) or inspect.isroutine(inner)
    called: Any = inner if plain else type(inner).__call__
    if isinstance(function, type):
        hints = {**_hints(function.__init__), "return": function}
    else:
        hints = _hints(called)
    given = hints.get("return", UNKNOWN)
    waits = inspect.iscoroutinefunction(called)
    if get_origin(given) in (Awaitable, Coroutine):
        given, waits = get_args(given)[-1], True
    known = isinstance(function, type) or given is not UNKNOWN
    output, may_skip = split_skipped(UNKNOWN if _has_type_variables(given) else given)
    return Signature(
        inputs=tuple(hints.get(name, UNKNOWN) for name in _positional(function)),
        output=output,
        may_skip=may_skip,
        quick=known and not waits,
    )


def _positional(function: Any) -> tuple[str, ...]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (ValueError, TypeError):  # a builtin without a signature
        return ()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(p.name for p in parameters if p.kind in kinds)


def _hints(annotated: Any) -> dict[str, Any]:
    try:
        return get_type_hints(annotated)
    except (NameError, AttributeError, TypeError):  # a name that is imported for checkers only
        return {}


def _bound_variables(node: object) -> dict[object, object]:
    """What a class and its bases put in the place of type variables."""
    bound: dict[object, object] = {}
    bases: list[Any] = [getattr(node, "__orig_class__", None)]
    for kind in type(node).__mro__:
        bases.extend(kind.__dict__.get("__orig_bases__", ()))
    for base in bases:
        parameters = getattr(get_origin(base), "__parameters__", ())
        for variable, value in zip(parameters, get_args(base), strict=False):
            bound.setdefault(variable, bound.get(value, value))
    return bound


def _resolve(annotation: object, variables: dict[object, object]) -> object:
    found = variables.get(annotation, annotation)
    return UNKNOWN if _has_type_variables(found) else found


def _has_type_variables(annotation: object) -> bool:
    return isinstance(annotation, TypeVar) or any(
        _has_type_variables(inner) for inner in get_args(annotation)
    )
