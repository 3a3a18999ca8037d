"""What the encoder's heads reach alone, on five labelled sets: `python benchmarks/encoder.py`.

No model is asked: labels are decided by the words of the question, with the bias taken out on 128
unlabelled texts of the set, or by those and a head fitted to some labelled ones.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from heads import kept, read
from moa.context import RunContext
from moa.decisions import Adaptation, zero_shot
from moa.decisions.heads import relevance_head
from moa.decisions.regression import shrunk_mean
from moa.questions import Option, Question
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
LABELS = (8, 32, 128, 512)
DRAWS = 5
HELD, UNLABELLED = 300, 128
TEXT = """
## Encoder

The heads on the encoder's vectors alone, as `adapt` puts them beside a model; no language model is
asked. Shares right of the last {held} rows of each set, which take no part in anything. Without a
label the words of the question decide, and their bias is taken out on {unlabelled} other texts of
the set. With labels a head is fitted to them and blended with the words; medians of {draws} draws.
The head on the words never saw these sets. The same rows serve all columns; rows of other
sections are others, so compare across sections with care.

{rows}
"""


def measured(name: str, data: Path, cache: Path) -> list[str]:
    folder, task, words = SETS[name]
    rows = read(next((data / folder).glob("*.jsonl")))
    found = np.asarray(kept(cache / f"{folder}.npz", [row["text"] for row in rows]))
    labels = sorted({row["label"] for row in rows})
    right = np.array([labels.index(row["label"]) for row in rows])
    options = tuple(Option(label, label, words.get(label)) for label in labels)
    question = Question("label", "choice", task, options)
    head = asyncio.run(relevance_head(question, RunContext()))
    assert head is not None
    held = np.arange(len(rows)) >= len(rows) - HELD
    bias = shrunk_mean(head(found[:UNLABELLED]))
    cells = [share((head(found[held]) - bias).argmax(1), right[held])]
    for count in LABELS:
        shares: list[float] = []
        for draw in range(DRAWS):
            some = np.random.RandomState(draw).permutation(len(rows) - HELD)[:count]
            if zero_shot.fits(right[some]):
                args = (question, head, found[some], None, right[some])
                made, _ = zero_shot.by_labels(Adaptation(origin=name), *args)
                offsets = np.array(made.corrections["label"].offsets)
                read_now: Any = made.heads["label"](found[held]) + offsets
                shares.append(float((read_now.argmax(1) == right[held]).mean()))
        cells.append(f"{median(shares):.3f}" if shares else "-")
    return [name, *cells]


def share(given: Any, right: Any) -> str:
    return f"{(given == right).mean():.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("MOA_DATA"), required=False)
    parser.add_argument("--cache", type=Path, default=Path("/tmp"), help="where vectors are kept")
    given = parser.parse_args()
    if given.data is None:
        parser.error("give the folder of labelled sets, by --data or $MOA_DATA")
    rows = [measured(name, given.data, given.cache) for name in SETS]
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
