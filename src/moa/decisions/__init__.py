"""Decisions: turn a model's probabilities into reliable decisions."""

from __future__ import annotations

from moa.endpoints import Example

ENOUGH = 8
"""Minimum of labelled texts to fit a head; fewer tell less than the words of a question."""
ENOUGH_A_LABEL = 20
"""Minimum mean of labelled texts per label to fit a head to a choice, in addition to the pair
scorer. On held-out businesses the head added nothing to it with twelve, and something with 25."""
PromptVariant = tuple[Example, ...]
"""Examples shown together with a text."""
