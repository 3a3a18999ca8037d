"""200 messages, some of them labelled: those of the example, and a sample of public sets."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples" / "support"
FILES = (
    EXAMPLES / "inbox.jsonl",
    EXAMPLES / "fitting.jsonl",
    Path(__file__).parent / "messages.jsonl",
)


@dataclass(frozen=True, slots=True)
class Message:
    """A text, and what is known of it."""

    id: str
    text: str
    spam: bool | None = None
    sentiment: str | None = None


def messages() -> list[Message]:
    """Read them all; the subject of a mail stands before its text."""
    rows = [json.loads(line) for file in FILES for line in file.read_text("utf-8").splitlines()]
    return [
        Message(
            row["id"],
            f"{row.get('subject') or ''}\n\n{row['text']}".strip(),
            row.get("spam"),
            row.get("sentiment"),
        )
        for row in rows
    ]
