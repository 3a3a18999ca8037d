"""Recommend: what of a catalogue may suit somebody, scored by a small model, with reasons.

Retrieval that gives candidates, and a model that ranks the few, is the two-stage design of
Covington et al. 2016, "Deep neural networks for YouTube recommendations", RecSys.
"""

from __future__ import annotations

from collections.abc import Sequence

from moa.endpoints import Endpoint
from moa.errors import ConfigError
from moa.graphs.building.builder import Graph
from moa.graphs.building.built import BuiltGraph
from moa.graphs.items import (
    Candidates,
    Interests,
    Item,
    Recommended,
    Scores,
    Shelf,
    WithReasons,
)
from moa.handoffs import Reply


class Recommendations(Reply):
    """A few items, the best first; the text lists them with their reasons."""

    items: tuple[Recommended, ...]


def recommend(
    slm: Endpoint,
    llm: Endpoint,
    catalogue: Sequence[Item],
    *,
    encoder: Endpoint | None = None,
    candidates: int = 20,
    shown: int = 3,
    least: float = 0.34,
    name: str = "recommend",
) -> BuiltGraph[Interests, Recommendations]:
    """Build the graph: candidates by retrieval, scores, and reasons for the few that are shown.

    What it gives is in the catalogue, and not in the history.

    Args:
        slm: Scores the candidates.
        llm: Writes the reasons.
        catalogue: All items, each with an id of its own.
        encoder: Turns items into vectors, at the first run, so that they are found by meaning too;
            `None`: by words alone.
        candidates: Most items that are scored.
        shown: Most items that are given.
        least: Score, from 0 to 1, under which an item is left out.
        name: Shown in traces, errors and drawings.

    Raises:
        CapabilityError: `slm` can't decide, `llm` can't complete, or the encoder can't embed.
        ConfigError: two items have the same id, or a number is out of range.
    """
    if not 1 <= shown <= candidates or not 0 <= least <= 1:
        raise ConfigError(
            f"{name}: shown={shown} and candidates={candidates}, least={least}, but at least 1 is "
            "shown, no more than there are candidates, and a score is from 0 to 1"
        )
    g = Graph(name, Interests)
    found = g.add(Candidates(catalogue, encoder, most=candidates), g.input)
    scored = g.add(Scores(slm, least=least, most=shown), found)
    return g.build(g.join(_listed, g.add(WithReasons(llm), scored)))


def _listed(shelf: Shelf) -> Recommendations:
    lines = [
        f"- {each.item.title or each.item.id}{f': {each.reason}' if each.reason else ''}"
        for each in shelf.items
    ]
    return Recommendations(text="\n".join(lines), items=shelf.items)
