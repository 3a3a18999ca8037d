"""Guards check a text before, beside or after a node. Each is a file: `spam.py`, `pii.py` …

To add one, such as for profanity, write `profanity.py`:

1. a class derived from `Filter`, where a criterion in words does it: as in `spam.py`, without
   a head, since none ships for yours. Else one derived from `TypedNode[Text | str,
   Verdict]`, whose `answer` gives a `Verdict` (`agents/filter.py`): not `kept` is stopped;
2. `@ready("profanity", "Drops swear words", "slm")` above it, so that tables and `moa run` know it;
3. `tests/guards/test_profanity.py`, and its name on a page of the docs.

`guarded.py` puts guards around a node. What they share is in `texts.py`: the texts in a value, and
the ways to read one; and for `pii.py` in `recognizers.py`.
"""

from __future__ import annotations

from typing import Any, Literal

from moa.core.node import Dropped, Frozen

Position = Literal["before", "beside", "after"]
"""Position of a guard: before the node, beside it while it runs, or after it, on its output."""


class Blocked(Dropped):
    """The output if a guard stopped a request, or an answer.

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
    """A request and its answer, for checks that need both."""

    request: Any
    """Input of the node."""
    output: Any
    """Output of the node."""
