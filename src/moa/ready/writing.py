"""The ready graphs that write: from a text, from an idea, or from sources."""

from __future__ import annotations

from typing import Any

from moa.graphs.brainstorm import Brainstorm
from moa.graphs.rag import Rag
from moa.graphs.recommend import Recommend
from moa.graphs.research import Research
from moa.graphs.summarize import Summarize
from moa.graphs.write import Write
from moa.ready.entry import Ready, recipe

READY: dict[str, Ready[Any]] = {
    "brainstorm": recipe(Brainstorm),
    "rag": recipe(Rag),
    "recommend": recipe(Recommend),
    "research": recipe(Research),
    "summarize": recipe(Summarize),
    "write": recipe(Write),
}
