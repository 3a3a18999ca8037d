"""Zero-shot: how a question is decided without fitting anything to texts of its own beforehand.

An encoder's relevance head reads the words of the question, and a small model reads the text. How
much the model counts is known from measurements (`moa.endpoints.known`). Its bias is taken out
first, on a few ordinary texts that ship: what it answers to all of them alike says nothing. Where
the agent has labelled examples enough, a head is fitted to them, and the three are weighed by
cross-validation.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path

from moa._files import replace_text
from moa.context import RunContext
from moa.decisions import Adaptation, Correction, PromptVariant
from moa.decisions.arrays import Floats, np
from moa.decisions.ensemble import Reader, fits, labels_of, with_heads
from moa.decisions.heads import FOLDER, speaks
from moa.decisions.regression import centred_mean
from moa.endpoints import Endpoint, Example
from moa.endpoints.embedded import EmbeddedEndpoint
from moa.endpoints.encoders import MultilingualEncoder
from moa.endpoints.known import known
from moa.endpoints.weights import cache_folder
from moa.endpoints.wrappers import unwrapped
from moa.errors import BudgetExceeded
from moa.questions import Question
from moa.usage import Amount

MOST_READ = 30
"""Ordinary texts that a model reads, once for each question."""
RARE_SD = 2.0
"""A yes is said where it is so many standard deviations likelier than to ordinary texts, most of
which no criterion is true of (the best of a few cuts on ten criteria and a 1.5B model)."""
_ROOM, _TOKENS = 3, 400
"""How many times the calls of a measurement a budget must have room for, and tokens of each."""
ALIKE = 0.05
"""A model is blind to a question where its log-odds spread less than this over ordinary texts."""


async def zero_shot(
    endpoint: Endpoint,
    questions: Sequence[Question],
    *,
    own: Sequence[Example] = (),
    encoder: Endpoint | None,
    free: bool,
    context: RunContext,
) -> Adaptation | None:
    """Find out how to decide questions without fitting an agent beforehand.

    Args:
        endpoint: Who decides.
        questions: What is asked.
        own: Examples that the agent has of its own.
        encoder: The one beside the endpoint; `None`: the model alone decides.
        free: Whether asking the endpoint costs nothing, so that its bias may be measured.
        context: Budget, deadline and ledger.

    Returns:
        `None` where nothing is better than to ask the model as it is.

    Raises:
        EndpointError: a request failed.
        BudgetExceeded: a limit would be passed, or the budget hasn't room for three times the
            calls: then none is sent.
        DeadlineExceeded: the run's time is up.
    """
    if encoder is not None and encoder.model != MultilingualEncoder.model:
        encoder = None
    fitted_to = {q.name for q in questions if encoder is not None and fits(labels_of(q, own)[1])}
    about = known(endpoint.model)
    asked = any(
        encoder is None
        or about.weight_of(question, free=free)
        or not (speaks(question) or question.name in fitted_to)
        for question in questions
    )
    if asked and not free:
        context.note(
            "degraded",
            f"{endpoint.model} is asked as it is, bias and all, since its calls may cost money: "
            "adapt() measures its bias",
        )
        return None
    base, read = Adaptation(prompt_variants=(), origin="the model isn't asked"), dict[str, Floats]()
    if asked:
        shown = _without_labels(own, fitted_to)
        texts = [*ordinary_texts()[:MOST_READ], *(e.text for e in own if fitted_to)]
        readings = await _kept(endpoint, questions, shown, texts, context)
        if readings is None:
            return None
        base = _without_bias(questions, readings, shown)
        for question in questions:
            rows, _ = labels_of(question, own)
            if question.name in fitted_to and question.name not in base.doubtful:
                logs = readings[question.name][MOST_READ:][rows]
                read[question.name] = logs + np.array(base.corrections[question.name].offsets)
    if encoder is None:
        return base
    return await with_heads(
        base,
        endpoint,
        questions,
        labelled=own,
        read=read,
        texts=(),
        encoder=encoder,
        context=context,
    )


def _without_labels(own: Sequence[Example], fitted_to: set[str]) -> PromptVariant:
    """Take the labels that a head is fitted to from examples: the model is shown the others."""
    left = [
        replace(e, labels={name: it for name, it in e.labels.items() if name not in fitted_to})
        for e in own
    ]
    return tuple(example for example in left if example.labels)


def _without_bias(
    questions: Sequence[Question], readings: dict[str, Floats], shown: PromptVariant
) -> Adaptation:
    """Take the bias of a model out, as it shows on the ordinary texts, which come first."""
    corrections: dict[str, Correction] = {}
    doubtful: dict[str, str] = {}
    for question in questions:
        offsets, why = _unbiased(question, readings[question.name][:MOST_READ])
        corrections[question.name] = Correction.of(offsets)
        if why:
            doubtful[question.name] = why
    return Adaptation(
        prompt_variants=(shown,),
        corrections=corrections,
        doubtful=doubtful,
        origin=f"bias removed on {MOST_READ} ordinary texts",
    )


async def _kept(
    endpoint: Endpoint,
    questions: Sequence[Question],
    shown: PromptVariant,
    texts: Sequence[str],
    context: RunContext,
) -> dict[str, Floats] | None:
    """Read texts, or take what the embedded model read before and is in the cache.

    What is read is charged to `bias`, a node of its own under the agent's.

    Returns:
        Log-probabilities by question: texts, options. `None` where the model writes its labels.
    """
    file: Path | None = None
    inner = unwrapped(endpoint)
    if isinstance(inner, EmbeddedEndpoint):
        layouts = [known(inner.model).layout_of(question.kind) for question in questions]
        said = repr((inner.model, inner.model_path, questions, layouts, shown, texts)).encode()
        file = cache_folder() / "biases" / f"{hashlib.sha256(said).hexdigest()[:32]}.json"
        with suppress(OSError, ValueError, TypeError, AttributeError, KeyError):  # none, or broken
            found = json.loads(file.read_text(encoding="utf-8"))
            kept = {name: np.array(rows, dtype=np.float64) for name, rows in found.items()}
            if all(kept[q.name].shape == (len(texts), len(q.options)) for q in questions):
                return kept
    calls = len(texts) * len(questions)
    room = Amount(calls=_ROOM * calls, input_tokens=_ROOM * calls * _TOKENS)
    passed = context.limit_ahead([(endpoint.tier, room)])
    if passed is not None:
        raise BudgetExceeded(
            f"it takes {calls} calls, and a budget with room for {_ROOM} times as many ({passed})",
            spent=context.usage,
        )
    reader = Reader(endpoint, tuple(questions), shown, context.nested("bias"))
    first = await reader.read([()], texts[:1])
    if reader.source == "text":
        return None
    rest = await reader.read([()], texts[1:])
    read: dict[str, Floats] = {
        name: np.concatenate([reading[:, 0], rest[name][:, 0]]) for name, reading in first.items()
    }
    if file is not None:
        with suppress(OSError):  # a cache that can't be written costs time alone
            file.parent.mkdir(parents=True, exist_ok=True)
            replace_text(file, json.dumps({name: rows.tolist() for name, rows in read.items()}))
    return read


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
    # All of it: where ordinary texts are unlike those of the task, half of a bias still hides the
    # rare label, and for labels that are as frequent it makes no difference (benchmarks/models.py).
    return -centred_mean(reading), ""


@cache
def ordinary_texts() -> tuple[str, ...]:
    """Read the ordinary texts that ship, of many kinds and in several languages."""
    lines = (FOLDER / "ordinary.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [str(json.loads(line)["text"]) for line in lines]
    random.Random(0).shuffle(texts)
    return tuple(texts)
