"""The rules of the cascade, with models that answer by rule: no test asks a real one."""

from __future__ import annotations

from graph import Desk, cascade

from moa import Text
from moa.testing import SimulatedEndpoint

CARD = Text(text="My card was declined.")


def small(sure: float) -> SimulatedEndpoint:
    """Make a small model that is so sure that all is about cards."""
    return SimulatedEndpoint(name="small", rule=lambda _: {"team": {"cards": sure}})


def large() -> SimulatedEndpoint:
    """Make a large model that thinks that all is about the app."""
    return SimulatedEndpoint(name="large", tier="llm", rule=lambda _: {"team": {"app": 0.99}})


def test_what_the_small_model_is_sure_of_is_settled() -> None:
    assert cascade(small(0.9)).run_sync(CARD).output == Desk(team="cards", by="model")


def test_without_a_large_model_people_look_at_the_rest() -> None:
    assert cascade(small(0.5)).run_sync(CARD).output == Desk(team="cards", by="people")


def test_the_large_model_is_asked_about_the_rest_alone() -> None:
    endpoint = large()
    teams = [
        cascade(small(confidence), endpoint, learn=None).run_sync(CARD).output.team
        for confidence in (0.9, 0.5)
    ]
    assert teams == ["cards", "app"]
    assert len(endpoint.states) == 1
