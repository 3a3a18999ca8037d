"""Appending: files of lines that are added to, one after another, and taken up again later."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO


def open_to_add(path: Path) -> BinaryIO:
    """Open a file of lines to add some, behind a last line that is ended where it was cut off.

    Raises:
        OSError: it can't be opened.
    """
    file = path.open("ab+")
    if file.seek(0, os.SEEK_END):
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            file.write(b"\n")
            file.flush()
    return file
