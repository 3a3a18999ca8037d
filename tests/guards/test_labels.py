"""Labels of one's own that stop a text."""

from __future__ import annotations

import pytest

from moa.core.errors import ConfigError
from moa.guards.labels import LabelGuard
from moa.testing import ScriptedEndpoint


async def test_labels_that_are_stopped() -> None:
    slm = ScriptedEndpoint([{"label": {"medicine": 0.8}}, {"label": {"banking": 0.8}}])
    guard = LabelGuard(slm, ["banking", "medicine"], stop=["medicine"])
    first, second = [(await guard.run(text)).output for text in ("A pill?", "My card?")]
    assert (first.kept, second.kept) == (False, True)
    assert first.reason == "its label is 'medicine'"


def test_a_label_that_is_none_of_them_is_refused() -> None:
    with pytest.raises(ConfigError):
        LabelGuard(ScriptedEndpoint([]), ["a", "b"], stop=["c"])
