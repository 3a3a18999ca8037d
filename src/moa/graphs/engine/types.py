"""Types at run time: inputs and outputs of nodes, and whether they fit."""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    Never,
    TypeGuard,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from moa.core.context import RunContext
from moa.core.errors import WiringError
from moa.core.node import Node, Result

if TYPE_CHECKING:
    from typing_extensions import TypeIs

Work = Node[Never, object] | Callable[..., object]
"""A node, or a function that acts as one."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """Replaces the output of a node that did not run.

    Examples:
        >>> g = Graph("maybe", Text)
        >>> long = g.input.map(lambda text: len(text.text) > 100)
        >>> answer = g.add(Agent(ScriptedEndpoint(), "Shorten."), g.input, when=long)
        >>> def text_of(reply: Reply | Skipped) -> str:
        ...     return "short" if isinstance(reply, Skipped) else reply.text
        >>> told = g.join(text_of, answer)
        >>> g.build(told).run_sync(Text(text="Hello")).output
        'short'
    """

    reason: str


class _Unknown:
    """Type without an annotation. It fits everywhere, and everything fits it."""

    def __repr__(self) -> str:
        return "unknown"


UNKNOWN: object = _Unknown()


def fits(actual: object, expected: object) -> bool:
    """Return True if a value of type `actual` can go where `expected` is required.

    Types that can't be checked at run time fit: type variables, protocols, callables and unknown
    types are left to a type checker.
    """
    actual, expected = _bare(actual), _bare(expected)
    if _undecidable(actual) or _undecidable(expected) or expected is object:
        return True
    if is_union(actual):
        return all(fits(member, expected) for member in get_args(actual))
    if is_union(expected):
        return any(fits(actual, member) for member in get_args(expected))
    if get_origin(actual) is Literal:
        return _literal_fits(get_args(actual), expected)
    if get_origin(expected) is Literal:
        return False
    return _class_fits(actual, expected)


def split_skipped(annotation: object) -> tuple[object, bool]:
    """Return a type without `Skipped`, and True if it had it."""
    annotation = _bare(annotation)
    if annotation is Skipped:
        return UNKNOWN, True
    if not is_union(annotation) or Skipped not in get_args(annotation):
        return annotation, False
    rest = tuple(member for member in get_args(annotation) if member is not Skipped)
    return union(rest), True


def union(members: tuple[object, ...]) -> object:
    """Return the union of several types; `UNKNOWN` if one is unknown."""
    if any(member is UNKNOWN for member in members):
        return UNKNOWN
    union_type: object = Union[members]  # noqa: UP007 - the members are known only at run time
    return union_type


def describe_type(annotation: object) -> str:
    """Write a type as in source code."""
    annotation = _bare(annotation)
    if is_union(annotation):
        return " | ".join(describe_type(member) for member in get_args(annotation))
    if annotation is type(None):
        return "None"
    if get_origin(annotation) is None and isinstance(annotation, type):
        return annotation.__name__
    origin: object = get_origin(annotation)
    arguments = get_args(annotation)
    if isinstance(origin, type) and arguments:
        inner = ", ".join("…" if a is Ellipsis else describe_type(a) for a in arguments)
        return f"{origin.__name__}[{inner}]"
    return str(annotation).replace("typing.", "")


def _bare(annotation: object) -> object:
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    while isinstance(annotation, typing.NewType):
        annotation = annotation.__supertype__
    return type(None) if annotation is None else annotation


def is_union(annotation: object) -> bool:
    """Return True if a type is a union."""
    return get_origin(annotation) in (Union, types.UnionType)


def _undecidable(annotation: object) -> bool:
    if annotation is UNKNOWN or annotation is Any or isinstance(annotation, typing.TypeVar | str):
        return True
    kind = get_origin(annotation) or annotation
    return (not isinstance(kind, type) and kind is not Literal) or _is_structural(kind)


def _is_structural(kind: object) -> bool:
    return bool(getattr(kind, "_is_protocol", False)) or typing.is_typeddict(kind)


def _literal_fits(values: tuple[object, ...], expected: object) -> bool:
    if get_origin(expected) is Literal:
        return set(values) <= set(get_args(expected))
    return all(_class_fits(type(value), expected) for value in values)


def _class_fits(actual: object, expected: object) -> bool:
    given_kind, given_args = _parts(actual)
    kind, args = _parts(expected)
    if kind is float and given_kind is int:
        return True
    if not issubclass(given_kind, kind):
        return False
    if given_kind is not kind or len(args) != len(given_args):
        return True
    return all(fits(given_arg, arg) for given_arg, arg in zip(given_args, args, strict=True))


def _parts(annotation: object) -> tuple[type, tuple[object, ...]]:
    """Return a class and its type arguments. Pydantic stores those of its generic models itself."""
    generic: Mapping[str, Any] | None = getattr(annotation, "__pydantic_generic_metadata__", None)
    if generic and generic["origin"] is not None:
        return generic["origin"], generic["args"]
    kind: object = get_origin(annotation) or annotation
    assert isinstance(kind, type), "what is none is undecidable"
    return kind, get_args(annotation)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """Types from annotations; `UNKNOWN` if one is missing or can't be read."""

    inputs: tuple[object, ...]
    """One type per positional parameter."""
    output: object
    """Type of the output, without `Skipped`."""
    may_skip: bool
    """True if the output can be `Skipped`."""
    quick: bool = False
    """True if it is an ordinary function, which doesn't wait."""
    is_async: bool = False
    """True if it is an asynchronous function."""
    settles: bool = False
    """True if its result states whether the output is accepted, as a cascade's does."""

    def input(self, index: int) -> object:
        """Return the type of a parameter."""
        return self.inputs[index] if index < len(self.inputs) else UNKNOWN

    def takes_skipped(self, index: int = 0) -> bool:
        """Return True if a parameter accepts `Skipped`."""
        return split_skipped(self.input(index))[1]


def is_node(work: object) -> TypeIs[Node[Never, object]]:
    """Return True if `work` is a node, not a function."""
    return hasattr(work, "run") and not isinstance(work, type)


def takes_context(work: object) -> TypeGuard[Callable[..., Awaitable[object]]]:
    """Return True if `work` is a function of a request and a context, which acts as a node."""
    if is_node(work) or isinstance(work, type) or not callable(work):
        return False
    try:
        _, context = inspect.signature(work).parameters.values()
    except (ValueError, TypeError):  # not two parameters, or a builtin without a signature
        return False
    # An annotation imported only for type checkers stays a string.
    is_bare = context.annotation is context.default is context.empty
    is_named = is_bare and context.name == "context" and inspect.iscoroutinefunction(work)
    return is_named or context.annotation in (RunContext, "RunContext", "moa.RunContext")


def check_arity(what: str, function: Callable[..., object], count: int) -> Iterator[str]:
    """Yield a problem if a function can't take this number of values."""
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):  # a builtin without a signature
        return
    try:
        signature.bind(*range(count))
    except TypeError:
        values = "one value" if count == 1 else f"{count} values"
        yield f"{what} is given {values}, but takes ({', '.join(signature.parameters)})"


def name_of(work: object) -> str:
    """Return the name of a node or a function."""
    if is_node(work):
        return work.name
    inner: object = getattr(work, "func", work)
    return getattr(inner, "__name__", type(inner).__name__)


def check_work(work: object) -> Work:
    """Check that an object can be a node of a graph, and return it.

    Raises:
        WiringError: it is neither a node nor a function. The message says what to give instead.
    """
    name = getattr(work, "__name__", type(work).__name__)
    if inspect.iscoroutine(work):
        work.close()
        raise WiringError(f"{name}(…) was called: give the function itself, as in g.add({name}, …)")
    if isinstance(work, type) and hasattr(work, "run"):
        raise WiringError(f"{name} is a class: give an object of it, as in g.add({name}(…), …)")
    if name == "run" and is_node(getattr(work, "__self__", None)):
        raise WiringError("the run of a node was given: give the node itself")
    if is_node(work) or callable(work):
        return work
    if hasattr(work, "build"):
        raise WiringError(f"graph {getattr(work, 'name', '')!r} is not built: give g.build(output)")
    if hasattr(work, "capabilities"):
        raise WiringError(f"{name} is an endpoint: give an agent on it, as Agent(endpoint, …)")
    label = repr(work) if isinstance(work, str) else name
    raise WiringError(
        f"{label} is no node: give an agent, a graph that is built, or a function of one argument, "
        "and then the handle that it reads"
    )


def signature_of(work: object) -> Signature:
    """Read the signature of a node or a function.

    A node's own `input_type` and `output_type` take precedence, so that generic agents can state
    types that annotations can't.
    """
    return _node_signature(work) if is_node(work) else _function_signature(work)


def _node_signature(node: object) -> Signature:
    hints = _hints(getattr(type(node), "run", None))
    variables = _bound_variables(node)
    parameters = [name for name in hints if name not in ("return", "context")]
    input_type = _declared_type(node, "input_type")
    if input_type is UNKNOWN and parameters:
        input_type = _resolve(hints[parameters[0]], variables)
    output_type, result = _declared_type(node, "output_type"), hints.get("return", UNKNOWN)
    if output_type is UNKNOWN and get_origin(result) is Result:
        output_type = _resolve(get_args(result)[0], variables)
    output, may_skip = split_skipped(output_type)
    settles = hasattr(get_origin(result) or result, "accepted")
    return Signature(inputs=(input_type,), output=output, may_skip=may_skip, settles=settles)


def _declared_type(node: object, name: str) -> object:
    kind = getattr(node, name, None)
    return UNKNOWN if kind is None or isinstance(kind, property | TypeVar) else kind


def _function_signature(function: object) -> Signature:
    inner: object = function
    while (wrapped := getattr(inner, "func", None)) and isinstance(inner, functools.partial):
        inner = wrapped
    is_plain = isinstance(function, type) or inspect.isroutine(inner)
    called: object = inner if is_plain else getattr(type(inner), "__call__", None)  # noqa: B004
    if isinstance(function, type):
        hints = {**_hints(function.__init__), "return": function}
    else:
        hints = _hints(called)
    output_type = hints.get("return", UNKNOWN)
    is_async = inspect.iscoroutinefunction(called)
    if get_origin(output_type) in (Awaitable, Coroutine):
        output_type, is_async = get_args(output_type)[-1], True
    is_known = isinstance(function, type) or output_type is not UNKNOWN
    output, may_skip = split_skipped(UNKNOWN if _has_type_variables(output_type) else output_type)
    return Signature(
        inputs=tuple(hints.get(name, UNKNOWN) for name in _positional(function)),
        output=output,
        may_skip=may_skip,
        quick=is_known and not is_async,
        is_async=is_async,
    )


def _positional(function: object) -> tuple[str, ...]:
    if not callable(function):
        return ()
    try:
        parameters = inspect.signature(function).parameters.values()
    except (ValueError, TypeError):  # a builtin without a signature
        return ()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(p.name for p in parameters if p.kind in kinds)


def _hints(annotated: object) -> dict[str, object]:
    try:
        return get_type_hints(annotated)
    except (NameError, AttributeError, TypeError):  # a name imported only for type checkers
        return {}


def _bound_variables(node: object) -> dict[object, object]:
    """Return the types that a class and its bases bind to type variables."""
    bound: dict[object, object] = {}
    bases: list[object] = [getattr(node, "__orig_class__", None)]
    for kind in type(node).__mro__:
        bases.extend(kind.__dict__.get("__orig_bases__", ()))
    for base in bases:
        parameters = getattr(get_origin(base), "__parameters__", ())
        for variable, value in zip(parameters, get_args(base), strict=False):
            bound.setdefault(variable, bound.get(value, value))
    return bound


def _resolve(annotation: object, variables: dict[object, object]) -> object:
    kind = variables.get(annotation, annotation)
    return UNKNOWN if _has_type_variables(kind) else kind


def _has_type_variables(annotation: object) -> bool:
    return isinstance(annotation, TypeVar) or any(
        _has_type_variables(inner) for inner in get_args(annotation)
    )
