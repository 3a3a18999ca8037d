"""Types at run time: whether a value of one type can go where another is expected."""

from __future__ import annotations

import types
import typing
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

from moa.graphs.engine.types import Skipped


class _Unknown:
    """A type that no annotation tells. It fits everywhere, and everything fits it."""

    def __repr__(self) -> str:
        return "unknown"


UNKNOWN: object = _Unknown()


def fits(given: object, expected: object) -> bool:
    """Whether a value of type `given` can go where `expected` stands.

    What can't be told at run time fits: type variables, protocols, callables and unknown types
    are a type checker's to judge.
    """
    given, expected = _bare(given), _bare(expected)
    if _undecidable(given) or _undecidable(expected) or expected is object:
        return True
    if is_union(given):
        return all(fits(member, expected) for member in get_args(given))
    if is_union(expected):
        return any(fits(given, member) for member in get_args(expected))
    if get_origin(given) is Literal:
        return _literal_fits(get_args(given), expected)
    if get_origin(expected) is Literal:
        return False
    return _class_fits(given, expected)


def split_skipped(annotation: object) -> tuple[object, bool]:
    """Take `Skipped` out of a type, and say whether it was in it."""
    annotation = _bare(annotation)
    if annotation is Skipped:
        return UNKNOWN, True
    if not is_union(annotation) or Skipped not in get_args(annotation):
        return annotation, False
    rest = tuple(member for member in get_args(annotation) if member is not Skipped)
    return union(rest), True


def union(members: tuple[object, ...]) -> object:
    """The union of several types; `UNKNOWN` where one of them is."""
    if any(member is UNKNOWN for member in members):
        return UNKNOWN
    joined: Any = Union[members]  # noqa: UP007 - the members are known only at run time
    return joined


def shown(annotation: object) -> str:
    """Write a type as one would in source."""
    annotation = _bare(annotation)
    if is_union(annotation):
        return " | ".join(shown(member) for member in get_args(annotation))
    if annotation is type(None):
        return "None"
    if get_origin(annotation) is None and isinstance(annotation, type):
        return annotation.__name__
    arguments = get_args(annotation)
    if isinstance(get_origin(annotation), type) and arguments:
        inner = ", ".join("…" if a is Ellipsis else shown(a) for a in arguments)
        return f"{cast('type', get_origin(annotation)).__name__}[{inner}]"
    return str(annotation).replace("typing.", "")


def _bare(annotation: object) -> object:
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    while isinstance(annotation, typing.NewType):
        annotation = annotation.__supertype__
    return type(None) if annotation is None else annotation


def is_union(annotation: object) -> bool:
    """Whether a type is a union."""
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


def _class_fits(given: object, expected: object) -> bool:
    given_kind, given_args = _parts(given)
    kind, args = _parts(expected)
    if kind is float and given_kind is int:
        return True
    if not issubclass(given_kind, kind):
        return False
    if given_kind is not kind or len(args) != len(given_args):
        return True
    return all(fits(one, other) for one, other in zip(given_args, args, strict=True))


def _parts(annotation: object) -> tuple[type, tuple[object, ...]]:
    """A class and its arguments; pydantic keeps those of its generic models apart."""
    generic: Any = getattr(annotation, "__pydantic_generic_metadata__", None)
    if generic and generic["origin"] is not None:
        return generic["origin"], generic["args"]
    return cast("type", get_origin(annotation) or annotation), get_args(annotation)
