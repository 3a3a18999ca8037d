"""The language of a text, and the quiet import of what detects it."""

from __future__ import annotations

import subprocess
import sys

# `tqdm` warns in a notebook without widgets, and knows one by the module of its kernel.
NOTEBOOK = """
import sys, types, warnings
warnings.simplefilter("always")
sys.modules["ipykernel.zmqshell"] = types.ModuleType("ipykernel.zmqshell")
sys.modules["IPython"] = types.ModuleType("IPython")
sys.modules["IPython"].get_ipython = object
sys.modules["ipywidgets"] = None
from moa.agents.language import language_of
print(language_of("Where is my parcel?"))
"""


def test_the_detector_is_loaded_without_a_word_in_a_notebook() -> None:
    done = subprocess.run(
        [sys.executable, "-c", NOTEBOOK], capture_output=True, text=True, check=True
    )
    assert done.stdout == "en\n"
    assert "IProgress" not in done.stderr
