"""Untrained: how a question is decided that nobody has labelled texts for.

An encoder's relevance head reads the words of the question, and a small model reads the text. How
much the model counts is known from measurements (`moa.endpoints.known`). Its bias is taken out
first, on a few ordinary texts that ship: what it answers to all of them alike says nothing.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np

from moa._files import replace_text
from moa.context import RunContext
from moa.decisions import Adaptation, Correction
from moa.decisions.arrays import Floats
from moa.decisions.fitting import shrunk_mean
from moa.decisions.heads import Head
from moa.decisions.reading import Reader
from moa.decisions.relevance import relevance_head
from moa.decisions.stacking import floats
from moa.endpoints import Endpoint, Example
from moa.endpoints.embedded import EmbeddedEndpoint
from moa.endpoints.encoders import MultilingualEncoder
from moa.endpoints.known import UNMEASURED, known
from moa.endpoints.weights import cache_folder
from moa.endpoints.wrapping import unwrapped
from moa.questions import Question

MOST_READ = 30
"""Ordinary texts that a model reads, once for each question."""
MOST_OPTIONS = 24
"""Options among which a small model is asked to choose where there is an encoder beside it."""
RARE_SD = 2.0
"""A yes is said where it is so many standard deviations likelier than to ordinary texts, most of
which no criterion is true of (the best of a few cuts on ten criteria and a 1.5B model)."""
ALIKE = 0.05
"""A model is blind to a question where its log-odds spread less than this over ordinary texts."""


async def untrained(
    endpoint: Endpoint,
    questions: Sequence[Question],
    *,
    own: Sequence[Example] = (),
    encoder: Endpoint | None,
    free: bool,
    context: RunContext,
) -> Adaptation | None:
    """Find out how to decide questions without labels.

    Args:
        endpoint: Who decides.
        questions: What is asked.
        own: Examples that the agent shows of its own accord.
        encoder: The one beside the endpoint; `None`: the model alone decides.
        free: Whether asking the endpoint costs nothing, so that its bias may be measured.
        context: Budget, deadline and ledger.

    Returns:
        `None` where nothing is better than to ask the model as it is.

    Raises:
        EndpointError: a request failed.
        BudgetExceeded: a limit would be passed.
        DeadlineExceeded: the run's time is up.
    """
    weights = {q.name: weight_of(endpoint, q, free=free) for q in questions}
    if not free and any(weights.values()):
        return None
    heads: dict[str, Head] = {}
    if encoder is not None and encoder.model == MultilingualEncoder.model:
        for question in questions:
            head = await relevance_head(question, context)
            if head is not None:
                heads[question.name] = head
    if heads and all(q.name in heads and not weights[q.name] for q in questions):
        return Adaptation(
            views=(),
            heads=heads,
            encoder=MultilingualEncoder.model,
            origin="by the words of the question",
        )
    if not free:
        return None
    readings = await _kept(endpoint, questions, own, context)
    if readings is None:
        return None
    corrections: dict[str, Correction] = {}
    doubtful: dict[str, str] = {}
    for question in questions:
        reading = readings[question.name]
        offsets, why = _unbiased(question, reading)
        if why and question.name not in heads:
            doubtful[question.name] = why
        weight = 0.0 if why else weights[question.name]
        share = (weight, 1.0) if question.name in heads else (1.0,)
        corrections[question.name] = Correction(floats(share[0] * offsets), share)
    return Adaptation(
        corrections=corrections,
        heads=heads,
        encoder=MultilingualEncoder.model if heads else None,
        doubtful=doubtful,
        origin=f"bias removed on {MOST_READ} ordinary texts"
        + (", beside the words of the question" if heads else ""),
    )


async def _kept(
    endpoint: Endpoint, questions: Sequence[Question], own: Sequence[Example], context: RunContext
) -> dict[str, Floats] | None:
    """Read the ordinary texts, or take what the embedded model read before and is in the cache.

    Returns:
        Log-probabilities by question: texts, options. `None` where the model writes its labels.
    """
    texts = ordinary_texts()[:MOST_READ]
    file: Path | None = None
    inner = unwrapped(endpoint)
    if isinstance(inner, EmbeddedEndpoint):
        said = repr((inner.model, inner.model_path, questions, own, texts)).encode()
        file = cache_folder() / "biases" / f"{hashlib.sha256(said).hexdigest()[:32]}.json"
        with suppress(OSError, ValueError, TypeError, AttributeError, KeyError):  # none, or broken
            found = json.loads(file.read_text(encoding="utf-8"))
            kept = {name: np.array(rows, dtype=np.float64) for name, rows in found.items()}
            if all(kept[q.name].shape == (len(texts), len(q.options)) for q in questions):
                return kept
    reader = Reader(endpoint, tuple(questions), tuple(own), context, None)
    readings = await reader.read([()], texts)
    if reader.source == "text":
        return None
    read: dict[str, Floats] = {name: reading[:, 0] for name, reading in readings.items()}
    if file is not None:
        with suppress(OSError):  # a cache that can't be written costs time alone
            file.parent.mkdir(parents=True, exist_ok=True)
            replace_text(file, json.dumps({name: rows.tolist() for name, rows in read.items()}))
    return read


def weight_of(endpoint: Endpoint, question: Question, *, free: bool = True) -> float:
    """How much a model counts beside the encoder; of very many options a small one loses track.

    One that costs money was chosen for a reason: it is asked, unless it is known to be no help.
    """
    measured = known(endpoint.model).weigh(question.kind)
    if measured is None and not free:
        return 1.0
    if len(question.options) > MOST_OPTIONS:
        return 0.0
    return UNMEASURED[question.kind] if measured is None else measured


def _unbiased(question: Question, reading: Floats) -> tuple[Floats, str]:
    """Give what takes the bias out, and why the question can't be trusted, if it can't."""
    spread = float(reading.std(0).max())
    if spread < ALIKE:
        label = question.options[int(reading.mean(0).argmax())].name
        none: Floats = 0.0 * reading[0]
        return none, f"the model says {label!r} whatever the text is"
    if question.kind == "predicate":
        odds = reading[:, 0] - reading[:, 1]
        cut = float(odds.mean() + RARE_SD * odds.std())
        return np.array((-cut / 2, cut / 2), dtype=np.float64), ""
    offsets: Floats = np.negative(shrunk_mean(reading))
    return offsets, ""


@cache
def ordinary_texts() -> tuple[str, ...]:
    """Read the ordinary texts that ship, of many kinds and in several languages."""
    file = Path(__file__).parent / "heads" / "ordinary.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines()
    texts = [str(json.loads(line)["text"]) for line in lines]
    random.Random(0).shuffle(texts)
    return tuple(texts)
