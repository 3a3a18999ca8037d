"""Pictures: a drawing of matplotlib's, in a file."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from moa.errors import ConfigError, MissingDependency

FORMATS = (".png", ".svg")


def check_picture(path: Path) -> None:
    """Make sure that a picture can be drawn under this name.

    Raises:
        ConfigError: it ends in neither `.png` nor `.svg`.
        MissingDependency: matplotlib is not installed.
    """
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"a plot is a file ending in {' or '.join(FORMATS)}, not {str(path)!r}")
    if find_spec("matplotlib") is None:
        raise MissingDependency("matplotlib", extra="plots", purpose="to draw a plot")


def save_picture(path: Path, draw: Callable[[Any], None]) -> None:
    """Draw into a file.

    Args:
        path: Ends in `.png` or `.svg`.
        draw: Is given the axes to draw on.

    Raises:
        ConfigError: the name ends otherwise, or nothing can be written there.
        MissingDependency: matplotlib is not installed.
    """
    check_picture(path)
    from matplotlib import figure

    make: Any = figure.Figure
    drawn = make(figsize=(6, 4), layout="constrained")
    draw(drawn.add_subplot())
    try:
        drawn.savefig(path, dpi=150)
    except OSError as error:
        raise ConfigError(f"{str(path)!r} can't be written: {error.strerror}") from error
