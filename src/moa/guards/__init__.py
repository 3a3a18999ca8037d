"""Guards: what stands between a text and a node, one file a guard.

There are two kinds. A **check** is any node that takes a text and gives a `Verdict`, such as
`Filter`: what it doesn't keep is stopped. `Pii` takes secrets out of a request and puts them back
into the answer. `moa.guards.guarded` puts guards around a node.
"""

from __future__ import annotations

from typing import Any, Literal

from moa.node import Dropped, Frozen

Position = Literal["before", "beside", "after"]
"""Where a guard stands: before the node, beside it while it runs, or after it, on its output."""


class Blocked(Dropped):
    """What comes out where a guard stopped a request, or an answer.

    Examples:
        >>> small = SimulatedEndpoint(rule=lambda text: {"spam": {"yes": 0.9 * ("WIN" in text)}})
        >>> guarded = Guarded(node=Agent(small, "Answer."), before=[Spam(small)])
        >>> blocked = guarded.run_sync("WIN a cruise!").output
        >>> isinstance(blocked, Blocked) and (blocked.guard, blocked.place)
        ('spam', 'before')
    """

    guard: str
    """Name of the guard."""
    place: Position


class Exchange(Frozen):
    """A request and its answer, for a check of the answer that has to see both."""

    request: Any
    """What the node was given."""
    output: Any
    """What it gave."""
