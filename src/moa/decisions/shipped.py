"""Shipped heads: fitted beforehand to labelled texts, and read from a file of this package.

`benchmarks/heads.py` fits them with scikit-learn; the texts are in `benchmarks/data`.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from moa.decisions import Adaptation
from moa.decisions.heads import Head, Kernel
from moa.endpoints.encoders import MultilingualEncoder

_FOLDER = Path(__file__).parent / "heads"


@cache
def shipped_heads(name: str) -> dict[str, Head]:
    """Read the heads of a file, by the name of the question.

    Args:
        name: Of the file, such as `support`.
    """
    with np.load(_FOLDER / f"{name}.npz") as file:
        kernel = Kernel(
            centre=file["centre"].astype(float),
            scale=file["scale"].astype(float),
            landmarks=file["landmarks"].astype(float) * file["step"],
            gamma=float(file["gamma"]),
        )
        questions = [key.removeprefix("bias ") for key in file.files if key.startswith("bias ")]
        return {
            question: Head(
                file[f"weights {question}"].astype(float),
                file[f"bias {question}"].astype(float),
                kernel,
            )
            for question in questions
        }


def headed(question: str, *, file: str = "support", asked_as: str | None = None) -> Adaptation:
    """Decide a question by its shipped head alone.

    Args:
        question: Name of the head.
        file: The file that it is in.
        asked_as: Name of the question; `None` is that of the head.
    """
    head = shipped_heads(file)[question]
    return Adaptation(
        views=(),
        heads={asked_as or question: head},
        encoder=MultilingualEncoder.model,
        origin=f"shipped with moa, fitted to labelled messages ({file})",
    )
