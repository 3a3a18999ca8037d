"""Citations: passages with numbers in a prompt, and the numbers that an answer cites them by."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence, Set
from typing import NamedTuple

from moa.agents.prompts import block
from moa.documents import Passage
from moa.documents.retrieval import words
from moa.documents.sentences import sentences
from moa.node import Frozen

_CITATION = re.compile(r"\s?\[(\d{1,4}(?:\s*[,;\u2013-]\s*\d{1,4})*)\]")
_PART = re.compile(r"(\d+)(?:\s*[\u2013-]\s*(\d+))?")
MOST_WORDS = 0.6
"""Share of the words of a sentence, rare ones counting more, from which on a text that holds them
is taken for what the sentence rests on."""
_BETTER = 0.3
"""By how much a passage must share more of a sentence than those that it cites, to be cited
instead."""
_BRACKETS = re.compile(r"\[(\d[\d\s,;\u2013-]*)\]")


class Citation(Frozen):
    """A number in an answer, and the passage that it stands for."""

    number: int
    passage: Passage


class Statement(NamedTuple):
    """A sentence of an answer."""

    text: str
    """Without its citations."""
    numbers: tuple[int, ...]
    """The passages that it cites; they count from 1."""


class Cited(NamedTuple):
    """An answer whose citations were checked."""

    text: str
    """The answer, without citations of what was not given, and with those that its words have."""
    citations: tuple[Citation, ...]
    """Each passage that it cites, once, in the order of their numbers."""
    unknown: tuple[int, ...]
    """Numbers that no passage has."""
    added: int
    """How many sentences were given the citation that their words have."""

    @property
    def changes(self) -> list[str]:
        """What was changed, in words."""
        found: list[str] = []
        if self.unknown:
            numbers = ", ".join(map(str, self.unknown))
            found.append(f"citations of passages that were not given: {numbers}")
        if self.added:
            found.append(f"{self.added} sentences are given the citation that their words have")
        return found


def listed(passages: Sequence[Passage]) -> str:
    """Write passages for a prompt, each as data, under the number that it is cited by.

    Numbers in brackets inside a passage are put in parentheses, so that none of them can pass for
    a citation.
    """
    shown = [unbracketed(f"{passage.source}\n{passage.text}") for passage in passages]
    return "\n\n".join(f"[{number}]\n{block(text)}" for number, text in enumerate(shown, 1))


def unbracketed(text: str) -> str:
    """Put numbers that stand in brackets, as footnotes do, in parentheses."""
    return _BRACKETS.sub(r"(\1)", text)


def cited(answer: str, passages: Sequence[Passage]) -> Cited:
    """Check the citations of an answer, and cite by words where a writer didn't.

    Those of passages that were not given are taken out. Small models forget citations, or write
    `[1]` whatever they read: a sentence that cites nothing is given the passage that holds most of
    its words, if it holds enough of them; one whose passages hold far fewer than another cites
    that one instead.

    Args:
        answer: Cites by `[1]`, `[1, 2]` or `[1-3]`.
        passages: Those that were given, in the order of their numbers.
    """
    found: set[int] = set()

    def kept(match: re.Match[str]) -> str:
        numbers = _numbers(match[1])
        found.update(numbers)
        known = [number for number in numbers if 0 < number <= len(passages)]
        blank = " " if match[0][0].isspace() else ""
        return match[0] if known == numbers else "".join(f"{blank}[{n}]" for n in known)

    text, added = _by_words(_CITATION.sub(kept, answer), passages)
    return Cited(
        text=text,
        citations=tuple(
            Citation(number=n, passage=passages[n - 1]) for n in sorted(_cited_in(text))
        ),
        unknown=tuple(sorted(n for n in found if not 0 < n <= len(passages))),
        added=added,
    )


def _by_words(answer: str, passages: Sequence[Passage]) -> tuple[str, int]:
    held = [set(words(f"{passage.source} {passage.text}")) for passage in passages]
    parts, changed, end = list[str](), 0, 0
    for begin, sentence in sentences(answer):
        parts.append(answer[end:begin])
        end = begin + len(sentence)
        cited_by = _cited_in(sentence)
        bare = _CITATION.sub("", sentence).rstrip()
        shares = word_shares(bare, held)
        best = max(range(len(shares)), key=shares.__getitem__, default=0)
        now = max((shares[n - 1] for n in cited_by), default=MOST_WORDS - _BETTER)
        if shares and shares[best] >= max(MOST_WORDS, now + _BETTER):
            sentence, changed = f"{bare} [{best + 1}]", changed + 1
        parts.append(sentence)
    return "".join((*parts, answer[end:])), changed


def word_shares(sentence: str, held: Sequence[Set[str]]) -> list[float]:
    """Give the share of a sentence's words that each of several texts holds; rare ones count more.

    A word weighs log((texts + 1) / (those that hold it + 0.5)). One that none holds counts as if
    one did, or where there are few texts a word such as `it` would count more than all others.
    """
    said = set(words(sentence))
    holding = {word: max(1, sum(word in one for one in held)) for word in said}
    weights = {word: math.log((len(held) + 1) / (n + 0.5)) for word, n in holding.items()}
    whole = sum(weights.values()) or 1.0
    return [sum(weights[word] for word in said & one) / whole for one in held]


def statements(answer: str) -> list[Statement]:
    """Split an answer into its sentences, each with the numbers that it cites.

    What holds no letter and no digit beside its citations, such as a rule, is none.
    """
    found: list[Statement] = []
    for _, sentence in sentences(answer):
        numbers = sorted(_cited_in(sentence))
        text = _CITATION.sub("", sentence).strip()
        if any(map(str.isalnum, text)):
            found.append(Statement(text, tuple(numbers)))
    return found


def _cited_in(text: str) -> set[int]:
    return {n for match in _CITATION.finditer(text) for n in _numbers(match[1])}


def _numbers(inside: str) -> list[int]:
    """Read `1, 3-5`. A range counts as its two ends where it runs backwards or over 50 numbers."""
    found: list[int] = []
    for match in _PART.finditer(inside):
        first = int(match[1])
        last = int(match[2] or first)
        within = 0 <= last - first <= 50
        found += range(first, last + 1) if within else (first, last)
    return found
