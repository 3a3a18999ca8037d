"""Targets: files that a command writes, looked at before the work that goes into them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from moa._files import replace_text
from moa.errors import ConfigError

ReportFile = Annotated[
    Path | None,
    typer.Option("--report", metavar="FILE.json", help="Write all figures there, as JSON."),
]
FiguresAsJson = Annotated[
    bool,
    typer.Option("--json", help="Print all figures as a line of JSON, everything else on stderr."),
]


def check_target(option: str, path: Path | None) -> None:
    """Make sure that a file can be written, and leave it as it is.

    Args:
        option: Of the command line, which names it.
        path: The file; `None`: none was asked for.

    Raises:
        ConfigError: it can't be written.
    """
    if path is None:
        return
    try:
        why = _hindered(path.resolve() if path.is_symlink() else path)
    except OSError as error:  # such as a name that is too long
        why = error.strerror
    if why is not None:
        raise ConfigError(f"{option} {path} can't be written: {why}")


def write_text(option: str, path: Path, text: str) -> None:
    """Write a file that the command line names.

    Raises:
        ConfigError: it can't be written.
    """
    try:
        replace_text(path, text, private=False)
    except OSError as error:
        raise ConfigError(f"{option} {path} can't be written: {error.strerror}") from error


def write_report(figures: Mapping[str, object], path: Path | None) -> None:
    """Write the figures of a command as JSON, where `--report` names a file.

    Raises:
        ConfigError: it can't be written.
    """
    if path is not None:
        write_text("--report", path, json.dumps(figures, indent=1, ensure_ascii=False) + "\n")


def _hindered(path: Path) -> str | None:
    folder, there = path.parent, path.exists()
    if path.is_dir():
        return "it is a folder"
    if not folder.is_dir():
        return f"there is no folder {folder}"
    if there and not os.access(path, os.W_OK):
        return "it is read-only"
    if (path.is_file() or not there) and not os.access(folder, os.W_OK):  # written beside it
        return f"the folder {folder} is read-only"
    return None
