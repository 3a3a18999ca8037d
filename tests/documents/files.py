"""Files of every kind, made where a test needs them."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from fpdf import FPDF

FOX = "The quick brown fox jumps over the lazy dog."
PNG = b"\x89PNG\r\n\x1a\n" + bytes(64)


def pdf(path: Path, *pages: str, title: str = "", password: str | None = None) -> Path:
    """A PDF with a text on each page."""
    made = FPDF()
    made.set_font("Helvetica", size=11)
    if title:
        made.set_title(title)
    for page in pages:
        made.add_page()
        made.multi_cell(0, text=page)
    if password is not None:
        made.set_encryption(owner_password="owner", user_password=password)
    path.write_bytes(bytes(made.output()))
    return path


def pictures(path: Path, *, pages: int) -> Path:
    """A PDF whose pages are pictures."""
    from PIL import Image

    made = FPDF()
    for _ in range(pages):
        made.add_page()
        made.image(Image.new("RGB", (40, 40), "red"), w=100)
    path.write_bytes(bytes(made.output()))
    return path


def closed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the system refuse to list a folder, as it does to who may not read it."""
    listing = os.scandir

    def scandir(path: str) -> Any:
        if Path(path) == folder:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
        return listing(path)

    monkeypatch.setattr(os, "scandir", scandir)
