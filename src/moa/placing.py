"""Placing: how vLLM can serve a model on a machine, as arguments that suit it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

from moa.advisor.catalogue import Model, Quantisation, models
from moa.advisor.hardware import Machine
from moa.advisor.performance import RAM_SHARE, UTILISATION, Fit, Place, fit, places, quantisations
from moa.config import Config, EndpointConfig
from moa.errors import ConfigError
from moa.usage import Tier

STEPS = ((8192, 16), (4096, 16), (4096, 8), (2048, 8), (2048, 4), (1024, 4), (1024, 1))
"""Longest prompt and answer together, and how many such sequences at once: as much as fits, where
nothing else is asked for."""
CPU_CONCURRENCY = 4
"""Most sequences at once on a processor: more would only share its cores."""
_GOOD = 3
"""So many of `STEPS` are room enough to keep weights that lose next to nothing."""
_NEAR_LOSSLESS: tuple[Quantisation, ...] = ("bf16", "fp8")
"""On two GPUs they are taken before coarser ones on one."""
_ON_CPU: tuple[Quantisation, ...] = ("bf16", "int8", "int4")
"""What vLLM computes with on a processor
(https://docs.vllm.ai/en/latest/features/quantization/)."""
SPARE = 1.1
"""Memory that is asked of a GPU for each that is reckoned with: the overhead is an estimate."""
_AMPERE = (8, 0)
"""Compute capability from which on cards know `bfloat16`."""
_GIB = 2**30
_Way = tuple[Place, Quantisation]


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A model at a place, and how it fits there."""

    model: Model
    place: Place
    fit: Fit


def best_fit(
    model: Model,
    machine: Machine,
    *,
    tokens: int | None = None,
    concurrency: int | None = None,
    quantisation: Quantisation | None = None,
    config: Config | None = None,
) -> Served | None:
    """Find how vLLM can serve a model on a machine; `None` where it can't.

    Exact weights are taken where there is room enough, then coarser ones, then less room. What the
    configuration gives to other servers on the same GPUs is not taken.

    Args:
        model: An open one.
        machine: Where.
        tokens: Longest prompt and answer together; `None`: the first of `STEPS` that fits.
        concurrency: Sequences of that length at once; `None`: the first of `STEPS` that fits.
        quantisation: How the weights are kept; `None`: as said above.
        config: What is served already.
    """
    ways = _ways(model, machine, quantisation)
    exact = [way for way in ways if way[1] in _NEAR_LOSSLESS]
    coarse = [way for way in ways if way[1] not in _NEAR_LOSSLESS]
    rounds = ((exact, STEPS[:_GOOD]), (coarse, STEPS), (exact, STEPS[_GOOD:]))
    for kinds, steps in rounds:
        for (longest, many), way in product(steps, kinds):
            length = tokens or min(longest, model.context or longest)
            served = _served(
                model, way, machine, length, concurrency or _at_once(many, way), config
            )
            if served.fit.fits:
                return served
    return None


def least_fit(
    model: Model,
    machine: Machine,
    *,
    tokens: int | None = None,
    concurrency: int | None = None,
    quantisation: Quantisation | None = None,
    config: Config | None = None,
) -> Served:
    """Give the way of serving a model that lacks the least memory; arguments as of `best_fit`.

    Raises:
        ConfigError: vLLM serves no form of it there.
    """
    ways = _ways(model, machine, quantisation)
    if not ways and model.no_float16 and machine.gpus:
        raise ConfigError(
            f"{model.title} goes wrong in float16, and {machine.gpus[0].name} computes in nothing "
            "else of its size: it takes a card from Ampere on (2020), or another model"
        )
    if not ways:
        raise ConfigError(f"vLLM serves no form of {model.name!r} that the catalogue knows")
    least, few = STEPS[-1]
    tried = [
        _served(model, way, machine, tokens or least, concurrency or few, config) for way in ways
    ]
    return min(tried, key=lambda served: served.fit.needed - served.fit.budget)


def largest_that_fits(machine: Machine, *, config: Config | None = None) -> Served | None:
    """Find the open model with most parameters that vLLM can serve on a machine."""
    known_ones = [known for known in models().values() if known.kind == "open"]
    known_ones.sort(key=lambda known: (known.parameters or 0, known.released or ""), reverse=True)
    for known in known_ones:
        if found := best_fit(known, machine, config=config):
            return found
    return None


def vllm_table(
    served: Served, *, tier: Tier | None = None, port: int = 8000, replicas: int = 1
) -> dict[str, object]:
    """Write the endpoint table of a model that `moa up` serves with vLLM.

    Args:
        served: Where, and how.
        tier: Of the endpoint; `None`: as the catalogue has it.
        port: Where it listens.
        replicas: Servers of it, each on GPUs of its own.
    """
    model, place = served.model, served.place
    repository = model.weights[served.fit.quantisation].repository
    settings: dict[str, object] = {"port": port}
    if replicas > 1:
        settings["replicas"] = replicas
    if repository is None:  # vLLM makes fp8 out of bf16 while it loads
        settings["quantization"] = served.fit.quantisation
    if _only_float16(place):
        settings["dtype"] = "float16"
    settings["max_model_len"] = served.fit.tokens
    if place.gpu:
        settings["gpu_memory_utilization"] = _share(served)
    if place.count > 1:
        settings["args"] = ["--tensor-parallel-size", str(place.count)]
    if place.gpu is None:
        settings["max_num_seqs"] = max(served.fit.asked, CPU_CONCURRENCY)
        gib = max(1, math.ceil(served.fit.kv / _GIB))
        settings["env"] = {"VLLM_CPU_KVCACHE_SPACE": str(gib)}
    return {
        "tier": tier or model.tier,
        "model": repository or model.hub,
        "serve": "vllm",
        "vllm": settings,
    }


def _served(
    model: Model,
    way: _Way,
    machine: Machine,
    tokens: int,
    concurrency: int,
    config: Config | None,
) -> Served:
    place, quantisation = way
    fitted = fit(
        model,
        place,
        quantisation=quantisation,
        tokens=tokens,
        concurrency=concurrency,
        taken=_taken(place, machine, config),
    )
    return Served(model=model, place=place, fit=fitted)


def _at_once(wanted: int, way: _Way) -> int:
    return wanted if way[0].gpu else min(wanted, CPU_CONCURRENCY)


def _ways(model: Model, machine: Machine, only: Quantisation | None = None) -> list[_Way]:
    """List where and in which form vLLM may serve a model: few GPUs first, exact forms first."""
    where = [place for place in places(machine) if place.engine == "vllm"]
    where.sort(key=lambda place: place.count)
    if not where:
        ram = max(place.memory for place in places(machine) if place.gpu is None)
        where = [Place(engine="vllm", cores=machine.cores, memory=ram)]
    return [
        (place, quantisation)
        for place in where
        for quantisation in quantisations(model, place)
        if only in (None, quantisation)
        and (place.gpu or quantisation in _ON_CPU)
        and not (model.no_float16 and _only_float16(place))
    ]


def _only_float16(place: Place) -> bool:
    able = place.gpu.capability if place.gpu else None
    return able is not None and able < _AMPERE


def _taken(place: Place, machine: Machine, config: Config | None) -> int:
    """Bytes of a place that the configuration gives to others, be they up already or not."""
    if config is None:
        return 0
    if place.gpu is None:
        left = int(machine.ram * RAM_SHARE) - sum(map(_reckoned, config.served.values()))
    else:
        shares = (it.vllm.gpu_memory_utilization or UTILISATION for it in config.served.values())
        left = int((UTILISATION - sum(shares)) * place.gpu.memory * place.count)
    return max(0, place.memory - left)


def _reckoned(endpoint: EndpointConfig) -> int:
    """Bytes of RAM that a served model takes; 0 where the catalogue doesn't know its weights."""
    cache = int(endpoint.vllm.env.get("VLLM_CPU_KVCACHE_SPACE", "0")) * _GIB
    for known in models().values():
        for kept in known.weights.values():
            if kept.repository == endpoint.model:
                return kept.bytes + cache
    return cache


def _share(served: Served) -> float:
    """Share of each GPU's memory that the model needs, rounded up, and no more than is free."""
    gpu = served.place.gpu
    assert gpu is not None
    if not served.fit.fits:
        return UTILISATION
    most = min(UTILISATION, served.fit.budget / served.place.count / gpu.memory)
    wanted = served.fit.needed * SPARE / served.place.count / gpu.memory
    return round(min(most, wanted), 2) if wanted < most else math.floor(most * 1000) / 1000
