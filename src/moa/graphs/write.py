"""Write: an outline, its sections side by side, and a pass that makes them agree.

The outline that tells each writer of the others is as in Ning et al. 2024, "Skeleton-of-thought:
prompting LLMs for efficient parallel generation", arXiv:2307.15337, and Shao et al. 2024,
"Assisting in writing Wikipedia-like articles from scratch", arXiv:2402.14207.
"""

from __future__ import annotations

from collections.abc import Sequence

from moa.documents.lengths import Length
from moa.endpoints import Endpoint
from moa.errors import ConfigError
from moa.graphs.building.builder import Graph
from moa.graphs.building.built import BuiltGraph
from moa.graphs.drafts import (
    Article,
    Assignment,
    Consistency,
    Outline,
    Outliner,
    Planned,
    Sections,
)

_WORDS_A_SECTION = 100
_FEWEST, _MOST = 2, 8


def write(
    llm: Endpoint,
    *,
    words: int = 600,
    sections: int | None = None,
    writers: Sequence[Endpoint] = (),
    name: str = "write",
) -> BuiltGraph[Assignment, Article]:
    """Build the graph: outline, sections, and consistency.

    Args:
        llm: Makes the outline, and the edits at the end.
        words: Of the whole text, about.
        sections: Most sections; `None`: one for each 100 words, from 2 to 8.
        writers: Who writes the sections, in turn; none: `llm`.
        name: Shown in traces, errors and drawings.

    Raises:
        CapabilityError: one of them can't complete.
        ConfigError: `words` or `sections` is less than 1.
    """
    if words < 1 or (sections is not None and sections < 1):
        raise ConfigError(f"{name}: words={words} and sections={sections}, but 1 is the least")
    length = Length(words=words)
    most = sections or min(_MOST, max(_FEWEST, round(words / _WORDS_A_SECTION)))
    g = Graph(name, Assignment)
    outline = g.add(Outliner(llm, length=length, sections=most), g.input)
    planned = g.join(_planned, g.input, outline)
    drafted = g.add(Sections(tuple(writers) or (llm,), length=length), planned)
    return g.build(g.add(Consistency(llm), drafted))


def _planned(assignment: Assignment, outline: Outline) -> Planned:
    return Planned(assignment=assignment, outline=outline)
