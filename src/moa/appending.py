"""Appending: files of lines that are added to, one after another, and taken up again later.

What holds texts of users is made for its owner's eyes alone.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO


def make_private(path: Path) -> None:
    """Make a file that its owner alone can read; one that is there stays as it is.

    Raises:
        OSError: it can't be made or opened.
    """
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))


def open_to_add(path: Path) -> BinaryIO:
    """Open a file of lines to add some, behind a last line that is ended where it was cut off.

    Raises:
        OSError: it can't be opened.
    """
    make_private(path)
    file = path.open("ab+")
    if file.seek(0, os.SEEK_END):
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            file.write(b"\n")
            file.flush()
    return file
