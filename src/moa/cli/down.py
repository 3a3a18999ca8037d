"""moa down: servers stopped, and nothing left of them."""

from __future__ import annotations

from typing import Annotated

import typer

from moa.cli import options

EXAMPLES = """

    moa down                              every server of ./moa.toml
    moa down small
    moa down --all                        also those of other configurations
"""


def down(
    names: options.Names = None,
    *,
    config: options.ConfigFile = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Every server that moa started on this machine.")
    ] = False,
) -> None:
    """Stop the servers that `moa up` started, and wait until nothing is left of them."""
    import asyncio

    from rich.text import Text

    from moa.cli.configuration import configured
    from moa.cli.screen import out
    from moa.vllm.fleet import take_down

    console = out()
    stopped = asyncio.run(take_down(configured(config), names or (), everything=everything))
    for name, ran in stopped.items():
        console.print(Text(f"{name}: {'stopped' if ran else 'was not running'}"))
    if not stopped:
        console.print("no server runs")
