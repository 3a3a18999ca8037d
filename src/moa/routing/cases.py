"""Cases: what a router looks at, as a table of numbers beside the texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from moa.calibration.reply_signs import reply_features
from moa.decisions.arrays import Floats, Ints, np
from moa.routing.features import prompt_features

KNOWN = frozenset(prompt_features("")) | frozenset(reply_features("", ""))
"""Names of the features that a case can have."""


@dataclass(frozen=True, slots=True)
class Case:
    """A request to be routed."""

    prompt: str
    reply: str | None = None
    """What the weak model answered; `None` where it wasn't asked yet."""
    fields: Mapping[str, str] = field(default_factory=dict[str, str])
    """Whatever else is known of it, such as its subject."""


@dataclass(frozen=True, slots=True)
class Table:
    """Cases as numbers: a column each feature."""

    cases: tuple[Case, ...]
    names: tuple[str, ...]
    values: Floats
    """Cases, features."""

    def __getitem__(self, places: Ints) -> Table:
        """Some of the cases."""
        chosen = tuple(self.cases[place] for place in map(int, places))
        return Table(chosen, self.names, self.values[places])

    def columns(self, names: Sequence[str]) -> Floats:
        """Some of the features, in the order asked for.

        Raises:
            KeyError: one isn't there: the caller asks for what `describe` doesn't make.
        """
        place = {name: number for number, name in enumerate(self.names)}
        return self.values[:, [place[name] for name in names]]


def describe(cases: Sequence[Case]) -> Table:
    """Compute the features of cases, all with a reply or all without."""
    found = [_features(case) for case in cases]
    names = tuple(found[0]) if found else ()
    values = np.array([[features[name] for name in names] for features in found], dtype=float)
    return Table(tuple(cases), names, values.reshape(len(cases), len(names)))


def _features(case: Case) -> dict[str, float]:
    replied = {} if case.reply is None else reply_features(case.prompt, case.reply)
    return {**prompt_features(case.prompt), **replied}
