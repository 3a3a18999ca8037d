"""Unwanted mass mailings."""

from __future__ import annotations

import pytest

from moa.guards.spam import EXAMPLES, Spam
from moa.testing import SimulatedEndpoint


def small(yes: float) -> SimulatedEndpoint:
    return SimulatedEndpoint(rule=lambda text: {"spam": {"yes": yes}})


@pytest.mark.parametrize(("yes", "kept"), [(0.9, False), (0.1, True)])
async def test_without_the_encoder_the_model_decides(yes: float, kept: bool) -> None:
    assert (await Spam(small(yes)).run("Win a phone!")).output.kept is kept


def test_without_the_encoder_the_model_is_shown_what_is_spam_and_what_is_not() -> None:
    assert [one.text for one in Spam(small(0.9)).examples] == [text for text, _ in EXAMPLES]


def test_a_criterion_of_ones_own_is_shown_no_examples_of_spam() -> None:
    assert not Spam(small(0.9), criterion="about politics").examples
