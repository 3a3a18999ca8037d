"""Calibrations in use: connected to endpoints, and checked against odd rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from moa.core.errors import CalibrationError
from moa.decisions.calibrated import CalibratedDecider
from moa.decisions.drift import Detect, language_shares
from moa.decisions.features import sources_of
from moa.decisions.file import Calibration
from moa.documents.language import can_detect, language_of
from moa.endpoints import Endpoint
from moa.learning.labelled import CleanRows, Labelled

_READ = 400
"""Maximum number of texts whose language is looked at, evenly spread."""
_RARE = 0.05
"""A smaller share of a language may be the detector's error."""


def connect(calibration: Calibration, endpoint: Endpoint) -> CalibratedDecider:
    """Connect a calibration to an endpoint, and to the sources of this machine."""
    return CalibratedDecider(calibration, calibration.question.question(), sources_of(endpoint))


def next_look(file: Path, task: str) -> int:
    """Return the number of the next look at growing rows, from 1 on.

    The file that it replaces counts the looks before, if it is one for the same task.
    """
    try:
        before = Calibration.load(file)
    except CalibrationError:
        return 1
    if before.bound is None or before.question.text != task:
        return 1
    return 1 + (before.bound.guarantee.look or 1)


def detector() -> Detect | None:
    """Return the language detector; `None` if it is not installed."""
    return language_of if can_detect() else None


def languages(texts: Sequence[str]) -> dict[str, float]:
    """Return the share of each language in some of the texts; empty without a detector."""
    detect = detector()
    if detect is None:
        return {}
    step = max(1, len(texts) // _READ)
    return language_shares([detect(text) for text in texts[::step]])


def warn_of_language(was: dict[str, float], texts: Sequence[str]) -> str | None:
    """Return a warning if texts are in another language than those of a calibration."""
    shares = languages(texts)
    old = {name for name, share in was.items() if share >= _RARE}
    new = {name: share for name, share in shares.items() if name not in old and share >= _RARE}
    if not old or sum(new.values()) < 4 * _RARE:
        return None
    listing = ", ".join(f"{name} ({share:.0%})" for name, share in new.items())
    return (
        f"the input is in {listing}, and the calibration was made on {', '.join(sorted(old))}: its "
        "guarantee does not cover that. Confirm it with labelled rows of that language: "
        "moa learn --recheck FILE ROWS"
    )


def odd_rows(calibration: Calibration, rows: Sequence[Labelled]) -> Iterator[str]:
    """Yield reasons why figures on such rows say little of other rows."""
    made_from = calibration.data
    if made_from is None:
        return
    if warning := warn_of_language(made_from.languages, [row.text for row in rows]):
        yield warning
    if CleanRows(rows=tuple(rows), notes=(), duplicates=0).fingerprint == made_from.sha256:
        yield (
            "the calibration was made from these rows, so the figures say little of others: give "
            "rows that took no part in it"
        )
    if count := sum(row.chosen for row in rows):
        yield (
            f"{count} of {len(rows)} rows were chosen to be labelled, so the figures say little "
            "of texts as they come: for that, give rows that were drawn at random"
        )
