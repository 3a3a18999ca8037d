"""Labelled messages to businesses: to whom, by which writer, and vectors of them."""

from __future__ import annotations

import asyncio
import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from moa.core.context import RunContext
from moa.decisions.heads import encode
from moa.inbox.support import Intent, Ticket, as_one_text
from moa.local.encoders import JointEncoder

DATA = Path(__file__).parent / "data"
BUSINESSES = DATA / "businesses"
SHOP, MIXED = "shop", "mixed"
"""Writers, and businesses: the shop of the shipped intents, and messages to many trades."""
UNKNOWN = "unknown"
"""The writer of all businesses that name none: they are left out together."""
FEELINGS = ("negative", "neutral", "positive")
LEVELS = ("can wait", "today", "now")
Row = dict[str, Any]


class Messages(NamedTuple):
    """Messages and whose they are, side by side."""

    rows: list[Row]
    business: Any
    writer: Any

    @property
    def texts(self) -> list[str]:
        return [text_of(row) for row in self.rows]

    @property
    def genuine(self) -> Any:
        return np.array([not (row["spam"] or row["injection"]) for row in self.rows])

    def labels(self, question: str, names: Sequence[str]) -> Any:
        """Give the place of each message's label among the names."""
        return np.array([names.index(str(row[question])) for row in self.rows])

    def only(self, rest: Any) -> Messages:
        """Give those of them that are true in an array."""
        rows = [row for row, is_in in zip(self.rows, rest, strict=True) if is_in]
        return Messages(rows, self.business[rest], self.writer[rest])


def read(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def text_of(row: Row) -> str:
    """Give a message as the graph reads it."""
    given = {key: row[key] for key in ("subject", "text") if row.get(key)}
    return as_one_text(Ticket.model_validate(given))


def settings_of(path: Path) -> dict[str, Any]:
    """Read what a business says of itself in its NAME.toml."""
    return tomllib.loads(path.read_text(encoding="utf-8"))


def writer_of(path: Path) -> str:
    """Name the writer of a business's messages."""
    return str(settings_of(path).get("writer", UNKNOWN))


def intents_of(path: Path) -> dict[str, Intent]:
    """Give a business's own intents, with a sentence and a few examples each."""
    return {name: Intent(**one) for name, one in settings_of(path)["intents"].items()}


def messages_of(path: Path, business: str, writer: str) -> Messages:
    rows = read(path)
    return Messages(rows, np.full(len(rows), business), np.full(len(rows), writer))


def read_shop(name: str) -> Messages:
    """Read messages to the shop, such as `support_held_out`."""
    return messages_of(DATA / f"{name}.jsonl", SHOP, SHOP)


def learning() -> Messages:
    """Read all messages that the shipped heads are fitted to."""
    parts = [
        read_shop("support_learn"),
        messages_of(DATA / "support_mixed.jsonl", MIXED, MIXED),
        *(
            messages_of(path.with_suffix(".jsonl"), path.stem, writer_of(path))
            for path in sorted(BUSINESSES.glob("*.toml"))
        ),
    ]
    return Messages(
        [row for part in parts for row in part.rows],
        np.concatenate([part.business for part in parts]),
        np.concatenate([part.writer for part in parts]),
    )


async def vectors(texts: Sequence[str]) -> Any:
    encoder, found = JointEncoder(), list[tuple[float, ...]]()
    for start in range(0, len(texts), 50):
        found += await encode(encoder, texts[start : start + 50], RunContext())
        print(f"\r{len(found)} of {len(texts)} texts encoded", end="", flush=True)
    print()
    return np.array(found, np.float32)


def encoded(path: Path, texts: Sequence[str]) -> Any:
    """Encode texts, but those whose vectors a file has; it has all of them afterwards."""
    known: dict[str, Any] = {}
    if path.exists():
        with np.load(path, allow_pickle=False) as file:
            known = dict(zip(file["texts"].tolist(), file["vectors"], strict=True))
    if new := [text for text in dict.fromkeys(texts) if text not in known]:
        known |= dict(zip(new, asyncio.run(vectors(new)), strict=True))
        np.savez(path, texts=np.array(list(known)), vectors=np.array(list(known.values())))
    return np.array([known[text] for text in texts])
