"""How well filters keep to criteria that nothing was learnt from: `python benchmarks/filters.py`.

Each of eleven criteria has thirty texts, about half of which meet it, and the others nearly do.
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
from moa import EmbeddedEndpoint, Endpoint, Filter
from moa.context import RunContext
from report import table, write
from support_reading import Alone

FILE = Path(__file__).parent / "data" / "criteria_held_out.jsonl"
BUILT_IN, ALONE = "built-in, with the encoder", "SmolLM2 alone"
TEXT = """
## Filters

`Filter(endpoint, criterion, action="drop")` without an example and without a label, on {n} texts:
{criteria} criteria with 30 texts each, near misses among them. None of these texts and criteria was
learnt from, though some that the relevance head learnt from are close ("an apology without an
excuse", "an obituary or death notice"). They were
looked at a few times while that head was made, so new criteria may do a little worse.
Cells are balanced accuracy: the mean of the share found of the texts
that meet the criterion and the share let go of those that don't. Chance is .50, and one text is
about .03. Answers of which a filter says itself that it can't tell are counted like all others.
*With the encoder*: by the shipped relevance head, SmolLM2 isn't
asked. *Alone*: the model without an encoder, its bias measured on ordinary texts. *Met*:
how many of the 30 meet it.

{table}

Found are those that meet it, over all criteria; called are those that don't, and are taken to.
Doubtful: of how many texts a filter says that it can't tell, and the share right
of those and of the others. Milliseconds are per text, one at a time, without the
start and without measuring the bias; other work ran on the two cores, so they are upper bounds.

{sums}
"""


def rows_by_criterion() -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for line in FILE.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        found.setdefault(row["criterion"], []).append(row)
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
    await way(ALONE, Alone())
    for file in args.slm:
        await way(f"{file.stem}, with the encoder", EmbeddedEndpoint(model_path=file))
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


def body_of(found: dict[str, dict[str, Any]]) -> str:
    sets = rows_by_criterion()
    met = {
        name: {c: shares(rows, one[c]["met"]) for c, rows in sets.items()}
        for name, one in found.items()
    }

    def balanced(name: str, criterion: str) -> float:
        hit, false = met[name][criterion]
        return (hit + 1 - false) / 2

    lines = [
        [c, sum(row["met"] for row in rows), *(f"{balanced(name, c):.2f}" for name in found)]
        for c, rows in sets.items()
    ]
    means = [f"**{mean(balanced(name, c) for c in sets):.3f}**" for name in found]
    lines.append(["**mean**", "", *means])
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
        criteria=len(sets),
        table=table(["criterion", "met", *found], lines),
        sums=table(
            ["", "found", "called", "doubtful", "right of them", "of the others", "ms"], sums
        ),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slm", type=Path, nargs="*", default=[], help="GGUF files, as the SLM")
    parser.add_argument(
        "--alone", type=Path, nargs="*", default=[], help="GGUF files, without the encoder"
    )
    parser.add_argument("--json", type=Path, help="keeps what was measured, and is read again")
    args = parser.parse_args()
    body = body_of(asyncio.run(run(args)))
    print(body)
    write("filters", "python benchmarks/filters.py --slm FILE", body)


if __name__ == "__main__":
    main()
