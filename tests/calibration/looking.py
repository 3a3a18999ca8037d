"""A process that spends a look and then stands still to be killed: `python looking.py FILE`."""

from __future__ import annotations

import sys
import time

from moa.core.questions import Option, Question
from moa.decisions.features import LabelFeature
from moa.learning import looks as learning
from moa.learning.answers import AnswerStore
from moa.learning.epochs import PlannedLook

STORED_QUESTION = '{"text": "Which?", "options": [{"name": "a"}, {"name": "b"}]}'


def stand_still(*_: object) -> None:
    """Stand in the place of what says what a look says."""
    sys.stdout.write("spent\n")
    sys.stdout.flush()
    time.sleep(60)


if __name__ == "__main__":
    learning.LOOKS = (PlannedLook(0.05, held_out=150),)
    learning.Learning._finish = stand_still  # type: ignore[method-assign]
    question = Question("q", "choice", "?", (Option("a", "a"), Option("b", "b")))
    with AnswerStore(sys.argv[1]) as store:
        store.bind(STORED_QUESTION, "m")
        learning.Learning(store, question, (LabelFeature(name="small"),)).step()
