"""The configuration of a command, and a warning where a variable seems meant for it."""

from __future__ import annotations

import sys
from pathlib import Path

from moa.config import Config, load, misspelt_variables


def configured(path: Path | None) -> Config:
    """Read the configuration, and warn on standard error of variables that nothing reads.

    Raises:
        ConfigError: the file is missing or no TOML, or a key or a value in it is wrong.
    """
    for wrong, right in misspelt_variables().items():
        warning = f"moa: nothing reads the variable {wrong}. Did you mean {right}?"
        print(warning, file=sys.stderr)  # noqa: T201
    return load(path)
