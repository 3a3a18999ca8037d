"""moa draw: a graph as a drawing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moa.cli import options

EXAMPLES = """

    moa draw support                                  Mermaid, for GitHub or https://mermaid.live
    moa draw support --out support.svg                a picture; .png works too
    moa draw examples/custom_graph.py:graph           your own

Nothing is started, asked or sent for it, and no key is needed.
"""


def draw(
    graph: Annotated[
        str,
        typer.Argument(help="A ready graph, which moa graphs lists, or file.py:object."),
    ],
    *,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE.svg|FILE.png",
            help="Picture to write; default: Mermaid text on standard output.",
        ),
    ] = None,
    config: options.ConfigFile = None,
) -> None:
    """Draw a graph."""
    from moa.cli.configuration import configured
    from moa.config.endpoints import Endpoints
    from moa.errors import ConfigError
    from moa.graphs.engine.drawing import Drawable
    from moa.graphs.loading import load_graph

    node = load_graph(graph, Endpoints(configured(config), read_keys=False))
    if not isinstance(node, Drawable):
        raise ConfigError(f"{graph!r} is a single agent, and there is nothing in it to draw")
    drawing = node.draw()
    if out is None:
        print(drawing.mermaid, end="")  # noqa: T201
    else:
        drawing.save(out)
