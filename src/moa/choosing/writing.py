"""Writing: a plan becomes endpoints in `moa.toml`, for the patterns that `moa` has."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from moa.adding import Wish, added
from moa.choosing.members import BUILT_IN, Member
from moa.choosing.plans import BUILT, Plan, Ranking
from moa.config import Config, load
from moa.config_file import target, write_endpoint
from moa.errors import ConfigError
from moa.machine import Machine
from moa.usage import Tier

_NAMES: dict[Tier, str] = {"slm": "small", "llm": "large"}


class Written(NamedTuple):
    """What was written, and what is left to do."""

    file: Path
    lines: tuple[str, ...]


def to_write(ranking: Ranking, *, nearest: bool = False) -> Plan:
    """Pick the plan that can be written.

    Args:
        ranking: Of which the best is written.
        nearest: Whether another one is taken where the best is of a pattern that `moa` lacks.

    Raises:
        ConfigError: nothing fits, or the best plan's pattern isn't there yet.
    """
    best = ranking.best
    if best is None:
        raise ConfigError("nothing fits, so nothing is written. " + "; ".join(ranking.remedies))
    built = next((plan for plan in ranking if plan.exists), None)
    if best.exists or (nearest and built is not None):
        return best if best.exists or built is None else built
    instead = f". The nearest that it has: {built}; --nearest writes that" if built else ""
    raise ConfigError(
        f"the best plan is a {best.pattern}, and moa has {', '.join(BUILT)} so far: build it as a "
        f"graph of your own{instead}"
    )


def write_plan(
    plan: Plan, machine: Machine, *, path: str | Path | None = None, force: bool = False
) -> Written:
    """Write the endpoints of a plan.

    Args:
        plan: Of a pattern that `moa` has.
        machine: Where its models are served.
        path: The file; `None`: `$MOA_CONFIG`, else `./moa.toml`.
        force: Whether endpoints of the same names are overwritten.

    Raises:
        ConfigError: an endpoint is there already, the file can't be read or written, or a model
            doesn't fit after all beside what is configured.
    """
    file = target(path)
    lines: list[str] = []
    tiers: list[Tier] = ["slm", "llm"] if plan.pattern == "hybrid" else [plan.members[0].model.tier]
    for member, tier in zip(plan.members, tiers, strict=True):
        lines += _member(member, tier, plan, machine, file=file, force=force)
    return Written(file, tuple(lines))


def _member(
    member: Member, tier: Tier, plan: Plan, machine: Machine, *, file: Path, force: bool
) -> list[str]:
    name = _NAMES[tier]
    model = member.model
    if member.place is None:
        table = {"tier": tier, "model": model.vendor_model}
        write_endpoint(file, name, table, force=force)
        key = member.vendor.api_key_env if member.vendor else "its key"
        return [f"[endpoints.{name}] is {model.vendor_model}: export {key}=…"]
    if member.place.engine == "llama.cpp":
        if model.name == BUILT_IN:
            return ["the small model is the one that is built in: nothing to write for it"]
        fetch = f"fetch its {member.quantisation} GGUF file, and: export MOA_MODEL=FILE.gguf"
        return [f"{model.name} runs in the engine that is built in: {fetch}"]
    config = load(file) if file.exists() else Config()
    wish = Wish(
        tier=tier,
        tokens=member.fit.tokens if member.fit else None,
        concurrency=plan.concurrency,
    )
    made = added(model, name, machine=machine, config=config, wish=wish)
    write_endpoint(file, name, made.table, tiers=made.tiers, force=force)
    return [f"[endpoints.{name}] is {model.title}", *made.notes, *made.steps]
