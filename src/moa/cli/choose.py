"""moa choose: which models, in which pattern, for a task on a machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from moa.cli import choose_options as given
from moa.cli import options

if TYPE_CHECKING:
    from decimal import Decimal

    from moa.advisor.hardware import Machine
    from moa.choosing.plans import Ranking
    from moa.choosing.reading import Read
    from moa.choosing.task import Task

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
    context: typer.Context,
    text: given.Text = "",
    *,
    job: given.Job = None,
    per_day: given.PerDay = None,
    latency: given.Latency = None,
    streamed: given.Streamed = None,
    input_tokens: given.InputTokens = None,
    output_tokens: given.OutputTokens = None,
    language: given.Language = None,
    risk: given.Risk = None,
    labels: given.Labels = None,
    concurrency: given.InFlight = None,
    max_usd: given.MaxUsd = None,
    private: given.Private = None,
    offline: given.Offline = None,
    api: given.Api = None,
    vendor: given.Vendors = None,
    gpu: given.Gpu = None,
    no_gpu: given.NoGpu = False,
    ram: given.Ram = None,
    cores: given.Cores = None,
    hourly_usd: given.HourlyUsd = None,
    usd_per_kwh: given.UsdPerKwh = None,
    config: options.ConfigFile = None,
    as_json: given.Line = False,
    write: given.Write = False,
    nearest: given.Nearest = False,
    force: given.Force = False,
) -> None:
    """Choose models and a pattern for a task, with reasons and numbers."""
    from moa.choosing.describing import Description

    understood, task = _task(text, given.of_task(context.params))
    machine = _machine(Description(gpus=gpu or (), no_gpu=no_gpu, ram=ram, cores=cores), task)
    ranking = _ranked(task, machine, config, (_decimal(hourly_usd), _decimal(usd_per_kwh)))
    _show(ranking, understood, as_json=as_json)
    if write:
        _write(ranking, config, nearest=nearest, force=force, as_json=as_json)
    if not ranking.plans:
        raise typer.Exit(1)


def _task(text: str, told: dict[str, Any]) -> tuple[list[Read], Task]:
    from moa.choosing.members import keys_set
    from moa.choosing.reading import Read, read, task_of

    understood = [one for one in read(text) if one.field not in told]
    said = {one.field for one in understood} | set(told)
    there = keys_set()
    if there and not said & {"api", "vendors"}:
        understood += [
            Read("api", True, "a key in the environment"),
            Read("vendors", there, "a key in the environment"),
        ]
    return understood, task_of(understood, told)


def _machine(description: Any, task: Task) -> Machine:
    from moa.advisor.hardware import machine
    from moa.choosing.describing import described

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

    from moa.cli import choose_tables as tables
    from moa.cli import screen
    from moa.cli.screen import json_line

    if as_json:
        json_line(tables.line(ranking, understood))
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
