"""Runs the notebooks of examples/, for their tests and to keep their outputs anew.

python tests/notebooks.py               # all that need no model but the built-in one
python tests/notebooks.py quickstart    # one of them
"""

from __future__ import annotations

import hashlib
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "examples"
WRITTEN = "written"
"""Its outputs are those of a real model, which is asked by hand."""
CODE = "code_sha256"
"""The key of a notebook's metadata that says of which code its outputs are."""


def names() -> list[str]:
    """List the notebooks."""
    return sorted(path.stem for path in FOLDER.glob("*.ipynb"))


def kept(name: str) -> Any:
    """Read a notebook as it is kept."""
    return cast("Any", nbformat).read(FOLDER / f"{name}.ipynb", as_version=4)


def executed(name: str, folder: Path, *, cell_timeout_s: int | None = 240) -> Any:
    """Run a notebook from top to bottom, in a folder that looks like this project."""
    notebook = kept(name)
    place = folder / "examples"
    place.mkdir(exist_ok=True)
    (folder / "benchmarks").symlink_to(ROOT / "benchmarks")
    client = NotebookClient(
        notebook,
        timeout=cell_timeout_s,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": place}},
    )
    client.execute()
    notebook.metadata.pop("language_info", None)
    notebook.metadata[CODE] = code_of(notebook)
    return notebook


def code_of(notebook: Any) -> str:
    """Hash the code of a notebook."""
    code = "\0".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    return hashlib.sha256(code.encode()).hexdigest()[:12]


def outputs_of(notebook: Any) -> Iterator[tuple[str, str]]:
    """Give what a notebook shows: each kind, such as `image/svg+xml`, with what it says."""
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if "text" in output:
                yield output.name, output.text
            yield from sorted(output.get("data", {}).items())


def text_of(notebook: Any) -> str:
    """Give all that a notebook shows as one text."""
    return "\n".join(f"{kind}: {what}" for kind, what in outputs_of(notebook))


def told(notebook: Any) -> list[str]:
    """Give what a notebook shows, without what differs from run to run and by machine.

    These are figures with a point, such as seconds and probabilities, the cells that are cut,
    which their digits move, pictures, and the order of words: nodes that run side by side note what
    they did as they come.
    """
    return [
        kind if kind.startswith("image/") else f"{kind}: {_steady(str(what))}"
        for kind, what in outputs_of(notebook)
    ]


def _steady(text: str) -> str:
    whole = re.sub(r">[^<>]*…</td>", ">…</td>", text)
    words = re.sub(r"\d+(\.\d+)?e[+-]\d+|\d+\.\d+", "#", whole).split()
    return " ".join(sorted(words))


def main() -> None:
    """Keep the outputs of notebooks anew."""
    for name in sys.argv[1:] or [name for name in names() if name != WRITTEN]:
        with tempfile.TemporaryDirectory() as folder:
            notebook = executed(name, Path(folder), cell_timeout_s=None)
        cast("Any", nbformat).write(notebook, FOLDER / f"{name}.ipynb")
        sys.stderr.write(f"{name}: {len(text_of(notebook))} characters of outputs\n")


if __name__ == "__main__":
    main()
