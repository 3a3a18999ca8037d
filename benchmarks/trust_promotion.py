"""Promotion: what share of an LLM's decisions can move, by a log of 2,000 of them."""

from __future__ import annotations

import asyncio
import json
import random
import time
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from moa.evals.promotion import ROWS, promote

from kept import Kept
from moa import EmbeddedEndpoint
from moa.calibration.labelled import Labelled
from moa.testing import SimulatedEndpoint
from moa.usage import Price
from report import table, write
from saying import Said

SECTION = "promotion"
LLM = Price(input=Decimal("2.5"), output=Decimal(10))
SLM = Price(hour=Decimal("0.10"))


class Log(NamedTuple):
    """Sets that make a log, and the question that their labels answer."""

    name: str
    sets: tuple[str, ...]
    task: str


LOGS = (Log("inbox", ("sms_spam", "intent_banking10"), "Which kind of message is this?"),)
HEAD = (
    "log",
    "rows",
    "labels",
    "scorer",
    "can move at 5 %",
    "differ from the LLM",
    "the promise",
    "LLM calls of 1000",
    "US$ of 1000, LLM alone",
    "US$ of 1000, after",
    "minutes",
)
TEXT = f"""
## Promotion

`moa promote` on a log of 2,000 messages: {ROWS} rows, drawn at random, are calibrated on, and the
promise of at most 5 % other answers, with 95 % confidence, is tested on all others. The log is
two labelled sets, whose labels stand for the LLM's answers: text messages and questions to a bank
(ham, spam and ten intents). Copies of a text count once. Dollars are estimated from the texts, for
an LLM at US$ 2.50 and 10 per million tokens in and out, and this machine at US$ 0.10 an hour; the
LLM checks 2 % of what moved."""


def run(data: Path, kept: Kept, *, few: int | None = None) -> None:
    """Promote on each log whose figures aren't in `kept` yet, and write the section.

    Args:
        data: Folder of the sets.
        kept: What was found before.
        few: A trial that calibrates on so many rows and looks at 50 others, prints the section and
            writes no page.
    """
    use = few or ROWS
    for log in LOGS:
        name = _name(log, use)
        if name not in kept.found:
            kept.keep(name, asyncio.run(_measured(log, data, use, few)))
    rows = [_row(log, kept.found[_name(log, use)]) for log in LOGS]
    body = "\n\n".join((TEXT, table(HEAD, rows)))
    if few is not None:
        print(body)
        return
    write(SECTION, "python benchmarks/trust.py --data DIR --steps promotion", body)


def _name(log: Log, use: int) -> str:
    return f"{SECTION}: {log.name}, {use} rows"


async def _measured(log: Log, data: Path, use: int, few: int | None) -> dict[str, Any]:
    rows = [row for name in log.sets for row in _rows(data / name / "dev.jsonl")]
    random.Random(0).shuffle(rows)
    started = time.perf_counter()
    async with EmbeddedEndpoint(price=SLM) as slm:
        made, found = await promote(
            slm,
            rows if few is None else rows[: few + 60],
            task=log.task,
            labels=sorted({row.label for row in rows}),
            use=use,
            llm=SimulatedEndpoint(name="llm", tier="llm", price=LLM),
            progress=Said(log.name),
        )
    print(f"{log.name}: {made.chosen}\n{found.verdict}", flush=True)
    return {
        **found.model_dump(mode="json"),
        "rows": len(rows),
        "labels": len(made.labels),
        "scorer": " + ".join(member.name for member in made.members),
        "risk": found.risk,
        "holds": found.holds,
        "minutes": (time.perf_counter() - started) / 60,
    }


def _rows(file: Path) -> list[Labelled]:
    lines = file.read_text(encoding="utf-8").splitlines()
    return [Labelled(text=row["text"], label=row["label"]) for row in map(json.loads, lines)]


def _row(log: Log, found: dict[str, Any]) -> list[str]:
    saving = found["saving"]
    alone, after = (saving[key] for key in ("llm_alone", "after"))
    return [
        f"`{'` and `'.join(log.sets)}`",
        str(found["rows"]),
        str(found["labels"]),
        found["scorer"],
        f"{found['coverage']:.1%}",
        f"{found['disagreeing']} of {found['accepted']} ({found['risk']:.2%})",
        "holds" if found["holds"] else "**not shown**",
        f"{saving['llm_calls']:.0f}",
        "unknown" if alone is None else f"{alone:.3f}",
        "unknown" if after is None else f"{after:.3f}",
        f"{found['minutes']:.1f}",
    ]
