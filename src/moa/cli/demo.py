"""Demo: the inputs that ship with a ready graph, so that it can be tried from any folder."""

from __future__ import annotations

from pathlib import Path

from moa.errors import ConfigError

DEMOS = {"support": "support/inbox.jsonl"}
"""Files below `examples`, by the ready graph that they are for."""

_PACKAGE = Path(__file__).parents[1]


def demo_of(graph: str) -> str:
    """Find the inputs of a ready graph: in the package, or beside the source tree.

    Raises:
        ConfigError: none ship with it, or they are not where they should be.
    """
    if graph not in DEMOS:
        tried = " or ".join(f"moa run {name} --demo" for name in DEMOS)
        raise ConfigError(f"{graph!r} has no demo. Try: {tried}")
    inside = Path(DEMOS[graph])
    places = (_PACKAGE / "data" / inside.name, _PACKAGE.parents[1] / "examples" / inside)
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise ConfigError(
            f"the demo of {graph!r} is not there: install mixture-of-agents again, or give INPUT"
        )
    return str(found)
