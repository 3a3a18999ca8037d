"""How well filters keep to criteria that nothing was learnt from: `python benchmarks/filters.py`.

Half of the texts of a criterion meet it; of the others half or all nearly do.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from kept import Kept
from moa import EmbeddedEndpoint, Filter
from moa.core.context import RunContext
from moa.endpoints import Endpoint
from moa.local.relevance import WELL_READ, words_head
from report import table, write
from support_reading import Alone

DATA = Path(__file__).parent / "data"
UNSEEN, HELD_OUT = "criteria_unseen.jsonl", "criteria_held_out.jsonl"
BUILT_IN = "built-in"
ALONE = "\n*Alone*: a model without encoders, asked once a text."
TEXT = """
## Filters

`Filter(endpoint, criterion, action="drop")` without an example and without a label, on {n} texts.
Cells are balanced accuracy: the mean of the share found of the texts
that meet the criterion and the share let go of those that don't. Chance is .50, and one text is
about .03. Answers of which a filter says itself that it can't tell are counted like all others.
*Built-in*: by the words of the criterion and the encoders; no language model is asked.{alone}
*Expected*: what the filter itself expects, among near misses alone; below {well_read:.2f} its
trace notes that such criteria are badly told.

Ten criteria by a writer who saw none of the others: 20 texts that meet each, 10 near misses and 10
ordinary texts. Nothing was fitted to them. While the head was made they were looked at {looks}, as
a mean and the lowest. Some that the head learnt from, by writers who didn't see these, are close:
"about moving to a new home", "an angry text", "asks for a recommendation", "mentions how old
somebody is". So kinds that are new to it may do worse.

{unseen}

Eleven criteria that were looked at often while the head was made, 30 texts each, near misses among
them:

{held_out}

Found are those that meet it, over all criteria; called are those that don't, and are taken to.
Doubtful: of how many texts a filter says that it can't tell, and the share right
of those and of the others. Milliseconds are per text, one at a time, without the
start; other work ran on the two cores, so they are upper bounds.

{sums}
"""
LOOKS = "twice"


def rows_by_criterion(*names: str) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for name in names or (UNSEEN, HELD_OUT):
        for line in (DATA / name).read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            met = row["meets"] if name == UNSEEN else row["met"]
            found.setdefault(row["criterion"], []).append({"text": row["text"], "met": met})
    return found


async def expected_of(criteria: Sequence[str]) -> dict[str, float]:
    """Balanced accuracy that is expected of each, by its words."""
    found: dict[str, float] = {}
    for criterion in criteria:
        (question,) = Filter(EmbeddedEndpoint(), criterion, action="drop").questions
        found[criterion] = (await words_head(question, RunContext())).expected or 0.0
    return found


async def measured(
    endpoint: Endpoint, criterion: str, rows: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Ask about all texts, one by one; seconds are without the first, unmeasured question."""
    agent = Filter(endpoint, criterion, action="drop")
    await agent.run("The shop on the corner opens at nine.")
    begun = time.perf_counter()
    verdicts = [(await agent.run(row["text"])).output for row in rows]
    return {
        "met": [v.met for v in verdicts],
        "doubtful": [v.doubtful for v in verdicts],
        "seconds": time.perf_counter() - begun,
    }


def shares(rows: Sequence[dict[str, Any]], met: Sequence[bool]) -> tuple[float, float]:
    """The share found of those that meet it, and called so of those that don't."""
    pairs = [(row["met"], said) for row, said in zip(rows, met, strict=True)]
    found = mean(said for true, said in pairs if true)
    called = mean(said for true, said in pairs if not true)
    return found, called


async def run(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    kept = Kept(args.json)

    async def way(name: str, endpoint: EmbeddedEndpoint) -> None:
        found = kept.found.get(name, {})
        async with endpoint:
            for criterion, rows in rows_by_criterion().items():
                if criterion in found:
                    continue
                await endpoint.start(RunContext())
                found[criterion] = await measured(endpoint, criterion, rows)
                kept.keep(name, found)
                seconds = found[criterion]["seconds"]
                print(f"{name}, {criterion}: {seconds:.1f} s", flush=True)

    await way(BUILT_IN, EmbeddedEndpoint())
    for file in args.alone:
        await way(f"{file.stem} alone", Alone(model_path=file))
    return kept.found


def doubts(one: dict[str, Any]) -> list[str]:
    """How many answers are doubtful, and the shares right of those and of the others."""
    right: dict[bool, list[bool]] = {True: [], False: []}
    for criterion, rows in rows_by_criterion().items():
        given = zip(rows, one[criterion]["met"], one[criterion]["doubtful"], strict=True)
        for row, met, doubtful in given:
            right[doubtful].append(row["met"] == met)
    shown = [f"{mean(each):.2f}" if each else "-" for each in (right[True], right[False])]
    return [str(len(right[True])), *shown]


def body_of(found: dict[str, dict[str, Any]], expected: dict[str, float]) -> str:
    sets = rows_by_criterion()
    met = {
        name: {c: shares(rows, one[c]["met"]) for c, rows in sets.items()}
        for name, one in found.items()
    }

    def balanced(name: str, criterion: str) -> float:
        hit, false = met[name][criterion]
        return (hit + 1 - false) / 2

    def of(file: str) -> str:
        criteria = list(rows_by_criterion(file))
        lines = [
            [c, f"{expected[c]:.2f}", *(f"{balanced(name, c):.2f}" for name in found)]
            for c in criteria
        ]
        means = [f"**{mean(balanced(name, c) for c in criteria):.3f}**" for name in found]
        return table(["criterion", "expected", *found], [*lines, ["**mean**", "", *means]])

    sums = [
        [
            name,
            f"{mean(met[name][c][0] for c in sets):.2f}",
            f"{mean(met[name][c][1] for c in sets):.2f}",
            *doubts(found[name]),
            f"{1000 * sum(one[c]['seconds'] for c in sets) / sum(map(len, sets.values())):.0f}",
        ]
        for name, one in found.items()
    ]
    return TEXT.format(
        n=sum(map(len, sets.values())),
        well_read=WELL_READ,
        looks=LOOKS,
        alone=ALONE if len(found) > 1 else "",
        unseen=of(UNSEEN),
        held_out=of(HELD_OUT),
        sums=table(
            ["", "found", "called", "doubtful", "right of them", "of the others", "ms"], sums
        ),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--alone", type=Path, nargs="*", default=[], help="GGUF files, without the encoders"
    )
    parser.add_argument("--json", type=Path, help="keeps what was measured, and is read again")
    args = parser.parse_args()
    found = asyncio.run(run(args))
    body = body_of(found, asyncio.run(expected_of(list(rows_by_criterion()))))
    print(body)
    write("filters", f"python benchmarks/filters.py{' --alone FILE' * bool(args.alone)}", body)


if __name__ == "__main__":
    main()
