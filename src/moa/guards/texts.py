"""Texts: reads or changes every text inside a typed value, and folds look-alike characters.

A text is also read folded, as it is meant: digits of other scripts and full-width forms become
ASCII, unusual spaces and dashes become plain ones, and invisible characters are removed (Unicode
Technical Report 36, "Unicode Security Considerations"). The origin of each character is kept, so
that a match can be cut out of the original text.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import unicodedata
import uuid
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar, cast

from pydantic import BaseModel, SecretBytes, SecretStr

from moa.core._json import is_mapping
from moa.core.errors import InputError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from typing_extensions import TypeIs

T = TypeVar("T")
Collection = list[object] | tuple[object, ...] | set[object] | frozenset[object]
Change = Callable[[str], str]
_OPAQUE = (
    bool,
    type(None),
    enum.Enum,
    datetime.date,
    datetime.time,
    datetime.timedelta,
    SecretStr,
    SecretBytes,
    type,
)
"""Types that hold no text of a user, or hide it."""
_NUMBERS = (int, float, decimal.Decimal, uuid.UUID)
_UNSEEN = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0")
"""Invisible characters outside the Unicode category Cf (format)."""
_LONGEST = 4
"""Maximum number of characters that replace one, as in `(10)`. Longer replacements are Arabic
phrases, which could make a text very long."""


def change_texts(value: T, change: Change, *, strict: bool) -> T:
    """Change every text in a value: in models, data classes, mappings and sequences.

    What doesn't change is returned as the same object. Models and data classes are copied without
    being validated or initialised again, so a placeholder may replace a text that must match a
    pattern. Private attributes and keys are changed too. Cached properties are computed again. If
    `strict`, a value that can't be inspected, or a number that would change, raises an
    `InputError`.
    """
    return cast("T", _Walk(change, strict=strict).walk(value))


def texts_of(value: object) -> list[str]:
    """Return every text in a value, in order; opaque values have none."""
    texts: list[str] = []

    def keep(text: str) -> str:
        texts.append(text)
        return text

    change_texts(value, keep, strict=False)
    return texts


class _Walk:
    def __init__(self, change: Change, *, strict: bool) -> None:
        self._change = change
        self._strict = strict

    def walk(self, value: object) -> object:
        if isinstance(value, _OPAQUE):
            return value
        if isinstance(value, str):
            return self._change(value)
        if isinstance(value, BaseModel):
            return self._model(value)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return self._data_class(value)
        if is_mapping(value):
            return self._mapping(value)
        if _is_collection(value):
            return self._collection(value)
        return self._keep_or_refuse(value)

    def _model(self, value: BaseModel) -> BaseModel:
        fields = {name: getattr(value, name) for name in type(value).model_fields}
        private = value.__pydantic_private__ or {}
        update = self._differences({**fields, **(value.model_extra or {})})
        hidden = self._differences(private)
        cached = value.__dict__.keys() - fields.keys()
        if not (update or hidden or cached):
            return value
        result = value.model_copy(update=update)
        for name in cached:
            vars(result).pop(name)
        if hidden:
            object.__setattr__(result, "__pydantic_private__", {**private, **hidden})
        return result

    def _data_class(self, value: DataclassInstance) -> DataclassInstance:
        names = [field.name for field in dataclasses.fields(value) if hasattr(value, field.name)]
        attributes: Mapping[str, object] = getattr(value, "__dict__", {})
        cached = [name for name in attributes if _is_cached(value, name)]
        extras = [name for name in attributes if name not in names and name not in cached]
        update = self._differences({name: getattr(value, name) for name in (*names, *extras)})
        if not (update or cached):
            return value
        result = copy(value)
        for name in cached:
            del result.__dict__[name]
        for name, inner in update.items():
            object.__setattr__(result, name, inner)  # also if it is frozen
        return result

    def _differences(self, fields: Mapping[str, object]) -> dict[str, object]:
        values = {name: self.walk(inner) for name, inner in fields.items()}
        return {name: inner for name, inner in values.items() if inner is not fields[name]}

    def _mapping(self, value: Mapping[object, object]) -> Mapping[object, object]:
        result = {self.walk(key): self.walk(inner) for key, inner in value.items()}
        is_unchanged = all(key in result and result[key] is inner for key, inner in value.items())
        return value if is_unchanged else result

    def _collection(self, value: Collection) -> object:
        items = [self.walk(inner) for inner in value]
        if all(item is original for item, original in zip(items, value, strict=True)):
            return value
        build: Callable[[list[object]], object] = getattr(type(value), "_make", type(value))
        return build(items)  # `_make` is that of a named tuple

    def _keep_or_refuse(self, value: object) -> object:
        if not self._strict:
            return value
        if not isinstance(value, _NUMBERS):
            raise InputError(
                f"a {type(value).__name__} stands in the request, and a guard can't look for "
                "secrets in it: give it as a text, or as a pydantic model"
            )
        if self._change(str(value)) != str(value):
            raise InputError(
                f"a {type(value).__name__} in the request is a secret, and can't be replaced by a "
                "placeholder: give it as a text"
            )
        return value


def _is_collection(value: object) -> TypeIs[Collection]:
    return isinstance(value, list | tuple | set | frozenset)


def _is_cached(value: object, name: str) -> bool:
    return isinstance(getattr(type(value), name, None), cached_property)


@dataclass(frozen=True)
class View:
    """A way to read a text."""

    text: str
    """The text to read."""
    written: str | None = None
    """The original text; `None` if it is the same."""
    meant: Mapping[int, str] = field(default_factory=dict[int, str])
    """The replacement of each changed character, by its code."""

    @cached_property
    def _origins(self) -> Sequence[int] | None:
        """Original index of each character; `None` if all are unchanged."""
        if self.written is None or all(
            len(replacement) == 1 for replacement in self.meant.values()
        ):
            return None
        lengths = {chr(code): len(replacement) for code, replacement in self.meant.items()}
        pairs = enumerate(lengths.get(character, 1) for character in self.written)
        return [index for index, length in pairs for _ in range(length)]

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Return the position of a part in the original text."""
        if self._origins is None:
            return start, end
        return self._origins[start], self._origins[end - 1] + 1


def views(text: str) -> list[View]:
    """Return the views of a text in which a secret could show, the original first.

    An ASCII text has only one view. One of the others blanks the letters of scripts without spaces
    between words, since many patterns begin at a word boundary.
    """
    all_views = [View(text)]
    if text.isascii():
        return all_views
    unusual = [character for character in set(text) if not character.isascii()]
    # An invisible character may be inside a number, or between a word and a number.
    for unseen, letter in (("", None), (" ", None), ("", " ")):
        replacements = {ord(character): _fold(character, unseen, letter) for character in unusual}
        view = View(text.translate(replacements), text, replacements)
        if all(view.text != other.text for other in all_views):
            all_views.append(view)
    return all_views


def _fold(character: str, unseen: str, letter: str | None) -> str:
    """Replace an invisible character by `unseen`, and a letter without case by `letter`."""
    if _is_unseen(character):
        return unseen
    if letter is not None and unicodedata.category(character) == "Lo":
        return letter
    return _fold_visible(character)


def _is_unseen(character: str) -> bool:
    return (
        unicodedata.category(character) == "Cf"
        or character in _UNSEEN
        or "\ufe00" <= character <= "\ufe0f"
    )


def _fold_visible(character: str) -> str:
    digit = unicodedata.decimal(character, None)
    if digit is not None:
        return str(digit)
    category = unicodedata.category(character)
    if category == "Pd" or character == "\N{MINUS SIGN}":
        return "-"
    if category == "Zs":
        return " "
    replacement = unicodedata.normalize("NFKC", character)
    return replacement if len(replacement) <= _LONGEST else character
