"""Other ways to ask a large model less, on the streams of `promise.py`."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from moa.decisions.regression import fit_head, folds
from moa.learning.labelled import normalise_text
from moa.local.pairs import split_by_encoder
from promise_streams import Found, Stream

FIRST, SURE, LIKE = 400, 0.8, 0.9
"""Rows that a head is fitted to, how sure it must be, and the cosine of a semantic cache."""
FOLDS = 5
WAYS = ("head, .8 sure", "head, always", "exact cache", "semantic cache")
ROUTER = "semantic-router, .95 sure"


def beside(stream: Stream, seed: int, said: Sequence[str]) -> dict[str, Found]:
    """Say of each way how often it asks, and what becomes of its answers, on one shuffle."""
    order = np.array(stream.order(seed))
    large = np.array([stream.labels.index(said[row]) for row in order])
    guess, sure = _head(stream.vectors[order], large, len(stream.labels))
    answers = {
        "head, .8 sure": np.where(sure >= SURE, guess, -1),
        "head, always": guess,
        "exact cache": _same(stream, order, large),
        "semantic cache": _like(stream.vectors[order], large),
    }
    gold = np.array([stream.labels.index(stream.gold[row]) for row in order])
    return {way: _counted(given, large, gold) for way, given in answers.items()}


def routed(stream: Stream, seed: int, said: Sequence[str], python: Path) -> Found:
    """Say the same of semantic-router, which the Python of an environment of its own runs."""
    order = np.array(stream.order(seed))
    large = np.array([stream.labels.index(said[row]) for row in order])
    gold = np.array([stream.labels.index(stream.gold[row]) for row in order])
    vectors = np.concatenate(
        [part for both in split_by_encoder(stream.vectors[order]) for part in both], 1
    )
    with tempfile.TemporaryDirectory() as inside:
        source, out = Path(inside, "in.npz"), Path(inside, "out.json")
        np.savez(source, vectors=vectors / np.linalg.norm(vectors[0]), answers=large[:FIRST])
        script = Path(__file__).with_name("promise_router.py")
        subprocess.run([python, script, source, out], check=True)
        given = np.array(json.loads(out.read_text()))
    return _counted(given, large, gold)


def _counted(given: Any, large: Any, gold: Any) -> Found:
    """Count: -1 is given where the large model was asked."""
    small = given >= 0
    answered = np.where(small, given, large)
    return {
        "calls": (~small).reshape(-1, 100).sum(1).tolist(),
        "small": int(small.sum()),
        "differ": int((small & (given != large)).sum()),
        "right": float((answered == gold).mean()),
    }


def _head(x: Any, large: Any, options: int) -> tuple[Any, Any]:
    """Fit a head to the first rows, and have it answer the others."""
    y = large[:FIRST]
    dealt = folds([str(row) for row in range(FIRST)], y, FOLDS)
    p = np.exp(fit_head(x[:FIRST], y, options, dealt).head(x))
    guess, sure = p.argmax(1), p.max(1)
    guess[:FIRST] = -1
    sure[:FIRST] = -1.0
    return guess, sure


def _same(stream: Stream, order: Any, large: Any) -> Any:
    known: dict[str, int] = {}
    given = np.full(len(order), -1)
    for at, row in enumerate(order):
        text = normalise_text(stream.texts[row])
        given[at] = known.get(text, -1)
        known.setdefault(text, int(large[at]))
    return given


def _like(x: Any, large: Any) -> Any:
    whole = split_by_encoder(x)[1][0]
    cosine = whole @ whole.T
    asked = np.zeros(len(x), bool)
    given = np.full(len(x), -1)
    for at in range(len(x)):
        near = np.where(asked[:at], cosine[at, :at], -1.0)
        nearest = int(near.argmax()) if at else -1
        if at and near[nearest] >= LIKE:
            given[at] = large[nearest]
        else:
            asked[at] = True
    return given
