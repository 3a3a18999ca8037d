"""Heads: those that come with the joint encoder.

Those of a question's own words are made by `moa.local.pairs` and `moa.local.relevance`. Others are
shipped as data, fitted to labelled texts by `benchmarks/heads.py`. numpy is loaded with the first
of them.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from moa.core.context import RunContext
from moa.core.questions import Question
from moa.decisions import PromptVariant
from moa.endpoints import Endpoint

if TYPE_CHECKING:
    from moa.decisions.arrays import Floats
    from moa.decisions.encoders import Curve
    from moa.decisions.heads import Head

FOLDER = Path(__file__).parent / "heads"
"""The shipped heads, and texts to measure models on."""
EXPECTED = FOLDER / "expected.json"
"""Curves of confidence and expected precision, as `benchmarks/pairs.py` writes them."""


class JointHeads:
    """Heads made from the words of a question; see `moa.decisions.encoders.Heads`."""

    async def read(
        self,
        vector: tuple[float, ...],
        question: Question,
        context: RunContext,
        *,
        encoder: Endpoint,
        examples: PromptVariant = (),
        left_out: str | None = None,
    ) -> tuple[float, ...]:
        """Read a choice by the scorer of pairs, and another question by its criterion."""
        if question.kind == "choice":
            from moa.local.pairs import pair_head

            head = await pair_head(question, examples, encoder, context)
            return head.logs_of(vector, left_out)
        from moa.local.relevance import words_head

        return (await words_head(question, context)).head.logs_of(vector)

    async def understands(self, question: Question, context: RunContext, /) -> bool:
        """Return True if criteria like that of a yes-or-no question are read well."""
        from moa.local.relevance import WELL_READ, words_head

        return (await words_head(question, context)).expected >= WELL_READ

    def expected_precision(self, question: Question, examples: PromptVariant, /) -> Curve:
        """Return the expected precision of a choice with these examples."""
        from moa.local.pairs import expected_of

        return expected_of(question, examples)


@cache
def shipped_heads(name: str) -> dict[str, Head]:
    """Load the heads of a file, such as `support`, by name of the question."""
    from moa.decisions.arrays import np
    from moa.decisions.heads import Head, Kernel

    with np.load(FOLDER / f"{name}.npz") as file:
        kernel = Kernel(
            centre=_spread_e5_parts(file["centre"].astype(float)),
            scale=_spread_e5_parts(file["scale"].astype(float), fill=np.inf),
            landmarks=file["landmarks"].astype(float) * file["step"],
            gamma=float(file["gamma"]),
        )
        return {
            name: Head(
                file[f"weights {name}"].astype(float),
                file[f"bias {name}"].astype(float),
                kernel,
                float(file[f"less {name}"]) if f"less {name}" in file.files else None,
                parts=len(kernel.centre),
            )
            for name in (key.removeprefix("bias ") for key in file.files if key.startswith("bias "))
        }


def _spread_e5_parts(values: Floats, *, fill: float = 0.0) -> Floats:
    """Move what reads e5 alone to its place among the parts of both encoders, on the last axis.

    It has as many parts as e5 for the whole text, twice as many with the sentences.
    """
    from moa.decisions.arrays import np
    from moa.local.encoders import E5_PARTS, USE_PARTS

    parts = 2 * (E5_PARTS + USE_PARTS)
    if values.shape[-1] == parts:
        return values
    result = np.full((*values.shape[:-1], parts), fill)
    for start, half in ((0, 0), (E5_PARTS, parts // 2)):
        part = values[..., start : start + E5_PARTS]
        result[..., half : half + part.shape[-1]] = part
    return result


@cache
def shipped_expectations() -> dict[str, Curve]:
    """Read the expected precision of shipped heads, by file and question."""
    curves = json.loads(EXPECTED.read_text(encoding="utf-8"))
    return {name: tuple((float(a), float(b)) for a, b in curve) for name, curve in curves.items()}
