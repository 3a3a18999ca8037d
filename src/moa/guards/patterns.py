"""Patterns: recognisers of a user's own, by regular expression or by a list of words."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from moa.errors import ConfigError
from moa.guards.findings import Finding
from moa.guards.vault import PLACEHOLDER, QUOTED

_KIND = re.compile(r"[A-Z][A-Z0-9_]*")


@dataclass(frozen=True)
class Pattern:
    """Finds what a regular expression matches, upper and lower case apart.

    Args:
        kind: What it is, in capitals.
        expression: The regular expression; one that takes exponential time on some text blocks
            the event loop on it.
        score: How sure a match is; 1 wins over everything else that is found in the same place.

    Raises:
        ConfigError: it isn't valid, or the kind is not in capitals.
    """

    kind: str
    expression: str
    score: float = 1.0

    def __post_init__(self) -> None:
        if not _KIND.fullmatch(self.kind):
            raise ConfigError(
                f"kind={self.kind!r}, but a kind is capitals, digits and _, as in ORDER_NUMBER"
            )
        try:
            re.compile(self.expression)
        except re.error as error:
            raise ConfigError(
                f"the pattern of {self.kind!r} is no regular expression: {error}"
            ) from error

    @property
    def name(self) -> str:
        """The kind that it finds."""
        return self.kind

    @cached_property
    def _compiled(self) -> re.Pattern[str]:
        return re.compile(self.expression)

    def find(self, text: str, /) -> Iterator[Finding]:
        """Find all matches that aren't empty."""
        for match in self._compiled.finditer(text):
            if match.end() > match.start():
                yield Finding(self.kind, match.start(), match.end(), self.score)


def denied(phrases: Iterable[str], *, kind: str = "PRIVATE") -> Pattern:
    """Find phrases of a list: in any case, with any white space between their words.

    A phrase is found as whole words, but for those that begin or end in a script without blanks.

    Args:
        phrases: Names, projects, addresses: what no checksum knows.
        kind: What they are, in capitals.

    Raises:
        ConfigError: there is none, or an empty one.
    """
    listed = sorted({" ".join(phrase.split()) for phrase in phrases}, key=len, reverse=True)
    if not listed or not all(listed):
        raise ConfigError("a deny list needs phrases, and none of them empty")
    return Pattern(kind, f"(?i:{'|'.join(map(_whole, listed))})")


def looks_like_a_placeholder() -> Pattern:
    """Find what would be taken for a placeholder of ours when it comes back."""
    return Pattern(QUOTED, PLACEHOLDER.pattern)


def _whole(phrase: str) -> str:
    words = r"\s+".join(re.escape(word) for word in phrase.split())
    before = r"(?<!\w)" if _has_edge(phrase[0]) else ""
    after = r"(?!\w)" if _has_edge(phrase[-1]) else ""
    return f"{before}{words}{after}"


def _has_edge(character: str) -> bool:
    return character.isalnum() and unicodedata.category(character) != "Lo"
