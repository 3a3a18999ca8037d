"""Tests of the moderation rules, with a simulated model. No test asks a real one."""

from __future__ import annotations

from collections.abc import Mapping

from graph import Comment, Ruling, moderation

from moa.testing import SimulatedEndpoint

HARMLESS = {"spam": {"no": 0.95}, "injection": {"no": 0.95}, "abuse": {"no": 0.95}}


def ruling(text: str, **decided: Mapping[str, float]) -> Ruling:
    """Run one comment, with these decisions of the small model."""
    small = SimulatedEndpoint(rule=lambda _: {**HARMLESS, **decided})
    return moderation(small).run_sync(Comment(text=text)).output


def test_a_harmless_comment_is_published() -> None:
    assert ruling("Thank you, that helped!").action == "publish"


def test_what_is_surely_an_insult_is_removed() -> None:
    assert ruling("You idiot.", abuse={"yes": 0.93}).action == "remove"


def test_what_may_be_an_insult_waits_for_somebody_to_read_it() -> None:
    result = ruling("That is a silly idea.", abuse={"yes": 0.62})
    assert result.action == "hold"
    assert "insult" in result.reasons[0]
