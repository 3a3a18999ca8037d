"""Decisions on several small models: `python benchmarks/models.py --data DIR --models FILE...`.

Each is asked once in its chat, as a user would ask it, and by `Classifier`: alone, beside the
encoder, and with examples. `--resume` keeps what was read, so that a run can be stopped.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from encoder import SETS
from heads import read
from kept import Kept
from moa import Classifier, RunContext
from moa.core.questions import Option, Question
from moa.endpoints import Endpoint
from moa.endpoints.wrappers import Cached
from moa.local.encoders import JointEncoder
from report import table, write
from support_reading import Alone

ROWS, CHOSEN_ON, EXAMPLES, AT_ONCE = 100, 400, 32, 2
ENCODER = JointEncoder()
COLUMNS = ("asked once", "alone", "beside the encoder", f"with {EXAMPLES} examples")
TEXT = """
## Models

Shares right of the {rows} rows that follow the first {chosen} of each set, which take no part in
anything. Asked once: the label whose words the model says most probably, in a turn of its chat that
lists the labels. The others are `Classifier` without fitting: alone, with its bias taken out on
ordinary texts; beside the encoder, where the scorer of pairs decides if the labels have
descriptions (spam), or if the model is known to guess (the built-in one); and there with {examples}
labelled examples, drawn from the first rows. With them the scorer of pairs decides, and the model
isn't asked, so that the rows of a set are alike. How a model is asked is what `moa models probe`
found on other texts. A share has a standard error of up to {error:.2f}.

{rows_of}
"""


async def share(
    agent: Classifier[str], rows: Sequence[dict[str, str]], context: RunContext
) -> float:
    right = 0
    left = iter(rows)

    async def work() -> None:
        nonlocal right
        for row in left:
            answer = (await agent.run(row["text"], context)).output
            right += answer.label == row["label"]

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    return right / len(rows)


async def asked_once(
    slm: Endpoint, question: Question, rows: Sequence[dict[str, str]], context: RunContext
) -> float:
    right = 0
    for row in rows:
        decision = await slm.decide(row["text"], [replace(question, layout="chat")], context)
        right += question.options[decision.answers[0].best].name == row["label"]
    return right / len(rows)


async def measured(file: str | None, name: str, data: Path, count: int) -> list[float]:
    """Shares right: asked once, alone, beside the encoder, with examples."""
    folder, task, words = SETS[name]
    rows = read(next((data / folder).glob("*.jsonl")))
    held = rows[CHOSEN_ON : CHOSEN_ON + count]
    labels = sorted({row["label"] for row in rows})
    examples = [
        (row["text"], row["label"]) for row in random.Random(0).sample(rows[:CHOSEN_ON], EXAMPLES)
    ]
    options = tuple(Option(label, label, words.get(label)) for label in labels)
    context = RunContext(keep_notes=False)
    found: list[float] = []
    async with Alone(model_path=file) as model:
        slm = Cached(model, size=100_000)  # what a text reads as is the same for all columns
        question = Question("label", "choice", task, options)
        found.append(await asked_once(slm, question, held, context))
        for encoder, shown in ((None, ()), (ENCODER, ()), (ENCODER, examples)):
            model.encoder = encoder
            agent = Classifier(
                slm,
                labels,
                task=task,
                describe=words,
                none=False,
                examples=shown,
                name="label",
            )
            found.append(await share(agent, held, context))
    return found


async def run(args: argparse.Namespace) -> None:
    kept = Kept(args.resume)
    rows: list[list[str]] = []
    for file in [None, *args.models]:
        title = "SmolLM2-135M" if file is None else Path(file).stem
        for name in SETS:
            key = f"{title}, {name}, {args.rows}"
            if key not in kept.found:
                kept.keep(key, await measured(file, name, args.data, args.rows))
                print(key, kept.found[key], flush=True)
            rows.append([f"{title}: {name}", *(f"{share:.2f}" for share in kept.found[key])])
    body = TEXT.format(
        rows=args.rows,
        chosen=CHOSEN_ON,
        examples=EXAMPLES,
        error=0.5 / args.rows**0.5,
        rows_of=table(["", *COLUMNS], rows),
    )
    print(body)
    command = "python benchmarks/models.py --data DIR --models FILE..."
    write("models", command + (f" --rows {args.rows}" if args.rows != ROWS else ""), body)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("MOA_DATA"))
    parser.add_argument("--models", nargs="*", default=[], help="GGUF files beside the built-in")
    parser.add_argument("--rows", type=int, default=ROWS, help="rows of each set")
    parser.add_argument("--resume", type=Path, help="file that keeps what was measured")
    args = parser.parse_args()
    if args.data is None:
        parser.error("give the folder of labelled sets, by --data or $MOA_DATA")
    asyncio.run(run(args))


if __name__ == "__main__":
    main()
