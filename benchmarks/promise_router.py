"""Routes a stream of `promise.py` by aurelio's semantic-router: `python promise_router.py IN OUT`.

It runs in an environment of its own (`pip install semantic-router`, which doesn't go with what moa
takes), so it imports nothing of moa. IN holds unit vectors of a stream's rows, and the answers to
the first of them; OUT gets the number of the label of each row, -1 where no route is sure enough.
"""

from __future__ import annotations

import json
import sys

import numpy as np
from semantic_router import IndexedRouter, Route
from semantic_router.encoders import DenseEncoder

TO_FIT, SURE = 100, 0.95
"""Of the rows with answers those that the confidence is calibrated on; the others are utterances.
And the confidence from which on a route is taken, which is what a cascade promises."""
vectors: list[list[float]] = []


class Read(DenseEncoder):
    """Gives the vector of a row by its number."""

    def __call__(self, docs: list[str]) -> list[list[float]]:
        return [vectors[int(doc)] for doc in docs]


def main() -> None:
    """Route all rows behind those with answers."""
    found = np.load(sys.argv[1])
    vectors.extend(found["vectors"].tolist())
    answers = [str(answer) for answer in found["answers"].tolist()]
    of = len(answers) - TO_FIT
    examples: dict[str, list[str]] = {}
    for row, answer in enumerate(answers[:of]):
        examples.setdefault(answer, []).append(str(row))
    routes = [Route(name=name, utterances=rows) for name, rows in examples.items()]
    router = IndexedRouter(encoder=Read(name="rows"), routes=routes)
    try:
        router.fit([str(row) for row in range(of, len(answers))], answers[of:])
        router.confidence_threshold = SURE
    except ValueError:  # all of them right, or none: it gives its answers as they are
        pass
    given = [-1] * len(answers)
    for row in range(len(answers), len(vectors)):
        choice = router(str(row))
        given.append(-1 if choice.name is None else int(choice.name))
    with open(sys.argv[2], "w", encoding="utf-8") as out:
        json.dump(given, out)


if __name__ == "__main__":
    main()
