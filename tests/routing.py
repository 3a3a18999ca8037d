"""Recorded answers of two made-up models, from which a router can learn something."""

from __future__ import annotations

import random

_EASY = "Add {a} and {b}. What is the sum?"
_HARD = (
    "A shop sells {a} boxes of {b} pens, of which half are blue, and gives every third box away "
    "after the first week. How many blue pens are left, if two boxes are lost on each day?"
)


def rows(n: int, *, seed: int = 0, replied: bool = False) -> list[dict[str, object]]:
    """The weak model is right on easy questions, the strong one on nearly all."""
    chance = random.Random(seed)
    made: list[dict[str, object]] = []
    for number in range(n):
        hard = chance.random() < 0.5
        a, b = chance.randint(10, 9999), chance.randint(10, 9999)
        weak = chance.random() < (0.2 if hard else 0.95)
        row: dict[str, object] = {
            "id": f"q{number}",
            "subject": "shop" if hard else "sums",
            "prompt": (_HARD if hard else _EASY).format(a=a, b=b),
            "weak_correct": weak,
            "strong_correct": chance.random() < 0.95,
        }
        if replied:
            told = a + b if weak else a + b + 1
            row["weak_response"] = f"{a} + {b} = {told}\n#### {told}"
        made.append(row)
    return made
