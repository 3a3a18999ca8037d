"""Findings: what recognisers find in a text, and what is done where they overlap."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from moa.errors import GuardFailed
from moa.guards.folding import views


@dataclass(frozen=True, slots=True)
class Finding:
    """A part of a text that is to be kept from a model. It doesn't hold the part itself."""

    kind: str
    """What it is, in capitals: `EMAIL`."""
    start: int
    end: int
    """Where it stands: `text[start:end]`."""
    score: float
    """How sure the recogniser is, from 0 to 1; 1 where a checksum holds."""
    checked: bool = True
    """Whether it was looked at; where a text has too many numbers, their shape is enough."""

    def moved(self, by: int) -> Finding:
        """Say where it is in a text that begins so many characters earlier."""
        return Finding(self.kind, self.start + by, self.end + by, self.score, self.checked)


class Recognizer(Protocol):
    """Finds secrets of one or several kinds."""

    @property
    def name(self) -> str:
        """Shown in errors."""
        ...

    def find(self, text: str, /) -> Iterable[Finding]:
        """Find them. Whatever it raises stops the request."""
        ...


def find(
    recognizers: Sequence[Recognizer],
    text: str,
    *,
    least: float,
    ignore: Collection[str] = (),
) -> list[Finding]:
    """Find everything in a text, in order and without overlaps.

    Args:
        recognizers: Who looks.
        text: As it was written; it is read folded too, see `moa.guards.folding`.
        least: Score from which on a finding counts.
        ignore: Kinds that don't.

    Raises:
        GuardFailed: a recogniser raised. What it said isn't told, since the text may be in it.
    """
    found: list[Finding] = []
    for view in views(text):
        for recognizer in recognizers:
            for finding in _asked(recognizer, view.text):
                counts = finding.score >= least and finding.kind not in ignore
                if counts and finding.end > finding.start:
                    start, end = view.span(finding.start, finding.end)
                    found.append(replace(finding, start=start, end=end))
    return merged(found)


def _asked(recognizer: Recognizer, text: str) -> list[Finding]:
    failure = ""
    try:
        return list(recognizer.find(text))
    except Exception as error:  # noqa: BLE001  whatever it is, nothing may be sent
        failure = type(error).__name__
    # Raised out here, so that the error doesn't carry the other one, which may quote the text.
    raise GuardFailed(
        f"the recogniser {recognizer.name!r} raised {failure}, so nothing was sent. "
        "Mend it, or leave it out; what it said is not shown, as it may hold what it looked for"
    )


def merged(found: Iterable[Finding]) -> list[Finding]:
    """Make one finding of those that overlap.

    It has the kind of the one with the highest score, of the longest among those, and covers all
    of them: no part of a finding is left over.
    """
    made: list[Finding] = []
    cluster: list[Finding] = []
    end = -1
    for finding in sorted(found, key=lambda f: f.start):
        if finding.start >= end and cluster:
            made.append(_one(cluster))
            cluster = []
        cluster.append(finding)
        end = max(end, finding.end)
    return [*made, _one(cluster)] if cluster else []


def _one(cluster: Sequence[Finding]) -> Finding:
    if len(cluster) == 1:
        return cluster[0]
    best = max(cluster, key=lambda f: (f.score, f.end - f.start, -f.start, f.kind))
    return replace(best, start=cluster[0].start, end=max(f.end for f in cluster))
