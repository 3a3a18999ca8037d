"""Skipped: what stands where a node did not run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Skipped:
    """Stands in the place of an output where a node did not run."""

    reason: str
