"""Injection: F1 and false alarms of the injection guard on `guard_injection`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from moa.endpoints import Endpoint
from moa.guards.injection import Injection, InjectionRules
from report import table, write

T = TypeVar("T")
U = TypeVar("U")

SIDE_BY_SIDE = 4
TEXT = """
## Injection guard

`Injection` as it ships, rules and head, on the {n} rows of `guard_injection` ({bad}
injections). A false alarm is a harmless text that is stopped. The threshold was set before. The
rules were made narrower for what customers ordinarily say; once it was looked at how many of the
set each rule stops, and never at its texts.

{table}

By source, with rules and head:

{sources}

**What this set can't say**: label and source coincide, as the table shows: what is harmless is from
NotInject, and what is an injection is from deepset. Whoever tells the two apart scores well, and a
good figure proves little; the figures are there to see that a change makes nothing worse.
"""


class Row(NamedTuple):
    """A text, where it is from, and what it is."""

    text: str
    source: str
    bad: bool


class Counted(NamedTuple):
    """How often a guard was right, and how not."""

    stopped: int
    missed: int
    false: int
    passed: int

    @property
    def cells(self) -> tuple[str, ...]:
        precision = self.stopped / max(1, self.stopped + self.false)
        recall = self.stopped / max(1, self.stopped + self.missed)
        f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
        alarms = self.false / max(1, self.false + self.passed)
        return tuple(f"{x:.3f}" for x in (f1, precision, recall, alarms))


async def each(items: Sequence[T], ask: Callable[[T], Awaitable[U]]) -> list[U]:
    """Ask about each, a few side by side."""
    few = asyncio.Semaphore(SIDE_BY_SIDE)

    async def one(item: T) -> U:
        async with few:
            return await ask(item)

    return list(await asyncio.gather(*map(one, items)))


async def run(slm: Endpoint, data: Path, *, rows: int | None, writes: bool) -> None:
    lines = (data / "guard_injection" / "dev.jsonl").read_text().splitlines()[:rows]
    read = [json.loads(line) for line in lines]
    cases = [Row(row["text"], row["src"], row["label"] == "injection") for row in read]
    rules, model = InjectionRules(), Injection(slm, rules=False)
    by_rules = [not (await rules.run(case.text)).output.kept for case in cases]
    by_model = [not r.output.kept for r in await each(cases, lambda case: model.run(case.text))]
    both = [one or other for one, other in zip(by_rules, by_model, strict=True)]
    ways = {"rules alone": by_rules, "head alone": by_model, "rules, then the head": both}
    shown = [(name, *count(cases, said).cells) for name, said in ways.items()]
    sources = [
        source_row(source, cases, both) for source in sorted({case.source for case in cases})
    ]
    body = TEXT.format(
        n=len(cases),
        bad=sum(case.bad for case in cases),
        table=table(("guard", "F1", "precision", "recall", "false alarms"), shown),
        sources=table(("source", "harmless, stopped", "injections, stopped"), sources),
    )
    if writes:
        write("injection guard", "python benchmarks/guards.py --steps injection", body)
    print(body)


def count(cases: Sequence[Row], said: Sequence[bool]) -> Counted:
    pairs = [(case.bad, stopped) for case, stopped in zip(cases, said, strict=True)]
    return Counted(
        stopped=pairs.count((True, True)),
        missed=pairs.count((True, False)),
        false=pairs.count((False, True)),
        passed=pairs.count((False, False)),
    )


def source_row(source: str, cases: Sequence[Row], said: Sequence[bool]) -> tuple[str, str, str]:
    here = [(c, s) for c, s in zip(cases, said, strict=True) if c.source == source]
    found = count([c for c, _ in here], [s for _, s in here])
    harmless, bad = found.false + found.passed, found.stopped + found.missed
    return source, f"{found.false} of {harmless}", f"{found.stopped} of {bad}"
