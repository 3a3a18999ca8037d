"""Tables of `moa bench`: the steps, and what they come to."""

from __future__ import annotations

from decimal import Decimal

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from moa.advisor.bench import Measurement, Step
from moa.cli.bench_run import DOES
from moa.cli.tables import dollars

_NUMBERS = (
    "in flight",
    "answers",
    "failed",
    "answers/s",
    "tokens in/s",
    "of them cached",
    "tokens out/s",
    "median s",
    "p95 s",
)


def shown(found: Measurement) -> Group:
    """Show what was measured."""
    title = f"{found.endpoint} ({found.model}), measured by: {found.machine}"
    return Group(Text(title), _steps(found), _totals(found))


def _steps(found: Measurement) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("it")
    for name in _NUMBERS:
        table.add_column(name, justify="right")
    for step in found.steps:
        table.add_row(DOES[step.work], *_figures(step))
    return table


def _figures(step: Step) -> tuple[str, ...]:
    return (
        f"{step.concurrency}",
        f"{step.requests}",
        f"{step.failed}",
        f"{step.requests_per_s:.1f}",
        f"{step.input_tokens_per_s:.0f}",
        f"{step.cached_input_tokens / (step.input_tokens or 1):.0%}",
        f"{step.output_tokens_per_s:.0f}",
        f"{step.latency_median_s:.2f}",
        f"{step.latency_p95_s:.2f}",
    )


def _totals(found: Measurement) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    seconds, rate = found.token_seconds, found.decisions_per_s
    if seconds is not None:
        table.add_row(
            f"a token, {seconds.concurrency} in flight",
            f"{seconds.input * 1e6:.0f} µs to read, {seconds.output * 1e6:.0f} µs to write",
        )
    if rate is not None:
        table.add_row("decisions", f"{rate:.1f}/s at best")
    if found.hourly_usd is None:
        table.add_row("price", "give --hourly-usd, or --watts and --usd-per-kwh, to see it")
        return table
    table.add_row("input", _price(found.usd_per_million_input, "million tokens"))
    table.add_row("cached input", _price(found.usd_per_million_cached_input, "million tokens"))
    table.add_row("output", _price(found.usd_per_million_output, "million tokens"))
    table.add_row("decisions", _price(found.usd_per_thousand_decisions, "thousand"))
    return table


def _price(price: Decimal | None, count: str) -> str:
    return "unknown: not measured" if price is None else f"{dollars(price)} a {count}"
