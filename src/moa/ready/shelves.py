"""Shelves: the items of a catalogue, read from a file of rows."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from moa.agents.boundary import said
from moa.errors import ConfigError
from moa.graphs.items import Item


def items_of(file: Path) -> list[Item]:
    """Read a catalogue: JSON Lines, or CSV with a header; `id` and `text` are needed.

    Raises:
        ConfigError: the file isn't there, is of another kind, or a row of it is no item.
    """
    kinds = {".jsonl": _jsonl, ".csv": _csv}
    if file.suffix.lower() not in kinds:
        raise ConfigError(f"{file} is no catalogue: give a .jsonl or a .csv file")
    items: list[Item] = []
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            for number, row in kinds[file.suffix.lower()](opened):
                try:
                    items.append(Item.model_validate(row))
                except ValidationError as error:
                    raise ConfigError(f"{file}, row {number} is no item: {said(error)}") from error
    except OSError as error:
        raise ConfigError(f"{file} can't be read: {error.strerror}") from error
    except (csv.Error, ValueError) as error:
        raise ConfigError(f"{file} is broken: {error}") from error
    return items


def _jsonl(lines: Iterator[str]) -> Iterator[tuple[int, object]]:
    return ((n, json.loads(line)) for n, line in enumerate(lines, 1) if line.strip())


def _csv(lines: Iterator[str]) -> Iterator[tuple[int, object]]:
    return enumerate(csv.DictReader(lines), 2)
