"""The table of a calibration: what was tried, what was chosen, and what is promised."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moa._terminal import Console
    from moa.calibration.file import Calibration


def show(console: Console, made: Calibration, file: Path) -> None:
    """Print what a calibration tried, chose and promises."""
    from rich.table import Table

    from moa.calibration import percent

    table = Table(box=None, pad_edge=False, title="By cross-validation", title_justify="left")
    table.add_column("scorer", no_wrap=True)
    for heading in (
        "accuracy",
        "macro F1",
        "ECE (by chance)",
        "acceptable",
        "ms",
        "tokens",
        "$ per 1000",
    ):
        table.add_column(heading, justify="right")
    picked = " + ".join(member.name for member in made.members)
    for one in made.candidates:
        table.add_row(
            one.name,
            f"{one.accuracy:.3f}",
            f"{one.macro_f1:.3f}",
            f"{one.ece:.3f} ({'-' if one.ece_by_chance is None else f'{one.ece_by_chance:.3f}'})",
            f"{one.coverage:.0%}",
            f"{1000 * one.seconds:.1f}",
            f"{one.tokens:.0f}",
            "unknown" if one.cost is None else f"{1000 * one.cost:.4f}",
            style="bold" if one.name == picked else "",
        )
    console.print(table)
    console.print(f"\nchosen: {made.chosen}")
    for note in made.notes:
        console.print(f"note: {note}")
    right = made.reached.held_out_accuracy
    if right is not None:
        console.print(
            f"fitted to {made.data.fitted} rows; of the {made.data.held_out} held out, "
            f"{right:.1%} are right",
        )
    for label, bound in made.bounds.items():
        console.print(f"{label}: {bound.summary}")
    console.print(f"promise: {made.bound.summary}")
    for other in made.looser:
        accepts = percent(other.coverage) if other.threshold is not None else "nothing"
        guarantee = replace(other.guarantee, look=None)
        console.print(f"instead, {guarantee}: would accept {accepts}")
    if made.more_rows is not None:
        console.print(
            f"for what was asked, label about {made.more_rows} more rows, drawn at random",
        )
    console.print(f"written to {file}")
