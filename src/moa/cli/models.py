"""moa models: what is configured, reachable, priced, and can do what."""

from __future__ import annotations

import typer

from moa.cli import options

EXAMPLES = """

    moa models                            what ./moa.toml, or nothing, configures
    moa models --config other.toml
    moa models --json | jq .state

Every server is asked for its list of models, which costs nothing; nothing is started. Whether one
can decide natively shows at its first decision, so "can" says what it does otherwise, too.
The models that moa knows: moa models list. One of them as an endpoint: moa models add NAME
The file of one that runs in this machine: moa models fetch NAME
How one is asked best: moa models probe NAME
"""


def models(
    context: typer.Context, *, config: options.ConfigFile = None, as_json: options.AsJson = False
) -> None:
    """Show the endpoints: tier, model, price, what they can do, and whether they answer."""
    if context.invoked_subcommand is not None:
        return
    import asyncio

    from moa.cli import screen
    from moa.cli.configuration import configured
    from moa.cli.doctor import survey
    from moa.cli.screen import json_line
    from moa.cli.tables import listed

    found = asyncio.run(survey(configured(config)))
    if as_json:
        for endpoint in found:
            json_line(endpoint.line())
        return
    columns = ("name", "tier", "default of", "model", "price per million tokens", "can", "state")
    rows = [
        (e.name, e.tier, ", ".join(e.default_of), e.model, e.priced, e.able, e.state) for e in found
    ]
    console = screen.out()
    console.print(listed(columns, rows))
