"""Named: endpoints from strings, and from other objects given as one."""

from __future__ import annotations

import os
import re
from functools import cache, partial
from typing import TYPE_CHECKING, Protocol, Unpack

from pydantic import SecretStr

from moa.core.doors import Door
from moa.core.errors import ConfigError
from moa.core.usage import Tier
from moa.endpoints import Endpoint
from moa.endpoints.dialects import DIALECTS, VENDORS, VLLM, Dialect, published_price
from moa.endpoints.given import address_of, check_client, is_client
from moa.endpoints.openai import OpenAIEndpoint, Settings
from moa.endpoints.retries import Retried

if TYPE_CHECKING:
    from openai import AsyncOpenAI

_FORM = re.compile(r"(?P<kind>[\w.]+):(?P<model>.+?)(@(?P<url>https?://.+))?")
_KINDS = {dialect.name.lower(): dialect for dialect in DIALECTS}
_NO_MODEL = (
    "a client of OpenAI's library doesn't say which model it asks. Give "
    "moa.endpoint(client, model=…), where model is its name, or that of Azure's deployment"
)


class Embedded(Protocol):
    """What the string `embedded` asks of the room of local models."""

    def make_embedded(self, name: str, tier: Tier, settings: Settings) -> Endpoint:
        """Make the endpoint of the built-in model."""
        ...


class VLLMServers(Protocol):
    """What a string that starts with `vllm:` asks of the room of vLLM."""

    def make_vllm(
        self, name: str, model: str, base_url: str, tier: Tier, settings: Settings
    ) -> Endpoint:
        """Make the endpoint of a model that vLLM serves."""
        ...


_EMBEDDED: Door[Embedded] = Door("moa.local.embedded")
_VLLM: Door[VLLMServers] = Door("moa.vllm.endpoint")


def endpoint(
    spec: str | AsyncOpenAI,
    *,
    name: str | None = None,
    model: str | None = None,
    tier: Tier | None = None,
    **settings: Unpack[Settings],
) -> Endpoint:
    """Make an endpoint from a string. It retries after errors, like those of moa.toml.

        endpoint("openai:gpt-5-mini")
        endpoint("vllm:Qwen/Qwen3-4B@http://127.0.0.1:8000/v1")
        endpoint("embedded")
        endpoint(openai.AsyncAzureOpenAI(), model="gpt-5-mini")

    A vendor's key is read from its usual variable, such as `$OPENAI_API_KEY`; its prices are the
    published ones. An address that you give gets no key but `api_key`.

    Args:
        spec: `embedded`; `VENDOR:MODEL`; or `SERVER:MODEL@URL`, the URL up to `/v1`. Or a
            client of OpenAI's library, which sends the requests; see `OpenAIEndpoint`.
        name: Shown in traces, errors and usage; `None`: the model.
        model: The model that a client asks; a string names its own.
        tier: `slm` or `llm`; `None`: `slm` for `embedded` and vLLM, else `llm`.
        settings: See `OpenAIEndpoint`; for `embedded` only `price` and `timeout_s`.

    Raises:
        ConfigError: the string has another form, the vendor's variable is not set, a setting is
            wrong, or a client has no model.

    Examples:
        >>> large = endpoint("openai:gpt-5-mini", api_key="secret")
        >>> large.model
        'gpt-5-mini'
    """
    if not isinstance(spec, str):
        return _make_from_client(spec, name, model, tier or "llm", settings)
    if model is not None:
        raise ConfigError(f"{spec!r} names its model: leave out model={model!r}")
    if spec == "embedded":
        return _EMBEDDED.open().make_embedded(name or spec, tier or "slm", settings)
    match = _FORM.fullmatch(spec)
    dialect = _KINDS.get(match["kind"].lower()) if match else None
    if match is None or dialect is None or not (match["url"] or dialect.base_url):
        raise ConfigError(_explain_spec(spec, dialect))
    if "api_key" not in settings and not match["url"]:
        settings["api_key"] = _read_key(spec, dialect)
    model, url = str(match["model"]), match["url"] or dialect.base_url
    if dialect is VLLM:
        return Retried(_VLLM.open().make_vllm(name or model, model, url, tier or "slm", settings))
    if not match["url"]:
        settings.setdefault("price", partial(published_price, model, dialect))
    return Retried(
        OpenAIEndpoint(
            name or model,
            model=model,
            base_url=url,
            tier=tier or "llm",
            dialect=dialect,
            **settings,
        )
    )


def as_endpoint(endpoint: Endpoint | str, tier: Tier | None = None) -> Endpoint:
    """Return the endpoint for an argument of an agent or a recipe.

    Equal strings give one endpoint, so that they share its connections and slots. A bare
    `OpenAIEndpoint` gets retries; wrapped endpoints stay unchanged.
    """
    if isinstance(endpoint, str):
        keys = tuple(os.environ.get(vendor.api_key_env) for vendor in VENDORS)
        shared_endpoint = _shared_endpoint(endpoint, None, keys)
        return (
            shared_endpoint
            if tier in (None, shared_endpoint.tier)
            else _shared_endpoint(endpoint, tier, keys)
        )
    if is_client(endpoint):
        raise ConfigError(_NO_MODEL)
    return Retried(endpoint) if isinstance(endpoint, OpenAIEndpoint) else endpoint


@cache
def _shared_endpoint(spec: str, tier: Tier | None, keys: tuple[str | None, ...]) -> Endpoint:
    del keys  # another key makes another endpoint
    return endpoint(spec, tier=tier)


def _make_from_client(
    client: AsyncOpenAI, name: str | None, model: str | None, tier: Tier, settings: Settings
) -> Endpoint:
    if model is None:
        raise ConfigError(_NO_MODEL)
    check_client(client, name or model)
    address = address_of(client)
    vendor = next((vendor for vendor in VENDORS if vendor.base_url.rstrip("/") == address), None)
    settings.setdefault("price", partial(published_price, model, vendor))
    return Retried(
        OpenAIEndpoint(
            name or model, model=model, tier=tier, dialect=vendor, client=client, **settings
        )
    )


def _read_key(spec: str, vendor: Dialect) -> SecretStr:
    if key := os.environ.get(vendor.api_key_env):
        return SecretStr(key)
    raise ConfigError(
        f"{spec!r} takes its key from the environment variable {vendor.api_key_env}, which is not "
        f"set. Run: export {vendor.api_key_env}=… Or give api_key to moa.endpoint"
    )


def _explain_spec(spec: str, dialect: Dialect | None) -> str:
    if dialect is not None:
        return f"{spec!r} needs an address, as in {spec + '@http://127.0.0.1:8000/v1'!r}"
    vendor = next((vendor for vendor in VENDORS if spec.startswith(vendor.prefixes)), None)
    hint = f": did you mean {f'{vendor.name.lower()}:{spec}'!r}?" if vendor else "."
    kinds = [name for name, dialect in _KINDS.items() if not dialect.base_url]
    return (
        f"{spec!r} is no endpoint{hint} Write 'embedded'; 'VENDOR:MODEL', such as "
        f"'openai:gpt-5-mini', of {', '.join(vendor.name.lower() for vendor in VENDORS)}; or "
        f"'SERVER:MODEL@URL', such as 'vllm:Qwen/Qwen3-4B@http://127.0.0.1:8000/v1', of "
        f"{', '.join(kinds)}"
    )
