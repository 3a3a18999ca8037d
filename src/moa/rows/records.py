"""Records: rows and their lines as a job holds them, damaged ones included."""

from __future__ import annotations

import json
from typing import Any, cast

from moa._files import dumped
from moa.batch import Malformed, Row
from moa.rows.loop import RowJournal


def written_row(row: Row | Malformed) -> str:
    """Write a row."""
    if isinstance(row, Malformed):
        return dumped({"number": row.number, "error": row.error, "raw": row.raw})
    return dumped({"number": row.number, "id": row.id, "value": row.value})


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
    """Say of a row that what came out is lost."""
    row = read_line(given) or {}
    return {
        "id": row.get("id", place),
        "input": row.get("value", row.get("raw")),
        "output": None,
        "status": "failed",
        "error": "StoreError: the job holds the line of this row damaged: moa job retry makes it "
        "due again",
    }
