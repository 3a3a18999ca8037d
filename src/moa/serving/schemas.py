"""Schemas: values held against a JSON schema that a client sent.

Such a schema is nothing to be trusted: it fetches no other one, its patterns have little time, and
parts of it that name each other end after so many steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import count
from typing import Any, Protocol

import regex

from moa._json import is_list, is_object
from moa.errors import require_package

with require_package(
    "jsonschema", extra="serve", purpose="to hold answers to the schema of a client"
):
    from jsonschema import Draft202012Validator, validators
    from jsonschema.exceptions import SchemaError, ValidationError
    from referencing import Registry
    from referencing.exceptions import Unresolvable

_PATTERN_S = 0.1
"""Seconds that a pattern may take on one text."""
_MOST_STEPS = 5_000
"""Parts of a schema that are named by others, and looked at for one value."""
_REFUSED = {
    *("patternProperties", "unevaluatedProperties", "unevaluatedItems"),
    *("$dynamicRef", "$recursiveRef"),
}
"""Keywords whose cost can't be bounded here; no vendor holds answers to them either."""


def checker(schema: Mapping[str, object]) -> Callable[[object], None]:
    """Return a function that raises `ValueError` if a value doesn't follow a schema.

    Raises:
        ValueError: it isn't a JSON schema.
    """
    if keywords := sorted(_keys(schema) & _REFUSED):
        raise ValueError(f"it has {', '.join(keywords)}, which isn't taken here")
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise ValueError(f"it is no JSON schema: {error.message[:300]}") from None
    except RecursionError:
        raise ValueError("it is no JSON schema: it is nested too deeply") from None

    def check(value: object) -> None:
        registry: Registry[object] = Registry()  # no other schema is known, nor looked for
        validator = _validator_class()(schema, registry=registry)
        try:
            fault = next(validator.iter_errors(value), None)
        except Unresolvable as error:
            raise ValueError(f"the schema names a part that it doesn't hold: {error.ref}") from None
        except RecursionError:
            raise ValueError("the schema goes round in circles") from None
        if fault is not None:
            path = "".join(f"[{step!r}]" for step in fault.absolute_path)
            raise ValueError(f"{path or 'it'}: {fault.message[:300]}")

    return check


def _keys(value: object) -> set[str]:
    """Find the keys in a value, however deep."""
    left, keys = [value], set[str]()
    while left:
        item = left.pop()
        if is_object(item):
            keys.update(item)
            left += item.values()
        elif is_list(item):
            left += item
    return keys


class _Validator(Protocol):
    def iter_errors(self, instance: object) -> Iterator[ValidationError]: ...


def _validator_class() -> Callable[..., _Validator]:
    """Make the class that validates one value; its steps are counted."""
    steps = count()
    follow = Draft202012Validator.VALIDATORS["$ref"]

    def ref(
        validator: object, reference: object, instance: object, schema: object
    ) -> Iterator[ValidationError]:
        if next(steps) > _MOST_STEPS:
            raise ValueError("the schema is too large to be looked through")
        yield from follow(validator, reference, instance, schema)

    def pattern(
        validator: object, expression: str, instance: object, schema: object
    ) -> Iterator[ValidationError]:
        del validator, schema
        if isinstance(instance, str) and not _matches(expression, instance):
            yield ValidationError(f"{instance[:100]!r} doesn't match {expression[:100]!r}")

    untyped: Any = validators
    return untyped.extend(Draft202012Validator, {"$ref": ref, "pattern": pattern})


def _matches(pattern: str, text: str) -> bool:
    try:
        return regex.search(pattern, text, timeout=_PATTERN_S) is not None
    except TimeoutError:
        raise ValueError(f"the pattern {pattern[:100]!r} takes too long") from None
    except regex.error as error:
        raise ValueError(f"{pattern[:100]!r} is no pattern: {error}") from None
