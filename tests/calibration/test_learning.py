"""Learning: what is fitted to the rows of a stream."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from moa.calibration.answers import AnswerStore, Rows
from moa.calibration.features import LabelFeature, VectorFeature
from moa.calibration.learning import Learning, probabilities_of
from moa.questions import Option, Question

OWN, ENCODED = LabelFeature(name="small"), VectorFeature(name="encoder", source="encoder")
QUESTION = Question("q", "choice", "?", (Option("a", "a"), Option("b", "b")))
N, PARTS = 60, 8


@pytest.mark.parametrize("useful", ["small", "encoder"])
def test_a_head_that_leaves_a_feature_out_judges_rows_that_have_both(
    tmp_path: Path, useful: str
) -> None:
    rng = np.random.default_rng(0)
    right = rng.integers(0, 2, N)
    p = np.where(right, 0.1, 0.9) if useful == "small" else np.full(N, 0.5)
    vectors = rng.normal(size=(N, PARTS))
    if useful == "encoder":
        vectors[:, 0] = 6.0 * right
    rows = Rows(
        places=np.arange(N),
        keys=tuple(map(str, range(N))),
        vectors=np.column_stack([np.log(p), np.log(1 - p), vectors]),
        labels=tuple("ab"[one] for one in right),
        epochs=np.ones(N, np.intp),
        lengths=(1,) * N,
        languages=(None,) * N,
    )
    learning = Learning(AnswerStore(tmp_path / "answers.db"), QUESTION, (OWN, ENCODED))
    fitted = learning.fit(rows, epoch=1)
    assert fitted is not None
    given = probabilities_of(fitted.made, rows.vectors)[0].argmax(1)
    assert (given == right).mean() > 0.95
