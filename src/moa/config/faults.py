"""Faults: what is wrong in a table of `moa.toml`, in sentences that say what to do.

Pydantic finds them. This is the one place that says them: the file, the table and the key first,
then what is wrong, then the nearest right name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel, Tag, ValidationError
from pydantic_core import ErrorDetails

Location = tuple[int | str, ...]
"""Keys and indices, from the outermost one on."""
_TAKES = {
    "dict_type": "a table, such as {KEY = VALUE}",
    "model_type": "a table, such as {KEY = VALUE}",
    "list_type": "a list, such as [VALUE, VALUE]",
    "tuple_type": "a list, such as [VALUE, VALUE]",
    "union_tag_not_found": "a table, such as {KEY = VALUE}",
}
"""What a key takes that was given something else, in words of TOML."""


class _Table(NamedTuple):
    """The table that a location leads to."""

    place: Location
    """The location without what pydantic adds to it: the member of a union that was read."""
    keys: list[str]
    kind: str = ""
    """Tag of its kind, where such tables are of several kinds."""
    kinds: Mapping[str, list[str]] = {}
    """The keys of each kind."""


def nearest(wrong: str, known: Sequence[str]) -> str:
    """End a sentence about an unknown name with the nearest known one, or with all of them."""
    close = get_close_matches(wrong, known, n=1, cutoff=0.6)
    if close:
        return f". Did you mean {close[0]!r}?"
    return f". Known: {', '.join(known)}" if known else ""


def explain(
    error: ValidationError,
    known: type[BaseModel] | Callable[[Location], list[str]],
    *,
    where: str,
    table: str | None = None,
) -> str:
    """Say in sentences what pydantic found wrong, with the nearest right key.

    Args:
        error: What pydantic found.
        known: The model that was to be read, or a function that gives the keys of a location.
        where: What each sentence starts with, such as the file.
        table: The table of the file that was read; `None`: the whole file.
    """

    def find(location: Location) -> _Table:
        if isinstance(known, type):
            return _table_at(known, location)
        return _Table(location, known(location))

    problems = error.errors(include_url=False)
    return "\n".join(line for it in problems for line in _sentences(it, find, where, table))


def keys_at(annotation: Any, location: Location) -> list[str]:
    """List the keys that may stand at a location within what an annotation reads."""
    return _table_at(annotation, location).keys


def _sentences(
    problem: ErrorDetails, find: Callable[[Location], _Table], where: str, outer: str | None
) -> list[str]:
    location, kind, context = problem["loc"], problem["type"], problem.get("ctx", {})
    place = find(location).place
    if kind == "union_tag_invalid":  # said of the table, and not of one of its keys
        place = (*place, "")
    key = str(place[-1]) if place else ""
    table = ".".join(str(part) for part in (outer, *place[:-1]) if part is not None)
    where = f"{where.removesuffix(':')}: [{table}]" if table else where
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        return [f"{where} {_unknown(key, find(location[:-1]))}"]
    if kind.startswith("missing"):
        return [f"{where} needs {key!r}, and it is not there"]
    said = re.sub(r"^(?:Value error|Assertion failed), ", "", problem["msg"])
    said = said[:1].lower() + said[1:].replace(" after validation", "")
    if kind == "union_tag_invalid":
        tag, tags = str(context["tag"]), [*find((*location, "")).kinds]
        said = f"{tag} is unknown{nearest(tag, tags)}"
    elif kind in _TAKES:
        said = f"takes {_TAKES[kind]}, not {problem['input']!r:.80}"
    start = f"{where} {key}:" if key else f"{where}:"
    return [f"{start} {line}" for line in said.splitlines() or [said]]


def _unknown(key: str, table: _Table) -> str:
    """Say that a table has no such key, or that only tables of another kind have it."""
    others = [kind for kind, keys in table.kinds.items() if key in keys]
    if not others:
        return f"has no key {key!r}{nearest(key, table.keys)}"
    return (
        f"has the key {key!r}, which means nothing with {table.kind}: it is for "
        f"{' or '.join(others)}. Change one of the two"
    )


def _table_at(annotation: Any, location: Location) -> _Table:
    place, found = list[int | str](), _Table((), [])
    for part in location:
        members = _members(annotation)
        if members:  # pydantic puts the member that it read into the location
            kinds = {kind: _keys(member) for kind, member in members.items()}
            annotation, found = members.get(str(part)), _Table((), [], str(part), kinds)
        else:
            place.append(part)
            annotation, found = _inner(annotation, part), _Table((), [])
    return found._replace(place=tuple(place), keys=_keys(annotation))


def _members(annotation: Any) -> dict[str, Any]:
    """Map the members of a union by the words that pydantic has for them; none of `X | None`."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) not in (Union, UnionType):
        return {}
    members = [member for member in get_args(annotation) if member is not NoneType]
    return {_tag(member): member for member in members} if len(members) > 1 else {}


def _tag(member: Any) -> str:
    return next((it.tag for it in get_args(member)[1:] if isinstance(it, Tag)), str(member))


def _inner(annotation: Any, part: int | str) -> Any:
    """Give what reads the value at a key, or at an index."""
    if get_origin(annotation) in (dict, list):
        return get_args(annotation)[-1]
    model = _model(annotation)
    field = model.model_fields.get(str(part)) if model else None
    return field.annotation if field else None


def _model(annotation: Any) -> type[BaseModel] | None:
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return None


def _keys(annotation: Any) -> list[str]:
    model = _model(annotation)
    return list(model.model_fields) if model else []
