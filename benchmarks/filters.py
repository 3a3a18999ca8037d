"""How well filters keep to criteria that nothing was learnt from: `python benchmarks/filters.py`.

The built-in filter decides by the words of a criterion, and after 16 examples of it. A model of
one's own is asked by a filter, and by one plain call that somebody else wrote.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

import plain_call
from kept import Kept
from moa import EmbeddedEndpoint, Filter
from moa.core.context import RunContext
from moa.endpoints import Message, Prompt
from moa.local.embedded import EngineSettings
from moa.local.relevance import WELL_READ, words_head
from report import table, write

DATA = Path(__file__).parent / "data"
UNSEEN, HELD_OUT, NEAR = "unseen", "held_out", "near"
SETS = {
    UNSEEN: "Ten criteria by a writer who saw none of the others",
    HELD_OUT: "Eleven criteria that were looked at often while the head was made",
    NEAR: "Ten criteria of further kinds, by three writers, nearly all negatives near misses",
}
WORDS, EXAMPLES, SAME = "built-in", "16 examples", "words, those"
SHOWN = 8
"""Examples that meet a criterion, and as many that don't."""
DRAWS = 3
BY_MODELS = 40
"""Texts of a criterion that models are asked about."""
TEXT = """
## Filters

`Filter(endpoint, criterion, action="drop")` on criteria that nothing was learnt from: {n} texts.
Cells are balanced accuracy: the mean of the share found of the texts that meet the criterion and
the share let go of those that don't. Chance is .50, and one text is about .03. Doubtful answers are
counted like all others.

*Built-in*: by the words of the criterion and the encoders; no language model is asked. *16
examples*: the same with eight texts that meet it and eight that don't as `examples`, asked about
the others, {draws} draws; *words, those*: the first way on those other texts.{models}
*Expected*: what the filter itself expects, among near misses alone; below {well_read:.2f} its trace
notes that such criteria are badly told.
{tables}
How many of the wrong answers are doubtful, and how many of the right ones: half and a quarter are
aimed at. The distance from the threshold was chosen on the first two sets. Milliseconds are per
text, one at a time, without the start; other work ran on the two cores, so they are upper bounds
(after examples, the texts' vectors were cached).

{doubts}

On near misses the encoders' words are little better than chance, and so is what they say of
themselves: a doubtful answer is hardly rarer among the right ones. A model of one's own tells them
better.
"""
MODELS = (
    "\n*FILE*: the filter asks that model, which alone decides; *plain call*: the same model is\n"
    "asked by a prompt that somebody else wrote, at temperature 0, its JSON held to a schema.\n"
    f"Both on the first {BY_MODELS} texts of each."
)
Row = dict[str, Any]
"""A text, and whether it meets its criterion."""
Given = list[tuple[bool, bool, bool]]
"""Of each text: whether it meets the criterion, whether the filter says so, and is in doubt."""


def rows_by_criterion(name: str) -> dict[str, list[Row]]:
    """Read a set: texts by criterion."""
    found: dict[str, list[Row]] = {}
    for line in (DATA / f"criteria_{name}.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        met = row["meets"] if name == UNSEEN else row["met"]
        found.setdefault(row["criterion"], []).append({"text": row["text"], "met": met})
    return found


async def expected_of(criterion: str) -> float:
    """Balanced accuracy that is expected of a criterion, by its words."""
    (question,) = Filter(EmbeddedEndpoint(), criterion, action="drop").questions
    return (await words_head(question, RunContext())).expected


async def asked(agent: Filter, rows: Sequence[Row]) -> tuple[Given, float]:
    """Ask about all texts, one by one; milliseconds are without the first, unmeasured question."""
    await agent.run("The shop on the corner opens at nine.")
    begun = time.perf_counter()
    verdicts = [(await agent.run(row["text"])).output for row in rows]
    ms = 1000 * (time.perf_counter() - begun) / len(rows)
    return [(row["met"], v.met, v.doubtful) for row, v in zip(rows, verdicts, strict=True)], ms


def drawn(rows: Sequence[Row], draw: int) -> tuple[list[int], list[int]]:
    """Draw examples of both sides; return their places, and those of the other texts."""
    mixed = random.Random(draw).sample(range(len(rows)), len(rows))
    sides = [[place for place in mixed if rows[place]["met"] == side] for side in (True, False)]
    return [p for side in sides for p in side[:SHOWN]], [p for side in sides for p in side[SHOWN:]]


async def after_examples(criterion: str, rows: Sequence[Row]) -> tuple[Given, float]:
    """Draw examples, and ask about the other texts."""
    given: Given = []
    times: list[float] = []
    for draw in range(DRAWS):
        shown, others = drawn(rows, draw)
        examples = [(rows[place]["text"], rows[place]["met"]) for place in shown]
        agent = Filter(EmbeddedEndpoint(), criterion, action="drop", examples=examples)
        more, ms = await asked(agent, [rows[place] for place in others])
        given += more
        times.append(ms)
    return given, median(times)


def same_texts(given: Given, rows: Sequence[Row]) -> Given:
    """What was answered about the texts that aren't drawn as examples."""
    return [given[place] for draw in range(DRAWS) for place in drawn(rows, draw)[1]]


async def by_plain_call(
    model: EmbeddedEndpoint, agent: Filter, rows: Sequence[Row]
) -> tuple[Given, float]:
    """Ask by the other prompt; what can't be read is no."""
    (question,) = agent.questions
    wanted: list[plain_call.Question] = [("filter", "predicate", question.text, ["yes", "no"])]
    given: Given = []
    begun = time.perf_counter()
    for row in rows:
        messages, schema = plain_call.plain_request(row["text"], wanted)
        sent = tuple(Message(**message) for message in messages)
        prompt = Prompt(messages=sent, json_schema=schema, max_tokens=60, temperature=0.0)
        text = (await model.complete(prompt, RunContext())).text
        said = bool(plain_call.read_answers(text, wanted)["filter"])
        given.append((row["met"], said, False))
    return given, 1000 * (time.perf_counter() - begun) / len(rows)


async def run(args: argparse.Namespace) -> dict[str, Any]:
    """Ask in all ways, by criterion; keep what was found."""
    kept = Kept(args.json)

    async def way(name: str, of: str, criterion: str, made: Any) -> None:
        key = f"{name} | {of} | {criterion}"
        if key in kept.found:
            made.close()
            return
        given, ms = await made
        kept.keep(key, {"given": given, "ms": ms})
        print(f"{key}: {balanced(given):.2f}", flush=True)

    for of in SETS:
        for criterion, rows in rows_by_criterion(of).items():
            agent = Filter(EmbeddedEndpoint(), criterion, action="drop")
            await way(WORDS, of, criterion, asked(agent, rows))
            await way(EXAMPLES, of, criterion, after_examples(criterion, rows))
    for file in args.models:
        settings = EngineSettings(context_window=2048, slots=1)
        async with EmbeddedEndpoint(model_path=file, settings=settings, timeout_s=1800) as model:
            for criterion, rows in rows_by_criterion(NEAR).items():
                rows = rows[:BY_MODELS]
                agent = Filter(model, criterion, action="drop")
                await way(file.stem, NEAR, criterion, asked(agent, rows))
                plain = by_plain_call(model, agent, rows)
                await way(f"{file.stem}, plain call", NEAR, criterion, plain)
    return kept.found


def balanced(given: Given) -> float:
    """Mean of the share found of those that meet it, and let go of those that don't."""
    found = fmean(said for met, said, _ in given if met)
    return (found + fmean(not said for met, said, _ in given if not met)) / 2


def body_of(found: Mapping[str, Any], expected: Mapping[str, float]) -> str:
    """Write the section."""
    by_way: dict[tuple[str, str], dict[str, Any]] = {}
    for key, one in found.items():
        way, of, criterion = key.split(" | ")
        by_way.setdefault((way, of), {})[criterion] = one
        if way == EXAMPLES:
            rows, words = rows_by_criterion(of)[criterion], found[f"{WORDS} | {of} | {criterion}"]
            same = {"given": same_texts(words["given"], rows), "ms": words["ms"]}
            by_way.setdefault((SAME, of), {})[criterion] = same
    ways = list(dict.fromkeys(way for way, _ in by_way))
    tables: list[str] = []
    for of, title in SETS.items():
        here = [way for way in ways if (way, of) in by_way]
        scores = {
            way: {c: balanced(o["given"]) for c, o in by_way[way, of].items()} for way in here
        }
        lines = [
            [c, f"{expected[c]:.2f}", *(f"{scores[way][c]:.2f}" for way in here)]
            for c in rows_by_criterion(of)
        ]
        means = [f"**{fmean(scores[way].values()):.3f}**" for way in here]
        shown = table(["criterion", "expected", *here], [*lines, ["**mean**", "", *means]])
        tables.append(f"\n{title}:\n\n{shown}\n")
    doubts = [
        [
            SETS[of].partition(" criteria")[0] + f" ({of})".replace("_", " "),
            way,
            *doubt_shares(by_way[way, of]),
        ]
        for of in SETS
        for way in ways
        if (way, of) in by_way and way != SAME and "plain" not in way
    ]
    return TEXT.format(
        n=sum(len(rows) for of in SETS for rows in rows_by_criterion(of).values()),
        draws=DRAWS,
        well_read=WELL_READ,
        models=MODELS if any("plain" in way for way in ways) else "",
        tables="".join(tables),
        doubts=table(["criteria", "", "right", "wrong, doubtful", "right, doubtful", "ms"], doubts),
    )


def doubt_shares(by_criterion: Mapping[str, Any]) -> list[str]:
    """Share right, the doubtful shares of the wrong and of the right answers, and milliseconds."""
    given = [tuple(each) for one in by_criterion.values() for each in one["given"]]
    right = [doubtful for met, said, doubtful in given if met == said]
    wrong = [doubtful for met, said, doubtful in given if met != said]
    shares = [len(right) / len(given), fmean(wrong), fmean(right)]
    return [*(f"{s:.2f}" for s in shares), f"{median(o['ms'] for o in by_criterion.values()):.0f}"]


async def expectations() -> dict[str, float]:
    """What is expected of each criterion."""
    return {c: await expected_of(c) for of in SETS for c in rows_by_criterion(of)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, nargs="*", default=[], help="GGUF files")
    parser.add_argument("--json", type=Path, help="keeps what was measured, and is read again")
    args = parser.parse_args()
    found = asyncio.run(run(args))
    body = body_of(found, asyncio.run(expectations()))
    print(body)
    write("filters", f"python benchmarks/filters.py{' --models FILE' * bool(args.models)}", body)


if __name__ == "__main__":
    main()
