"""Watching: what a check on drift compares new inputs with, kept in a calibration's file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from moa.calibration.doubting import Judged
from moa.decisions.arrays import np
from moa.guarantees.drift import FEWEST, Drift, Value

Detect = Callable[[str], str | None]
"""Tells the language of a text, or `None` where it can't."""


def reference(
    texts: Sequence[str],
    languages: Sequence[str | None],
    held_out: Judged,
    accepted: Sequence[bool],
) -> Drift | None:
    """Start a check on drift: on length, language, label mass, and what is accepted how surely.

    Of decisions it watches those of the accepting fit alone: it has not seen the texts, and the
    other fit has.

    Args:
        texts: Drawn at random, as they come in.
        languages: Of some texts; `None` where one is not known.
        held_out: What the accepting fit says of each held-out text.
        accepted: Whether it accepts it.

    Returns:
        The check before its first input; `None` where there are too few texts to watch anything.
    """
    confidences = np.minimum(held_out.probabilities.max(1), 1.0).tolist()
    watched: dict[str, list[Value]] = {
        "length": [float(len(text)) for text in texts],
        "language": [name for name in languages if name is not None],
        "label mass": [] if held_out.mass is None else held_out.mass.tolist(),
        "accepted": [float(one) for one in accepted] if any(accepted) else [],
        "accepted confidence": [c for c, is_in in zip(confidences, accepted, strict=True) if is_in],
    }
    enough = {name: values for name, values in watched.items() if len(values) >= FEWEST}
    return Drift.of(enough) if enough else None


def shares(languages: Sequence[str | None]) -> dict[str, float]:
    """Give the share of each language among those that are known, the most frequent first."""
    known = [name for name in languages if name is not None]
    return {
        name: n / len(known) for name, n in Counter(known).most_common() if n >= 0.01 * len(known)
    }
