"""Presidio's recognisers, which remember what they found, since many tests read the same texts."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from moa.guards.pii import Pii
from moa.guards.recognizers import Finding, Recognizer, presidio_recognizers


@dataclass
class Remembering:
    """Asks a recogniser once for each text."""

    recognizer: Recognizer
    known: dict[str, list[Finding]] = field(default_factory=dict[str, list[Finding]])

    @property
    def name(self) -> str:
        return self.recognizer.name

    def find(self, text: str, /) -> list[Finding]:
        if text not in self.known:
            self.known[text] = list(self.recognizer.find(text))
        return self.known[text]


@pytest.fixture(scope="session")
def pii() -> Pii:
    return Pii(recognizers=[Remembering(found) for found in presidio_recognizers()])
