"""moa choose: which models, in which pattern, for a task on a machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moa.cli import options

if TYPE_CHECKING:
    from decimal import Decimal

    from moa.choosing.plans import Ranking
    from moa.choosing.reading import Read
    from moa.choosing.task import Task
    from moa.machine import Machine

EXAMPLES = """

    moa choose "classify support tickets in German, 10k a day, at most 300 ms"
    moa choose "answer questions about our manuals, private" --gpu L4:1 --hourly-usd 0.8
    moa choose --job create --api --per-day 20
    moa choose "a support bot, 5k a day" --gpu "RTX 4090" --ram 64GB --write

What was read from the text is shown first, and each field has an option that corrects it. Nothing
is started, fetched or sent. Figures are estimates; those of endpoints that moa bench has measured
are measured, and say so. Exit codes: 0 there is a plan, 1 nothing fits, 2 the task can't be read.
"""


def choose(
    text: Annotated[str, typer.Argument(help="The task, in English.", show_default=False)] = "",
    *,
    job: Annotated[str | None, typer.Option("--job", help="What is done with an item.")] = None,
    per_day: Annotated[int | None, typer.Option("--per-day", help="Items a day.")] = None,
    latency: Annotated[
        float | None, typer.Option("--latency", help="Seconds in which 95 of 100 are answered.")
    ] = None,
    streamed: Annotated[
        bool | None,
        typer.Option("--streamed/--whole", help="Whether --latency is of the first token."),
    ] = None,
    input_tokens: Annotated[int | None, typer.Option("--input-tokens", help="Of one item.")] = None,
    output_tokens: Annotated[
        int | None, typer.Option("--output-tokens", help="Of one answer, thoughts included.")
    ] = None,
    language: Annotated[
        list[str] | None, typer.Option("--language", help="As de; several times for several.")
    ] = None,
    risk: Annotated[
        str | None, typer.Option("--risk", help="Of a wrong answer: low, medium or high.")
    ] = None,
    labels: Annotated[int | None, typer.Option("--labels", help="Labelled items.")] = None,
    concurrency: Annotated[
        int | None, typer.Option("--concurrency", help="Items in flight at once.")
    ] = None,
    max_usd: Annotated[
        float | None, typer.Option("--max-usd", help="Most US dollars for a thousand items.")
    ] = None,
    private: Annotated[
        bool | None, typer.Option("--private/--public", help="Whether items stay in the house.")
    ] = None,
    offline: Annotated[
        bool | None, typer.Option("--offline/--online", help="Whether there is no network.")
    ] = None,
    api: Annotated[
        bool | None,
        typer.Option("--api/--no-api", help="Whether vendors may be asked; else: if a key is set."),
    ] = None,
    vendor: Annotated[
        list[str] | None, typer.Option("--vendor", help="As openai; several times for several.")
    ] = None,
    gpu: Annotated[
        list[str] | None,
        typer.Option("--gpu", help="Of another machine: L4, H100:8 or NAME:1:24GB."),
    ] = None,
    no_gpu: Annotated[bool, typer.Option("--no-gpu", help="As if there were none.")] = False,
    ram: Annotated[str | None, typer.Option("--ram", help="Of another machine: 8GB.")] = None,
    cores: Annotated[int | None, typer.Option("--cores", help="Of another machine.")] = None,
    hourly_usd: Annotated[
        float | None, typer.Option("--hourly-usd", help="What the machine costs an hour.")
    ] = None,
    usd_per_kwh: Annotated[
        float | None, typer.Option("--usd-per-kwh", help="What electricity costs.")
    ] = None,
    config: options.ConfigFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON.")] = False,
    write: Annotated[
        bool, typer.Option("--write", help="Write the best plan's endpoints into moa.toml.")
    ] = False,
    nearest: Annotated[
        bool, typer.Option("--nearest", help="With --write: the best plan that moa can run.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="With --write: overwrite endpoints.")
    ] = False,
) -> None:
    """Choose models and a pattern for a task, with reasons and numbers."""
    from moa.choosing.describing import Description

    fields = {
        "job": job,
        "per_day": per_day,
        "latency_s": latency,
        "streamed": streamed,
        "input_tokens": input_tokens,
        "output_tokens": output_tokens,
        "languages": tuple(language) if language else None,
        "risk": risk,
        "labels": labels,
        "concurrency": concurrency,
        "max_usd_per_thousand": max_usd,
        "private": private,
        "offline": offline,
        "api": api,
        "vendors": tuple(vendor) if vendor else None,
    }
    understood, task = _task(text, {k: v for k, v in fields.items() if v is not None})
    machine = _machine(Description(gpus=gpu or (), no_gpu=no_gpu, ram=ram, cores=cores), task)
    rates = (_decimal(hourly_usd), _decimal(usd_per_kwh))
    ranking = _ranked(task, machine, config, rates)
    _show(ranking, understood, as_json=as_json)
    if write:
        _write(ranking, config, nearest=nearest, force=force, as_json=as_json)
    if not ranking.plans:
        raise typer.Exit(1)


def _task(text: str, given: dict[str, Any]) -> tuple[list[Read], Task]:
    from moa.choosing.members import keys_set
    from moa.choosing.reading import Read, read, task_of

    understood = [one for one in read(text) if one.field not in given]
    said = {one.field for one in understood} | set(given)
    there = keys_set()
    if there and not said & {"api", "vendors"}:
        understood += [
            Read("api", True, "a key in the environment"),
            Read("vendors", there, "a key in the environment"),
        ]
    return understood, task_of(understood, given)


def _machine(description: Any, task: Task) -> Machine:
    from moa.choosing.describing import described
    from moa.machine import machine

    return described(description, machine(online=not task.offline))


def _ranked(
    task: Task,
    machine: Machine,
    config: Path | None,
    rates: tuple[Decimal | None, Decimal | None],
) -> Ranking:
    from moa.choosing.ranking import choose as ranked
    from moa.cli.configuration import configured

    hourly_usd, usd_per_kwh = rates
    return ranked(
        task, machine, config=configured(config), hourly_usd=hourly_usd, usd_per_kwh=usd_per_kwh
    )


def _show(ranking: Ranking, understood: list[Read], *, as_json: bool) -> None:
    import sys

    from moa.cli import choose_tables as tables
    from moa.cli import screen
    from moa.cli.lines import write

    if as_json:
        write(sys.stdout, tables.line(ranking, understood))
        return
    console = screen.out()
    for part in tables.parts(ranking, understood):
        console.print(part)


def _write(
    ranking: Ranking, config: Path | None, *, nearest: bool, force: bool, as_json: bool
) -> None:
    from rich.text import Text

    from moa.choosing.writing import to_write, write_plan
    from moa.cli import screen

    plan = to_write(ranking, nearest=nearest)
    written = write_plan(plan, ranking.machine, path=config, force=force)
    console = screen.err() if as_json else screen.out()
    did = f"Wrote {' and '.join(written.endpoints)} into {written.file}"
    console.print(Text(f"{did if written.endpoints else 'Nothing to write'} for {plan}:", "bold"))
    for line in written.lines:
        console.print(Text(f"  {line}"))


def _decimal(value: float | None) -> Decimal | None:
    from decimal import Decimal

    return None if value is None else Decimal(repr(value))
