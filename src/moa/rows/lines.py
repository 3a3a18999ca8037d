"""Lines: what became of rows, as JSON, and written as a table."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterable, Mapping
from decimal import Decimal
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, cast

from moa._files import dumped, plain, replacing
from moa.batch import Item
from moa.errors import ConfigError
from moa.rows.reading import PARQUET_ROWS, arrow, csv_line, format_of
from moa.usage import Amount, Usage


def line(item: Item[object]) -> dict[str, object]:
    """Write an item as what `json` can write."""
    written: dict[str, object] = {
        "id": item.id,
        "input": plain(item.input),
        "output": plain(item.output),
        "status": item.status,
    }
    if item.problem is not None:
        written["error"] = item.problem
    return written | taken(item)


def taken(item: Item[object]) -> dict[str, object]:
    """Write what an item took: `seconds`, `usage` and `trace`.

    Usage is by tier, node and endpoint; a cost of `null` is unknown.
    """
    usage = item.usage
    estimate = item.result.llm_alone if item.result else None
    return {
        "seconds": round(item.seconds, 4),
        "usage": {
            **_amount(usage.total),
            "by_tier": _split(usage.by_tier()),
            "by_node": _split(usage.by_node()),
            "by_endpoint": _split(usage.by_endpoint()),
            "llm_alone_estimate": estimate
            and {"cost": _dollars(estimate.cost), "how": estimate.how},
        },
        "trace": [plain(note) for note in item.trace],
    }


def _split(parts: dict[Any, Usage]) -> dict[str, object]:
    return {str(name): _amount(usage.total) for name, usage in parts.items()}


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


_COLUMNS = ("id", "status", "error", "input", "output")


def exported(lines: Iterable[Mapping[str, Any]], path: Path) -> int:
    """Write lines to a file, whole or not at all; see `moa.jobs.Job.export`."""
    kind = format_of(str(path))
    if kind in (None, "txt") or path.suffix == ".zst":
        raise ConfigError(f"{path}: give a name that ends in .jsonl, .csv or .parquet")
    write = {"jsonl": _write_jsonl, "csv": _write_csv, "parquet": _write_parquet}[cast("str", kind)]
    try:
        with replacing(path) as file:
            if path.suffix == ".gz":
                with gzip.open(file, "wb") as packed:
                    return write(lines, cast("BinaryIO", packed))
            return write(lines, file)
    except OSError as error:
        raise ConfigError(f"{path} can't be written: {error.strerror}") from error


def _write_jsonl(lines: Iterable[Mapping[str, Any]], file: BinaryIO) -> int:
    count = 0
    for values in lines:
        file.write(dumped(values).encode() + b"\n")
        count += 1
    return count


def _write_csv(lines: Iterable[Mapping[str, Any]], file: BinaryIO) -> int:
    count = 0
    for cells in chain([dict(zip(_COLUMNS, _COLUMNS, strict=True))], map(_as_cells, lines)):
        file.write(f"{csv_line([cells[name] for name in _COLUMNS])}\r\n".encode())
        count += 1
    return count - 1


def _write_parquet(lines: Iterable[Mapping[str, Any]], file: BinaryIO) -> int:
    pyarrow, count = arrow("to write Parquet"), 0
    schema = pyarrow.schema([(name, pyarrow.string()) for name in _COLUMNS])
    cells = map(_as_cells, lines)
    with pyarrow.parquet.ParquetWriter(file, schema) as writer:
        while some := list(islice(cells, PARQUET_ROWS)):
            writer.write_table(pyarrow.Table.from_pylist(some, schema=schema))
            count += len(some)
    return count


def _as_cells(values: Mapping[str, Any]) -> dict[str, str]:
    told = {name: values.get(name, "") for name in ("id", "status", "error")}
    parts = {name: dumped(values.get(name)) for name in ("input", "output")}
    return {name: str(value) for name, value in told.items()} | parts


def digest_of(value: object) -> bytes:
    """Tell an input from others, whatever the order of its fields."""
    if isinstance(value, dict):
        value = sorted(cast("dict[str, object]", value).items())
    text = dumped(value)
    return hashlib.sha256(text.encode()).digest()[:16]
