"""Writing: a plan becomes endpoints in `moa.toml`, for the patterns that `moa` has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import NamedTuple

from moa.adding import Added, Wish, added, at_vendor, free_port, with_default
from moa.catalogue import BUILT_IN
from moa.choosing.members import Member
from moa.choosing.plans import BUILT, Plan, Ranking
from moa.config import EMBEDDED, Config, EndpointConfig, load
from moa.config_file import target, write_endpoint
from moa.errors import ConfigError
from moa.machine import Machine
from moa.usage import Tier

_NAMES: dict[Tier, str] = {"slm": "small", "llm": "large"}
_LLAMA_SERVER = 8080
"""Where llama.cpp's own server listens, unless told otherwise."""


class Written(NamedTuple):
    """What was written, and what is left to do."""

    file: Path
    endpoints: tuple[str, ...]
    """Names of those that were written; none where the plan needs none."""
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """What one member of a plan comes to."""

    lines: tuple[str, ...]
    table: Mapping[str, object] | None = None
    """Of its endpoint; `None`: it takes none."""
    tiers: Mapping[Tier, str] = field(default_factory=dict[Tier, str])


def to_write(ranking: Ranking, *, nearest: bool = False) -> Plan:
    """Pick the plan that can be written.

    Args:
        ranking: Of which the best is written.
        nearest: Whether another one is taken where the best can't be written.

    Raises:
        ConfigError: nothing fits, or the best plan's pattern can't be written.
    """
    best = ranking.best
    if best is None:
        raise ConfigError("nothing fits, so nothing is written. " + "; ".join(ranking.remedies))
    built = next((plan for plan in ranking if plan.exists), None)
    if best.exists or (nearest and built is not None):
        return best if best.exists or built is None else built
    instead = f". The nearest that it has: {built}; --nearest writes that" if built else ""
    made = (
        "add its endpoints by moa models add, and let moa promote or moa calibrate make it of "
        "labelled rows"
        if best.pattern == "cascade" and ranking.task.decides
        else "build it as a graph of your own"
    )
    raise ConfigError(
        f"the best plan is a {best.pattern}, and --write writes {', '.join(BUILT)} alone: "
        f"{made}{instead}"
    )


def write_plan(
    plan: Plan, machine: Machine, *, path: str | Path | None = None, force: bool = False
) -> Written:
    """Write the endpoints of a plan: all of them, or none.

    Args:
        plan: Of a pattern that can be written.
        machine: Where its models are served.
        path: The file; `None`: `$MOA_CONFIG`, else `./moa.toml`.
        force: Whether endpoints of the same names are overwritten.

    Raises:
        ConfigError: an endpoint is there already, the file can't be read or written, or a model
            doesn't fit after all beside what is configured.
    """
    file = target(path)
    config = load(file) if file.exists() else Config()
    tiers: list[Tier] = ["slm", "llm"] if plan.pattern == "hybrid" else [plan.members[0].model.tier]
    names = [_NAMES[tier] for tier in tiers]
    parts: dict[str, _Part] = {}
    others = {name: it for name, it in config.endpoints.items() if name not in names}
    beside = config.model_copy(update={"endpoints": others})
    for member, tier, name in zip(plan.members, tiers, names, strict=True):
        parts[name] = part = _part(member, tier, plan, machine, config=beside)
        if part.table is not None:
            others = others | {name: EndpointConfig.model_validate(part.table)}
            beside = config.model_copy(update={"endpoints": others})
    _check_free([name for name, part in parts.items() if part.table], config, file, force=force)
    for name, part in parts.items():
        if part.table is not None:
            write_endpoint(file, name, part.table, tiers=part.tiers, force=force)
    return Written(
        file,
        tuple(name for name, part in parts.items() if part.table),
        tuple(line for part in parts.values() for line in part.lines),
    )


def _check_free(names: list[str], config: Config, file: Path, *, force: bool) -> None:
    taken = [name for name in names if name in config.endpoints]
    if taken and not force:
        there = " and ".join(f"[endpoints.{name}]" for name in taken)
        raise ConfigError(
            f"{file} has {there} already, so nothing was written. --force overwrites; --config "
            "names another file"
        )


def _part(member: Member, tier: Tier, plan: Plan, machine: Machine, *, config: Config) -> _Part:
    if member.place is None:
        name = _NAMES[tier]
        return _of(with_default(at_vendor(member.model, tier), name, config), name)
    if member.place.engine == "vllm":
        return _by_vllm(member, tier, plan, machine, config)
    if tier == "slm":
        return _built_in(member, config)
    return _by_llama_server(member, plan.concurrency, config)


def _of(made: Added, name: str) -> _Part:
    return _Part(
        table=made.table,
        tiers=made.tiers,
        lines=(f"[endpoints.{name}] is {made.model.title}", *made.notes, *made.steps),
    )


def _by_vllm(member: Member, tier: Tier, plan: Plan, machine: Machine, config: Config) -> _Part:
    servers = plan.servers[plan.members.index(member)]
    wish = Wish(
        tier=tier,
        tokens=member.fit.tokens if member.fit else None,
        concurrency=ceil(plan.concurrency / servers),
        quantisation=member.quantisation,
        replicas=servers,
    )
    name = _NAMES[tier]
    return _of(added(member.model, name, machine=machine, config=config, wish=wish), name)


def _built_in(member: Member, config: Config) -> _Part:
    """A small model in the engine that is built in, which needs no endpoint."""
    model = member.model
    said = f"{model.name} is built in, and needs no endpoint"
    if model.name != BUILT_IN:
        said = (
            f"{model.name} runs in the engine that is built in, and needs no endpoint: fetch a "
            f"{member.quantisation} GGUF file of {model.hub}, and: export MOA_MODEL=FILE.gguf"
        )
    before = config.of_tier("slm")
    if before in (None, EMBEDDED):
        return _Part(lines=(said,))
    instead = (
        f"[endpoints.{before}] is the default of its tier; to have the built-in one, set "
        f'[tiers] slm = "{EMBEDDED}"'
    )
    return _Part(lines=(said, instead))


def _by_llama_server(member: Member, slots: int, config: Config) -> _Part:
    """A large GGUF, which llama.cpp's own server serves."""
    model, port = member.model, free_port(config, first=_LLAMA_SERVER)
    tokens = member.fit.tokens * slots if member.fit else 0
    name = _NAMES["llm"]
    start = f"llama-server -m FILE.gguf --alias {model.name} --port {port} -np {slots} -c {tokens}"
    made = Added(
        model=model,
        table={"tier": "llm", "model": model.name, "base_url": f"http://127.0.0.1:{port}/v1"},
        notes=("llama.cpp's server serves it, which moa does not start",),
        steps=(
            f"fetch a {member.quantisation} GGUF file of {model.hub}, and: {start}",
            "moa models",
        ),
    )
    return _of(with_default(made, name, config), name)
