"""The house: how large the core is, what an import loads, and that no layer is among it.

Each number is a ceiling. Whoever raises one says why on its line.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).parent.parent / "src" / "moa"
CORE = ("core", "endpoints", "decisions", "agents", "graphs")

ENTRIES = 26
"""Files and folders in `src/moa`."""
LINES_OF_THE_CORE = 26_000
LOADS = {  # modules of moa and their lines, after `moa.NAME`
    "Classifier": (65, 17_000),
    "Cascade": (85, 22_000),
    "Mixture": (75, 20_000),
}
_LOAD = """
import json, sys
import moa
getattr(moa, sys.argv[1])
print(json.dumps({n: m.__file__ for n, m in sys.modules.items() if n.split(".")[0] == "moa"}))
"""


def loaded(name: str) -> dict[str, Path]:
    """Give the modules of moa that an import of a name loads in a new process."""
    command = [sys.executable, "-c", _LOAD, name]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, str | None] = json.loads(done.stdout)
    return {module: Path(file) for module, file in found.items() if file}


def lines(file: Path) -> int:
    return len(file.read_text(encoding="utf-8").splitlines())


def test_the_tree_shows_the_border() -> None:
    files = [path.relative_to(SRC) for path in SRC.rglob("*") if path.suffix != ".pyc"]
    entries = {path.parts[0] for path in files if (SRC / path).is_file()} - {".agents"}
    assert len(entries) <= ENTRIES, sorted(entries)


def test_the_core_can_be_read_in_an_afternoon() -> None:
    files = [file for room in CORE for file in (SRC / room).rglob("*.py")]
    assert sum(map(lines, files)) <= LINES_OF_THE_CORE


@pytest.mark.parametrize("name", sorted(LOADS))
def test_an_import_loads_little(name: str) -> None:
    modules = loaded(name)
    most_modules, most_lines = LOADS[name]
    assert len(modules) <= most_modules
    assert sum(map(lines, modules.values())) <= most_lines


@pytest.mark.parametrize("name", ["Agent", "Graph", *sorted(LOADS)])
def test_what_is_of_the_core_loads_no_layer(name: str) -> None:
    rooms = {module.split(".")[1] for module in loaded(name) if "." in module}
    assert rooms <= set(CORE), rooms - set(CORE)


def test_every_door_of_the_core_is_compared_with_what_stands_behind_it() -> None:
    sources = [file.read_text("utf-8") for room in CORE for file in (SRC / room).rglob("*.py")]
    behind = {name for source in sources for name in re.findall(r'= Door\("(.+)"\)', source)}
    compared = Path(__file__).with_name("typed_doors.py").read_text("utf-8")
    assert behind
    assert behind == set(re.findall(r": .+ = (moa\.\S+)", compared))


def test_the_contracts_between_core_and_layers_hold() -> None:
    config = SRC.parent.parent / "pyproject.toml"
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", str(config)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
