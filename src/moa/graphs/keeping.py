"""Keeping: the state of a graph that learns while it is used, as a file that is always whole."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from moa._files import replace_text
from moa.agents.boundary import said
from moa.errors import ConfigError

S = TypeVar("S", bound=BaseModel)


def read_kept(file: Path | None, kind: type[S], *, what: str) -> S | None:
    """Read what an earlier process kept.

    Args:
        file: `None`, or one that isn't there, holds nothing.
        kind: What it holds.
        what: The same in words, such as "the windows of a monitor".

    Raises:
        ConfigError: it is there, and can't be read.
    """
    if file is None or not file.exists():
        return None
    try:
        return kind.model_validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        why = said(error) if isinstance(error, ValidationError) else str(error.strerror)
        raise ConfigError(
            f"{file} keeps {what}, and can't be read: {why}. Mend it, or remove it to start anew"
        ) from error


def keep(file: Path | None, state: BaseModel) -> None:
    """Write a state in place of the one before it; `None` keeps nothing.

    Raises:
        ConfigError: it can't be written.
    """
    if file is None:
        return
    try:
        replace_text(file, state.model_dump_json())
    except OSError as error:
        raise ConfigError(f"{file} can't be written: {error.strerror}") from error
