"""A process that keeps answers, until it is killed: `python answering.py FILE FIRST`."""

from __future__ import annotations

import sys

from moa.learning.answer_rows import LargeAnswer, NewRow
from moa.learning.answers import AnswerStore

STORED_QUESTION = '{"text": "Which?", "options": [{"name": "a"}, {"name": "b"}]}'


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    with AnswerStore(sys.argv[1]) as store:
        store.bind(STORED_QUESTION, "m")
        number = int(sys.argv[2])
        while True:
            side = store.coin.toss(f"text {number}")
            row = NewRow(side, side.is_held_out(0), "run", (0.25, float(number)), 7)
            place = store.add(row, store.read_state().epoch)
            say(f"added {place} {number}")
            store.settle(place, LargeAnswer("card"))
            say(f"settled {place} {number}")
            number += 1


if __name__ == "__main__":
    main()
