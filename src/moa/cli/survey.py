"""Survey: what is configured, and what of it is there."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from moa.cli.tables import dollars
from moa.config import EMBEDDED, Config
from moa.context import RunContext
from moa.endpoints import Capability
from moa.endpoints.detection import way_of
from moa.endpoints.engine import check_engine
from moa.endpoints.profiles import Profile, profile_of
from moa.endpoints.weights import SMOLLM2, cache_folder
from moa.errors import ConfigError, MissingDependency, MoaError
from moa.measuring import price_of
from moa.tiers import Endpoints
from moa.usage import Price, Tier

PROBE_S = 3.0
"""Seconds until a server counts as not there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surveyed:
    """One endpoint, as it was found."""

    name: str
    default_of: tuple[Tier, ...]
    """The tiers that it is the default of."""
    tier: Tier
    model: str
    address: str
    there: bool
    state: str
    """In words: reachable, or what is missing."""
    price: Price
    can: tuple[Capability, ...]
    decides: str
    """How it decides, as far as is known before the first decision."""

    def line(self) -> dict[str, object]:
        """Write it as what `json` can write."""
        return {
            "name": self.name,
            "default_of": list(self.default_of),
            "tier": self.tier,
            "model": self.model,
            "address": self.address,
            "reachable": self.there,
            "state": self.state,
            "input_price": None if self.price.input is None else float(self.price.input),
            "output_price": None if self.price.output is None else float(self.price.output),
            "can": list(self.can),
            "decides": self.decides,
        }

    @property
    def able(self) -> str:
        """What it can do in words, and how it decides."""
        return ", ".join(f"{it} ({self.decides})" if it == "decide" else it for it in self.can)

    @property
    def priced(self) -> str:
        """Its price in words, per million tokens."""
        if not self.price.known:
            return "unknown"
        measured = ", as measured" if self.price.measured else ""
        return f"{dollars(self.price.input)} in, {dollars(self.price.output)} out{measured}"


async def survey(config: Config) -> list[Surveyed]:
    """Look at every configured endpoint, side by side, and at the embedded model."""
    found = await asyncio.gather(*(_server(config, name) for name in config.endpoints))
    return [*found, _embedded(config)]


def defaults(config: Config) -> dict[Tier, str]:
    """Name the endpoint that each tier falls to."""
    slm = config.of_tier("slm") or EMBEDDED
    return {"slm": slm, "llm": config.of_tier("llm") or slm}


async def _server(config: Config, name: str) -> Surveyed:
    entry = config.endpoints[name]
    unkeyed = Endpoints(config, read_keys=False)
    there, state, known = await _probed(config, name)
    try:
        can = tuple(sorted(unkeyed.server(name).capabilities))
    except ConfigError:  # the probe has said what is wrong
        can = ()
    return Surveyed(
        name=name,
        default_of=tuple(tier for tier, chosen in defaults(config).items() if chosen == name),
        tier=entry.tier,
        model=entry.model,
        address=_without_password(_address(config, name)),
        there=there,
        state=state,
        price=price_of(config, name),
        can=can,
        decides=way_of(entry.decide, known),
    )


def _address(config: Config, name: str) -> str:
    try:
        server = config.server_of(name)
        return config.endpoints[server].url(server)
    except ConfigError:
        return "none"


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


async def _probed(config: Config, name: str) -> tuple[bool, str, Profile | None]:
    """Ask a server for its list of models, which every vendor's knows and which costs nothing."""
    try:
        server = Endpoints(config).server(name)
    except ConfigError as error:
        return False, str(error), None
    try:
        listed = await server.client.get("/models", RunContext(timeout_s=PROBE_S))
    except MoaError as error:
        return False, str(error), None
    finally:
        await server.close()
    known = profile_of(listed)
    models = [str(entry.get("id")) for entry in listed.get("data") or ()]
    wanted = config.endpoints[name].model
    if models and not any(wanted == model.removeprefix("models/") for model in models):
        return False, f"reachable, but serves {', '.join(models[:5])} and no {wanted!r}", known
    return True, "reachable", known


def _embedded(config: Config) -> Surveyed:
    endpoint = Endpoints(config).named(EMBEDDED)
    there, state = _local()
    return Surveyed(
        name=EMBEDDED,
        default_of=tuple(tier for tier, chosen in defaults(config).items() if chosen == EMBEDDED),
        tier="slm",
        model=endpoint.model,
        address="this machine",
        there=there,
        state=state,
        price=endpoint.price,
        can=tuple(sorted(endpoint.capabilities)),
        decides=way_of("labels", None),
    )


def _local() -> tuple[bool, str]:
    """Look for the engine and the weights, without starting or fetching anything."""
    try:
        check_engine()
    except MissingDependency as error:
        return False, str(error)
    given = os.environ.get("MOA_MODEL")
    kept = Path(given) if given else cache_folder() / SMOLLM2.file
    if kept.is_file():
        return True, f"ready, weights in {kept.parent}"
    if given:
        return False, f"$MOA_MODEL names {given!r}, and there is no such file"
    return True, f"ready, {SMOLLM2.size // 1_000_000} MB are fetched at first use"
