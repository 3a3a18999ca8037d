"""Labelled rows: text and label, as a calibration takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moa.calibration.labelled import Labelled
    from moa.rows import Format

_READ = 400
"""Most texts whose language is looked at, evenly spread."""
_RARE = 0.05
"""A smaller share of a language may be the detector's error."""


def labelled_rows(
    source: str, *, format: Format | None = None, text_column: str | None = None
) -> list[Labelled]:
    """Read rows of text and label, and of a case where they name one.

    Raises:
        ConfigError: there is no such file, or a row is broken, or lacks its text or label.
    """
    from moa import rows
    from moa.calibration.labelled import Labelled
    from moa.errors import ConfigError, InputError
    from moa.rows import Malformed, text_of

    found: list[Labelled] = []
    for row in rows.read(source, format=format, text_column=text_column):
        where = f"{source}, line {row.number}"
        if isinstance(row, Malformed):
            raise ConfigError(f"{where}: {row.error}")
        fields = row.value if isinstance(row.value, dict) else {}
        label, case = fields.get("label"), fields.get("case")
        if not isinstance(label, str) or not label.strip():
            has = ", ".join(map(repr, fields)) or "only a text"
            raise ConfigError(
                f"{where}: a labelled row needs a text in 'label', and this one has {has}. "
                "Rename the column that holds the label"
            )
        try:
            text = text_of(row.value)
        except InputError as error:
            raise ConfigError(f"{where}: {error}") from error
        if not text.strip():
            raise ConfigError(f"{where}: the text is empty")
        by = fields.get("labelled_by")
        found.append(
            Labelled(
                text=text,
                label=label,
                case=None if case is None else str(case),
                chosen=fields.get("chosen") is True,
                by=by if isinstance(by, str) else None,
            )
        )
    return found


def languages(texts: Sequence[str]) -> dict[str, float]:
    """Give the share of each language in some of the texts; empty where none can be told."""
    from moa.agents.language import can_detect, language_of
    from moa.calibration.drift import shares

    if not can_detect():
        return {}
    step = max(1, len(texts) // _READ)
    return shares([language_of(text) for text in texts[::step]])


def other_language(was: dict[str, float], texts: Sequence[str]) -> str | None:
    """Say in a sentence that texts are in another language than those of a calibration."""
    now = languages(texts)
    known = {name for name, share in was.items() if share >= _RARE}
    new = {name: share for name, share in now.items() if name not in known and share >= _RARE}
    if not known or sum(new.values()) < 4 * _RARE:
        return None
    shown = ", ".join(f"{name} ({share:.0%})" for name, share in new.items())
    return (
        f"the input is in {shown}, and the calibration was made on {', '.join(sorted(known))}: its "
        "promise does not cover that. Confirm it with labelled rows of that language: "
        "moa calibrate --recheck FILE ROWS"
    )
