"""The commands of `moa`, and what its help teaches."""

from __future__ import annotations

from collections.abc import Callable

import typer

from moa.cli import decide, doctor, draw, models, run

app = typer.Typer(
    name="moa",
    help="Mixtures of agents: small models decide, large ones write.",
    epilog="Start with: moa run support examples/support/inbox.jsonl",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _add(command: Callable[..., None], examples: str) -> None:
    """Put the examples below the description, as they are written."""
    shown = (command.__doc__ or "").strip() + examples.replace("\n\n", "\n\n\b\n")
    app.command(command.__name__, help=shown)(command)


_add(run.run, run.EXAMPLES)
_add(decide.decide, decide.EXAMPLES)
_add(draw.draw, draw.EXAMPLES)
_add(models.models, models.EXAMPLES)
_add(doctor.doctor, doctor.EXAMPLES)
