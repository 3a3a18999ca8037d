"""Each room imports only from rooms that stand above it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

SRC = Path(__file__).parent.parent / "src" / "moa"
LAYERS = [
    {"errors", "_terminal"},
    {"usage", "energy", "_files"},
    {"trace"},
    {"context"},
    {"node", "questions"},
    {"handoffs"},
    {"endpoints"},
    {"testing"},
    {"decisions"},
    {"guarantees"},
    {"acceptance"},
    {"calibration"},
    {"agents"},
    {"rows"},
    {"documents", "mixing"},
    {"evals"},
    {"routing"},
    {"conversations"},
    {"guards"},
    {"vllm"},
    {"config"},
    {"config_file"},
    {"advisor"},
    {"tiers"},
    {"graphs"},
    {"ready"},
    {"cli"},
    {"__init__", "__main__"},
]


def room(path: Path) -> str:
    return path.relative_to(SRC).parts[0].removesuffix(".py")


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
        rooms |= {name.split(".")[1] for name in names if name.startswith("moa.")}
    return rooms


@pytest.mark.parametrize("path", sorted(SRC.rglob("*.py")), ids=lambda p: str(p.relative_to(SRC)))
def test_imports_point_one_way(path: Path) -> None:
    here = room(path)
    if here == "__init__":
        return  # it names the public objects, and loads each at first use
    for there in imported(path):
        assert here == there or layer(there) < layer(here), f"{path.name} imports {there}"


def test_agents_know_no_graphs() -> None:
    for path in (SRC / "agents").rglob("*.py"):
        assert "graphs" not in imported(path), path.name


def test_only_graphs_import_langgraph() -> None:
    for path in SRC.rglob("*.py"):
        if room(path) != "graphs":
            found = re.search(r"^\s*(from|import) langgraph", path.read_text(), re.MULTILINE)
            assert found is None, path.name
