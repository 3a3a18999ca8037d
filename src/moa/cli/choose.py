"""moa choose: which models, in which pattern, for a task on a machine."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import RenderableType
from rich.text import Text

from moa.advisor import Job, Risk
from moa.cli import options, screen
from moa.errors import ConfigError

if TYPE_CHECKING:
    from moa.advisor.choice import Ranking
    from moa.advisor.plans import Plan
    from moa.advisor.task import Read

_COLUMNS = ("", "pattern", "models", "quality", "a thousand items", "mean", "p95")


def choose(
    context: typer.Context,
    text: Annotated[str, typer.Argument(help="The task, in English.", show_default=False)] = "",
    *,
    job: Annotated[Job | None, typer.Option(help="What is done with each item.")] = None,
    per_day: Annotated[int | None, typer.Option(min=1, help="Items a day.")] = None,
    latency_s: Annotated[
        float | None, typer.Option("--latency", help="p95 latency that is allowed, in seconds.")
    ] = None,
    streamed: Annotated[
        bool | None,
        typer.Option("--streamed/--whole", help="Whether --latency is of the first token."),
    ] = None,
    input_tokens: Annotated[int | None, typer.Option(min=1, help="Tokens of one item.")] = None,
    output_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens of one answer, reasoning included.")
    ] = None,
    languages: Annotated[
        list[str] | None,
        typer.Option("--language", help="Language of the items, such as de; repeat for several."),
    ] = None,
    risk: Annotated[
        Risk | None, typer.Option("--stakes", help="How bad a wrong answer is.")
    ] = None,
    labels: Annotated[
        int | None,
        typer.Option("--labelled", min=0, help="Number of labelled items that there are."),
    ] = None,
    concurrency: options.Concurrency = None,
    max_usd_per_thousand: Annotated[
        float | None,
        typer.Option(
            "--max-usd-per-thousand", min=0, help="Maximum US dollars for a thousand items."
        ),
    ] = None,
    private: Annotated[
        bool | None,
        typer.Option(
            "--private/--public", help="Whether items must stay on this machine (local only)."
        ),
    ] = None,
    offline: Annotated[
        bool | None,
        typer.Option("--offline/--online", help="Whether it must work without a network."),
    ] = None,
    api: Annotated[
        bool | None,
        typer.Option("--api/--no-api", help="Whether vendors may be asked; else: if a key is set."),
    ] = None,
    vendors: Annotated[
        list[str] | None,
        typer.Option(
            "--vendor", help="Vendor that may be asked, such as openai; repeat for several."
        ),
    ] = None,
    gpu: Annotated[
        list[str] | None,
        typer.Option(help="GPUs to plan for instead of this machine's: L4, H100:8 or NAME:1:24GB."),
    ] = None,
    no_gpu: Annotated[bool, typer.Option("--no-gpu", help="Plan as if there were no GPU.")] = False,
    ram: Annotated[
        str | None, typer.Option(help="Memory to plan for instead of this machine's: 8GB.")
    ] = None,
    cores: Annotated[
        int | None, typer.Option(min=1, help="CPU cores to plan for instead of this machine's.")
    ] = None,
    hourly_usd: options.HourlyUsd = None,
    usd_per_kwh: options.UsdPerKwh = None,
    config: options.ConfigFile = None,
    as_json: options.AsJson = False,
    write: options.Write = False,
    overwrite: options.Overwrite = False,
) -> None:
    """Choose models and a pattern for a task, with reasons.

    What was read from the text is shown first, and each field has an option that corrects it.
    Nothing is started, fetched or sent. Figures are estimates. Exit codes: 0 there is a plan, 1
    nothing fits, 2 the task can't be read.

        moa choose "classify support tickets in German, 10k a day, at most 300 ms"
        moa choose "answer questions about our manuals, private" --gpu L4:1 --hourly-usd 0.8
        moa choose --job create --api --per-day 20
        moa choose "a support bot, 5k a day" --gpu "RTX 4090" --ram 64GB --write
    """
    from moa._files import jsonable
    from moa.advisor import choice
    from moa.advisor.hardware import described, machine
    from moa.advisor.task import Task, task_of

    given = {
        field: value
        for field, value in context.params.items()
        if field in Task.model_fields and value not in (None, (), [])
    }
    task, understood = task_of(text, given)
    ranking = choice.choose(
        task,
        described(machine(), gpus=gpu or (), no_gpu=no_gpu, ram=ram, cores=cores),
        hourly_usd=None if hourly_usd is None else Decimal(repr(hourly_usd)),
        usd_per_kwh=None if usd_per_kwh is None else Decimal(repr(usd_per_kwh)),
    )
    if as_json:
        read = [{"field": r.field, "value": jsonable(r.value), "from": r.words} for r in understood]
        task = ranking.task.model_dump(mode="json")
        screen.json_line({"task": task, "read": read} | ranking.values())
    else:
        for part in _shown(ranking, understood):
            screen.out().print(part)
    if write:
        _write(ranking, config, overwrite=overwrite, as_json=as_json)
    if not ranking.plans:
        raise typer.Exit(1)


def _write(ranking: Ranking, config: Path | None, *, overwrite: bool, as_json: bool) -> None:
    """Write the best plan that can be written, and say so where that is not the best."""
    from moa.advisor.config import write_plan

    plan = next((plan for plan in ranking.plans if plan.exists), None)
    if plan is None:
        raise ConfigError(
            "no plan can be written, so nothing is. "
            + "; ".join(ranking.suggestions or map(str, ranking.plans))
        )
    file, made = write_plan(plan, ranking.machine, path=config, overwrite=overwrite)
    console = screen.out(as_json=as_json)
    if plan is not ranking.best:
        best = f"The best plan takes more than endpoints, so the next is written: {ranking.best}"
        console.print(Text(best))
    names = [name for name, setup in made.items() if setup.table]
    did = f"Wrote {' and '.join(names)} into {file}" if names else "Nothing to write"
    console.print(Text(f"{did} for {plan}:", "bold"))
    for (name, setup), member in zip(made.items(), plan.members, strict=True):
        title = (f"[endpoints.{name}] is {member.model.title}",) if setup.table else ()
        for line in (*title, *setup.notes, *setup.steps):
            console.print(Text(f"  {line}"))


def _shown(ranking: Ranking, understood: list[Read]) -> Iterator[RenderableType]:
    """Show a ranking, part by part."""
    yield Text(_told(ranking, understood))
    yield Text(f"On: {ranking.machine}")
    best = ranking.best
    if best is None:
        yield Text("Nothing fits. What would:", "bold red")
    else:
        yield screen.listed(
            _COLUMNS, [_row(place, it) for place, it in enumerate(ranking.plans, 1)]
        )
        yield Text(f"Why {best}", "bold")
        yield from (Text(f"  - {reason}") for reason in best.reasons)
        if not best.good_enough:
            yield Text("It is weaker than wanted. What would be good enough:", "bold yellow")
    yield from (Text(f"  - {suggestion}") for suggestion in ranking.suggestions)
    if ranking.rejected:
        yield Text("Not taken", "bold")
    yield from (Text(f"  - {rejected}") for rejected in ranking.rejected)


def _told(ranking: Ranking, understood: list[Read]) -> str:
    """Say what was read of the task, and what is taken besides; each field has an option."""
    from moa._files import jsonable

    task = ranking.task
    said = "; ".join(f"{one.field} {jsonable(one.value)} ({one.words!r})" for one in understood)
    read = {one.field for one in understood}
    taken = {"languages": task.languages, "risk": task.risk, "labels": task.labels}
    taken |= {"input_tokens": task.reads, "output_tokens": task.writes, "api": task.api}
    rest = "; ".join(f"{name} {jsonable(it)}" for name, it in taken.items() if name not in read)
    first = f"I read: {said}.\n" if said else ""
    return f"{first}I take: {rest}. Options correct it: moa choose --help"


def _row(place: int, plan: Plan) -> tuple[str, ...]:
    from moa.advisor.estimate import shown_seconds

    latency = plan.latency
    short = "" if plan.good_enough else " (weak)"
    return (
        str(place),
        plan.pattern if plan.exists else f"{plan.pattern} *",
        " + ".join(map(str, plan.members)),
        f"{plan.quality:.1f}, needs {plan.needed_quality:g}{short}",
        str(plan.cost),
        shown_seconds(latency.mean_s) if latency else "unknown",
        shown_seconds(latency.p95_s) if latency else "unknown",
    )
