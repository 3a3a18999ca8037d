"""Checks: what is wrong with a text that a model wrote, as far as words tell, without a call.

A text rests on its *ground*: what the writer was given to say. A number, a day, a yes or a promise
that isn't in it may be made up. What is looked for is in `checks.toml`, by language; the words
of a language that isn't there tell nothing, and `Checks.of` says so by `None`.

They find what small models write badly most, and not what is wrong with the sense: a text without
a fault isn't proven to be right.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import cache, cached_property
from importlib.resources import files
from itertools import combinations
from typing import Literal, NamedTuple

from moa.agents.language import can_detect, language_of
from moa.calibration.arithmetic import find_numbers, format_number
from moa.documents.claims import word_shares
from moa.documents.retrieval import words
from moa.documents.sentences import sentences

Kind = Literal[
    "refusal",
    "empty",
    "repetition",
    "echo",
    "length",
    "placeholder",
    "language",
    "figure",
    "day",
    "yes",
    "promise",
]
_PROMISES = ("sends", "refunds", "replaces", "cancels")
_READ = 4000
"""Characters of a text that are looked at; replies are shorter."""
_ALIKE = 0.7
"""Share of the words of two sentences that both have, from which on they say the same."""
_FEWEST = 4
"""Words from which on a sentence can repeat another: short ones may be meant to."""
_TIMES = 3
"""Times that a shorter sentence must be said to be a repetition."""
_LONG, _NEARLY = 6, 0.8
"""Words of a sentence of the question, and the share of them in one of the answer, from which on
that repeats it, whatever else it says."""
_RESTS = 0.55
"""Share of the words of a sentence, rare ones counting more, with which a text holds it."""
_GREETING = 2
"""Sentences of a text that says nothing: a greeting, and what can be done for whom."""
_OPENING = 3
"""Sentences of a text that may begin with a yes: a greeting comes before it."""
_WEEK = 7
_PLACEHOLDER = re.compile(r"\[[^\W\d][\w' ]{2,40}\]|\{[^\W\d][\w' ]{2,40}\}|<[^\W\d][\w' ]{2,40}>")
"""A placeholder that somebody has to fill in."""
_APOSTROPHES = {0x2019: "'", 0x02BC: "'"}
_SMALLEST = 2
"""The first of the numbers that are listed in words; one is also an article."""


class Fault(NamedTuple):
    """A fault of a text."""

    kind: Kind
    said: str
    """In words."""


class Checks:
    """Patterns to look for in texts of one language.

    Args:
        language: ISO 639-1 code, one of those in `checks.toml`.
    """

    def __init__(self, language: str) -> None:
        table = _lists()[language]
        self.language = language
        self._yes = re.compile(rf"(?:{'|'.join(table['yes'])})(?!\w)")
        self._refuses, self._empty = _match_any(table["refuses"]), _match_any(table["empty"])
        self._promises = {name: _match_any(table[name]) for name in _PROMISES}
        self._done = _match_any(table["done"])
        self._numbers = [re.compile(rf"\b(?:{each})\b") for each in table["numbers"]]
        self._days = [re.compile(rf"\b(?:{each})") for each in table["days"]]

    @classmethod
    def of(cls, language: str | None) -> Checks | None:
        """Return the checks of a language; `None` if there are none."""
        return _checks(language) if language in _lists() else None

    def refuses(self, text: str) -> bool:
        """Return True if it says that the writer can't help."""
        return self._refuses.search(_plain(text)) is not None

    def says_nothing(self, text: str) -> bool:
        """Return True if it hardly does more than ask for the request."""
        return len(sentences(text)) <= _GREETING and self._empty.search(_plain(text)) is not None

    def says_yes(self, sentence: str) -> bool:
        """Return True if it begins with a yes."""
        return self._yes.match(_plain(sentence).lstrip("¡¿ \"'")) is not None

    def promises(self, sentence: str) -> list[str]:
        """List the promises of a sentence: to send, refund, replace, or cancel and move."""
        plain = _plain(sentence)
        return [name for name, said in self._promises.items() if said.search(plain)]

    def says_done(self, sentence: str) -> bool:
        """Return True if it says that the writer has done something."""
        return self._done.search(_plain(sentence)) is not None

    def figures(self, text: str) -> list[Fraction]:
        """Return all numbers of a text, also those from two to ten in words."""
        plain = _plain(text)
        named = enumerate(self._numbers, _SMALLEST)
        return [*find_numbers(text), *(Fraction(n) for n, one in named if one.search(plain))]

    def days(self, text: str) -> dict[int, str]:
        """Return the named days with their wording: 0 is Monday, 7 today, 8 tomorrow."""
        plain = _plain(text)
        found = ((day, one.search(plain)) for day, one in enumerate(self._days))
        return {day: match[0] for day, match in found if match}


class Ground:
    """The sources that a text may rely on.

    Args:
        given: What the writer was given to say, such as rules and facts.
        asked: What it answers: its figures and days may be repeated, but not promised.
    """

    def __init__(self, given: Sequence[str], asked: str = "") -> None:
        self._given, self._asked = given, asked

    @cached_property
    def _sentences(self) -> list[set[str]]:
        return [set(words(one)) for text in self._given for _, one in sentences(text)]

    @cached_property
    def _spoken(self) -> frozenset[str]:
        plain = _plain("\n".join(self._given))
        return frozenset(name for name in _PROMISES if _spoken()[name].search(plain))

    @cached_property
    def _given_figures(self) -> frozenset[Fraction]:
        return frozenset(figure for text in self._given for figure in _figures(text))

    @cached_property
    def _asked_figures(self) -> frozenset[Fraction]:
        return frozenset(_figures(self._asked))

    def lacks(self, figures: Iterable[Fraction]) -> list[Fraction]:
        """Return the numbers that aren't in it, each once."""
        known = self._given_figures | self._asked_figures
        return [figure for figure in dict.fromkeys(figures) if figure not in known]

    def speaks_of(self, promise: str) -> bool:
        """Return True if the given texts speak of such a promise."""
        return promise in self._spoken

    def names(self, day: int, *, promised: bool) -> bool:
        """Return True if it names a day; if `promised`, only the given texts count."""
        texts = self._given if promised else (*self._given, self._asked)
        return any(day in _days(text) for text in texts)

    def holds(self, sentence: str, figures: Iterable[Fraction]) -> bool:
        """Return True if the given texts have most words of a sentence, or one of its numbers."""
        if self._given_figures & {*figures}:
            return True
        return max(word_shares(sentence, self._sentences), default=0.0) >= _RESTS


def faults_of(text: str, *, ground: Ground, asked: str, language: str | None) -> list[Fault]:
    """List the faults of an answer, the worst first, as far as words show them.

    Args:
        text: What a model wrote.
        ground: What it may rest on.
        asked: What it answers.
        language: In which it should be written, as ISO 639-1; `None`: in any.
    """
    found: list[Fault] = []
    if len(text) > _READ:
        found.append(Fault("length", f"only its first {_READ} characters are looked at"))
        text = text[:_READ]
    found += _repetitions(text, asked[:_READ])
    if place := _PLACEHOLDER.search(text):
        found.append(Fault("placeholder", f"something is to be filled in: {place[0]}"))
    spoken = language_of(text) if can_detect() else language
    if language is not None and spoken not in (None, language):
        found.append(Fault("language", f"it is written in {spoken}, and not in {language}"))
    checks = Checks.of(spoken or language)
    if checks is None:
        said = f"words tell nothing about a text in {spoken or language or 'its language'}"
        return [*found, Fault("language", said), *_find_strange(find_numbers(text), ground)]
    if checks.refuses(text):
        found.insert(0, Fault("refusal", "it says that it can't help"))
    elif checks.says_nothing(text):
        found.insert(0, Fault("empty", "it only asks what is wanted"))
    return [*found, *_find_unsupported(text, checks, ground)]


def _repetitions(text: str, asked: str) -> Iterator[Fault]:
    """Find a repeated sentence, or one that repeats the question."""
    said = [(one, {*words(one)}) for _, one in sentences(text)]
    long = [(one, own) for one, own in said if len(own) >= _FEWEST]
    twice = next((two for (_, a), (two, b) in combinations(long, 2) if _are_alike(a, b)), None)
    often = Counter(one.casefold() for one, own in said if len(own) > 1)
    if twice is None:
        twice = next((one for one, count in often.items() if count >= _TIMES), None)
    if twice is not None:
        yield Fault("repetition", f"it says twice: {twice:.80}")
    heard = [own for _, one in sentences(asked) if len(own := {*words(one)}) >= _FEWEST]
    for one, own in long:
        if any(_are_alike(own, each) or _holds(own, each) for each in heard):
            yield Fault("echo", f"it repeats what was asked: {one:.80}")
            return


def _are_alike(one: set[str], other: set[str]) -> bool:
    return len(one & other) >= _ALIKE * len(one | other)


def _holds(one: set[str], other: set[str]) -> bool:
    """Return True if a sentence has nearly all words of a long one."""
    return len(other) >= _LONG and len(one & other) >= _NEARLY * len(other)


def _find_strange(figures: Iterable[Fraction], ground: Ground) -> Iterator[Fault]:
    if strange := ground.lacks(figures):
        said = ", ".join(map(format_number, strange))
        yield Fault("figure", f"nothing given holds these figures: {said:.80}")


def _find_unsupported(text: str, checks: Checks, ground: Ground) -> Iterator[Fault]:
    """Find figures, days, a yes and promises without ground."""
    yield from _find_strange(checks.figures(text), ground)
    said = [one for _, one in sentences(text)]
    for place, one in enumerate(said):
        yes = place < _OPENING and checks.says_yes(one)
        promised = checks.promises(one)
        if yes:
            whole = " ".join(said[place : place + 2])
            if not ground.holds(whole, checks.figures(whole)):
                yield Fault("yes", f"nothing given holds this yes: {one:.80}")
        bound = yes or bool(promised)
        for day, name in checks.days(one).items():
            if (bound or day < _WEEK) and not ground.names(day, promised=bound):
                yield Fault("day", f"nothing given holds {name!r}: {one:.80}")
        if any(not ground.speaks_of(promise) for promise in promised):
            yield Fault("promise", f"nothing given holds this promise: {one:.80}")
        elif checks.says_done(one):
            yield Fault("promise", f"it says what it can't have done: {one:.80}")


def _figures(text: str) -> list[Fraction]:
    checks = _checks_for(text)
    return find_numbers(text) if checks is None else checks.figures(text)


def _days(text: str) -> Mapping[int, str]:
    checks = _checks_for(text)
    return {} if checks is None else checks.days(text)


def _checks_for(text: str) -> Checks | None:
    return Checks.of(language_of(text)) if can_detect() else None


@cache
def _checks(language: str) -> Checks:
    return Checks(language)


@cache
def _lists() -> Mapping[str, dict[str, list[str]]]:
    """Read the patterns by language."""
    text = files("moa.documents").joinpath("checks.toml").read_text("utf-8")
    return {name: table for name, table in tomllib.loads(text).items() if name != "spoken"}


@cache
def _spoken() -> Mapping[str, re.Pattern[str]]:
    """Return, for each promise, the pattern of texts in any language that speak of it."""
    text = files("moa.documents").joinpath("checks.toml").read_text("utf-8")
    found = tomllib.loads(text)["spoken"]
    return {name: re.compile(rf"\b(?:{'|'.join(found[name])})") for name in _PROMISES}


def _match_any(patterns: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(rf"\b(?:{each})" for each in patterns))


def _plain(text: str) -> str:
    return text.casefold().translate(_APOSTROPHES)
