"""Spam: what the guard finds in text messages, beside a filter by words and one with examples."""

from __future__ import annotations

import json
from pathlib import Path

from guards_injection import Row, count, each
from moa import Filter
from moa.endpoints import Endpoint
from moa.guards.spam import Spam
from report import table, write

LEARN = 500
"""Rows at the beginning that the examples are from; the rows after them are reported."""
OF_EACH = 10
TEXT = """
## Spam guard

`Spam` as it ships, on the {n} text messages of the second half of `sms_spam` ({bad} of them spam),
beside a `Filter` by the word "spam" alone, and by {each} examples of each kind from the first half.
A false alarm is a harmless message that is stopped. The head of `Spam` has learnt from messages to
25 kinds of business, and from no text messages: its figures here say how far that carries.

{table}
"""


async def run(slm: Endpoint, data: Path, *, rows: int | None, writes: bool) -> None:
    lines = (data / "sms_spam" / "dev.jsonl").read_text().splitlines()
    read = [json.loads(line) for line in lines]
    cases = [Row(row["text"], "sms_spam", row["label"] == "spam") for row in read]
    seen, cases = cases[:LEARN], cases[LEARN:][:rows]
    examples = [(case.text, kind) for kind in (True, False) for case in seen if case.bad is kind]
    few = examples[:OF_EACH] + [one for one in examples if not one[1]][:OF_EACH]
    ways = {
        'Filter, "spam"': Filter(slm, "spam", action="drop"),
        f'Filter, "spam", {OF_EACH} examples of each': Filter(
            slm, "spam", action="drop", examples=few
        ),
        "Spam": Spam(slm),
    }
    shown: list[tuple[str, ...]] = []
    for name, guard in ways.items():
        await guard.run(cases[0].text)  # what is measured first is measured alone
        found = await each(cases, lambda case, guard=guard: guard.run(case.text))
        shown.append((name, *count(cases, [not one.output.kept for one in found]).cells))
    body = TEXT.format(
        n=len(cases),
        bad=sum(case.bad for case in cases),
        each=OF_EACH,
        table=table(("guard", "F1", "precision", "recall", "false alarms"), shown),
    )
    if writes:
        write("spam guard", "python benchmarks/guards.py --steps spam", body)
    print(body)
