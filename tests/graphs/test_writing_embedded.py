from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from moa.documents.summarize import Original, Summarize
from moa.local.embedded import EmbeddedEndpoint

pytestmark = [pytest.mark.embedded, pytest.mark.timeout(300)]
"""Of the built-in model the form alone is looked at: it writes badly, and that is known."""


@pytest.fixture
async def model() -> AsyncIterator[EmbeddedEndpoint]:
    async with EmbeddedEndpoint("embedded") as endpoint:
        yield endpoint


async def test_a_summary_is_made_of_the_sentences_of_the_text(model: EmbeddedEndpoint) -> None:
    text = "Whales sing. Ships drown them out. A hat was lost. Lunch was at noon. It rained."
    output = (await Summarize(llm=model).run(Original(text=text))).output
    assert output.written_by == "extract"
    assert len(output.sentences) == 3
    assert all(sentence.text in text for sentence in output.sentences)
