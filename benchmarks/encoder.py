"""What the encoder's heads reach alone, on five labelled sets, and how fast it is.

    python benchmarks/encoder.py --data DIR
    python benchmarks/encoder.py speed

No model is asked: labels are decided by the words of the question, with the bias taken out on 128
unlabelled texts of the set, or by those and a head fitted to some labelled ones.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median

from heads import read
from moa.core.context import RunContext
from moa.core.questions import Option, Question
from moa.decisions.calibrated import CalibratedDecider
from moa.decisions.file import Calibration
from moa.decisions.heads import sentences
from moa.endpoints import Example
from moa.learning.adapt import adapt
from moa.local import encoders
from moa.local.encoders import JointEncoder
from moa.local.encoding import EncoderText, EncodingQueue
from moa.local.machine import usable_cores
from moa.testing import SimulatedEndpoint
from report import table, write

FEELS, MESSAGE = "What does the writer feel?", "What kind of message is this?"
SETS: dict[str, tuple[str, str, dict[str, str]]] = {
    "film reviews": ("sentiment2_movie", FEELS, {}),
    "product reviews": ("sentiment2_amazon", FEELS, {}),
    "tweets": ("sentiment2_tweets", FEELS, {}),
    "text messages, 13 % spam": (
        "sms_spam",
        MESSAGE,
        {"ham": "personal message", "spam": "advertising or fraud"},
    ),
    "ten intents": ("intent_banking10", "What is this message about?", {}),
}
ENCODER = JointEncoder()
LABELS = (8, 32, 128, 512)
DRAWS = 5
HELD, UNLABELLED = 300, 128
TEXT = """
## Encoder

What decides where no language model is asked. Shares right of the last {held} rows of each set,
which take no part in anything. Without a label the words of the question decide, and their bias is
taken out on {unlabelled} other texts of the set. With labels a head is fitted to them and weighed
with the words; medians of {draws} draws. The head on the words never saw these sets. The same rows
serve all columns; rows of other sections are others, so compare across sections with care.

{rows}
"""

SPEED = """
## Encoder: speed

{count} texts of inboxes and their sentences, {tokens} tokens, each new. A core-second is one in
which a core worked for it, whoever else was there. The machine had a load of {load:.1f} meanwhile:
with more than its cores, the tokens a second are fewer than it can do.

{rows}
"""
INBOX = Path(__file__).parent / "data" / "businesses" / "museum.jsonl"


async def speed() -> None:
    """Encode texts on one thread and on all of moa's, and write down what that took."""
    whole = [row["text"] for row in read(INBOX)][:60]
    texts = list(dict.fromkeys(part for text in whole for part in (text, *sentences(text))))
    engine = encoders.e5_encoding().engine
    all_threads = usable_cores() + 1
    queues = {
        "e5, 1 thread": EncodingQueue(engine, threads=1),
        f"e5, {all_threads} threads": encoders.e5_encoding(),
        "USE, one by one": EncodingQueue(encoders.use_encoding().engine, threads=1),
        "USE, as they wait": encoders.use_encoding(),
    }
    rows: list[list[str]] = []
    asked = [EncoderText(text) for text in texts]
    tokens = 0
    for name, queue in queues.items():
        await queue.read([EncoderText("warm")])
        began, cpu = time.perf_counter(), time.process_time()
        found = await queue.read(asked)
        wall, cpu = time.perf_counter() - began, time.process_time() - cpu
        tokens = tokens or found.tokens
        rows.append([name, f"{tokens / wall:.0f}", f"{tokens / cpu:.0f}", f"{cpu / wall:.2f}"])
    heads = ["", "tokens a second", "tokens a core-second", "cores used"]
    load = os.getloadavg()[0]
    body = SPEED.format(count=len(texts), tokens=tokens, load=load, rows=table(heads, rows))
    print(body)
    write("encoder speed", "python benchmarks/encoder.py speed", body)


async def measured(name: str, data: Path) -> list[str]:
    folder, task, words = SETS[name]
    rows = read(next((data / folder).glob("*.jsonl")))
    labels = sorted({row["label"] for row in rows})
    options = tuple(Option(label, label, words.get(label)) for label in labels)
    question = Question("label", "choice", task, options)
    held = rows[-HELD:]
    texts = [row["text"] for row in rows[:UNLABELLED]]
    cells = [await right(question, held, await fitted(question, (), texts))]
    for count in LABELS:
        shares: list[float] = []
        for draw in range(DRAWS):
            some = random.Random(draw).sample(rows[:-HELD], count)
            labelled = [Example(row["text"], {"label": row["label"]}) for row in some]
            shares.append(await right(question, held, await fitted(question, labelled, ())))
        cells.append(median(shares))
    return [name, *(f"{cell:.3f}" for cell in cells)]


async def fitted(
    question: Question, labelled: Sequence[Example], unlabelled: Sequence[str]
) -> Calibration:
    """Fit without the model, as an agent does to its own examples."""
    found = await adapt(
        SimulatedEndpoint(),
        [question],
        labelled=labelled,
        unlabelled=unlabelled,
        encoder=ENCODER,
        asks=False,
    )
    return found["label"]


async def right(question: Question, rows: Sequence[dict[str, str]], made: Calibration) -> float:
    ready = CalibratedDecider(made, question, {"encoder": ENCODER})
    context = RunContext(keep_notes=False)
    answers = [await ready.answer(row["text"], context) for row in rows]
    names = [question.options[answer.best].name for answer in answers]
    return fmean(name == row["label"] for name, row in zip(names, rows, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="?", choices=["heads", "speed"], default="heads")
    parser.add_argument("--data", type=Path, default=os.environ.get("MOA_DATA"), required=False)
    given = parser.parse_args()
    if given.what == "speed":
        return asyncio.run(speed())
    if given.data is None:
        parser.error("give the folder of labelled sets, by --data or $MOA_DATA")
    rows = [asyncio.run(measured(name, given.data)) for name in SETS]
    body = TEXT.format(
        held=HELD,
        unlabelled=UNLABELLED,
        draws=DRAWS,
        rows=table(["", "no labels", *(f"{n} labels" for n in LABELS)], rows),
    )
    print(body)
    write("encoder", "python benchmarks/encoder.py --data DIR", body)


if __name__ == "__main__":
    main()
