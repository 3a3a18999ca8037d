"""Faults: error messages about the tables of `moa.toml`, which say what to do.

Pydantic finds the faults. Only this module words them: the file, the table and the key first, then
what is wrong, then the nearest right name.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import (
    Annotated,
    NamedTuple,
    Protocol,
    Union,
    get_args,
    get_origin,
    runtime_checkable,
)

from pydantic import Tag, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

Location = tuple[int | str, ...]
"""Keys and indices, the outermost first."""
_TABLE = "a table, such as {KEY = VALUE}"
_LIST = "a list, such as [VALUE, VALUE]"
_TAKES = {
    "dataclass_type": _TABLE,
    "dict_type": _TABLE,
    "model_type": _TABLE,
    "union_tag_not_found": _TABLE,
    "list_type": _LIST,
    "sequence_str": _LIST,
    "tuple_type": _LIST,
    "path_type": "a path",
    "string_type": "a text",
}
"""Expected kind of value, in the words of TOML, by pydantic's type of error."""
_LONGEST_NAME = 100
"""Characters of a wrong name that are compared with the known ones."""


@runtime_checkable
class SaysFields(Protocol):
    """Metadata of an annotation whose table has other keys than the type's fields."""

    @property
    def table_fields(self) -> Mapping[str, FieldInfo]:
        """Fields of the table, by key."""
        ...


class _Table(NamedTuple):
    """The table that a location leads to."""

    place: Location
    """The location without the member of a union, which pydantic adds."""
    keys: list[str]
    kind: str = ""
    """Tag of its kind, if such tables have several kinds."""
    kinds: Mapping[str, list[str]] = {}
    """The keys of each kind."""


class _Fault(NamedTuple):
    """A sentence about a key, or about a table as a whole."""

    start: str
    """Its place: the file, the table and the key."""
    said: str
    is_choice: bool
    """True if another member of a union might accept the value."""


def nearest(wrong: str, names: Sequence[str]) -> str:
    """Return the end of a sentence about an unknown name: the nearest known one, or all."""
    # It compares all pairs of characters, and a client may send a name of megabytes.
    close = get_close_matches(wrong[:_LONGEST_NAME], names, n=1, cutoff=0.6)
    if close:
        return f". Did you mean {close[0]!r}?"
    return f". Known: {', '.join(names)}" if names else ""


def explain(error: ValidationError, kind: object, *, path: str, table: str | None = None) -> str:
    """Explain an error of pydantic in sentences, with the nearest right key.

    Args:
        error: The error of pydantic.
        kind: The expected type: a model, a dataclass, or an annotation.
        path: Start of each sentence, such as the file.
        table: The table of the file that was validated; `None`: the whole file.
    """
    sentences: dict[tuple[str, str], list[str]] = {}
    for problem in error.errors(include_url=False):
        for start, sentence, is_choice in _faults(problem, kind, path, table):
            # The members of a union refuse one value, each in its own words.
            sentences.setdefault((start, "" if is_choice else sentence), []).append(sentence)
    return "\n".join(
        f"{start} {', or '.join(dict.fromkeys(choices))}"
        for (start, _), choices in sentences.items()
    )


def fields_of(kind: object) -> Mapping[str, FieldInfo]:
    """Return the fields, by key, of the table that an annotation or a field reads; else none.

    They come from `table_fields` of an annotation's metadata, or from the model or dataclass.
    """
    for item in _metadata(kind):
        if isinstance(item, SaysFields):
            return item.table_fields
    members = _members(kind)
    if members:
        return {
            key: field for member in members.values() for key, field in fields_of(member).items()
        }
    inner = _bare(kind)
    return getattr(get_origin(inner) or inner, "__pydantic_fields__", {})


def _faults(problem: ErrorDetails, kind: object, source: str, outer: str | None) -> list[_Fault]:
    location, fault, context = problem["loc"], problem["type"], problem.get("ctx", {})
    table_at = _table_at(kind, location)
    parts = (*table_at.place, "") if fault == "union_tag_invalid" else table_at.place
    names = [] if outer is None else [outer]
    for part in parts:
        if isinstance(part, int) and names:
            names[-1] += f"[{part}]"
        else:
            names.append(str(part))
    key = names.pop() if parts else ""
    table = ".".join(names)
    source = f"{source.removesuffix(':')}: [{table}]" if table else source
    if fault in ("extra_forbidden", "unexpected_keyword_argument"):
        return [_Fault(source, _unknown(key, _table_at(kind, location[:-1])), False)]
    if fault.startswith("missing"):
        return [_Fault(source, f"needs {key!r}, and it is not there", False)]
    sentence = re.sub(r"^(?:Value error|Assertion failed), ", "", problem["msg"])
    sentence = sentence[:1].lower() + sentence[1:].replace(" after validation", "")
    if fault == "union_tag_invalid":
        tag = str(context["tag"])
        sentence = f"{tag} is unknown{nearest(tag, [*table_at.kinds])}"
    elif fault == "is_instance_of" and context.get("class") == "Sequence":
        fault = "list_type"
    if fault in _TAKES:
        sentence = f"takes {_TAKES[fault]}, not {problem['input']!r:.80}"
    start = f"{source} {key}:" if key else f"{source.removesuffix(':')}:"
    is_choice = len(table_at.place) < len(location)
    return [_Fault(start, line, is_choice) for line in sentence.splitlines() or [sentence]]


def _unknown(key: str, table: _Table) -> str:
    """Explain that a table has no such key, or that only tables of another kind have it."""
    kinds = [kind for kind, keys in table.kinds.items() if key in keys]
    if not kinds:
        return f"has no key {key!r}{nearest(key, table.keys)}"
    return (
        f"has the key {key!r}, which means nothing with {table.kind}: it is for "
        f"{' or '.join(kinds)}. Change one of the two"
    )


def _table_at(kind: object, location: Location) -> _Table:
    parts, table = list[int | str](), _Table((), [])
    for part in location:
        members = _members(kind)
        # Pydantic puts the member of a union that it tried into the location.
        if str(part) in members or (members and "[" in str(part)):
            kinds = {tag: [*fields_of(member)] for tag, member in members.items()}
            kind, table = members.get(str(part)), _Table((), [], str(part), kinds)
        else:
            parts.append(part)
            kind, table = _inner(kind, part), _Table((), [])
    kinds = table.kinds or {tag: list[str]() for tag in _members(kind)}
    return table._replace(place=tuple(parts), keys=[*fields_of(kind)], kinds=kinds)


def _inner(kind: object, part: int | str) -> object:
    """Return the field or type of the value at a key or an index."""
    fields, inner = fields_of(kind), _bare(kind)
    if str(part) in fields:
        return fields[str(part)]
    items = [item for item in get_args(inner) if item is not Ellipsis]
    origin = get_origin(inner)
    is_container = isinstance(origin, type) and issubclass(origin, Collection)
    return items[-1] if items and is_container else None


def _members(kind: object) -> dict[str, object]:
    """Return the members of a union by pydantic's names for them; none for `X | None`."""
    inner = _bare(kind)
    if get_origin(inner) not in (Union, UnionType):
        return {}
    return {_tag(member): member for member in get_args(inner) if member is not NoneType}


def _tag(member: object) -> str:
    tags = (item.tag for item in _metadata(member) if isinstance(item, Tag))
    return next(tags, getattr(member, "__name__", str(member)))


def _metadata(kind: object) -> Sequence[object]:
    """Return the metadata of a field or an annotation; of `X | None`, that of X."""
    if isinstance(kind, FieldInfo):
        return (*kind.metadata, *_metadata(kind.annotation))
    metadata = getattr(kind, "__metadata__", ())
    optional = _of_optional(kind)
    return metadata if optional is None else _metadata(optional)


def _bare(kind: object) -> object:
    """Return the bare type of a field, of `Annotated[X, …]` or of `X | None`: it is X."""
    if isinstance(kind, FieldInfo):
        return _bare(kind.annotation)
    if get_origin(kind) is Annotated:
        return _bare(get_args(kind)[0])
    optional = _of_optional(kind)
    return kind if optional is None else _bare(optional)


def _of_optional(kind: object) -> object | None:
    if get_origin(kind) not in (Union, UnionType):
        return None
    members = [member for member in get_args(kind) if member is not NoneType]
    return members[0] if len(members) == 1 else None
