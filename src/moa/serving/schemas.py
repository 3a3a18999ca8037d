"""Schemas: values held against a JSON schema that a client sent.

Such a schema is nothing to be trusted: it fetches no other one, its size and its patterns are
limited, and looking through a value ends when its time is spent. Each call here may still take
many milliseconds, so it belongs in a thread.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, partial
from itertools import islice
from typing import Any, Literal, NamedTuple, Protocol

import regex

from moa.core._json import is_list, is_object
from moa.core.errors import require_package

with require_package(
    "jsonschema", extra="serve", purpose="to hold answers to the schema of a client"
):
    from jsonschema import Draft202012Validator, validators
    from jsonschema.exceptions import ValidationError
    from referencing import Registry
    from referencing.exceptions import Unresolvable

_CHECK_S = 0.25
"""Seconds of the processor that one check of a value may take, with all patterns."""
_MOST_VALUES = 25_000
"""Values in a schema. OpenAI takes 5,000 properties, 1,000 values of enums and 10 levels."""
_MOST_PATTERNS = 100
"""Different patterns in a schema."""
_MOST_REPEATED = 20_000
"""Characters of all patterns, with what is repeated written out: so are they compiled."""
_REFUSED = {
    *("patternProperties", "unevaluatedProperties", "unevaluatedItems"),
    *("$dynamicRef", "$recursiveRef", "$schema"),
}
"""Keywords whose cost can't be bounded here; no vendor holds answers to them either. With `$schema`
a part would be held to by jsonschema alone, which has no clock; that of the whole is left out."""
_TYPES = {"array", "boolean", "integer", "null", "number", "object", "string"}
Kind = Literal["schema", "schemas", "named schemas", "names", "lists of names"] | type[object]
_KINDS: dict[str, Kind] = {
    **dict.fromkeys(("additionalProperties", "contains", "contentSchema", "else", "if"), "schema"),
    **dict.fromkeys(("items", "not", "propertyNames", "then"), "schema"),
    **dict.fromkeys(("allOf", "anyOf", "oneOf", "prefixItems"), "schemas"),
    **dict.fromkeys(("$defs", "definitions", "dependentSchemas", "properties"), "named schemas"),
    **dict.fromkeys(("exclusiveMaximum", "exclusiveMinimum", "maximum", "minimum"), float),
    **dict.fromkeys(("maxContains", "maxItems", "maxLength", "maxProperties"), int),
    **dict.fromkeys(("minContains", "minItems", "minLength", "minProperties"), int),
    **dict.fromkeys(("$anchor", "$comment", "$id", "$ref", "pattern"), str),
    **dict.fromkeys(("description", "format", "title"), str),
    "dependentRequired": "lists of names",
    "enum": list,
    "multipleOf": float,
    "required": "names",
    "uniqueItems": bool,
}
"""What a keyword takes. Others, such as `const`, take anything. jsonschema's own look at this takes
a hundred times as long."""
_FORM = re.compile(
    r"""\\. | (?P<set> \[\^?\]?(?:[^\]\\]|\\.)*\]) | \(\?[ims]+\) | (?P<close> \))
    | (?P<open> \((?:\?(?:[:=!]|<[=!]|P?<\w+>|[ims]+:))?)
    | \{(?P<least>[0-9]*)(?:,(?P<most>[0-9]*))?\} | .""",
    re.VERBOSE | re.DOTALL,
)
"""A part of a pattern."""


class Checker:
    """Holds values to a JSON schema.

    Args:
        schema: The schema. It is looked at by `prepare`, or with the first value.
    """

    def __init__(self, schema: Mapping[str, object]) -> None:
        self._schema = {key: value for key, value in schema.items() if key != "$schema"}

    def prepare(self) -> None:
        """Look at the schema.

        Raises:
            ValueError: it isn't a JSON schema, or is too large.
        """
        _ = self._looked_at

    def check(self, value: object) -> None:
        """Check a value.

        Raises:
            ValueError: it doesn't follow the schema, or that takes too long to find out.
        """
        validator_class = _validator_class(self._looked_at, _Clock(_CHECK_S))
        registry: Registry[object] = Registry()  # no other schema is known, nor looked for
        validator = validator_class(self._schema, registry=registry)
        try:
            fault = next(validator.iter_errors(value), None)
        except Unresolvable as error:
            raise ValueError(f"the schema names a part that it doesn't hold: {error.ref}") from None
        except RecursionError:
            raise ValueError("the schema goes round in circles") from None
        except ArithmeticError as error:
            raise ValueError(f"a number is too large to be held to the schema: {error}") from None
        if fault is not None:
            path = "".join(f"[{step!r}]" for step in fault.absolute_path)
            raise ValueError(f"{path[:300] or 'it'}: {fault.message[:300]}")

    @cached_property
    def _looked_at(self) -> _LookedAt:
        if _is_larger(self._schema, _MOST_VALUES):
            raise ValueError(f"it holds more than {_MOST_VALUES} values")
        parts = [*_parts_in(self._schema)]
        texts = [str(part["pattern"]) for part in parts if "pattern" in part]
        patterns = {text: _length(text) for text in texts}
        if len(patterns) > _MOST_PATTERNS or sum(patterns.values()) > _MOST_REPEATED:
            raise ValueError(
                f"it has more than {_MOST_PATTERNS} patterns, or more than {_MOST_REPEATED} "
                "characters of them if what is repeated is written out"
            )
        compiled = {pattern: _compile(pattern) for pattern in patterns}
        return _LookedAt(compiled, frozenset(map(id, parts)))


class _LookedAt(NamedTuple):
    """What is known of a schema."""

    patterns: Mapping[str, regex.Pattern[str]]
    parts: frozenset[int]
    """Its parts that are schemas, by `id`."""


def _is_larger(value: object, most: int) -> bool:
    """Return True if a value holds more than `most` values."""
    left, count = [value], 0
    while left and count <= most:
        item = left.pop()
        count += 1
        if is_object(item):
            left += item.values()
        elif is_list(item):
            left += item
    return count > most


def _parts_in(schema: object) -> Iterator[Mapping[str, object]]:
    """Yield the objects in a schema that are schemas.

    Raises:
        ValueError: a part isn't a JSON schema, or has a keyword that isn't taken.
    """
    left = [schema]
    while left:
        part = left.pop()
        if isinstance(part, bool):
            continue
        if not is_object(part):
            raise ValueError(f"it is no JSON schema: {part!r:.100} stands for one")
        for keyword, value in part.items():
            if keyword in _REFUSED:
                raise ValueError(f"it has {keyword}, which isn't taken here")
            inner = _schemas_in(keyword, value)
            if inner is None:
                raise ValueError(f"it is no JSON schema: {keyword} is {value!r:.100}")
            left += inner
        yield part


def _schemas_in(keyword: str, value: object) -> list[object] | None:
    """Return the schemas in the value of a keyword; `None` if it doesn't take that value."""
    kind = _KINDS.get(keyword)
    if kind == "schema":
        return [value]
    if kind == "schemas":
        return value if is_list(value) and value else None
    if kind == "named schemas":
        return [*value.values()] if is_object(value) else None
    if kind == "names":
        fits = _are_names(value)
    elif kind == "lists of names":
        fits = is_object(value) and all(map(_are_names, value.values()))
    elif keyword == "type":
        names: list[object] = value if is_list(value) else [value]
        fits = 0 < len(names) <= len(_TYPES) and all(name in _TYPES for name in map(str, names))
    elif kind is int or kind is float:
        fits = _is_number(value, whole=kind is int) and (keyword != "multipleOf" or value != 0)
    else:
        fits = kind is None or isinstance(kind, str) or isinstance(value, kind)
    return [] if fits else None


def _is_number(value: object, *, whole: bool) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return not whole or (value >= 0 and value % 1 == 0)


def _are_names(value: object) -> bool:
    return is_list(value) and all(isinstance(name, str) for name in value)


def _length(pattern: str) -> int:
    """Return the length of a pattern, with what is repeated written out.

    Raises:
        ValueError: it has a form that ECMA-262 hasn't, and whose cost isn't known.
    """
    groups, last, opened = [0], 0, False  # lengths of the open groups, and of the last part
    for part in _FORM.finditer(pattern):
        if part["least"] is not None:
            times = max(int(f"{part['most'] or part['least'] or 1:.9}"), 1)
            groups[-1] += last * (times - 1)
            last *= times
        elif part["open"]:
            groups.append(0)
        else:
            if (opened and part[0] == "?") or "[:" in (part["set"] or ""):
                raise ValueError(f"{pattern[:100]!r} is no pattern of ECMA-262")
            if part["close"] and len(groups) == 1:
                raise ValueError(f"{pattern[:100]!r} is no pattern: a group isn't opened")
            last = len(part[0]) + (groups.pop() if part["close"] else 0)
            groups[-1] += last
        opened = bool(part["open"])
    return sum(groups)


def _compile(pattern: str) -> regex.Pattern[str]:
    try:
        return regex.compile(pattern, cache_pattern=False)
    except (regex.error, RecursionError, OverflowError) as error:
        raise ValueError(f"{pattern[:100]!r} is no pattern: {error}") from None


class _Clock:
    """Time of this thread, since other threads may take turns with it.

    Args:
        most_s: Seconds of the processor.
    """

    def __init__(self, most_s: float) -> None:
        self._end = time.thread_time() + most_s

    def left(self) -> float:
        """Return the seconds that are left.

        Raises:
            ValueError: there are none.
        """
        if (left := self._end - time.thread_time()) <= 0:
            raise ValueError("the schema takes too long to be held to")
        return left


class _Validator(Protocol):
    def iter_errors(self, instance: object) -> Iterator[ValidationError]: ...


_Keyword = Callable[[Any, Any, Any, Any], Iterator[ValidationError] | None]


def _validator_class(looked_at: _LookedAt, clock: _Clock) -> Callable[..., _Validator]:
    """Make the class that validates one value, within the time of a clock."""

    def timed(keyword: _Keyword) -> _Keyword:
        def follow(
            validator: object, wanted: object, instance: object, schema: object
        ) -> Iterator[ValidationError]:
            clock.left()
            for error in keyword(validator, wanted, instance, schema) or ():
                clock.left()
                yield error

        return follow

    keywords: dict[str, _Keyword] = {
        **Draft202012Validator.VALIDATORS,
        "$ref": partial(_follow_reference, looked_at.parts),
        "anyOf": _any_of,
        "oneOf": _one_of,
        "pattern": _pattern_keyword(looked_at.patterns, clock),
        "uniqueItems": partial(_unique_items, clock),
    }
    untyped: Any = validators
    return untyped.extend(
        Draft202012Validator, {name: timed(keyword) for name, keyword in keywords.items()}
    )


def _follow_reference(
    parts: frozenset[int], validator: Any, name: str, instance: object, schema: object
) -> Iterator[ValidationError]:
    """Follow a reference to a part that was looked at; it may name any value in the schema."""
    del schema
    found = validator._resolver.lookup(name)
    if not isinstance(found.contents, bool) and id(found.contents) not in parts:
        raise ValueError(f"{name[:100]!r} in the schema names something that is no part of it")
    yield from validator.descend(instance, found.contents, resolver=found.resolver)


def _any_of(
    validator: object, branches: list[object], instance: object, schema: object
) -> Iterator[ValidationError]:
    """Ask of each branch only whether it fits. jsonschema keeps a text of the value for each."""
    del schema
    if not any(_fits(validator, branch, instance) for branch in branches):
        yield ValidationError("no schema of anyOf fits")


def _one_of(
    validator: object, branches: list[object], instance: object, schema: object
) -> Iterator[ValidationError]:
    del schema
    fitting = (branch for branch in branches if _fits(validator, branch, instance))
    if (count := len([*islice(fitting, 2)])) != 1:
        yield ValidationError(f"{'more than one' if count else 'no'} schema of oneOf fits")


def _fits(validator: Any, branch: object, instance: object) -> bool:
    return next(validator.descend(instance, branch), None) is None


def _pattern_keyword(patterns: Mapping[str, regex.Pattern[str]], clock: _Clock) -> _Keyword:
    def pattern(
        validator: object, expression: str, instance: object, schema: object
    ) -> Iterator[ValidationError]:
        del validator, schema
        if not isinstance(instance, str):
            return
        try:
            found = patterns[expression].search(instance, timeout=clock.left())
        except TimeoutError:
            raise ValueError(f"the pattern {expression[:100]!r} takes too long") from None
        if found is None:
            yield ValidationError(f"{instance[:100]!r} doesn't match {expression[:100]!r}")

    return pattern


def _unique_items(
    clock: _Clock, validator: object, wanted: object, instance: object, schema: object
) -> Iterator[ValidationError]:
    """Compare all items at once; jsonschema compares objects in pairs."""
    del validator, schema
    seen = set[object]()
    for item in instance if wanted and is_list(instance) else ():
        clock.left()
        if (key := _as_key(item)) in seen:
            yield ValidationError(f"{item!r:.100} is in it twice")
        seen.add(key)


def _as_key(value: object) -> object:
    """Return what is equal for equal JSON: 1 is 1.0, but not true."""
    if is_object(value):
        return frozenset((key, _as_key(inner)) for key, inner in value.items())
    if is_list(value):
        return "list", *map(_as_key, value)
    return ("truth", value) if isinstance(value, bool) else value
