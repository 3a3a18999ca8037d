"""Learning: what is accepted with 512 labels where a scorer learns from some of them, or from none.

On simulated scores it runs for a minute or two. On film reviews it takes the scores that a model
gave, from a file: `--scores FILE` reads it, and with `--data DIR` it is made before, or gone on
with, by the model that MOA_MODEL names: a GGUF file, or NAME@URL where vLLM serves it.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from moa import EmbeddedEndpoint, RunContext
from moa.core._async import map_async
from moa.core.errors import CapabilityError
from moa.core.questions import Option, Question
from moa.decisions.features import LabelFeature
from moa.decisions.guarantee import Learn
from moa.decisions.scorer import logs_of
from moa.endpoints import Decision, Example
from moa.learning.fit import calibrate
from moa.learning.labelled import Labelled
from moa.testing import SimulatedEndpoint
from recipes_shared import endpoint_of
from report import table, write
from saying import Said

SECTION = "learning"
SOME, AT_ONCE = 24, 2
"""Texts after which they are kept, and that are read together."""
LABELS, SHUFFLES, POPULATION, RISK = 512, 100, 20_000, 0.05
AUC = 0.94
FILMS = "sentiment2_movie"
QUESTION = Question(
    "label",
    "choice",
    "What is the sentiment of the text?",
    (Option("negative", "negative"), Option("positive", "positive")),
)
MODES: tuple[Learn, ...] = tuple(mode for mode in get_args(Learn) if mode != "all")
"""Of rows that all are learnt from nothing is guaranteed, so nothing is accepted."""
HEAD = ("scores", "learn", "coverage", "accept nothing", "break the promise", "wrong of accepted")
TEXT = f"""
## Learning or holding out

`moa learn` with {LABELS} labels at 5 % risk and 95 % confidence, by what it learns from them:
means over {SHUFFLES} draws, and the share of draws that accept nothing. Simulated scores have two
classes and an AUC of {AUC}, and each draw is followed by {POPULATION:,} texts, so that it is known
which promises are broken. Film reviews are shuffled anew for each draw, and looked at in the rows
left over, which are too few to tell that of one draw: `wrong of accepted` is over all draws."""


class Scored(NamedTuple):
    """Log-probabilities of both options, and the right one of each text."""

    logs: NDArray[np.float64]
    labels: NDArray[np.intp]

    def some(self, rows: NDArray[np.intp] | slice) -> Scored:
        return Scored(self.logs[rows], self.labels[rows])


Draw = Callable[[np.random.Generator], tuple[Scored, Scored]]
"""Draws labelled texts, and others to look at."""


class Replayed(SimulatedEndpoint):
    """Gives scores that are known already; they were read without examples."""

    async def decide(
        self,
        state: str,
        questions: Sequence[Question],
        context: RunContext,
        /,
        *,
        examples: Sequence[Example] = (),
    ) -> Decision:
        if examples:
            raise CapabilityError("the scores were read without examples")
        return await super().decide(state, questions, context)


def run(scores: Path | None, data: Path | None) -> None:
    """Measure simulated scores, and those of `scores` where it is given; write the section.

    Args:
        scores: A file of scores; made from `data` where it isn't there.
        data: Folder of the sets.
    """
    rows = _measured("simulated", _simulated)
    if scores is not None:
        if data is not None:
            scores.touch()
            asyncio.run(_make(scores, data, done=len(_lines(scores))))
        scored = _read(scores)

        def shuffled(rng: np.random.Generator) -> tuple[Scored, Scored]:
            order = rng.permutation(len(scored.labels))
            return scored.some(order[:LABELS]), scored.some(order[LABELS:])

        model = json.loads(_lines(scores)[0])["model"]
        rows += _measured(f"film reviews, {model}", shuffled, few=True)
    command = "python benchmarks/trust.py --steps learning"
    if scores is not None:
        command += " --data DIR --scores FILE"
    write(SECTION, command, "\n\n".join((TEXT, table(HEAD, rows))))


def _simulated(rng: np.random.Generator) -> tuple[Scored, Scored]:
    apart = 2**0.5 * NormalDist().inv_cdf(AUC)
    labels = rng.integers(0, 2, LABELS + POPULATION)
    odds = rng.normal((2 * labels - 1) * apart**2 / 2, apart)
    both = Scored(-np.logaddexp(0, np.stack([odds, -odds], 1)), labels.astype(np.intp))
    return both.some(slice(LABELS)), both.some(slice(LABELS, None))


def _measured(name: str, draw: Draw, *, few: bool = False) -> list[list[str]]:
    rows: list[list[str]] = []
    for learn in MODES:
        rng = np.random.default_rng(0)
        found = [asyncio.run(_one(learn, *draw(rng))) for _ in range(SHUFFLES)]
        accepted = np.array([taken for taken, _, _ in found])
        wrong = np.array([bad for _, bad, _ in found])
        of = np.array([n for _, _, n in found])
        broken = (wrong > RISK * accepted).mean()
        rows.append(
            [
                name,
                learn,
                f"{(accepted / of).mean():.2f}",
                f"{(accepted == 0).mean():.0%}",
                "-" if few else f"{broken:.0%}",
                f"{wrong.sum() / accepted.sum():.3f}" if accepted.sum() else "-",
            ]
        )
        print(" | ".join(rows[-1]), flush=True)
    return rows


async def _one(learn: Learn, known: Scored, rest: Scored) -> tuple[int, int, int]:
    """Calibrate once, and count what is accepted of the rest, the wrong of it, and the rest."""
    given = {f"text {row}": dict(zip(NAMES, p, strict=True)) for row, p in enumerate(_p(known))}
    labelled = [
        Labelled(text=text, label=NAMES[label])
        for text, label in zip(given, known.labels.tolist(), strict=True)
    ]
    slm = Replayed(rule=lambda text: {"label": given[text]})
    made = await calibrate(slm, QUESTION, labelled, learn=learn, embedders={})
    judged = made.judge([rest.logs] * len(made.features))
    accepted = np.array(made.find_accepted(judged))
    wrong = judged.probabilities.argmax(1) != rest.labels
    return int(accepted.sum()), int((accepted & wrong).sum()), len(accepted)


NAMES = tuple(option.name for option in QUESTION.options)


def _p(scored: Scored) -> list[list[float]]:
    p = np.exp(scored.logs)
    return (p / p.sum(1, keepdims=True)).tolist()


async def _make(scores: Path, data: Path, *, done: int) -> None:
    """Ask the model that MOA_MODEL names for the scores of the film reviews that have none."""
    lines = _lines(data / FILMS / "dev.jsonl")
    said = Said(FILMS)
    model = os.environ.get("MOA_MODEL", "")
    made = endpoint_of("model", "slm", model) if "@" in model else EmbeddedEndpoint()
    async with made as endpoint:
        read_as = LabelFeature.of(QUESTION, endpoint).lay_out(QUESTION)
        context = RunContext(keep_notes=False)

        async def logs(row: dict[str, str]) -> list[float]:
            decision = await endpoint.decide(row["text"], [read_as], context)
            return logs_of(decision.answers[0]).tolist()

        rows = list(map(json.loads, lines[done:]))
        with scores.open("a", encoding="utf-8") as file:
            for start in range(0, len(rows), SOME):
                some = rows[start : start + SOME]
                found = await map_async(logs, some, max_concurrency=AT_ONCE)
                for row, own in zip(some, found, strict=True):
                    kept = {"text": row["text"], "label": row["label"], "logs": own}
                    file.write(f"{json.dumps({**kept, 'model': endpoint.model})}\n")
                file.flush()
                said("labels", done + start + len(some), len(lines))


def _lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").splitlines()


def _read(scores: Path) -> Scored:
    rows = [json.loads(line) for line in _lines(scores)]
    labels = np.array([NAMES.index(row["label"]) for row in rows], np.intp)
    return Scored(np.array([row["logs"] for row in rows]), labels)
