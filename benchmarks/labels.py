"""Finds one of several labels in what a model wrote."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from moa.core.node import text_of
from moa.graphs.mixing.answer_extraction import find_final_answer


def label_of(labels: Sequence[str]) -> Callable[[Any], str | None]:
    """Give what finds the label that a reply names last, behind "The answer is" where that stands.

    Case doesn't matter, and of two labels at one place the longer one is meant.
    """
    known = {label.casefold(): label for label in labels}
    longest = sorted(known, key=len, reverse=True)
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest))})(?!\w)")

    def read(reply: Any) -> str | None:
        text = text_of(reply)
        for part in (find_final_answer(text).after, text):
            found = pattern.findall(part.casefold())
            if found:
                return known[found[-1]]
        return None

    return read
