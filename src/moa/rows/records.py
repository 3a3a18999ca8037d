"""Records: rows and results, written and read, also if damaged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from decimal import Decimal
from typing import TypeVar

from moa.core._files import dump_json, to_jsonable
from moa.core._json import JSON, is_object
from moa.core.batch import Item, MalformedLine, Row
from moa.core.usage import Amount, Usage
from moa.rows.loop import RowJournal

Name = TypeVar("Name", bound=str)


def line(item: Item[object]) -> dict[str, object]:
    """Write an item as what `json` can write."""
    record: dict[str, object] = {
        "id": item.id,
        "input": to_jsonable(item.input),
        "output": to_jsonable(item.output),
        "status": item.status,
        "settled": item.settled,
    }
    if item.problem is not None:
        record["error"] = item.problem
    return record | resources_of(item)


def resources_of(item: Item[object]) -> dict[str, object]:
    """Write the resources of an item: `seconds`, `usage` and `trace`.

    Usage is by tier, node and endpoint; a cost of `null` is unknown.
    """
    return {
        "seconds": round(item.seconds, 4),
        "usage": usage_of(item),
        "trace": [to_jsonable(note) for note in item.trace],
    }


def usage_of(item: Item[object]) -> dict[str, object]:
    """Write the usage of an item, in all and by tier, node and endpoint."""
    usage = item.usage
    estimate = item.result.llm_alone if item.result else None
    return {
        **_write_amount(usage.total),
        "by_tier": _amounts_by(usage.by_tier()),
        "by_node": _amounts_by(usage.by_node()),
        "by_endpoint": _amounts_by(usage.by_endpoint()),
        "llm_alone_estimate": estimate
        and {"cost": _float_or_none(estimate.cost), "how": estimate.how},
    }


def _amounts_by(parts: Mapping[Name, Usage]) -> dict[str, object]:
    return {name: _write_amount(usage.total) for name, usage in parts.items()}


def _write_amount(amount: Amount) -> dict[str, object]:
    return {
        "calls": amount.calls,
        "input_tokens": amount.input_tokens,
        "cached_input_tokens": amount.cached_input_tokens,
        "output_tokens": amount.output_tokens,
        "cost": _float_or_none(amount.cost),
        "seconds": round(amount.seconds, 4),
    }


def _float_or_none(cost: Decimal | None) -> float | None:
    return None if cost is None else float(cost)


def name_of(id: object, input: object) -> str:
    """Return two digests, of a row's id and its content, with `/` between; copies share them."""
    return f"{_digest(id)}/{_digest(input)}"


def _digest(value: object) -> str:
    """Return a digest of a value, independent of the order of its fields."""
    if is_object(value):
        value = sorted(value.items())
    return hashlib.sha256(dump_json(value).encode()).hexdigest()[:32]


def format_row(row: Row | MalformedLine) -> str:
    """Write a row."""
    if isinstance(row, MalformedLine):
        return dump_json({"number": row.number, "error": row.error, "raw": row.raw})
    return dump_json({"number": row.number, "id": row.id, "value": row.value})


def read_row(line: str, number: int, journal: RowJournal) -> Row | MalformedLine:
    """Read a row; return a `MalformedLine` with its number if it is damaged."""
    try:
        values = json.loads(line)
        if "error" in values:
            return MalformedLine(**values, key=journal.name)
        return Row(**values, key=journal.name, journal=journal)
    except (TypeError, ValueError):
        error = "the job holds this row damaged: run it on the same input again, and moa job retry"
        return MalformedLine(number=number, error=error, raw=line, key=journal.name)


def read_line(line: str) -> JSON | None:
    """Read the line of a row; `None` if it is damaged."""
    try:
        values: object = json.loads(line)
    except ValueError:
        return None
    return values if is_object(values) else None


def damaged_line(line: str, number: int) -> JSON:
    """Return a failed line for a row whose output is lost."""
    row = read_line(line) or {}
    return {
        "id": row.get("id", number),
        "input": row.get("value", row.get("raw")),
        "output": None,
        "status": "failed",
        "settled": False,
        "error": "StoreError: the job holds the line of this row damaged: moa job retry makes it "
        "due again",
    }
