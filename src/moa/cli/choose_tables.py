"""Tables of `moa choose`: what was read, the ranking, the reasons, what was rejected."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from rich.console import RenderableType
from rich.text import Text

from moa.choosing.limits import seconds
from moa.choosing.plans import Plan, Ranking
from moa.choosing.reading import Read
from moa.choosing.task import Task
from moa.cli.tables import listed
from moa.rows import plain

_COLUMNS = ("", "pattern", "models", "quality", "a thousand items", "mean", "95 of 100", "figures")


def parts(ranking: Ranking, understood: list[Read]) -> Iterator[RenderableType]:
    """Show a ranking, part by part."""
    yield Text(_read(ranking.task, understood))
    yield Text(f"On: {ranking.machine}")
    if ranking.plans:
        yield listed(_COLUMNS, [_row(place, plan) for place, plan in enumerate(ranking, 1)])
        best = ranking.plans[0]
        yield Text(f"Why {best}", "bold")
        yield from (Text(f"  - {reason}") for reason in best.reasons)
        if not best.good_enough:
            yield Text("It is weaker than wanted. What would be good enough:", "bold yellow")
    else:
        yield Text("Nothing fits. What would:", "bold red")
    yield from (Text(f"  - {remedy}") for remedy in ranking.remedies)
    if ranking.rejected:
        yield Text("Not taken", "bold")
    yield from (Text(f"  - {rejected}") for rejected in ranking.rejected)


def line(ranking: Ranking, understood: list[Read]) -> dict[str, object]:
    """Write a ranking as what `json` can write; `null` is unknown."""
    return {
        "task": ranking.task.model_dump(mode="json"),
        "read": [{"field": r.field, "value": plain(r.value), "from": r.words} for r in understood],
        "machine": str(ranking.machine),
        "plans": [_plan(plan) for plan in ranking],
        "remedies": list(ranking.remedies),
        "rejected": [
            {"what": r.what, "cause": r.cause, "why": r.why, "also": r.also}
            for r in ranking.rejected
        ],
    }


def _read(task: Task, understood: list[Read]) -> str:
    said = [f"{_option(one)} ({one.words!r})" for one in understood]
    assumed = [
        f"{name} {value}"
        for name, value in (
            ("--risk", task.risk),
            ("--labels", task.labels),
            ("--language", ",".join(task.languages)),
            ("--input-tokens", task.reads),
            ("--output-tokens", task.writes),
            ("--api" if task.api else "--no-api", ""),
        )
        if not any(_option(one).split()[0] == name for one in understood)
    ]
    first = f"I read: {'; '.join(said)}.\n" if said else ""
    return f"{first}I take: {'; '.join(a.strip() for a in assumed)}. Correct it with these options."


def _option(one: Read) -> str:
    if isinstance(one.value, bool):
        return one.option if one.value else one.option.replace("--", "--no-", 1)
    return f"{one.option} {_value(one.value)}"


def _value(value: object) -> str:
    return ",".join(cast("tuple[str, ...]", value)) if isinstance(value, tuple) else str(value)


def _row(place: int, plan: Plan) -> tuple[str, ...]:
    latency = plan.latency
    short = "" if plan.good_enough else " (weak)"
    return (
        str(place),
        plan.pattern if plan.exists else f"{plan.pattern} *",
        " + ".join(map(str, plan.members)),
        f"{plan.quality:.1f}, needs {plan.needed_quality:g}{short}",
        str(plan.cost),
        seconds(latency.mean_s) if latency else "unknown",
        seconds(latency.p95_s) if latency else "unknown",
        "measured" if plan.measured else "estimate",
    )


def _plan(plan: Plan) -> dict[str, object]:
    latency = plan.latency
    total = plan.cost.total
    return {
        "pattern": plan.pattern,
        "exists": plan.exists,
        "members": [
            {
                "model": m.model.name,
                "place": str(m.place) if m.place else None,
                "quantisation": m.quantisation,
                "vendor_model": m.model.vendor_model if m.place is None else None,
            }
            for m in plan.members
        ],
        "quality": round(plan.quality, 2),
        "needed_quality": plan.needed_quality,
        "usd_per_thousand": None if total is None else float(total),
        "known_usd_per_thousand": float(plan.cost.known),
        "mean_s": latency.mean_s if latency else None,
        "p95_s": latency.p95_s if latency else None,
        "first_token_s": latency.first_s if latency else None,
        "measured": plan.measured,
        "concurrency": plan.concurrency,
        "needs_network": plan.needs_network,
        "score": round(plan.score, 3),
        "reasons": list(plan.reasons),
    }
