"""Tables: pydantic models of `moa.toml`.

    [endpoints.small]
    tier = "slm"
    model = "Qwen/Qwen3-0.6B"
    base_url = "http://127.0.0.1:8000/v1"

    [endpoints.large]
    tier = "llm"
    model = "gpt-5-mini"                # its address, its key's variable and its prices are known

    [graphs.support]
    company = "Northwind Bank"

There are four kinds of endpoints, each with its own keys: `AddressConfig`, `ServerConfig`,
`AdapterConfig` and `EngineConfig`. API keys are never in the file: it names the environment
variable that has one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from decimal import Decimal
from pathlib import Path, PurePath
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    PrivateAttr,
    SecretStr,
    Tag,
    TypeAdapter,
    model_validator,
)

from moa.config.faults import nearest
from moa.core._json import JSON, is_table
from moa.core.errors import ConfigError
from moa.core.usage import FREE, Price, Tier
from moa.endpoints.dialects import VENDORS, Dialect, published_price
from moa.vllm.settings import VLLMConfig

FILE = "moa.toml"
EMBEDDED = "embedded"
"""Name of the built-in model in `[tiers]`."""

Toml = JSON
"""A table of a file, as `tomllib` reads it."""
Dollars = Annotated[Decimal, Field(ge=0)]

_CHECKED = ConfigDict(extra="forbid", frozen=True, defer_build=True)
"""Models are built at the first use of `Config`: building each separately takes twice as long."""


class EndpointConfig(BaseModel):
    """One `[endpoints.NAME]` table: a model, and the keys that every kind of endpoint has."""

    model_config = _CHECKED

    tier: Tier
    model: str = Field(min_length=1)
    """Name of the model, as its server knows it."""
    input_price: Dollars | None = None
    """US dollars per million input tokens; `None`: as published, if the vendor is known."""
    cached_input_price: Dollars | None = None
    """US dollars per million input tokens that the server had cached; `None`: as published, if the
    other prices are, else `input_price`."""
    output_price: Dollars | None = None
    """US dollars per million output tokens; `None`: as published, if the vendor is known."""
    context_window: int | None = Field(default=None, gt=0)
    """Maximum number of tokens of a prompt and its answer together. A prompt that is longer by any
    tokenizer is refused before it is sent. `None`: the server's limit."""
    concurrency: int = Field(default=64, gt=0)
    """Maximum number of requests in flight; further ones wait. With `serve = "llama.cpp"` it sets
    the engine's slots, by default as many as this machine allows."""
    timeout_s: float = Field(default=120.0, gt=0)
    """Seconds until a request without a complete answer fails."""
    cache: str | None = Field(default=None, min_length=1)
    """Cache of answers, so that none is paid for twice: `memory`, or a file relative to the
    configuration's folder; `None`: no cache."""
    fallback: str | None = None
    """Name of the endpoint to ask if this one fails, or `embedded`."""

    @property
    def model_name(self) -> str:
        """Name of the model in traces and measurements."""
        return self.model

    @property
    def urls(self) -> tuple[str, ...]:
        """Addresses in its table."""
        return ()

    @property
    def vendor(self) -> Dialect | None:
        """The vendor that serves the model; `None` if its name and address don't tell."""
        return None

    @property
    def key_variable(self) -> str | None:
        """Environment variable that holds the key; `None` if none is needed."""
        return None

    def key(self, name: str) -> SecretStr | None:
        """Read the key; `None` if none is needed.

        Raises:
            ConfigError: the variable is not set.
        """
        variable = self.key_variable
        if variable is None:
            return None
        value = os.environ.get(variable)
        if not value:
            raise ConfigError(
                f"[endpoints.{name}] takes its key from the environment variable {variable}, "
                f"which is not set. Run: export {variable}=…"
            )
        return SecretStr(value)

    def price(self) -> Price:
        """Return its price: as configured, else as published, else unknown."""
        configured = {
            "input": self.input_price,
            "cached_input": self.cached_input_price,
            "output": self.output_price,
        }
        stated = self.input_price is not None and self.output_price is not None
        published = Price() if stated else published_price(self.model, self.vendor)
        return replace(
            published, **{key: value for key, value in configured.items() if value is not None}
        )


class RemoteConfig(EndpointConfig):
    """An endpoint on a server; there are three kinds."""

    decide: Literal["auto", "systemone", "decisions", "labels", "text"] = "auto"
    """Way to ask for decisions; `auto` finds out at first use."""
    priority: int = 0
    """Scheduling priority; lower is served earlier. It needs a vLLM started with
    `--scheduling-policy priority`, as `moa up` does if `vllm.priority` is set."""


class AddressConfig(RemoteConfig):
    """An endpoint that others serve: a vendor, or a server with an address."""

    base_url: str | tuple[str, ...] | None = Field(default=None, min_length=1)
    """Its address, `/v1` included, or the addresses of several servers of the same model;
    `None`: the address of the model's vendor."""
    api_key_env: str | None = None
    """Environment variable that holds the key; `None`: the vendor's usual one, or no key for an
    unknown vendor."""

    @property
    def urls(self) -> tuple[str, ...]:
        """Addresses in `base_url`."""
        addresses = self.base_url or ()
        return (addresses,) if isinstance(addresses, str) else addresses

    @property
    def vendor(self) -> Dialect | None:
        """The vendor that serves the model; `None` if its name and address don't tell."""
        address = self.urls[0].rstrip("/") if self.urls else None
        for vendor in VENDORS:
            is_named = self.model.startswith(vendor.prefixes)
            if is_named if address is None else address == vendor.base_url.rstrip("/"):
                return vendor
        return None

    @property
    def key_variable(self) -> str | None:
        """Environment variable that holds the key; `None` if none is needed."""
        if self.api_key_env is not None:
            return self.api_key_env
        return self.vendor.api_key_env if self.vendor else None

    def addresses(self, name: str) -> tuple[str, ...]:
        """List the addresses of its servers: those given, else its vendor's.

        Raises:
            ConfigError: there is no `base_url`, and the model isn't one of a known vendor's.
        """
        if self.urls:
            return self.urls
        if self.vendor is None:
            raise ConfigError(
                f"[endpoints.{name}]: the model {self.model!r} belongs to no vendor that moa "
                'knows, so it needs an address: base_url = "http://HOST:PORT/v1"'
            )
        return (self.vendor.base_url,)


class ServerConfig(RemoteConfig):
    """An endpoint whose server `moa up` starts: a vLLM on this machine."""

    serve: Literal["vllm"]
    vllm: VLLMConfig = VLLMConfig()
    """Settings of vLLM."""


class AdapterConfig(RemoteConfig):
    """An endpoint that the server of another endpoint answers for, such as a LoRA adapter."""

    served_by: str
    """Name of the endpoint whose server is asked."""


class EngineConfig(EndpointConfig):
    """An endpoint whose model runs in moa's own engine, which starts at its first call.

    Its `model` is a GGUF file relative to the configuration's folder, a name of the catalogue, or
    `hf:OWNER/REPOSITORY/FILE.gguf`.
    """

    serve: Literal["llama.cpp"]
    decide: Literal["auto", "labels", "text"] = "auto"
    """Way to ask for decisions: by the log-probabilities of labels, by answers as JSON, or as is
    known to be better for the model."""

    @property
    def model_name(self) -> str:
        """Name of its file without `.gguf`."""
        return PurePath(self.model).name.removesuffix(".gguf")

    def price(self) -> Price:
        """Return its price: free, unless one is configured."""
        price = super().price()
        return price if price.known else FREE


_ELSEWHERE = "a server elsewhere"
_ADAPTER = "served_by (an adapter)"


def _kind(table: object) -> str | None:
    """Return the tag of a table's kind of endpoint, as pydantic's discriminator."""
    if isinstance(table, EndpointConfig):
        table = {key: getattr(table, key) for key in table.model_fields_set}
    if not is_table(table):
        return None
    if table.get("serve") is not None:
        return f'serve = "{table["serve"]}"'
    return _ADAPTER if table.get("served_by") is not None else _ELSEWHERE


AnyEndpoint = Annotated[
    Annotated[AddressConfig, Tag(_ELSEWHERE)]
    | Annotated[ServerConfig, Tag('serve = "vllm"')]
    | Annotated[AdapterConfig, Tag(_ADAPTER)]
    | Annotated[EngineConfig, Tag('serve = "llama.cpp"')],
    Discriminator(_kind),
]
"""An endpoint of any kind; errors name a kind by its tag."""


def endpoint_of(table: Mapping[str, object]) -> AnyEndpoint:
    """Validate the table of a single endpoint.

    Raises:
        ValidationError: it is invalid.
    """
    return TypeAdapter[AnyEndpoint](AnyEndpoint).validate_python(table)


class Tiers(BaseModel):
    """The `[tiers]` table: the default endpoint of each tier, for graphs that name none."""

    model_config = _CHECKED

    slm: str | None = None
    """Name of an endpoint, or `embedded`; `None`: the only one of this tier, else `embedded`."""
    llm: str | None = None
    """Name of an endpoint, or `embedded`; `None`: the only one of this tier, else the SLM."""


class Config(BaseModel):
    """The contents of `moa.toml` and of the `MOA_…` variables."""

    model_config = _CHECKED

    endpoints: dict[str, AnyEndpoint] = Field(default_factory=dict[str, AnyEndpoint])
    tiers: Tiers = Tiers()
    graphs: dict[str, Toml] = Field(default_factory=dict[str, Toml])
    """Settings of the ready graphs, checked by each graph's own model."""
    _file: Path | None = PrivateAttr(default=None)

    @property
    def file(self) -> Path | None:
        """The file that it was read from; `None`: there was none."""
        return self._file

    @property
    def folder(self) -> Path:
        """Base of relative paths in it: the folder of its file, else the working directory."""
        return (self._file.parent if self._file else Path()).absolute()

    def server_of(self, name: str) -> str:
        """Return the endpoint whose server answers for `name`: itself, or its `served_by`."""
        entry = self.endpoints[name]
        return entry.served_by if isinstance(entry, AdapterConfig) else name

    def vllm_of(self, name: str) -> VLLMConfig | None:
        """Return the settings of the server for `name`; `None` if `moa up` doesn't start it."""
        server = self.endpoints[self.server_of(name)]
        return server.vllm if isinstance(server, ServerConfig) else None

    def embeds(self, name: str) -> bool:
        """Return True if an endpoint runs in moa's own engine, as the built-in model does."""
        return name == EMBEDDED or isinstance(self.endpoints[name], EngineConfig)

    @property
    def served_endpoints(self) -> dict[str, ServerConfig]:
        """The endpoints that `moa up` starts servers for."""
        entries = self.endpoints.items()
        return {name: entry for name, entry in entries if isinstance(entry, ServerConfig)}

    def default(self, tier: Tier) -> str:
        """Return the endpoint's name for `tier`. `llm` falls back to `slm`, `slm` to the built-in.

        Raises:
            ConfigError: several are of this tier, and `[tiers]` picks none.
        """
        name = self.default_of(tier)
        return name or (self.default("slm") if tier == "llm" else EMBEDDED)

    def default_of(self, tier: Tier) -> str | None:
        """Return the name of the default endpoint of `tier`; `None` if there is none.

        Raises:
            ConfigError: several are of this tier, and `[tiers]` picks none.
        """
        default = self.tiers.slm if tier == "slm" else self.tiers.llm
        if default is not None:
            return default
        names = [name for name, endpoint in self.endpoints.items() if endpoint.tier == tier]
        if len(names) > 1:
            raise ConfigError(
                f"{len(names)} endpoints are of tier {tier!r} ({', '.join(names)}): "
                f'name the default in {FILE}, as [tiers] {tier} = "{names[0]}"'
            )
        return names[0] if names else None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        """Check references between tables; each line of the error is a fault."""
        faults = [
            *self._find_wrong_names(),
            *(fault for name in self.endpoints for fault in self._find_wrong_values(name)),
            *self._find_shared_ports(),
        ]
        if faults:
            raise ValueError("\n".join(faults))
        return self

    def _find_wrong_names(self) -> Iterator[str]:
        """Find names of endpoints that don't exist, and circular fallbacks."""
        if EMBEDDED in self.endpoints:
            yield f"[endpoints.{EMBEDDED}] is the name of the model that is built in"
        names = [*self.endpoints, EMBEDDED]
        references = {f"[tiers] {tier}": name for tier, name in self.tiers.model_dump().items()}
        references |= {
            f"[endpoints.{name}] fallback": entry.fallback for name, entry in self.endpoints.items()
        }
        for setting, name in references.items():
            if name is not None and name not in names:
                yield f"{setting} = {name!r} is no endpoint{nearest(name, names)}"
        for name in self.endpoints:
            chain = [name]
            while following := getattr(self.endpoints.get(chain[-1]), "fallback", None):
                if following in chain:
                    setting = f"[endpoints.{chain[-1]}] fallback = {following!r}"
                    yield f"{setting} leads back to where it began: name another, or none"
                    return
                chain.append(following)

    def _find_wrong_values(self, name: str) -> Iterator[str]:
        entry, table = self.endpoints[name], f"[endpoints.{name}]"
        stated = {entry.input_price, entry.cached_input_price, entry.output_price} - {None}
        if stated and not entry.price().known:
            yield (
                f"{table} gives one price of a model whose others are not known: give both "
                "input_price and output_price"
            )
        if isinstance(entry, AdapterConfig):
            yield from self._find_wrong_server(entry, table)
        elif isinstance(entry, ServerConfig):
            yield from _find_unused_priority(entry, name, entry, table)
        elif isinstance(entry, AddressConfig) and entry.priority and entry.vendor:
            yield f"{table} has a priority, which only a vLLM of your own heeds. Leave it out"

    def _find_wrong_server(self, entry: AdapterConfig, table: str) -> Iterator[str]:
        server = self.served_endpoints.get(entry.served_by)
        if server is None:
            yield (
                f'{table} served_by = {entry.served_by!r} is no endpoint with serve = "vllm"'
                f"{nearest(entry.served_by, list(self.served_endpoints))}"
            )
            return
        models = [server.model, *server.vllm.lora]
        if entry.model not in models:
            yield (
                f"{table} asks [endpoints.{entry.served_by}] for the model {entry.model!r}, which "
                f"is neither its model nor one of its lora adapters{nearest(entry.model, models)}"
            )
        yield from _find_unused_priority(entry, entry.served_by, server, table)

    def _find_shared_ports(self) -> Iterator[str]:
        names: dict[int, str] = {}
        for name, endpoint in self.served_endpoints.items():
            for port in endpoint.vllm.ports:
                owner = names.setdefault(port, name)
                if owner != name:
                    yield (
                        f"[endpoints.{name}.vllm] and [endpoints.{owner}.vllm] both take port "
                        f"{port}: give one of them another port"
                    )
                    return


def _find_unused_priority(
    entry: ServerConfig | AdapterConfig, name: str, server: ServerConfig, table: str
) -> Iterator[str]:
    if entry.priority and not server.vllm.priority:
        yield (
            f"{table} has a priority, which its server heeds only with [endpoints.{name}.vllm] "
            "priority = true"
        )
