"""Catalogue: the models that `moa` knows, with their figures.

The data are in `models.toml` beside this file, each entry with its sources. Figures that can be
computed (weights of a quantised model, bytes of KV cache) are computed here, and not stored.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from datetime import date
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, HttpUrl, PositiveInt, TypeAdapter

from moa.config.faults import nearest
from moa.config.tables import AddressConfig
from moa.core._files import cache_folder
from moa.core.errors import ConfigError
from moa.core.usage import Price, Tier
from moa.endpoints.dialects import Dialect
from moa.local.weights import SMOLLM2, HubFile, cached_path
from moa.local.words import Kind, Quantisation, Server, Skill

BITS: Mapping[Quantisation, float] = MappingProxyType(
    {"bf16": 16.0, "fp8": 8.0, "int8": 8.0, "int4": 4.25, "q8_0": 8.5, "q4_k_m": 4.85}
)
"""Bits per weight, scales included: 16 more per group of 128 (`int4`) or of 32 (`q8_0`);
`q4_k_m` mixes 4.5 with 6.6 bits, as llama.cpp's `quantize` shows for a Llama of 8B."""
GGUF: tuple[Quantisation, ...] = ("q8_0", "q4_k_m")
BUILT_IN = "smollm2-135m"
"""The model that `moa` runs with no server and no key."""


class Weights(NamedTuple):
    """Weights of a model in one format."""

    bytes: int
    published: bool
    """True if the size is that of published files; else it is computed from the parameters."""
    repository: str | None
    """Repository on the hub; `None`: no such files are known."""


class Attention(BaseModel):
    """Figures that determine the size of the KV cache."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    layers: PositiveInt
    """Layers that keep keys and values, without a hybrid's recurrent layers."""
    kv_heads: PositiveInt
    head_dim: PositiveInt
    window: PositiveInt | None = None
    """Size of the sliding window in tokens; `None`: no layer has one."""
    windowed_layers: Annotated[int, Field(ge=0)] = 0
    """Number of `layers` with the window."""
    state: Annotated[int, Field(ge=0)] = 0
    """Bytes per sequence, of any length, that a hybrid's recurrent layers keep."""

    def bytes(self, tokens: int) -> int:
        """Return the bytes of a sequence in 16 bits; a full window doesn't grow."""
        layer_bytes = 2 * self.kv_heads * self.head_dim * 2
        window_tokens = tokens if self.window is None else min(tokens, self.window)
        full_layers = self.layers - self.windowed_layers
        return (
            layer_bytes * (full_layers * tokens + self.windowed_layers * window_tokens) + self.state
        )


class Model(BaseModel):
    """A model: its names, figures, servers and skills."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    """Its name here, such as `mistral-7b`."""
    title: str
    maker: str | None = None
    kind: Kind
    tier: Tier
    hub: str | None = None
    """Repository of its original weights on the Hugging Face hub, mostly `bf16`."""
    vendor_model: str | None = None
    """Its name at the vendor that serves it."""
    servers: tuple[Server, ...]
    parameters: PositiveInt | None = None
    """Number of parameters, embeddings included; `None`: not published."""
    active_parameters: PositiveInt | None = None
    """Parameters used per token, in a mixture of experts; `None`: all."""
    embeddings: Annotated[int, Field(ge=0)] = 0
    """Parameters that vLLM's quantisations leave in `bf16`: embeddings and output."""
    context: PositiveInt | None = None
    """Maximum tokens of a prompt and its answer together; `None`: not known."""
    licence: str
    licence_url: HttpUrl | None = None
    gated: bool = False
    """True if its licence has to be accepted on the hub first."""
    no_float16: bool = False
    """True if it fails in `float16`, the format of cards before Ampere."""
    attention: Attention | None = None
    cache_bytes: Annotated[int, Field(ge=0)] | None = None
    """Bytes of cache per token at two bytes a value, if `attention` is missing; 0 for an encoder,
    which keeps none."""
    published: dict[Quantisation, PositiveInt] = Field(default_factory=dict[Quantisation, int])
    """Bytes of published weights."""
    repositories: dict[Quantisation, str] = Field(default_factory=dict[Quantisation, str])
    """Repositories of quantised weights on the hub."""
    files: dict[Quantisation, str] = Field(default_factory=dict[Quantisation, str])
    """GGUF files in those repositories, not split, which `moa models fetch` downloads."""
    sha256: dict[Quantisation, Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]] = Field(
        default_factory=dict[Quantisation, str]
    )
    """SHA-256 of those files; if missing, the hub is asked."""
    languages: tuple[str, ...] = ()
    """ISO 639-1 codes that its makers name, or `100+`; empty: they name none."""
    good_for: tuple[Skill, ...]
    quality: dict[Skill, Annotated[int, Field(ge=1, le=5)]]
    """A coarse hint, 1 (poor) to 5 (as good as the best of its year): always an estimate."""
    quality_basis: str = "estimate from its size and generation; measure on your own data"
    """The source of the hints."""
    decides: Literal["systemone", "decisions"] | None = None
    """API by which it decides natively; `None`: it decides by label scores, or in text."""
    start: str | None = None
    """Command that serves it, if vLLM doesn't."""
    base_url: HttpUrl | None = None
    """Address of that server."""
    released: str | None = Field(default=None, pattern=r"^\d{4}-\d{2}$")
    retired: bool = False
    """True if its vendor has switched it off, or announced when."""
    sources: tuple[HttpUrl, ...] = Field(min_length=1)
    verified: date
    """Date of the last comparison of the entry with its sources."""
    unchecked: tuple[str, ...] = ()
    """Fields from general knowledge, not compared with a source."""

    @cached_property
    def weights(self) -> Mapping[Quantisation, Weights]:
        """Weights by format, as published or computed from the number of parameters."""
        weights: dict[Quantisation, Weights] = {}
        for kind, bits in BITS.items():
            repository = self.repositories.get(kind, self.hub if kind == "bf16" else None)
            if kind in self.published:
                weights[kind] = Weights(self.published[kind], True, repository)
            elif self.parameters is not None:
                unquantised = 0 if kind in GGUF else self.embeddings
                size = int((self.parameters - unquantised) * bits / 8) + unquantised * 2
                weights[kind] = Weights(size, False, repository)
        return MappingProxyType(weights)

    @property
    def gguf(self) -> HubFile | None:
        """GGUF file for moa's own engine; `None`: none is known."""
        for kind, file in self.files.items():
            return HubFile(self.repositories[kind], file, sha256=self.sha256.get(kind))
        return None

    @property
    def kv_bytes_per_token(self) -> int | None:
        """Bytes of KV cache per token, while no window is full.

        `None`: unknown, as for a vendor's model.
        """
        if self.attention is None and self.cache_bytes is None:
            return None
        return self.kv_bytes(1) - self.kv_bytes(0)

    def kv_bytes(self, tokens: int) -> int:
        """Return the bytes of a sequence's KV cache in 16 bits, with a hybrid's recurrent state.

        Raises:
            ConfigError: it is unknown, as for a vendor's model.
        """
        if self.attention is not None:
            return self.attention.bytes(tokens)
        if self.cache_bytes is not None:
            return self.cache_bytes * tokens
        raise ConfigError(f"the size of the KV cache of {self.name!r} is not known")

    @cached_property
    def price(self) -> Price:
        """Its vendor's price; unknown if no vendor sells it by the token."""
        return self._sold.price() if self._sold else Price()

    @property
    def vendor(self) -> Dialect | None:
        """The vendor that sells it by the token; `None`: no vendor does."""
        return self._sold.vendor if self._sold else None

    @cached_property
    def _sold(self) -> AddressConfig | None:
        name = self.vendor_model
        return AddressConfig(tier=self.tier, model=name) if name is not None else None

    def values(self) -> dict[str, object]:
        """Return its fields and computed figures as JSON values."""
        price = self.price
        weights = {
            name: entry._asdict() | {"file": self.files.get(name)}
            for name, entry in self.weights.items()
        }
        return {
            **self.model_dump(mode="json", exclude={"published", "repositories", "files"}),
            "weights": weights,
            "kv_bytes_per_token": self.kv_bytes_per_token,
            "input_price": None if price.input is None else float(price.input),
            "output_price": None if price.output is None else float(price.output),
        }


class Local(NamedTuple):
    """Weights for moa's own engine."""

    path: Path
    """Path of the weights, which may not be downloaded yet."""
    hub: HubFile | None = None
    """Their file on the hub; `None`: a file of the user's, or the built-in model."""
    built_in: bool = False
    """True for the built-in model, which is downloaded at first use."""


@cache
def models() -> Mapping[str, Model]:
    """Return all models by name, in the order of the file: small to large, open first."""
    text = files("moa.config").joinpath("models.toml").read_text(encoding="utf-8")
    tables = {name: {"name": name, **table} for name, table in tomllib.loads(text).items()}
    return MappingProxyType(TypeAdapter(dict[str, Model]).validate_python(tables))


def model(name: str) -> Model:
    """Return a model by its name.

    Raises:
        ConfigError: the catalogue doesn't have it; the nearest name is suggested.
    """
    catalogue = models()
    if name not in catalogue:
        raise ConfigError(
            f"the catalogue has no model {name!r}{nearest(name, list(catalogue))} "
            "See them all: moa models list"
        )
    return catalogue[name]


def local(name: str, *, folder: Path) -> Local:
    """Find the weights that `model` of an endpoint with `serve = "llama.cpp"` names.

    A name that begins with `hf:` is a file on the hub. One that holds a slash or ends with `.gguf`
    is a path, relative to `folder`. Any other is a model of the catalogue.
    """
    if name.startswith("hf:"):
        file = HubFile.parse(name)
        return Local(cached_path(file), file)
    if "/" in name or "\\" in name or name.lower().endswith(".gguf"):
        return Local(folder / Path(name).expanduser())
    if name == BUILT_IN:
        return Local(cache_folder() / SMOLLM2.file, built_in=True)
    file = model(name).gguf
    if file is None:
        raise ConfigError(
            f"the catalogue knows no GGUF file of {name!r}. Find one on the hub, and name it as "
            "hf:OWNER/REPOSITORY/FILE.gguf; or give the path of one that you have"
        )
    return Local(cached_path(file), file)
