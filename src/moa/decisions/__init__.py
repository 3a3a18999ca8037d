"""Decisions: turn a model's probabilities into reliable decisions."""

from __future__ import annotations

from moa.endpoints import Example

ENOUGH = 8
"""Minimum of labelled texts to fit a head."""
ENOUGH_BESIDE_WORDS = 16
"""Minimum of labelled texts to fit a head to a criterion that the encoder can read by its words. On
new criteria a head on eight was no better than the words, and one on 16 is taken only where it is
(benchmarks/filters.py)."""
ENOUGH_A_LABEL = 20
"""Minimum mean of labelled texts per label to fit a head to a choice, in addition to the pair
scorer. On held-out businesses the head added nothing to it with twelve, and something with 25."""
PromptVariant = tuple[Example, ...]
"""Examples shown together with a text."""
