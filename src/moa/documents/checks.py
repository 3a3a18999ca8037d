"""Checks: find faults in a text that a model wrote, by its words, without a call.

A text rests on its *ground*: the texts that its writer was given. A number, a day, a yes or a
promise that isn't in it may be made up. The patterns are in `checks.toml`, by language; for other
languages `Checks.of` returns `None`.

They find the most frequent faults of small models, not errors of meaning: a text without a fault
isn't proven to be right.
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

from moa.core.numbers import find_numbers, format_number
from moa.documents.claims import word_shares
from moa.documents.language import can_detect, language_of
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
"""Maximum characters of a text to check; replies are shorter."""
_ASKED = 100_000
"""Maximum characters of a question whose figures and days count. All of a message of megabytes
would take seconds, in which a server answers nobody."""
_ALIKE = 0.7
"""Minimum share of common words for two sentences to say the same."""
_FEWEST = 4
"""Minimum words for a sentence to repeat another: short ones may do so on purpose."""
_TIMES = 3
"""Number of times that a shorter sentence must occur to be a repetition."""
_LONG, _NEARLY = 6, 0.8
"""A sentence of the question with at least this many words is repeated by a sentence of the answer
with at least this share of them, whatever else that says."""
_RESTS = 0.55
"""Minimum share of a sentence's words, rare ones counting more, for a text to hold it."""
_GREETING = 2
"""Maximum sentences of a text that says nothing: a greeting, and an offer of help."""
_OPENING = 3
"""Number of first sentences that may begin with a yes, since a greeting may come before it."""
_WEEK = 7
_PLACEHOLDER = re.compile(r"\[[^\W\d][\w' ]{2,40}\]|\{[^\W\d][\w' ]{2,40}\}|<[^\W\d][\w' ]{2,40}>")
"""A placeholder that somebody has to fill in."""
_APOSTROPHES = {0x2019: "'", 0x02BC: "'"}
_SMALLEST = 2
"""The smallest of the numbers listed in words, since one is also an article."""


class Fault(NamedTuple):
    """A fault of a text."""

    kind: Kind
    said: str
    """Description of the fault."""


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
        self._numbers = [re.compile(rf"\b(?:{pattern})\b") for pattern in table["numbers"]]
        self._days = [re.compile(rf"\b(?:{pattern})") for pattern in table["days"]]

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
        plain_text = _plain(sentence)
        return [name for name, pattern in self._promises.items() if pattern.search(plain_text)]

    def says_done(self, sentence: str) -> bool:
        """Return True if it says that the writer has done something."""
        return self._done.search(_plain(sentence)) is not None

    def figures(self, text: str) -> list[Fraction]:
        """Return all numbers of a text, also those from two to ten in words."""
        plain_text = _plain(text)
        patterns = enumerate(self._numbers, _SMALLEST)
        return [
            *find_numbers(text),
            *(Fraction(n) for n, pattern in patterns if pattern.search(plain_text)),
        ]

    def days(self, text: str) -> dict[int, str]:
        """Return the named days with their wording: 0 is Monday, 7 today, 8 tomorrow."""
        plain_text = _plain(text)
        matches = ((day, pattern.search(plain_text)) for day, pattern in enumerate(self._days))
        return {day: match[0] for day, match in matches if match}


class Ground:
    """The sources that a text may rely on.

    Args:
        sources: The texts that the writer was given, such as rules and facts.
        question: The question that it answers. Its figures and days may be repeated, but not
            promised. Only its first 100,000 characters count.
    """

    def __init__(self, sources: Sequence[str], question: str = "") -> None:
        self._given, self._asked = sources, question[:_ASKED]

    @cached_property
    def _sentences(self) -> list[set[str]]:
        return [set(words(sentence)) for text in self._given for _, sentence in sentences(text)]

    @cached_property
    def _spoken(self) -> frozenset[str]:
        plain_text = _plain("\n".join(self._given))
        return frozenset(name for name in _PROMISES if _spoken()[name].search(plain_text))

    @cached_property
    def _given_figures(self) -> frozenset[Fraction]:
        return frozenset(figure for text in self._given for figure in _figures(text))

    @cached_property
    def _asked_figures(self) -> frozenset[Fraction]:
        return frozenset(_figures(self._asked))

    def lacks(self, figures: Iterable[Fraction]) -> list[Fraction]:
        """Return the numbers that are in neither sources nor question, each once."""
        return [
            figure
            for figure in dict.fromkeys(figures)
            if figure not in self._given_figures and figure not in self._asked_figures
        ]

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


def faults_of(text: str, *, ground: Ground, question: str, language: str | None) -> list[Fault]:
    """List the faults of an answer that its words show. A refusal or an empty answer comes first.

    Args:
        text: The answer that a model wrote.
        ground: The sources that it may rely on.
        question: The question that it answers.
        language: Expected language, as ISO 639-1; `None`: any.
    """
    faults: list[Fault] = []
    if len(text) > _READ:
        faults.append(Fault("length", f"only its first {_READ} characters are looked at"))
        text = text[:_READ]
    faults += _repetitions(text, question[:_READ])
    if placeholder := _PLACEHOLDER.search(text):
        faults.append(Fault("placeholder", f"something is to be filled in: {placeholder[0]}"))
    text_language = language_of(text) if can_detect() else language
    if language is not None and text_language not in (None, language):
        faults.append(Fault("language", f"it is written in {text_language}, and not in {language}"))
    checks = Checks.of(text_language or language)
    if checks is None:
        message = (
            f"words tell nothing about a text in {text_language or language or 'its language'}"
        )
        return [*faults, Fault("language", message), *_find_strange(find_numbers(text), ground)]
    if checks.refuses(text):
        faults.insert(0, Fault("refusal", "it says that it can't help"))
    elif checks.says_nothing(text):
        faults.insert(0, Fault("empty", "it only asks what is wanted"))
    return [*faults, *_find_unsupported(text, checks, ground)]


def _repetitions(text: str, question: str) -> Iterator[Fault]:
    """Find a repeated sentence, or one that repeats the question."""
    pairs = [(sentence, {*words(sentence)}) for _, sentence in sentences(text)]
    long_pairs = [(sentence, word_set) for sentence, word_set in pairs if len(word_set) >= _FEWEST]
    repetition = next(
        (second for (_, a), (second, b) in combinations(long_pairs, 2) if _are_alike(a, b)), None
    )
    counts = Counter(sentence.casefold() for sentence, word_set in pairs if len(word_set) > 1)
    if repetition is None:
        repetition = next((sentence for sentence, count in counts.items() if count >= _TIMES), None)
    if repetition is not None:
        yield Fault("repetition", f"it says twice: {repetition:.80}")
    question_sets = [
        word_set
        for _, sentence in sentences(question)
        if len(word_set := {*words(sentence)}) >= _FEWEST
    ]
    for sentence, word_set in long_pairs:
        if any(
            _are_alike(word_set, question_set) or _holds(word_set, question_set)
            for question_set in question_sets
        ):
            yield Fault("echo", f"it repeats what was asked: {sentence:.80}")
            return


def _are_alike(left: set[str], right: set[str]) -> bool:
    return len(left & right) >= _ALIKE * len(left | right)


def _holds(word_set: set[str], long_set: set[str]) -> bool:
    """Return True if a sentence has nearly all words of a long one."""
    return len(long_set) >= _LONG and len(word_set & long_set) >= _NEARLY * len(long_set)


def _find_strange(figures: Iterable[Fraction], ground: Ground) -> Iterator[Fault]:
    if strange := ground.lacks(figures):
        numbers = ", ".join(map(format_number, strange))
        yield Fault("figure", f"nothing given holds these figures: {numbers:.80}")


def _find_unsupported(text: str, checks: Checks, ground: Ground) -> Iterator[Fault]:
    """Find figures, days, a yes and promises that the ground doesn't support."""
    yield from _find_strange(checks.figures(text), ground)
    all_sentences = [sentence for _, sentence in sentences(text)]
    for index, sentence in enumerate(all_sentences):
        yes = index < _OPENING and checks.says_yes(sentence)
        promises = checks.promises(sentence)
        if yes:
            opening = " ".join(all_sentences[index : index + 2])
            if not ground.holds(opening, checks.figures(opening)):
                yield Fault("yes", f"nothing given holds this yes: {sentence:.80}")
        is_promised = yes or bool(promises)
        for day, name in checks.days(sentence).items():
            if (is_promised or day < _WEEK) and not ground.names(day, promised=is_promised):
                yield Fault("day", f"nothing given holds {name!r}: {sentence:.80}")
        if any(not ground.speaks_of(promise) for promise in promises):
            yield Fault("promise", f"nothing given holds this promise: {sentence:.80}")
        elif checks.says_done(sentence):
            yield Fault("promise", f"it says what it can't have done: {sentence:.80}")


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
    patterns = tomllib.loads(text)["spoken"]
    return {name: re.compile(rf"\b(?:{'|'.join(patterns[name])})") for name in _PROMISES}


def _match_any(patterns: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(rf"\b(?:{pattern})" for pattern in patterns))


def _plain(text: str) -> str:
    return text.casefold().translate(_APOSTROPHES)
