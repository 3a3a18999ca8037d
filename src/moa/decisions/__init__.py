"""Decisions: what turns a model's probabilities into decisions that can be trusted."""

from __future__ import annotations

from moa.endpoints import Example

ENOUGH = 8
"""Labelled texts from which on a head is fitted; fewer tell less than the words of a question."""
ENOUGH_A_LABEL = 20
"""Labelled texts for each label of a choice, on the mean, from which on a head is fitted beside the
scorer of pairs. On businesses left out the head added nothing to it with twelve, and something with
25."""
PromptVariant = tuple[Example, ...]
"""Examples that a text is read with."""
