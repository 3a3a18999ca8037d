"""The notebooks run from top to bottom, and are kept without their outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parent.parent / "examples"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def read(path: Path) -> Any:
    return cast("Any", nbformat).read(path, as_version=4)


def text_of(notebook: Any) -> str:
    outputs = (output for cell in notebook.cells for output in cell.get("outputs", ()))
    parts: list[str] = []
    for output in outputs:
        parts.append(str(output.get("text", "")))
        parts += [f"{kind}: {value}" for kind, value in output.get("data", {}).items()]
    return "\n".join(parts)


@pytest.mark.embedded
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the kernel's own libraries
def test_the_quickstart_runs_and_shows_what_it_promises(tmp_path: Path) -> None:
    notebook = read(FOLDER / "quickstart.ipynb")
    client = NotebookClient(
        notebook, timeout=240, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()
    shown = text_of(notebook)
    assert "negative  The straps broke" in shown
    assert "positive about sport" in shown
    assert shown.count("image/svg+xml: <svg") == 2
    assert "IProgress" not in shown


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_is_kept_without_outputs(path: Path) -> None:
    notebook = read(path)
    nbformat.validate(notebook)
    assert not text_of(notebook)
