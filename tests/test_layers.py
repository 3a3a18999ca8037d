"""Each room imports only from rooms that stand above it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

SRC = Path(__file__).parent.parent / "src" / "moa"
LAYERS = [
    {"_text", "_json"},
    {"_terminal", "_machine", "_logs"},
    {"usage"},
    {"errors"},
    {"_turns"},
    {"energy", "_files", "_async", "_threads"},
    {"_sqlite"},
    {"trace", "budget"},
    {"journal"},
    {"telemetry"},
    {"context"},
    {"journal_records"},
    {"messages"},
    {"node", "questions"},
    {"batch"},
    {"rows"},
    {"jobs"},
    {"node_base"},
    {"endpoints"},
    {"testing", "pytest_plugin"},
    {"decisions"},
    {"calibration"},
    {"agents"},
    {"documents", "mixing"},
    {"evals"},
    {"routing"},
    {"vllm"},
    {"config"},
    {"advisor"},
    {"config endpoints"},
    {"graphs engine"},
    {"guards", "chat", "adapters"},
    {"graphs"},
    {"serving"},
    {"studio"},
    {"doctor", "ray"},
    {"cli"},
    {"__init__", "__main__"},
]


ENGINE = {"__init__", "engine", "fields", "recipe"}
"""What all graphs are made of; the recipes in the same room import it, and so do the guards."""


def room(path: Path) -> str:
    return room_of([*path.relative_to(SRC).with_suffix("").parts])


def room_of(names: list[str]) -> str:
    if names[:2] == ["config", "endpoints"]:
        return "config endpoints"  # whose prices the advisor measures
    return "graphs engine" if names[0] == "graphs" and {*names[1:2]} <= ENGINE else names[0]


def layer(name: str) -> int:
    found = [i for i, rooms in enumerate(LAYERS) if name in rooms]
    assert found, f"{name} has no place in the order of rooms"
    return found[0]


def imported(path: Path) -> set[str]:
    """Rooms of `moa` that a file imports when it runs; imports for types alone don't count."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    rooms: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [
                f"{node.module}.{a.name}" if node.module == "moa" else node.module
                for a in node.names
            ]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        rooms |= {room_of(name.split(".")[1:]) for name in names if name.startswith("moa.")}
    return rooms


@pytest.mark.parametrize("path", sorted(SRC.rglob("*.py")), ids=lambda p: str(p.relative_to(SRC)))
def test_imports_point_one_way(path: Path) -> None:
    here = room(path)
    if here in ("__init__", "templates"):
        return  # one names the public objects, and loads each at first use; users run the others
    for there in imported(path):
        assert here == there or layer(there) < layer(here), f"{path.name} imports {there}"


def test_agents_know_no_graphs() -> None:
    for path in (SRC / "agents").rglob("*.py"):
        assert not imported(path) & {"graphs", "graphs engine"}, path.name


def test_only_graphs_and_the_chat_import_langgraph() -> None:
    for path in SRC.rglob("*.py"):
        if not room(path).startswith(("graphs", "chat")):
            found = re.search(r"^\s*(from|import) langgraph", path.read_text(), re.MULTILINE)
            assert found is None, path.name
