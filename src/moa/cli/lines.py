"""Lines: an item as one line of JSON."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any, TextIO

from moa._terminal import STEERING
from moa.cli.items import Item, Malformed
from moa.cli.targets import check_target
from moa.errors import ConfigError
from moa.usage import Amount, Usage


def line(item: Item) -> dict[str, object]:
    """Write an item as what `json` can write."""
    row = item.row
    written: dict[str, object] = {
        "id": row.id,
        "input": row.raw if isinstance(row, Malformed) else row.value,
        "output": plain(item.output),
        "status": item.status,
        "error": item.error,
        "seconds": round(item.seconds, 4),
        "usage": usage_of(item),
        "trace": [plain(note) for note in item.trace],
    }
    if item.error is None:
        del written["error"]
    return written


def usage_of(item: Item) -> dict[str, object]:
    """Write what an item consumed, by tier, node and endpoint; a cost of `null` is unknown."""
    usage = item.usage
    estimate = item.llm_alone
    alone = estimate and {"cost": _dollars(estimate.cost), "how": estimate.how}
    return {
        **_amount(usage.total),
        "by_tier": _split(usage.by_tier()),
        "by_node": _split(usage.by_node()),
        "by_endpoint": _split(usage.by_endpoint()),
        "llm_alone_estimate": alone,
    }


def plain(value: object) -> Any:
    """Turn an output into what JSON can say."""
    from pydantic_core import to_jsonable_python

    return to_jsonable_python(value, fallback=str)


def check_out(path: Path, *, source: str | None) -> None:
    """Make sure that a file can take output lines, and leave it as it is.

    Args:
        path: Will be overwritten.
        source: File that the input comes from, which must not be; `None`: it is none.

    Raises:
        ConfigError: it can't be written, or it is the input.
    """
    if path.suffix != ".jsonl":
        raise ConfigError(f"--out writes JSON Lines: call the file {path.with_suffix('.jsonl')}")
    check_target("--out", path)
    if source is not None and path.exists() and Path(source).exists() and path.samefile(source):
        raise ConfigError(f"--out {path} is the input, and would be overwritten")


def open_out(path: Path) -> TextIO:
    """Open a file of output lines, which is overwritten.

    Raises:
        ConfigError: it can't be written.
    """
    try:
        return path.open("w", encoding="utf-8", buffering=1)
    except OSError as error:
        raise ConfigError(f"--out {path} can't be written: {error.strerror}") from error


def write(file: TextIO, values: dict[str, object]) -> None:
    """Write one line; it has left this process when this returns.

    Raises:
        ConfigError: the disk is full, or gone.
        BrokenPipeError: nobody reads it any more.
    """
    try:
        file.write(escaped(json.dumps(values, ensure_ascii=False)) + "\n")
        file.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise ConfigError(f"{file.name} can't be written: {error.strerror}") from error


def escaped(text: str) -> str:
    """Write what could steer a terminal as JSON's escapes; the values stay the same."""
    return STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


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
