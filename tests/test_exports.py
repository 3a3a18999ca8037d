"""The public names: all there, sorted, few, and loaded at first use."""

from __future__ import annotations

import subprocess
import sys

import pytest

import moa


def test_every_public_name_can_be_imported() -> None:
    for name in moa.__all__:
        assert getattr(moa, name) is not None


def test_public_names_are_sorted_and_few() -> None:
    assert moa.__all__ == sorted(moa.__all__)
    assert len(moa.__all__) <= 60


def test_every_public_name_has_a_docstring() -> None:
    for name in moa.__all__:
        assert getattr(moa, name).__doc__, name


@pytest.mark.parametrize(
    ("statement", "heavy"),
    [
        ("import moa", ["langgraph", "torch", "aiohttp", "pydantic"]),
        ("from moa import *", ["langgraph", "torch", "aiohttp", "numpy", "ftfy"]),
    ],
)
def test_import_pulls_in_nothing_heavy(statement: str, heavy: list[str]) -> None:
    code = f"{statement}; import sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
