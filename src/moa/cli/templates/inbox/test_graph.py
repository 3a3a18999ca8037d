"""Tests of the inbox rules, with simulated models. No test asks a real one."""

from __future__ import annotations

from collections.abc import Mapping

from graph import Case, inbox

from moa.inbox.support import Support, Ticket
from moa.testing import SimulatedEndpoint

CALM = {
    "spam": {"no": 0.9},
    "injection": {"no": 0.9},
    "danger": {"no": 0.9},
    "sentiment": {"neutral": 0.9},
    "urgency": {"can wait": 0.9},
}
"""The small model's decisions on an ordinary message."""


def case(text: str, **decided: Mapping[str, float]) -> Case:
    """Run one message, with these decisions of the small model."""
    small = SimulatedEndpoint(name="small", rule=lambda _: {**CALM, **decided})
    large = SimulatedEndpoint(name="large", tier="llm", rule=lambda _: "Dear customer, …")
    return inbox(Support(slm=small, llm=large)).run_sync(Ticket(text=text)).output


def test_a_routine_message_is_answered_at_once() -> None:
    result = case("Where is my parcel, please?", intent={"delivery": 0.99})
    assert (result.send, result.queue) == ("now", "")


def test_what_looks_like_spam_is_kept_for_people_to_look_at() -> None:
    result = case("You have won a prize!", spam={"yes": 0.95}, intent={"none of these": 0.9})
    assert (result.send, result.queue) == ("nothing", "quarantine")
