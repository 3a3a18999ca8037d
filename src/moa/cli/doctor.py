"""moa doctor: what is missing, and the command that mends it."""

from __future__ import annotations

import typer

from moa.cli import options

EXAMPLES = """

    moa doctor
    moa doctor --config other.toml

Exit codes: 0 nothing is missing, 1 something is, 2 the configuration can't be read.
"""


def doctor(*, config: options.ConfigFile = None) -> None:
    """Check what moa needs on this machine, and say what mends it."""
    import asyncio

    from rich.text import Text

    from moa.cli import screen
    from moa.cli.checks import checks

    console = screen.out()
    missing = 0
    for check in asyncio.run(checks(config)):
        missing += not check.passed
        mark = Text("ok  ", "green") if check.passed else Text("miss", "red")
        console.print(mark, Text(f"{check.name}: {check.found}"))
        if check.mend:
            console.print(Text(f"     {check.mend}"))
    raise typer.Exit(1 if missing else 0)
