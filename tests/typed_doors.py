"""Doors: each module behind one has what the core asks of it. The type checker compares them."""

from __future__ import annotations
