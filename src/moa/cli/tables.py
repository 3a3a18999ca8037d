"""Tables: results by item, and what they came to."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from moa.cli.cells import OUTCOME, cells
from moa.cli.tally import Tally
from moa.context import Reference
from moa.rows import Item
from moa.usage import Amount, Usage

_STYLES = {"failed": "red", "dropped": "yellow", "answered": ""}


def results(items: Sequence[Item]) -> Table:
    """Show one row an item."""
    rows = [cells(item) for item in items]
    columns = dict.fromkeys(name for row in rows for name in row if name != OUTCOME)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=True)
    for name in columns:
        table.add_column(name, no_wrap=True, overflow="ellipsis")
    table.add_column("status", no_wrap=True)
    table.add_column(OUTCOME, no_wrap=True, overflow="ellipsis", ratio=1)
    for item, row in zip(items, rows, strict=True):
        shown = [Text(row.get(name, "")) for name in columns]
        outcome = Text(" ".join(row[OUTCOME].split()))
        style = _STYLES[item.status]
        table.add_row(*shown, Text(item.status), outcome, style=style)
    return table


def summary(tally: Tally, reference: Reference | None) -> Group:
    """Show what all items came to, and by node."""
    return Group(_totals(tally, reference), by_node(tally.spent))


def cost_of(usage: Usage) -> str:
    """Say a cost in words: what is known, and how much is not; never 0 for unknown."""
    total = usage.total
    if total.cost is not None:
        return dollars(total.cost)
    unpriced = [name for name, u in usage.by_endpoint().items() if u.cost is None]
    unknown = f"unknown (of {total.unpriced_calls} calls to {', '.join(unpriced)})"
    return f"{dollars(total.priced_cost)} + {unknown}" if total.priced_cost else unknown


def dollars(cost: Decimal | None) -> str:
    """Write US dollars with as many places as they need."""
    if cost is None:
        return "unknown"
    return f"US$ {cost:.2f}" if cost >= 1 or not cost else f"US$ {cost:.6f}".rstrip("0")


def _totals(tally: Tally, reference: Reference | None) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    counts = ", ".join(f"{n} {status}" for status, n in sorted(tally.statuses.items()))
    table.add_row("items", f"{tally.items}: {counts}" if counts else "none")
    table.add_row("needed the LLM", f"{tally.needed_llm} of {tally.items} ({tally.llm_share:.0%})")
    for name, words in tally.worth.rows():
        table.add_row(name, Text(words))
    table.add_row("cost", Text(cost_of(tally.spent)))
    table.add_row("LLM alone, estimated", Text(_alone(tally.usage, reference)))
    table.add_row(
        "seconds an item",
        f"{tally.mean:.2f} mean, {tally.percentile(0.5):.2f} median, "
        f"{tally.percentile(0.95):.2f} at the 95th percentile",
    )
    table.add_row("speed", f"{tally.items_per_second:.1f} items/s")
    return table


def _alone(usage: Usage, reference: Reference | None) -> str:
    if reference is None:
        return "unknown: no LLM is configured to compare with"
    estimate = usage.on(reference.price, endpoint=reference.endpoint)
    return f"{dollars(estimate.cost)} ({estimate.how})"


def by_node(usage: Usage) -> Table:
    """Show what each node used."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("node", "tier", "endpoint"):
        table.add_column(name)
    for name in ("calls", "tokens in", "out", "seconds", "cost"):
        table.add_column(name, justify="right")
    for part, amount in sorted(usage.parts.items(), key=lambda entry: entry[0].node):
        names = (part.node or "-", part.tier, part.endpoint)
        table.add_row(*map(Text, (*names, *_figures(amount))))
    return table


def _figures(amount: Amount) -> tuple[str, ...]:
    return (
        f"{amount.calls}",
        f"{amount.input_tokens}",
        f"{amount.output_tokens}",
        f"{amount.seconds:.1f}",
        dollars(amount.cost),
    )


def listed(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Show rows of words; the first of a row, its name, stays on one line."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, name in enumerate(columns):
        table.add_column(name, no_wrap=number == 0)
    for row in rows:
        table.add_row(*map(Text, row))
    return table
