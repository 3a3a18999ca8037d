"""The command `moa`, run in this process."""

from __future__ import annotations

from pathlib import Path

import pytest

from moa.cli import main


def moa(*words: str | Path) -> int:
    """Run it as a shell would with these words, and give its exit code."""
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    assert isinstance(left.value.code, int)
    return left.value.code
