"""Recorded answers of two made-up models, from which a router can learn something."""

from __future__ import annotations

import random

from moa.routing.router import Origin, Router, Tree, Trees, WeightedPart

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
            row["weak_response"] = f"{a} + {b} = {told}\nThe answer is {told}"
        made.append(row)
    return made


def router(*, replied: bool = False) -> Router:
    """Sees a gain in long prompts, or in replies with a wrong sum."""
    feature, most = ("wrong sums", 0.0) if replied else ("words", 3.0)
    tree = Tree(
        features=(0, -1, -1),
        thresholds=(most, 0.0, 0.0),
        left=(1, 0, 0),
        right=(2, 0, 0),
        values=(0.0, 0.0, 0.6),
    )
    part = Trees(names=(feature,), trees=(tree,), rate=1.0, constant=0.0)
    return Router(
        kind="cascade" if replied else "router",
        fields=(),
        target="a test",
        threshold=0.4,
        candidates=(),
        origin=Origin(
            moa="0",
            date="",
            rows=0,
            left_out=0,
            fingerprint="",
            weak_quality=0.5,
            strong_quality=0.9,
            apgr=0.9,
            why="",
        ),
        parts=(WeightedPart(name="trees", weight=1.0, part=part),),
    )
