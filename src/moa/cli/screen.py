"""Screen: the consoles that commands print on."""

from __future__ import annotations

import sys

from rich.console import Console

WIDE = 140
"""Columns where the output is no terminal: a file or a pipe has no width of its own."""


def out() -> Console:
    """Standard output."""
    wide = None if sys.stdout.isatty() else WIDE
    return Console(file=sys.stdout, highlight=False, width=wide)


def err() -> Console:
    """Standard error."""
    wide = None if sys.stderr.isatty() else WIDE
    return Console(file=sys.stderr, highlight=False, width=wide)
