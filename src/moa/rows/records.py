"""Records: how a row, and what became of it, are written and read; damaged ones included."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, cast

from moa._files import dump_json, to_jsonable
from moa.batch import Item, Malformed, Row
from moa.rows.loop import RowJournal
from moa.usage import Amount, Usage


def line(item: Item[object]) -> dict[str, object]:
    """Write an item as what `json` can write."""
    written: dict[str, object] = {
        "id": item.id,
        "input": to_jsonable(item.input),
        "output": to_jsonable(item.output),
        "status": item.status,
    }
    if item.problem is not None:
        written["error"] = item.problem
    return written | taken(item)


def taken(item: Item[object]) -> dict[str, object]:
    """Write what an item took: `seconds`, `usage` and `trace`.

    Usage is by tier, node and endpoint; a cost of `null` is unknown.
    """
    return {
        "seconds": round(item.seconds, 4),
        "usage": usage_of(item),
        "trace": [to_jsonable(note) for note in item.trace],
    }


def usage_of(item: Item[object]) -> dict[str, object]:
    """Write what an item used, in all and by tier, node and endpoint."""
    usage = item.usage
    estimate = item.result.llm_alone if item.result else None
    return {
        **_amount(usage.total),
        "by_tier": _split(usage.by_tier()),
        "by_node": _split(usage.by_node()),
        "by_endpoint": _split(usage.by_endpoint()),
        "llm_alone_estimate": estimate and {"cost": _dollars(estimate.cost), "how": estimate.how},
    }


def _split(parts: Mapping[Any, Usage]) -> dict[str, object]:
    return {name: _amount(usage.total) for name, usage in parts.items()}


def _amount(amount: Amount) -> dict[str, object]:
    return {
        "calls": amount.calls,
        "input_tokens": amount.input_tokens,
        "cached_input_tokens": amount.cached_input_tokens,
        "output_tokens": amount.output_tokens,
        "cost": _dollars(amount.cost),
        "seconds": round(amount.seconds, 4),
    }


def _dollars(cost: Decimal | None) -> float | None:
    return None if cost is None else float(cost)


def name_of(id: object, input: object) -> str:
    """Return two digests, of a row's id and its content, with `/` between; copies share them."""
    return f"{_digest(id)}/{_digest(input)}"


def _digest(value: object) -> str:
    """Tell an input from others, whatever the order of its fields."""
    if isinstance(value, dict):
        value = sorted(cast("dict[str, object]", value).items())
    return hashlib.sha256(dump_json(value).encode()).hexdigest()[:32]


def written_row(row: Row | Malformed) -> str:
    """Write a row."""
    if isinstance(row, Malformed):
        return dump_json({"number": row.number, "error": row.error, "raw": row.raw})
    return dump_json({"number": row.number, "id": row.id, "value": row.value})


def read_row(given: str, place: int, journal: RowJournal) -> Row | Malformed:
    """Read a row; one that is damaged is malformed, and has the number of its place."""
    try:
        values = json.loads(given)
        if "error" in values:
            return Malformed(**values, key=journal.name)
        return Row(**values, key=journal.name, journal=journal)
    except (TypeError, ValueError):
        error = "the job holds this row damaged: run it on the same input again, and moa job retry"
        return Malformed(number=place, error=error, raw=given, key=journal.name)


def read_line(written: str) -> dict[str, Any] | None:
    """Read the line of a row; `None` where it is damaged."""
    try:
        values = json.loads(written)
    except ValueError:
        return None
    return cast("dict[str, Any]", values) if isinstance(values, dict) else None


def damaged_line(given: str, place: int) -> dict[str, Any]:
    """Return a line which says that the row's output is lost."""
    row = read_line(given) or {}
    return {
        "id": row.get("id", place),
        "input": row.get("value", row.get("raw")),
        "output": None,
        "status": "failed",
        "error": "StoreError: the job holds the line of this row damaged: moa job retry makes it "
        "due again",
    }
