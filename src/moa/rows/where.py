"""Where: conditions on the lines of a run, as `--where` takes them.

    where = Where.of(["kept", "label=spam"])
    [line for line in lines if where.matches(line)]

A condition is a word of `WORDS`, `FIELD=VALUE` or `FIELD!=VALUE`. Of several, all must hold.

A FIELD is looked up in the line itself (`status`, and `label` of `moa decide`), then in its
`output`, then in its `input`. Dots lead into objects: `decisions.intent.label=refund`. A VALUE is
compared with texts as text, and with anything else as JSON: `accepted=true`, `queue=null`,
`stars=5`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from moa.core._files import dump_json
from moa.core._json import is_mapping
from moa.core.errors import ConfigError

Line = Mapping[str, object]
_CONDITION = re.compile(r"(?P<field>[^=!]+?)\s*(?P<unlike>!)?=\s*(?P<value>.*)", re.DOTALL)


def _has(field: str, value: object) -> Callable[[Line], bool]:
    return lambda line: any(item == value for item in _find_values(line, field))


def _is_failed(line: Line) -> bool:
    return "error" in line or line.get("status") == "failed"


def _is_dropped(line: Line) -> bool:
    return not _is_failed(line) and (line.get("status") == "dropped" or _has("kept", False)(line))


WORDS: Mapping[str, Callable[[Line], bool]] = {
    "kept": lambda line: not _is_failed(line) and not _is_dropped(line),
    "dropped": _is_dropped,
    "failed": _is_failed,
    "accepted": _has("accepted", True),
    "quarantine": _has("queue", "quarantine"),
}
"""Conditions of one word. Lines that were neither dropped nor failed are `kept`, and so are those
in `quarantine`."""


@dataclass(frozen=True, slots=True)
class Where:
    """Conditions on a line."""

    conditions: tuple[Callable[[Line], bool], ...] = ()

    @classmethod
    def of(cls, conditions: Iterable[str]) -> Where:
        """Read conditions. Without any, every line matches.

        Raises:
            ConfigError: one is not a word of `WORDS` or a `FIELD=VALUE`.
        """
        return cls(tuple(map(_parse_condition, conditions)))

    def matches(self, line: Line) -> bool:
        """Return True if a line of `moa run --out` meets all conditions."""
        return all(holds(line) for holds in self.conditions)


def _parse_condition(text: str) -> Callable[[Line], bool]:
    if (condition := WORDS.get(text.strip())) is not None:
        return condition
    match = _CONDITION.fullmatch(text.strip())
    if match is None:
        raise ConfigError(
            f"--where takes {', '.join(WORDS)}, or FIELD=VALUE such as label=spam; "
            f"{text!r} is neither"
        )
    field, value, unlike = match["field"], match["value"], match["unlike"] is not None

    def holds(line: Line) -> bool:
        return any(_equals(item, value) for item in _find_values(line, field)) is not unlike

    return holds


def _find_values(line: Line, field: str) -> list[object]:
    """Find a field in the first part of the line that has it; return [] if none has."""
    for part in (line, line.get("output"), line.get("input")):
        inner: object = part
        for name in field.split("."):
            if not is_mapping(inner) or name not in inner:
                break
            inner = inner[name]
        else:
            return [inner]
    return []


def _equals(value: object, text: str) -> bool:
    """Compare a value with a text: as text if it is one, otherwise as JSON."""
    if isinstance(value, str):
        return value == text
    try:
        return dump_json(json.loads(text)) == dump_json(value)
    except (ValueError, RecursionError):
        return False
