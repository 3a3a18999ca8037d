"""Configuration: `moa.toml` and the environment, read once and typed.

    [endpoints.small]
    tier = "slm"
    model = "Qwen/Qwen3-0.6B"
    base_url = "http://127.0.0.1:8000/v1"

    [endpoints.large]
    tier = "llm"
    model = "gpt-5-mini"                # its address, its key's variable and its prices are known

    [graphs.support]
    company = "Northwind Bank"

`MOA_ENDPOINTS__SMALL__BASE_URL` and the like go before the file. Keys are never in it: it names the
environment variable that holds one.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from difflib import get_close_matches
from functools import partial
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SecretStr, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from moa.config import trust
from moa.endpoints.dialects import VENDORS, Dialect, published_price
from moa.errors import ConfigError
from moa.usage import FREE, Price, Tier
from moa.vllm.settings import VLLMConfig, local_url

FILE = "moa.toml"
VARIABLE = "MOA_CONFIG"
VARIABLES = (VARIABLE, "MOA_CACHE", "MOA_MODEL")
"""All that are read, beside those of `Config`."""
_MOST_BYTES = 2 << 20
"""Of a configuration: each text in it is looked at before anything runs, which has to be quick."""
EMBEDDED = "embedded"
"""The name that `[tiers]` uses for the model that runs inside this process's machine."""

Location = tuple[int | str, ...]
"""Keys and places in lists, from the outermost one on."""
Dollars = Annotated[Decimal, Field(ge=0)]


class EndpointConfig(BaseModel):
    """One `[endpoints.NAME]` table: a model, and what serves it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tier: Tier
    model: str = Field(min_length=1)
    """Name of the model, as its server knows it. With `serve = "llama.cpp"`: a GGUF file, from the
    folder of the configuration on; a name of the catalogue; or `hf:OWNER/REPOSITORY/FILE.gguf`."""
    base_url: str | tuple[str, ...] | None = Field(default=None, min_length=1)
    """Where it is served, `/v1` included, or the addresses of several servers of the same model;
    `None`: the address of the model's vendor."""
    api_key_env: str | None = None
    """Environment variable that holds the key; `None`: the vendor's usual one, or no key where
    `base_url` is given."""
    input_price: Dollars | None = None
    """US dollars per million input tokens; `None`: as published, where the vendor is known."""
    cached_input_price: Dollars | None = None
    """US dollars per million input tokens that the server had cached; `None`: as published, where
    the other two are taken from there, else as `input_price`."""
    output_price: Dollars | None = None
    """US dollars per million output tokens; `None`: as published, where the vendor is known."""
    context_window: int | None = Field(default=None, gt=0)
    """Maximum number of tokens of a prompt and its answer together; a prompt that is longer by any
    tokenizer is refused before it is sent. `None`: whatever the server takes."""
    concurrency: int = Field(default=64, gt=0)
    """Maximum number of requests in flight; further ones wait. With `serve = "llama.cpp"` it is
    said to the engine, which else works on as many as this machine allows."""
    decide: Literal["auto", "systemone", "decisions", "labels", "text"] = "auto"
    """How it is asked to decide; `auto` finds out at first use."""
    timeout_s: float = Field(default=120.0, gt=0)
    """Seconds until a request without a complete answer is given up."""
    serve: Literal["vllm", "llama.cpp"] | None = None
    """What serves it on this machine: a vLLM that `moa up` starts, or llama.cpp in an engine of
    moa's own, which starts at its first call; `None`: it is served by others."""
    vllm: VLLMConfig = VLLMConfig()
    """How vLLM is started, where it serves."""
    served_by: str | None = None
    """Name of the endpoint whose server is asked, such as for one of its LoRA adapters."""
    priority: int = 0
    """Lower is served earlier, by a vLLM that was started with `--scheduling-policy priority`, as
    `moa up` does where `vllm.priority` is set."""
    cache: str | None = Field(default=None, min_length=1)
    """Where answers are kept, so that none is paid for twice: `memory`, or a file, from the folder
    of the configuration on; `None`: nowhere."""
    fallback: str | None = None
    """Name of the endpoint that is asked where this one fails, or `embedded`."""

    @property
    def known_as(self) -> str:
        """Name of the model in traces and measurements; of a GGUF file, its own without `.gguf`."""
        if self.serve != "llama.cpp":
            return self.model
        return PurePath(self.model).name.removesuffix(".gguf")

    @property
    def urls(self) -> tuple[str, ...]:
        """The addresses that `base_url` gives."""
        given = self.base_url or ()
        return (given,) if isinstance(given, str) else given

    @property
    def vendor(self) -> Dialect | None:
        """Who serves the model, where its name or its address says so."""
        if self.serve or self.served_by:
            return None
        address = self.urls[0].rstrip("/") if self.urls else None
        for vendor in VENDORS:
            named = self.model.startswith(vendor.prefixes)
            if named if address is None else address == vendor.base_url.rstrip("/"):
                return vendor
        return None

    def url(self, name: str) -> str:
        """Address of the server; of several, of the first.

        Raises:
            ConfigError: there is no `base_url`, and the model is none of a known vendor's; or it
                runs in an engine of moa's own, which has no address to be asked at.
        """
        if self.urls:
            return self.urls[0]
        if self.serve == "llama.cpp":
            raise ConfigError(
                f"[endpoints.{name}] has no address: its model runs in an engine of moa's own"
            )
        if self.serve:
            return local_url(self.vllm.port)
        if self.vendor is None:
            raise ConfigError(
                f"[endpoints.{name}]: the model {self.model!r} belongs to no vendor that moa "
                'knows, so it needs an address: base_url = "http://HOST:PORT/v1"'
            )
        return self.vendor.base_url

    @property
    def key_variable(self) -> str | None:
        """Environment variable that holds the key; `None` where none is needed."""
        if self.api_key_env is not None:
            return self.api_key_env
        return self.vendor.api_key_env if self.vendor else None

    def key(self, name: str) -> SecretStr | None:
        """Read the key; `None` where none is needed.

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
        """What it charges: as configured, else as published, else unknown.

        A model in an engine of moa's own charges nothing, unless it is configured.
        """
        given = {
            "input": self.input_price,
            "cached_input": self.cached_input_price,
            "output": self.output_price,
        }
        stated = self.input_price is not None and self.output_price is not None
        published = Price() if stated else published_price(self.model, self.vendor)
        price = replace(published, **{key: it for key, it in given.items() if it is not None})
        return FREE if self.serve == "llama.cpp" and not price.known else price


class Tiers(BaseModel):
    """The `[tiers]` table: which endpoint a graph takes where it names none."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    slm: str | None = None
    """Name of an endpoint, or `embedded`; `None`: the only one of this tier, else the embedded."""
    llm: str | None = None
    """Name of an endpoint, or `embedded`; `None`: the only one of this tier, else the SLM."""


class Config(BaseSettings):
    """Everything that `moa.toml` and the `MOA_…` variables say."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix="MOA_", env_nested_delimiter="__"
    )

    endpoints: dict[str, EndpointConfig] = Field(default_factory=dict[str, EndpointConfig])
    tiers: Tiers = Tiers()
    graphs: dict[str, dict[str, Any]] = Field(default_factory=dict[str, dict[str, Any]])
    """Settings of the ready graphs, checked by each graph's own model."""
    _file: Path | None = PrivateAttr(default=None)

    @property
    def file(self) -> Path | None:
        """The file that it was read from; `None`: there was none."""
        return self._file

    @property
    def folder(self) -> Path:
        """Where relative paths in it start: the folder of its file, else the working directory."""
        return (self._file.parent if self._file else Path()).absolute()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the environment go before the file, whose tables come in as arguments."""
        del settings_cls, dotenv_settings, file_secret_settings
        return env_settings, init_settings

    def server_of(self, name: str) -> str:
        """Name of the endpoint whose server answers for `name`: mostly its own."""
        return self.endpoints[name].served_by or name

    def vllm_of(self, name: str) -> VLLMConfig:
        """How the server that answers for `name` is started, where `moa up` starts it."""
        return self.endpoints[self.server_of(name)].vllm

    def serves(self, name: str) -> bool:
        """Whether `moa up` starts the server that answers for `name`."""
        return self.endpoints[self.server_of(name)].serve == "vllm"

    def embeds(self, name: str) -> bool:
        """Whether it runs in an engine of moa's own, as the built-in model does."""
        return name == EMBEDDED or self.endpoints[name].serve == "llama.cpp"

    @property
    def served(self) -> dict[str, EndpointConfig]:
        """The endpoints that `moa up` starts servers for."""
        return {name: entry for name, entry in self.endpoints.items() if entry.serve == "vllm"}

    def default(self, tier: Tier) -> str:
        """Name of the endpoint that is taken for `tier`: a small one stands in for a large one.

        Raises:
            ConfigError: several are of this tier, and `[tiers]` picks none.
        """
        chosen = self.of_tier(tier)
        return chosen or (self.default("slm") if tier == "llm" else EMBEDDED)

    def of_tier(self, tier: Tier) -> str | None:
        """Name of the endpoint that is the default of `tier`; `None` where there is none.

        Raises:
            ConfigError: several are of this tier, and `[tiers]` picks none.
        """
        chosen = self.tiers.slm if tier == "slm" else self.tiers.llm
        if chosen is not None:
            return chosen
        names = [name for name, endpoint in self.endpoints.items() if endpoint.tier == tier]
        if len(names) > 1:
            raise ConfigError(
                f"{len(names)} endpoints are of tier {tier!r} ({', '.join(names)}): "
                f'name the default in {FILE}, as [tiers] {tier} = "{names[0]}"'
            )
        return names[0] if names else None


class _FileAlone(Config):
    """What the file says, whatever the environment says."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Leave the environment out."""
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)


def find(path: str | Path | None = None) -> Path | None:
    """Find the configuration file: `path`, else `$MOA_CONFIG`, else `./moa.toml`.

    Raises:
        ConfigError: the file that `path` or the variable names is not there.
    """
    given, source = (path, "--config") if path else (os.environ.get(VARIABLE), f"${VARIABLE}")
    if given:
        if not Path(given).is_file():
            raise ConfigError(f"{source} names {str(given)!r}, and there is no such file")
        return Path(given)
    return Path(FILE) if Path(FILE).is_file() else None


def load(path: str | Path | None = None) -> Config:
    """Read the configuration that `find` finds; else what the environment says, or nothing.

    Raises:
        ConfigError: the file is missing or no TOML, a key or a value in it is wrong, or it was not
            named and does what needs trust; see `moa.config.trust`.
    """
    file = find(path)
    if file is None:
        return config_of({}, None)
    config, data = read(file)
    if not (path or os.environ.get(VARIABLE)):
        trust.check(config, data)
    return config


def read(file: Path, *, variables: bool = True) -> tuple[Config, bytes]:
    """Read a file, with the `MOA_…` variables before it or without, and give all that it holds.

    Whether it is trusted is not looked at; see `load`.
    """
    text = text_of(file)
    return config_of(parsed(text, file), file, variables=variables), text.encode()


def text_of(file: Path) -> str:
    """Read what stands in a file, byte for byte, unless it is too long for a configuration."""
    try:
        with file.open("rb") as opened:
            data = opened.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise ConfigError(
                f"{file} can't be read: it has more than {_MOST_BYTES >> 20} MiB. Put a catalogue "
                "or other data into a file of its own, and name that"
            )
        return data.decode("utf-8")
    except OSError as error:
        raise ConfigError(f"{file} can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} can't be read: it is no UTF-8 text") from error


def config_of(tables: dict[str, Any], file: Path | None, *, variables: bool = True) -> Config:
    """Check the tables of a file, with the `MOA_…` variables before them, or without.

    Whether it is trusted is not looked at; see `load`.
    """
    where = str(file) if file else f"the {Config.model_config.get('env_prefix')}… variables"
    try:
        config = (Config if variables else _FileAlone)(**tables)
    except ValidationError as error:
        raise ConfigError(explained(error, Config, where=where)) from error
    except SettingsError as error:
        raise ConfigError(f"{where}: {error}") from error
    config._file = file  # pyright: ignore[reportPrivateUsage]
    if EMBEDDED in config.endpoints:
        raise ConfigError(
            f"{where}: [endpoints.{EMBEDDED}] is the name of the model that is built in"
        )
    for name, endpoint in config.endpoints.items():
        place = f"{where}: [endpoints.{name}]"
        stated = {endpoint.input_price, endpoint.cached_input_price, endpoint.output_price} - {None}
        if stated and not endpoint.price().known:
            raise ConfigError(
                f"{place} gives one price of a model whose others are not known: give both "
                "input_price and output_price"
            )
        _check_server(config, name, place)
    _check_ports(config, where)
    _check_fallbacks(config, where)
    for tier, name in (("slm", config.tiers.slm), ("llm", config.tiers.llm)):
        if name is not None and name != EMBEDDED and name not in config.endpoints:
            known = [*config.endpoints, EMBEDDED]
            raise ConfigError(
                f"{where}: [tiers] {tier} = {name!r} is no endpoint{nearest(name, known)}"
            )
    return config


def explained(
    error: ValidationError,
    known: type[BaseModel] | Callable[[Location], list[str]],
    *,
    where: str,
    table: str | None = None,
) -> str:
    """Say in sentences what pydantic found wrong, with the nearest right key.

    `known` is the model that was to be read, or gives the keys that may stand at a place. Each
    sentence starts with `where`, such as the file, and the `table` of it that was read.
    """
    keys = partial(keys_at, known) if isinstance(known, type) else known
    return "\n".join(
        _sentence(problem, keys, where, table) for problem in error.errors(include_url=False)
    )


def nearest(wrong: str, known: list[str] | tuple[str, ...]) -> str:
    """End a sentence about an unknown name with the nearest known one, or with all of them."""
    close = get_close_matches(wrong, known, n=1, cutoff=0.6)
    if close:
        return f". Did you mean {close[0]!r}?"
    return f". Known: {', '.join(known)}" if known else ""


def misspelt_variables() -> dict[str, str]:
    """Find variables that nothing reads and that are nearly one that is, which is named."""
    prefix = str(Config.model_config.get("env_prefix"))
    known = [name.removeprefix(prefix) for name in VARIABLES]
    known += [field.upper() for field in Config.model_fields]
    found: dict[str, str] = {}
    for name in sorted(os.environ):
        head, *rest = name.upper().removeprefix(prefix).split("__")
        if name.upper().startswith(prefix) and head not in known:
            for right in get_close_matches(head, known, n=1, cutoff=0.75):
                found[name] = prefix + "__".join([right, *rest])
    return found


def _check_server(config: Config, name: str, place: str) -> None:
    """Refuse keys of a server that is another's, or that are two answers to one question."""
    endpoint = config.endpoints[name]
    if endpoint.serve == "llama.cpp":
        return _check_embedded(endpoint, place)
    if endpoint.serve or endpoint.served_by:
        said = "serve" if endpoint.serve else "served_by"
        for other in ("base_url", "api_key_env", "served_by"):
            if other != said and getattr(endpoint, other) is not None:
                raise ConfigError(
                    f"{place} gives {said} and {other}: where moa starts the server, its address "
                    f"and its key are moa's own. Leave out one of the two"
                )
    if endpoint.serve is None and "vllm" in endpoint.model_fields_set:
        raise ConfigError(f'{place} has a table vllm, which needs serve = "vllm" above it')
    if endpoint.served_by is not None:
        _check_served_by(config, endpoint, endpoint.served_by, place)
    server = config.endpoints[endpoint.served_by or name]
    if endpoint.priority and endpoint.vendor is not None:
        raise ConfigError(f"{place} has a priority, which only a vLLM of your own heeds")
    if endpoint.priority and server.serve and not server.vllm.priority:
        raise ConfigError(
            f"{place} has a priority, which its server heeds only with "
            f"[endpoints.{endpoint.served_by or name}.vllm] priority = true"
        )


def _check_embedded(endpoint: EndpointConfig, place: str) -> None:
    """Refuse keys of a server where there is none."""
    for key in ("base_url", "api_key_env", "served_by", "vllm", "priority"):
        if key in endpoint.model_fields_set:
            raise ConfigError(
                f'{place} gives serve = "llama.cpp" and {key}, which means nothing there: it runs '
                "in an engine of moa's own on this machine. Leave out one of the two"
            )
    if endpoint.decide not in ("auto", "labels"):
        raise ConfigError(
            f'{place} gives serve = "llama.cpp" and decide = {endpoint.decide!r}: that engine '
            "decides by label log-probabilities. Leave decide out"
        )


def _check_served_by(config: Config, endpoint: EndpointConfig, server: str, place: str) -> None:
    serving = config.served
    if server not in serving:
        raise ConfigError(
            f'{place} served_by = {server!r} is no endpoint with serve = "vllm"'
            f"{nearest(server, list(serving))}"
        )
    models = [serving[server].model, *serving[server].vllm.lora]
    if endpoint.model not in models:
        raise ConfigError(
            f"{place} asks [endpoints.{server}] for the model {endpoint.model!r}, which is neither "
            f"its model nor one of its lora adapters{nearest(endpoint.model, models)}"
        )


def _check_ports(config: Config, where: str) -> None:
    taken: dict[int, str] = {}
    for name, endpoint in config.served.items():
        for port in endpoint.vllm.ports:
            if port in taken:
                raise ConfigError(
                    f"{where}: [endpoints.{name}.vllm] and [endpoints.{taken[port]}.vllm] both "
                    f"take port {port}: give one of them another port"
                )
            taken[port] = name


def _check_fallbacks(config: Config, where: str) -> None:
    known = [*config.endpoints, EMBEDDED]
    for name in config.endpoints:
        passed, following = [name], config.endpoints[name].fallback
        while following is not None:
            place = f"{where}: [endpoints.{passed[-1]}] fallback = {following!r}"
            if following not in known:
                raise ConfigError(f"{place} is no endpoint{nearest(following, known)}")
            if following in passed:
                raise ConfigError(f"{place} leads back to where it began: name another, or none")
            passed.append(following)
            entry = config.endpoints.get(following)
            following = entry.fallback if entry else None


def parsed(text: str, file: Path) -> dict[str, Any]:
    """Read the tables of a configuration."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file} is not valid TOML: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{file} is nested too deep to be read") from error


_TAKES = {
    "dict_type": "a table, such as {KEY = VALUE}",
    "model_type": "a table, such as {KEY = VALUE}",
    "list_type": "a list, such as [VALUE, VALUE]",
    "tuple_type": "a list, such as [VALUE, VALUE]",
}
"""What a key takes that was given something else, in words of TOML."""


def _sentence(
    problem: ErrorDetails, keys: Callable[[Location], list[str]], where: str, outer: str | None
) -> str:
    place = problem["loc"]
    table = ".".join(str(part) for part in (outer, *place[:-1]) if part is not None)
    where = f"{where.removesuffix(':')}: [{table}]" if table else where
    key = str(place[-1]) if place else ""
    if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"{where} has no key {key!r}{nearest(key, keys(place[:-1]))}"
    if problem["type"].startswith("missing"):
        return f"{where} needs {key!r}, and it is not there"
    said = re.sub(r"^(?:Value error|Assertion failed), ", "", problem["msg"])
    said = said[:1].lower() + said[1:].replace(" after validation", "")
    if problem["type"] in _TAKES:
        said = f"takes {_TAKES[problem['type']]}, not {problem['input']!r:.80}"
    return f"{where} {key}: {said}" if key else f"{where}: {said}"


def keys_at(annotation: Any, location: Location) -> list[str]:
    """Name the keys that may stand at a place within what an annotation reads."""
    for part in location:
        if get_origin(annotation) in (dict, list):
            annotation = get_args(annotation)[-1]
        elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
            field = annotation.model_fields.get(str(part))
            annotation = field.annotation if field else None
        else:
            return []
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return list(annotation.model_fields)
    return []
