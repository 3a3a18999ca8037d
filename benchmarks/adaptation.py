"""What labelled examples are best used for: `python benchmarks/adaptation.py --models FILE...`.

The same examples are left out, shown in the prompt, the nearest of them shown for each text, or
used as `Classifier(examples=…)` uses them. `--resume` keeps what was measured.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

import numpy as np

from encoder import SETS
from heads import read
from kept import Kept
from moa import Classifier, RunContext
from moa.core._async import map_async
from moa.core.questions import Option, Question
from moa.endpoints import Endpoint, Example
from moa.endpoints.wrappers import Cached
from models import AT_ONCE, CHOSEN_ON, ENCODER, EXAMPLES, share
from recipes_shared import endpoint_of
from report import table, write
from support_reading import Alone

NAMES = ("film reviews", "text messages, 13 % spam", "ten intents")
SHOWN = 8
COLUMNS = (
    "zero-shot",
    f"{SHOWN} shown",
    f"the {SHOWN} nearest shown",
    "`Classifier`, by default",
    "tokens read, shown to zero-shot",
)
TEXT = """
## Adaptation

What {examples} labelled examples are best used for. Shares right of the {rows} rows that follow
the first {chosen} of each set; the examples are drawn from the first ones. Zero-shot: the label
that the model says most probably, without an example. Shown: {shown} of the examples stand in the
prompt, evenly of each label as far as they go; or those whose vectors of the encoder are nearest to
the text. By default, `Classifier(examples=…)`, the scorer of pairs decides, by the
encoder's vectors, and the model isn't asked. A share has a standard error of up to {error:.2f}.

{rows_of}

The last column is how many times as many tokens a decision reads with {shown} examples shown. A
model that completes reads them in place of demonstrations of other tasks and a line for each label,
which can be longer.
"""
Rows = Sequence[dict[str, str]]
Choice = Callable[[int], Sequence[Example]]


async def shown_share(
    slm: Endpoint, question: Question, rows: Rows, chosen: Choice, concurrency: int
) -> tuple[float, int]:
    """Share right where each text is read behind its examples, and the tokens that it took."""
    context = RunContext(keep_notes=False)

    async def read_right(place: int) -> bool:
        text = rows[place]["text"]
        decision = await slm.decide(text, [question], context, examples=chosen(place))
        return question.options[decision.answers[0].best].name == rows[place]["label"]

    right = await map_async(read_right, range(len(rows)), max_concurrency=concurrency)
    return fmean(right), context.usage.input_tokens


def spread(examples: Sequence[Example]) -> list[Example]:
    """Take some of each label in turn."""
    by_label: dict[str, list[Example]] = {}
    for example in examples:
        by_label.setdefault(str(example.labels["label"]), []).append(example)
    longest = max(map(len, by_label.values()))
    turns = [
        several[n] for n in range(longest) for several in by_label.values() if n < len(several)
    ]
    return turns[:SHOWN]


async def vectors(texts: Sequence[str]) -> np.ndarray:
    return np.asarray((await ENCODER.embed(texts, RunContext())).vectors)


async def measured(name: str, served: str, data: Path, count: int, concurrency: int) -> list[float]:
    folder, task, words = SETS[name]
    rows = read(next((data / folder).glob("*.jsonl")))
    held = rows[CHOSEN_ON : CHOSEN_ON + count]
    labels = sorted({row["label"] for row in rows})
    drawn = random.Random(0).sample(rows[:CHOSEN_ON], EXAMPLES)
    examples = [Example(row["text"], {"label": row["label"]}) for row in drawn]
    question = Question(
        "label", "choice", task, tuple(Option(one, one, words.get(one)) for one in labels)
    )
    near = (
        await vectors([row["text"] for row in held])
        @ (await vectors([row["text"] for row in drawn])).T
    )
    fixed = spread(examples)

    def nearest(place: int) -> list[Example]:
        """The nearest one last, where it is read best."""
        return [examples[n] for n in np.argsort(near[place])[-SHOWN:]]

    found: list[float] = []
    model = endpoint_of("slm", "slm", served) if "@" in served else Alone(model_path=served)
    async with model:
        slm = Cached(model, size=100_000)
        ways: list[Choice] = [lambda _: (), lambda _: fixed, nearest]
        took: list[int] = []
        for chosen in ways:
            right, tokens = await shown_share(slm, question, held, chosen, concurrency)
            found.append(right)
            took.append(tokens)
        model.encoder = ENCODER  # type: ignore[union-attr]
        agent = Classifier(
            slm,
            labels,
            task=task,
            describe=words,
            none=False,
            examples=[(row["text"], row["label"]) for row in drawn],
            name="label",
        )
        found.append(await share(agent, held, RunContext(keep_notes=False)))
    return [*found, took[1] / took[0]]


async def run(args: argparse.Namespace) -> None:
    kept = Kept(args.resume)
    for served in args.models:
        for name in NAMES:
            model = served.partition("@")[0] if "@" in served else Path(served).stem
            key = f"{model}: {name}"
            if key not in kept.found:
                kept.keep(key, await measured(name, served, args.data, args.rows, args.concurrency))
                print(key, kept.found[key], flush=True)
    body = TEXT.format(
        rows=args.rows,
        chosen=CHOSEN_ON,
        examples=EXAMPLES,
        shown=SHOWN,
        error=0.5 / args.rows**0.5,
        rows_of=table(
            ["", *COLUMNS],
            [[key, *(f"{figure:.2f}" for figure in found)] for key, found in kept.found.items()],
        ),
    )
    print(body)
    write("adaptation", "python benchmarks/adaptation.py --data DIR --models FILE...", body)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("MOA_DATA"))
    parser.add_argument("--models", nargs="+", required=True, help="GGUF files, or NAME@URL")
    parser.add_argument("--concurrency", type=int, default=AT_ONCE, help="rows at a time")
    parser.add_argument("--rows", type=int, default=60, help="rows of each set")
    parser.add_argument("--resume", type=Path, help="file that keeps what was measured")
    args = parser.parse_args()
    if args.data is None:
        parser.error("give the folder of labelled sets, by --data or $MOA_DATA")
    asyncio.run(run(args))


if __name__ == "__main__":
    main()
