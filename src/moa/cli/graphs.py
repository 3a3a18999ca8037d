"""moa graphs: the ready graphs and agents, and what each does."""

from __future__ import annotations

from moa.cli import options

EXAMPLES = """

    moa graphs
    moa graphs --json | jq .settings      what the table of each in moa.toml may say

Then moa run NAME INPUT runs one, and moa draw NAME draws it. One of your own is given as
file.py:object.
"""


def graphs(*, as_json: options.AsJson = False) -> None:
    """List the ready graphs and agents, and what each does."""
    from moa.cli import screen
    from moa.cli.screen import json_line
    from moa.cli.tables import listed
    from moa.graphs.loading import READY

    if not as_json:
        rows = [(name, ready.does) for name, ready in sorted(READY.items())]
        screen.out().print(listed(("name", "what it does"), rows))
        return
    for name, ready in sorted(READY.items()):
        known = [*ready.settings]
        json_line({"name": name, "does": ready.does, "settings": known})
