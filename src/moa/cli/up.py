"""moa up: the servers of the configuration, started and waited for."""

from __future__ import annotations

from typing import Annotated

import typer

from moa.cli import options

EXAMPLES = """

    moa up                                every endpoint of ./moa.toml with serve = "vllm"
    moa up small --timeout-s 300
    moa up --detach && moa status

The servers stay up when this command has ended, are started again after a crash, listen on
127.0.0.1 alone, and have a key that moa knows. Ctrl-C, before they are ready, stops them. One that
fails, or takes longer than its time, keeps none of the others from being started.

Exit codes: 0 all are ready (with --detach: all are started), 2 some aren't.
"""


def up(
    names: options.Names = None,
    *,
    config: options.ConfigFile = None,
    timeout_s: Annotated[
        float,
        typer.Option(
            "--timeout-s",
            min=0,
            help="Seconds to wait for each; one that takes longer goes on in the background.",
        ),
    ] = 900.0,
    detach: Annotated[
        bool, typer.Option("--detach", help="Return at once, and don't wait until they are ready.")
    ] = False,
) -> None:
    """Start the vLLM servers of the configuration, and wait until they are ready."""
    import asyncio

    from rich.text import Text

    from moa.cli.configuration import configured
    from moa.cli.screen import out, waiting
    from moa.vllm.fleet import bring_up, start
    from moa.vllm.planning import specs_of

    specs = specs_of(configured(config), names or ())
    console = out()
    if detach:
        start(specs, done=lambda launched: console.print(Text(launched.words())))
        return
    with waiting() as show:
        asyncio.run(
            bring_up(
                specs,
                timeout_s=timeout_s,
                tell=lambda spec, line, joined: show(
                    f"{spec.name} comes up{' already' if joined else ''}: {line or '…'}"
                ),
                done=lambda up: console.print(Text(up.words())),
            )
        )
