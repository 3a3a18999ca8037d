"""Replies of the support graph beside one plain call: `support_replies.py --file FILE`.

Each message of `data/support_replies.jsonl` goes through the graph, and to the same model with the
same rules and facts in a plain prompt, at temperature 0. What came out is kept, and printed to be
read: nothing here can tell whether a reply makes sense. Counted is what the graph sends, drafts or
leaves to people, and what its checks say of plain answers and of the good replies in the data. Of
the half `report` this is written to the page.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

from kept import Kept
from messages import BUSINESSES, DATA, intents_of, read
from moa import EmbeddedEndpoint
from moa.core.context import RunContext
from moa.core.node import Reply
from moa.documents.language import language_of
from moa.endpoints import Prompt
from moa.inbox.replies import Letter, Written, doubts_about
from moa.inbox.support import INTENTS, Answered, Support, Ticket
from report import table, write

MOST = 200
"""Tokens of a reply."""
PLAIN = (
    "You answer messages to the customer support of {company}.\n\nOur policy:\n{policy}\n\n"
    "Facts:\n{facts}\n\nReply to the customer briefly, in their language."
)
TEXT = """
## Replies of the support graph

What becomes of {rows} messages to three businesses in eight languages, with rules and facts of
each, and what the checks say of the plain answers of the same model to the same rules and facts.
*Doubtful* is a text in which they find a refusal, an echo or a repetition, or a yes, a figure, a
day or a promise that nothing given holds: they find that in {good} replies that people wrote.

{table}
"""
HEAD = (
    "model",
    "sent",
    "drafts (doubtful besides)",
    "left to people",
    "by a queue or template",
    "danger: to people first",
    "plain answers that are doubtful",
)
Row = dict[str, Any]


def businesses() -> dict[str, Row]:
    return tomllib.loads((DATA / "support_replies.toml").read_text(encoding="utf-8"))


def doubts(text: str, row: Row, business: Row) -> list[str]:
    """Say what the checks find in a text that the graph didn't write."""
    letter = Letter(text=row["text"], language=language_of(row["text"]))
    given = [business["policy"], *business["facts"]]
    return doubts_about(Written(text=text), letter, given, sent=True, model="")[0]


async def by_graph(model: EmbeddedEndpoint, row: Row, business: Row) -> Row:
    own = BUSINESSES / f"{row['business']}.toml"
    graph = Support(
        slm=EmbeddedEndpoint(),
        llm=model,
        company=business["company"],
        policy=business["policy"],
        facts=tuple(business["facts"]),
        intents=intents_of(own) if own.exists() else INTENTS,
        reply_tokens=MOST,
    )
    result = await graph.run(Ticket(text=row["text"]))
    found = result.output
    text = found.text if isinstance(found, Answered) else str(found)
    said = list(found.doubts) if isinstance(found, Answered) else []
    return {"became": found.became, "text": text, "doubts": said, "seconds": result.seconds}


async def plainly(model: EmbeddedEndpoint, row: Row, business: Row) -> Row:
    facts = "\n".join(f"- {fact}" for fact in business["facts"])
    system = PLAIN.format(
        company=business["company"], policy=business["policy"].strip(), facts=facts
    )
    prompt = Prompt.of(row["text"], system=system, max_tokens=MOST, temperature=0.0)
    text = Reply(text=(await model.complete(prompt, RunContext())).text.strip() or "-").text
    return {"text": text, "doubts": doubts(text, row, business)}


async def run(args: argparse.Namespace) -> None:
    kept, known = Kept(args.json), businesses()
    rows = [row for row in read(DATA / "support_replies.jsonl") if row["half"] == args.half]
    async with EmbeddedEndpoint("large", tier="llm", model_path=args.file, timeout_s=900) as model:
        for row in rows:
            for name, ask in (("graph", by_graph), ("plain", plainly)):
                if (key := f"{args.file.stem} {name} {row['id']}") not in kept.found:
                    kept.keep(key, await ask(model, row, known[row["business"]]))
                print(key, json.dumps(kept.found[key], ensure_ascii=False), flush=True)
    of = {
        name: [kept.found[f"{args.file.stem} {name} {r['id']}"] for r in rows]
        for name in ("graph", "plain")
    }
    good = [doubts(r["reply"], r, known[r["business"]]) for r in rows if "reply" in r]
    body = TEXT.format(
        rows=len(rows),
        good=f"{sum(map(bool, good))} of {len(good)}",
        table=table(HEAD, [_counted(args.file.stem, of["graph"], of["plain"])]),
    )
    print(body)
    if args.half == "report":
        write("support replies", "python benchmarks/support_replies.py --file FILE", body)


def _counted(model: str, graph: list[Row], plain: list[Row]) -> list[object]:
    became = Counter(str(each["became"]) for each in graph)
    drafts = [each for each in graph if each["became"] == "drafted"]
    return [
        model,
        became["written"],
        f"{len(drafts)} ({sum(len(each['doubts']) > 1 for each in drafts)})",
        became["waiting"],
        became["routed"] + became["answered"],
        became["in danger"],
        sum(bool(each["doubts"]) for each in plain),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--file", type=Path, required=True, help="a GGUF file, which writes")
    parser.add_argument("--half", choices=["choose", "report"], default="report")
    parser.add_argument("--json", type=Path, help="keeps what was written, and is read again")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
