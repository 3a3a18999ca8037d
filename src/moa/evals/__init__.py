"""Evals: what a design reaches on labelled data, in figures, tables and plots."""

from __future__ import annotations

from moa.evals.comparing import compare

__all__ = ["compare"]
