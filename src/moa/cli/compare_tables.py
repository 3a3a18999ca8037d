"""Tables of a comparison: figures by design, and what each is worth."""

from __future__ import annotations

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from moa.evals.report import Comparison, cells_of, columns_of

_STYLES = {True: "green", False: "yellow", None: ""}


def shown(found: Comparison) -> Group:
    """Show a comparison: its table, its verdicts, and why cases have no answer."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for place, name in enumerate(columns_of(found)):
        table.add_column(name, justify="right" if place else "left", no_wrap=True)
    for design in found.designs:
        table.add_row(*map(Text, cells_of(found, design)))
    budget = "" if found.budget is None else f", each design with US$ {found.budget:.2f}"
    lines = [Text(f"{found.n} cases{budget}")]
    for design in found.designs:
        name = Text(f"{design.name}: ", style="bold")
        lines.append(name + Text(design.verdict, style=_STYLES[design.pays]))
        if design.error is not None:
            missing = found.n - design.answered
            lines.append(Text(f"  {missing} without an answer, such as: {design.error}", "red"))
    return Group(table, *lines)
