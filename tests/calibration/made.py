"""A question, an endpoint that answers it, and labelled rows to calibrate it on."""

from __future__ import annotations

import random
from typing import Any

from moa.core.questions import Option, Question
from moa.decisions.calibrated import CalibratedDecider
from moa.decisions.features import sources_of
from moa.decisions.file import Calibration
from moa.learning.labelled import Labelled
from moa.testing import SimulatedEndpoint, Step

QUESTION = Question("label", "choice", "Which?", (Option("a", "a"), Option("b", "b")))


def endpoint(model: str = "scripted-1", **settings: Any) -> SimulatedEndpoint:
    """The last word of a text is the probability that it gives to `a`."""

    def rule(text: str) -> Step:
        return {"label": {"a": float(text.split()[-1])}}

    return SimulatedEndpoint(rule=rule, model=model, **settings)


def rows(n: int, *, sharp: float = 6.0, seed: int = 0) -> list[Labelled]:
    """Texts whose label follows the probability in them, more surely than that says."""
    draw = random.Random(seed)
    found: list[Labelled] = []
    for number in range(n):
        p = draw.random()
        right = p**sharp / (p**sharp + (1 - p) ** sharp)
        label = "a" if draw.random() < right else "b"
        found.append(Labelled(text=f"{seed}-{number} of {p:.4f}", label=label))
    return found


def ready(made: Calibration, slm: SimulatedEndpoint | None = None) -> CalibratedDecider:
    return CalibratedDecider(made, QUESTION, sources_of(slm or endpoint()))
