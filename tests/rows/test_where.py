"""Where: `--where` chooses lines by a word, or by what a field holds."""

from __future__ import annotations

import pytest

from moa.core.errors import ConfigError
from moa.rows import Where

LINES: dict[str, dict[str, object]] = {
    "decided": {"id": 1, "label": "spam", "confidence": 0.5, "accepted": True},
    "reply": {"id": 2, "status": "answered", "input": {"stars": 5}, "output": {"kind": "reply"}},
    "queued": {"id": 3, "status": "answered", "output": {"queue": "quarantine"}},
    "deep": {"id": 4, "status": "answered", "output": {"decisions": {"mood": {"label": "spam"}}}},
    "dropped": {"id": 5, "status": "dropped", "output": {"kept": False}},
    "failed": {"id": 6, "status": "failed", "output": None, "error": "InputError: no text"},
}
CHOSEN = {
    ("kept",): ["decided", "reply", "queued", "deep"],
    ("dropped",): ["dropped"],
    ("failed",): ["failed"],
    ("accepted",): ["decided"],
    ("quarantine",): ["queued"],
    ("label=spam",): ["decided"],
    ("label = spam", "confidence=0.50"): ["decided"],
    ("decisions.mood.label=spam",): ["deep"],
    ("kept", "queue!=quarantine"): ["decided", "reply", "deep"],
    ("stars=5",): ["reply"],
    ("id=3",): ["queued"],
    ("accepted=1",): [],
    ("label=[",): [],
    (): [*LINES],
}


@pytest.mark.parametrize(("given", "names"), CHOSEN.items(), ids=map(" ".join, CHOSEN))
def test_lines_are_chosen_by_words_and_fields(given: tuple[str, ...], names: list[str]) -> None:
    where = Where.of(given)
    assert [name for name, line in LINES.items() if where.matches(line)] == names


@pytest.mark.parametrize("given", ["", "kpet", "=spam", "!=spam"])
def test_what_is_no_condition_is_refused(given: str) -> None:
    with pytest.raises(ConfigError, match="kept"):
        Where.of([given])
