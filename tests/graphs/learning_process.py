"""A cascade that learns, until it is killed: `python learning_process.py FILE FIRST`.

It says of each text what was answered, by whom, and whether the large node was asked.
"""

from __future__ import annotations

import asyncio
import sys
from random import Random

from moa.agents.classifier import Classifier
from moa.graphs.cascade import Cascade
from moa.testing import SimulatedEndpoint, Step

LABELS = ["card", "app"]


def label_in(text: str) -> str:
    return "card" if "card" in text else "app"


async def main() -> None:
    asked = list[str]()

    def small(text: str) -> Step:
        return {"classifier": {label_in(text): 0.8}}

    def large(text: str) -> Step:
        asked.append(text)
        return {"classifier": {label_in(text): 1.0}}

    first = Classifier(SimulatedEndpoint(name="small", rule=small), LABELS)
    last = Classifier(SimulatedEndpoint(name="large", tier="llm", rule=large), LABELS)
    cascade = Cascade(small=first, large=last, learn=sys.argv[1])
    draw = Random(int(sys.argv[2]))
    for number in range(int(sys.argv[2]), int(sys.argv[2]) + 5000):
        asked.clear()
        text = f"my {draw.choice(LABELS)} is number {number:05} of them"
        settled = await cascade.run(text)
        sys.stdout.write(f"{settled.tier} {len(asked)} {text}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
