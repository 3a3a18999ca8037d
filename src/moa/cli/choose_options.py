"""Options of `moa choose`: what is said of the task, and of the machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from moa.jobs import Risk as TaskRisk
from moa.jobs import TaskJob

Text = Annotated[str, typer.Argument(help="The task, in English.", show_default=False)]
Job = Annotated[TaskJob | None, typer.Option("--job", help="What is done with each item.")]
PerDay = Annotated[int | None, typer.Option("--per-day", min=1, help="Items a day.")]
Latency = Annotated[
    float | None, typer.Option("--latency", help="Seconds in which 95 of 100 are answered.")
]
Streamed = Annotated[
    bool | None,
    typer.Option("--streamed/--whole", help="Whether --latency is of the first token."),
]
InputTokens = Annotated[
    int | None, typer.Option("--input-tokens", min=1, help="Tokens of one item.")
]
OutputTokens = Annotated[
    int | None,
    typer.Option("--output-tokens", min=1, help="Tokens of one answer, reasoning included."),
]
Language = Annotated[
    list[str] | None,
    typer.Option("--language", help="Language of the items, such as de; repeat for several."),
]
Risk = Annotated[TaskRisk | None, typer.Option("--risk", help="How bad a wrong answer is.")]
Labels = Annotated[
    int | None, typer.Option("--labels", min=0, help="Number of labelled items that there are.")
]
InFlight = Annotated[
    int | None, typer.Option("--concurrency", min=1, help="Items in flight at once.")
]
MaxUsd = Annotated[
    float | None,
    typer.Option("--max-usd", min=0, help="Most US dollars for a thousand items."),
]
Private = Annotated[
    bool | None,
    typer.Option(
        "--private/--public", help="Whether items must stay on this machine (local only)."
    ),
]
Offline = Annotated[
    bool | None, typer.Option("--offline/--online", help="Whether it must work without a network.")
]
Api = Annotated[
    bool | None,
    typer.Option("--api/--no-api", help="Whether vendors may be asked; else: if a key is set."),
]
Vendors = Annotated[
    list[str] | None,
    typer.Option("--vendor", help="Vendor that may be asked, such as openai; repeat for several."),
]

Gpu = Annotated[
    list[str] | None,
    typer.Option(
        "--gpu", help="GPUs to plan for instead of this machine's: L4, H100:8 or NAME:1:24GB."
    ),
]
NoGpu = Annotated[bool, typer.Option("--no-gpu", help="Plan as if there were no GPU.")]
Ram = Annotated[
    str | None, typer.Option("--ram", help="Memory to plan for instead of this machine's: 8GB.")
]
Cores = Annotated[
    int | None,
    typer.Option("--cores", min=1, help="CPU cores to plan for instead of this machine's."),
]
HourlyUsd = Annotated[
    float | None,
    typer.Option("--hourly-usd", min=0, help="US dollars that the machine costs an hour."),
]
UsdPerKwh = Annotated[
    float | None,
    typer.Option("--usd-per-kwh", min=0, help="US dollars a kilowatt-hour of electricity."),
]

Line = Annotated[bool, typer.Option("--json", help="Print one line of JSON.")]
Write = Annotated[
    bool, typer.Option("--write", help="Write the best plan's endpoints into moa.toml.")
]
Nearest = Annotated[
    bool, typer.Option("--nearest", help="With --write: the best plan that moa can run.")
]
Force = Annotated[bool, typer.Option("--force", help="With --write: overwrite endpoints.")]

_FIELDS = {
    "job": "job",
    "per_day": "per_day",
    "latency": "latency_s",
    "streamed": "streamed",
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "language": "languages",
    "risk": "risk",
    "labels": "labels",
    "concurrency": "concurrency",
    "max_usd": "max_usd_per_thousand",
    "private": "private",
    "offline": "offline",
    "api": "api",
    "vendor": "vendors",
}
"""Options that say something of the task, and the fields of `Task` that they are."""


def of_task(options: Mapping[str, Any]) -> dict[str, Any]:
    """Pick what the options say of the task, as fields of `Task`."""
    told = {field: options[option] for option, field in _FIELDS.items()}
    return {field: value for field, value in told.items() if value not in (None, (), [])}
