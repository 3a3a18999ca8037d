"""Config: the endpoint of a known model in `moa.toml`, and the next steps of the user."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

from moa.advisor.choice import Plan, format_memory
from moa.advisor.fit import CPU_CONCURRENCY, SPARE, LocalModel, vllm_fit
from moa.advisor.hardware import GIB, Machine
from moa.config.catalogue import BUILT_IN, Model
from moa.config.tables import Config, endpoint_of
from moa.core.errors import ConfigError
from moa.core.usage import Tier
from moa.local.words import Quantisation
from moa.vllm.settings import UTILISATION, VLLMConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """The endpoint of a model, with notes and steps for the user."""

    table: Mapping[str, object] = field(default_factory=dict[str, object])
    """Table of the endpoint; empty: it needs none."""
    notes: tuple[str, ...]
    """Notes for the user."""
    steps: tuple[str, ...] = ()
    """Next steps of the user, such as commands."""
    tiers: Mapping[Tier, str] = field(default_factory=dict[Tier, str])
    """Default endpoint to write for its tier: the only one so far, if no default was named."""


def setup(
    model: Model,
    name: str,
    *,
    machine: Machine,
    config: Config,
    tier: Tier | None = None,
    tokens: int | None = None,
    concurrency: int | None = None,
    quantisation: Quantisation | None = None,
    replicas: int = 1,
    anyway: bool = False,
) -> Setup:
    """Make the endpoint of a known model: served by vLLM here, by its vendor, or by its user.

    `tokens` is the length of the longest prompt with its answer, and `concurrency` the number of
    such sequences at once; `None` is what fits beside the endpoints in `config`. `anyway` allows a
    model that is retired, or doesn't fit the machine.
    """
    if model.retired and not anyway:
        raise ConfigError(
            f"{model.title} is retired by its vendor. Look for its successor: moa models list. "
            "--anyway writes it all the same"
        )
    tier = tier or model.tier
    other_config = _without(config, name)
    if "vllm" not in model.servers:
        result = _sold(model, tier) if model.vendor_model else _started_by_its_user(model, tier)
        return _with_default(result, name, tier, other_config)
    room = {"tokens": tokens, "concurrency": concurrency}
    local_model = vllm_fit(model, machine, **room, quantisation=quantisation, config=other_config)
    suffix = " beside what is configured" if other_config.served_endpoints else ""
    lacking = f"{model.title} does not fit this machine ({machine}){suffix}"
    if not local_model.fits and not anyway:
        raise ConfigError(
            f"{lacking}: {', '.join(_sizes(local_model))}. Nothing was written; --anyway writes it "
            "all the same"
        )
    page = f"https://huggingface.co/{model.hub}"
    licence = (f"accept the licence at {page}, and: export HF_TOKEN=…",) if model.gated else ()
    result = Setup(
        table=vllm_table(local_model, tier=tier, port=_free_port(other_config), replicas=replicas),
        notes=(*(() if local_model.fits else (lacking,)), *_sizes(local_model), *_cautions(model)),
        steps=(*licence, f"moa up {name}"),
    )
    return _with_default(result, name, tier, other_config)


def setup_of_plan(plan: Plan, name: str, *, machine: Machine, config: Config) -> Setup:
    """Make the endpoint of a plan's model where the plan runs it; the built-in model needs none."""
    model, served = plan.model, plan.served
    if served is not None and served.place.engine == "vllm":
        servers = math.ceil((plan.hours or 0) / 24 * served.place.replicas)
        return setup(
            model,
            name,
            machine=machine,
            config=config,
            tokens=served.tokens,
            quantisation=served.quantisation,
            replicas=max(1, servers) if plan.task.per_day else 1,
        )
    if model.name == BUILT_IN:
        return Setup(notes=(f"{BUILT_IN} is built in, and needs no endpoint",))
    if served is None:
        result = _sold(model, model.tier)
    elif model.start:
        result = _started_by_its_user(model, model.tier)
    else:
        result = _in_this_machine(served, name)
    return _with_default(result, name, model.tier, _without(config, name))


def vllm_table(
    served: LocalModel, *, tier: Tier | None = None, port: int = 8000, replicas: int = 1
) -> dict[str, object]:
    """Return the endpoint table of a model that `moa up` serves with vLLM; see `setup`."""
    model, place = served.model, served.place
    repository = model.weights[served.quantisation].repository
    settings: dict[str, object] = {"port": port}
    if min(replicas, place.replicas) > 1:
        settings["replicas"] = min(replicas, place.replicas)
    if repository is None:  # vLLM makes fp8 out of bf16 while it loads
        settings["quantization"] = served.quantisation
    if place.only_float16:
        settings["dtype"] = "float16"
    settings["max_model_len"] = served.tokens
    if place.gpu:
        settings["gpu_memory_utilization"] = _share(served, place.gpu.memory * place.count)
    if place.count > 1:
        settings["args"] = ["--tensor-parallel-size", str(place.count)]
    if place.gpu is None:
        settings["max_num_seqs"] = max(served.concurrency, CPU_CONCURRENCY)
        gib = max(1, math.ceil(served.kv / GIB))
        settings["env"] = {"VLLM_CPU_KVCACHE_SPACE": str(gib)}
    return {
        "tier": tier or model.tier,
        "model": repository or model.hub,
        "serve": "vllm",
        "vllm": settings,
    }


def _share(local_model: LocalModel, memory: int) -> float:
    """Return the share of each GPU's memory that the model needs, at most the free share."""
    if not local_model.fits:
        return UTILISATION
    limit = min(UTILISATION, local_model.budget / memory)
    share = local_model.total_bytes * SPARE / memory
    return round(min(limit, share), 2) if share < limit else math.floor(limit * 1000) / 1000


def _sold(model: Model, tier: Tier) -> Setup:
    table: dict[str, object] = {"tier": tier, "model": model.vendor_model}
    if model.decides:
        table["decide"] = model.decides
    variable = endpoint_of(table).key_variable
    key = (f"export {variable}=…",) if variable and variable not in os.environ else ()
    price = model.price
    note = f"US$ {price.input:f} per million input tokens, {price.output:f} output"
    return Setup(
        table=table,
        notes=(note if price.known else "its price is not known", *_cautions(model)),
        steps=(*key, "moa models"),
    )


def _started_by_its_user(model: Model, tier: Tier) -> Setup:
    table = {"tier": tier, "model": model.hub or model.name}
    return Setup(
        table=table | {"base_url": str(model.base_url), "decide": model.decides},
        notes=("vLLM does not serve it: `moa up` leaves it to you", *_cautions(model)),
        steps=(str(model.start), "moa models"),
    )


def _in_this_machine(served: LocalModel, name: str) -> Setup:
    """Make the endpoint of a GGUF file, which moa's own engine runs with llama.cpp."""
    model, kind = served.model, served.quantisation
    file, step = model.name, f"moa models fetch {name}"
    if kind not in model.files:
        file = f"{model.name}-{kind}.gguf"
        step = f"put a {kind} GGUF file of {model.hub} beside the configuration, as {file}"
    return Setup(
        table={"tier": model.tier, "model": file, "serve": "llama.cpp"},
        notes=_cautions(model),
        steps=(step, "moa models"),
    )


def _without(config: Config, name: str) -> Config:
    others = {key: endpoint for key, endpoint in config.endpoints.items() if key != name}
    return config.model_copy(update={"endpoints": others})


def _with_default(setup: Setup, name: str, tier: Tier, others: Config) -> Setup:
    """Keep the tier's default endpoint, which a second endpoint would make ambiguous."""
    stated = others.tiers.slm if tier == "slm" else others.tiers.llm
    peers = [key for key, endpoint in others.endpoints.items() if endpoint.tier == tier]
    before = stated or (peers[0] if len(peers) == 1 else None)
    if before is None or before == name:
        return setup
    note = f'[endpoints.{before}] stays the default of its tier, by [tiers] {tier} = "{before}"'
    return replace(setup, tiers={} if stated else {tier: before}, notes=(*setup.notes, note))


def _free_port(config: Config) -> int:
    """Return the first port that no endpoint uses, starting at vLLM's default."""
    ports = {port for endpoint in config.served_endpoints.values() for port in endpoint.vllm.ports}
    ports |= {urlsplit(url).port for endpoint in config.endpoints.values() for url in endpoint.urls}
    port = VLLMConfig().port
    while port in ports:
        port += 1
    return port


def _sizes(served: LocalModel) -> tuple[str, ...]:
    requests = "one request" if served.concurrency == 1 else f"{served.concurrency} requests"
    room = f"room for {requests} of {served.tokens:,} tokens at once; by estimate"
    sizes = (served.weights, served.kv, served.overhead)
    weights, cache, server = (f"{size / 1e9:.1f} GB" for size in sizes)
    return (
        f"{served.quantisation} on {served.place}, {room}",
        f"weights {weights} + cache {cache} + server {server} = {format_memory(served)}",
    )


def _cautions(model: Model) -> tuple[str, ...]:
    licence = f"licence: {model.licence}" + (f", {model.licence_url}" if model.licence_url else "")
    unchecked = f"not compared with a source: {', '.join(model.unchecked)}"
    return (licence, unchecked) if model.unchecked else (licence,)
