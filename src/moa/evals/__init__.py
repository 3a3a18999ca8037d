"""Evals: quality and cost of designs on labelled data, in figures, tables and plots."""

from __future__ import annotations

from moa.evals.comparison import compare

__all__ = ["compare"]
