"""Adding: the endpoint that a known model becomes, and what is left to its user to do."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from urllib.parse import urlsplit

from moa.advisor.catalogue import Model, Quantisation
from moa.advisor.hardware import Machine
from moa.config import Config, EndpointConfig
from moa.errors import ConfigError
from moa.placing import Served, best_fit, largest_that_fits, least_fit, vllm_table
from moa.usage import Tier
from moa.vllm.settings import VLLMConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """How a model is to be added, where that isn't left to the catalogue and the machine."""

    tier: Tier | None = None
    tokens: int | None = None
    """Longest prompt and answer together."""
    concurrency: int | None = None
    """Sequences of that length at once."""
    quantisation: Quantisation | None = None
    """How its weights are kept."""
    replicas: int = 1
    """Servers of it, each on GPUs of its own."""
    anyway: bool = False
    """Whether it is added though it does not fit, or is retired."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """An endpoint to be written, and what to say of it."""

    model: Model
    table: Mapping[str, object]
    """Of the endpoint."""
    notes: tuple[str, ...]
    """What its user should know."""
    steps: tuple[str, ...]
    """What its user does next, commands among them."""
    tiers: Mapping[Tier, str] = field(default_factory=dict[Tier, str])
    """Defaults to be written with it: which endpoint its tier had so far, where none was named."""


def added(
    model: Model, name: str, *, machine: Machine, config: Config, wish: Wish | None = None
) -> Added:
    """Make the endpoint of a known model: served by vLLM here, by its vendor, or by its user.

    Args:
        model: Of the catalogue.
        name: Of the endpoint.
        machine: Where an open model is served.
        config: The endpoints that are there already.
        wish: What is not left to the catalogue and the machine.

    Raises:
        ConfigError: the model does not fit the machine, or its vendor has retired it, and that is
            not wished `anyway`.
    """
    wish = wish or Wish()
    if model.retired and not wish.anyway:
        raise ConfigError(
            f"{model.title} is retired by its vendor. Look for its successor: moa models list. "
            "--force writes it all the same"
        )
    if "vllm" in model.servers:
        made = _served_here(model, name, machine, config, wish)
    elif model.vendor_model is not None:
        made = at_vendor(model, wish.tier)
    else:
        made = _started(model, wish)
    return with_default(made, name, config)


def free_port(config: Config, *, first: int = VLLMConfig().port) -> int:
    """Give the first port, from vLLM's own on, that no endpoint is served at."""
    used = {port for endpoint in config.served.values() for port in endpoint.vllm.ports}
    used |= {urlsplit(url).port for it in config.endpoints.values() for url in it.urls}
    port = first
    while port in used:
        port += 1
    return port


def _served_here(model: Model, name: str, machine: Machine, config: Config, wish: Wish) -> Added:
    rest = _without(config, name)
    longest, many, kept = wish.tokens, wish.concurrency, wish.quantisation
    sought = partial(best_fit, tokens=longest, concurrency=many, quantisation=kept, config=rest)
    served = sought(model, machine)
    notes: list[str] = []
    if served is None:
        lacking = partial(least_fit, tokens=longest, concurrency=many, quantisation=kept)
        served = lacking(model, machine, config=rest)
        sentence = _too_big(served, machine, rest)
        if not wish.anyway:
            raise ConfigError(f"{sentence}. Nothing was written; --force writes it all the same")
        notes.append(f"{sentence}.")
    table = vllm_table(served, tier=wish.tier, port=free_port(rest), replicas=wish.replicas)
    steps = [f"moa up {name}"]
    if model.gated:
        page = f"https://huggingface.co/{model.hub}"
        steps.insert(0, f"accept the licence at {page}, and: export HF_TOKEN=…")
    return Added(
        model=model,
        table=table,
        notes=(*notes, *_sizes(served), *_cautions(model)),
        steps=tuple(steps),
    )


def at_vendor(model: Model, tier: Tier | None = None) -> Added:
    """Make the endpoint of a model at its vendor, also where it could be served here.

    Args:
        model: That a vendor sells.
        tier: `None`: the model's own.
    """
    table: dict[str, object] = {"tier": tier or model.tier, "model": model.vendor_model}
    if model.decides:
        table["decide"] = model.decides
    variable = EndpointConfig.model_validate(table).key_variable
    key = (f"export {variable}=…",) if variable and variable not in os.environ else ()
    price = model.price()
    note = f"US$ {price.input:f} per million input tokens, {price.output:f} output"
    return Added(
        model=model,
        table=table,
        notes=(note if price.known else "its price is not known", *_cautions(model)),
        steps=(*key, "moa models"),
    )


def _started(model: Model, wish: Wish) -> Added:
    table: dict[str, object] = {
        "tier": wish.tier or model.tier,
        "model": model.hub or model.name,
        "base_url": str(model.base_url),
        "decide": model.decides,
    }
    notes = ("vLLM does not serve it: `moa up` leaves it to you", *_cautions(model))
    return Added(model=model, table=table, notes=notes, steps=(str(model.start), "moa models"))


def with_default(made: Added, name: str, config: Config) -> Added:
    """Keep the default that a tier had, which two endpoints would leave open.

    Args:
        made: What is to be written.
        name: Of its endpoint.
        config: The endpoints that are there already.
    """
    tier: Tier = "slm" if made.table["tier"] == "slm" else "llm"
    stated = config.tiers.slm if tier == "slm" else config.tiers.llm
    others = [other for other, it in _without(config, name).endpoints.items() if it.tier == tier]
    before = stated or (others[0] if len(others) == 1 else None)
    if before is None or before == name:
        return made
    said = f'[endpoints.{before}] stays the default of its tier, by [tiers] {tier} = "{before}"'
    tiers: dict[Tier, str] = {} if stated else {tier: before}
    return replace(made, tiers=tiers, notes=(*made.notes, said))


def _without(config: Config, name: str) -> Config:
    kept = {other: it for other, it in config.endpoints.items() if other != name}
    return config.model_copy(update={"endpoints": kept})


def _sizes(served: Served) -> tuple[str, str]:
    fit = served.fit
    requests = "one request" if fit.asked == 1 else f"{fit.asked} requests"
    room = f"room for {requests} of {fit.tokens:,} tokens at once"
    parts = f"weights {_gb(fit.weights)} + cache {_gb(fit.kv)} + server {_gb(fit.overhead)}"
    return (
        f"{fit.quantisation} on {served.place}, {room}; by estimate",
        f"{parts} = {_gb(fit.needed)} of {_gb(fit.budget)}",
    )


def _too_big(served: Served, machine: Machine, config: Config) -> str:
    fit = served.fit
    beside = " beside what is configured" if config.served else ""
    requests = "one request" if fit.asked == 1 else f"{fit.asked} requests at once"
    sentence = (
        f"{served.model.title} does not fit this machine ({machine}){beside}: in "
        f"{fit.quantisation} with {requests} of {fit.tokens:,} tokens it takes "
        f"{_gb(fit.needed)}, and {served.place} gives {_gb(fit.budget)}"
    )
    largest = largest_that_fits(machine, config=config)
    if largest is None:
        return f"{sentence}. No model that vLLM serves fits"
    return f"{sentence}. The largest that fits is {largest.model.name} ({largest.fit.quantisation})"


def _cautions(model: Model) -> tuple[str, ...]:
    licence = f"licence: {model.licence}" + (f", {model.licence_url}" if model.licence_url else "")
    if model.checked:
        return (licence,)
    return (licence, f"not compared with a source: {', '.join(model.unchecked)}")


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
