"""Decisions: what turns a model's probabilities into decisions that can be trusted."""

from __future__ import annotations

from moa.endpoints import Example

ENOUGH = 8
"""Labelled texts from which on a head is fitted; fewer tell less than the words of a question."""
PromptVariant = tuple[Example, ...]
"""Examples that a text is read with."""
