"""Recognizers: find secrets in a text. They are presidio's, and the user's own.

Presidio's compute checksums, and need no language model and no network. Those for names of people,
places and organisations aren't used, since they need a language model. Put the names that you know
on a deny list.
"""

from __future__ import annotations

import functools
import logging
import re
import time
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Protocol

from moa.core.errors import ConfigError, GuardFailed, require_package
from moa.guards.texts import views

if TYPE_CHECKING:
    from presidio_analyzer import PatternRecognizer

_KIND = re.compile(r"[A-Z][A-Z0-9_]*")
_DENIED_S = 60.0
"""Timeout of a deny list in seconds: 5,000 phrases take at most 26 s for 1 MB."""
_BRACE = re.compile(r"\\N\{[^}]*\}|\\.|\{(?:\d+(?:,\d*)?|,\d*)\}|\{", re.DOTALL)
"""An escape, a quantifier, or any other brace: `regex` would read `{e}` as the number of errors a
match may have."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A part of a text that a model must not see. It doesn't hold the part itself."""

    kind: str
    """Kind, in capitals: `EMAIL`."""
    start: int
    end: int
    """Position: `text[start:end]`."""
    score: float
    """Confidence of the recogniser, from 0 to 1; 1 if a checksum holds."""
    checked: bool = True
    """False if only its shape counts, in a text with too many numbers to check."""

    def shift(self, by: int) -> Finding:
        """Return the finding, shifted by that many characters."""
        return Finding(self.kind, self.start + by, self.end + by, self.score, self.checked)


class Recognizer(Protocol):
    """Finds secrets of one or several kinds."""

    @property
    def name(self) -> str:
        """Name, for errors."""
        ...

    def find(self, text: str, /) -> Iterable[Finding]:
        """Find the secrets in a text. Any exception stops the request."""
        ...


def find(
    recognizers: Sequence[Recognizer], text: str, *, least: float, ignore: Collection[str] = ()
) -> list[Finding]:
    """Find everything in a text with a score of at least `least`, in order and without overlaps.

    Raises:
        GuardFailed: a recogniser raised. Its message isn't shown, since it may quote the text.
    """
    findings: list[Finding] = []
    readers = [
        recognizer.reader() if isinstance(recognizer, PresidioNumbers) else recognizer
        for recognizer in recognizers
    ]
    for view in views(text):
        for recognizer in readers:
            for finding in _ask_recognizer(recognizer, view.text):
                counts = finding.score >= least and finding.kind not in ignore
                if counts and finding.end > finding.start:
                    if view.written is not None:
                        start, end = view.span(finding.start, finding.end)
                        finding = replace(finding, start=start, end=end)
                    findings.append(finding)
    return merge(findings)


def _ask_recognizer(recognizer: Recognizer, text: str) -> list[Finding]:
    try:
        return list(recognizer.find(text))
    except Exception as error:  # noqa: BLE001  whatever it is, nothing may be sent
        failure = type(error).__name__
    # Raised out here, so that the error doesn't chain the other one, which may quote the text.
    if failure == "TimeoutError" and isinstance(recognizer, Pattern):
        raise GuardFailed(
            f"the pattern of {recognizer.name!r} took more than {recognizer.seconds:g} s for a "
            f"text of {len(text)} characters, so nothing was sent. Change it so that no part of a "
            "text can be matched in many ways, as (a+)+ does"
        )
    raise GuardFailed(
        f"the recogniser {recognizer.name!r} raised {failure}, so nothing was sent. "
        "Mend it, or leave it out; what it said is not shown, as it may hold what it looked for"
    )


def merge(findings: Iterable[Finding]) -> list[Finding]:
    """Merge findings that overlap.

    The merged finding covers all of them, so no part is left over. It has the kind of the one with
    the highest score; of equal ones, of the longest.
    """
    merged: list[Finding] = []
    cluster: list[Finding] = []
    end = -1
    for finding in sorted(findings, key=lambda f: f.start):
        if finding.start >= end and cluster:
            merged.append(_merge_cluster(cluster))
            cluster = []
        cluster.append(finding)
        end = max(end, finding.end)
    return [*merged, _merge_cluster(cluster)] if cluster else []


def _merge_cluster(cluster: Sequence[Finding]) -> Finding:
    if len(cluster) == 1:
        return cluster[0]
    best = max(cluster, key=lambda f: (f.score, f.end - f.start, -f.start, f.kind))
    return replace(best, start=cluster[0].start, end=max(f.end for f in cluster))


@dataclass(frozen=True)
class Pattern:
    """Finds matches of a regular expression, case-sensitively.

    Args:
        kind: Kind of what it finds, in capitals.
        expression: The regular expression, as `re` takes it.
        score: Confidence of a match, from 0 to 1; 1 wins over all other findings in the same place.
        seconds: Timeout for one text, after which the request is stopped. Some expressions would
            take years on some texts.

    Raises:
        ConfigError: the expression isn't valid, the kind is not in capitals, or `seconds` isn't
            above 0.
    """

    kind: str
    expression: str
    score: float = 1.0
    seconds: float = 2.0

    def __post_init__(self) -> None:
        if not _KIND.fullmatch(self.kind):
            raise ConfigError(
                f"kind={self.kind!r}, but a kind is capitals, digits and _, as in ORDER_NUMBER"
            )
        if not self.seconds > 0:
            raise ConfigError(f"seconds={self.seconds}, but a pattern takes some time")
        try:
            re.compile(self.expression)
        except re.error as error:
            raise ConfigError(
                f"the pattern of {self.kind!r} is no regular expression: {error}"
            ) from error

    @property
    def name(self) -> str:
        """Kind that it finds."""
        return self.kind

    @functools.cached_property
    def _find_matches(self) -> Callable[..., Iterator[re.Match[str]]]:
        # `re` can't be stopped, and blocks other threads.
        expression = _BRACE.sub(lambda f: r"\{" if f[0] == "{" else f[0], self.expression)
        return import_module("regex").compile(expression).finditer

    def find(self, text: str, /) -> Iterator[Finding]:
        """Find all matches that aren't empty.

        Raises:
            TimeoutError: it took longer than `seconds`.
        """
        for match in self._find_matches(text, timeout=self.seconds, concurrent=True):
            if match.end() > match.start():
                yield Finding(self.kind, match.start(), match.end(), self.score)


def deny_list(phrases: Iterable[str]) -> Pattern:
    """Return a pattern of phrases, in any case, with any white space between their words.

    Phrases match as whole words, except at an end in a script without spaces.
    """
    listed = sorted({" ".join(phrase.split()) for phrase in phrases}, key=len, reverse=True)
    if not listed or not all(listed):
        raise ConfigError("a deny list needs phrases, and none of them empty")
    either = "|".join(map(_as_words, listed))
    return Pattern("PRIVATE", f"(?i:{either})", seconds=_DENIED_S)


def _as_words(phrase: str) -> str:
    words = r"\s+".join(map(re.escape, phrase.split()))
    before = r"(?<!\w)" if _has_edge(phrase[0]) else ""
    after = r"(?!\w)" if _has_edge(phrase[-1]) else ""
    return f"{before}{words}{after}"


def _has_edge(character: str) -> bool:
    return character.isalnum() and unicodedata.category(character) != "Lo"


_PUNCTUATION = r"!#$%&'*+\-/=?^`{|}~."
_LABEL = r"\w++(?:-++\w++)*+"
_RUN = re.compile(
    rf"(?=[{_PUNCTUATION}\w])[{_PUNCTUATION}]*+"
    rf"(?:(\w[{_PUNCTUATION}\w]*+(?<!\.)@{_LABEL}(?:\.{_LABEL})++)|[{_PUNCTUATION}\w]*+)"
)
"""An address with its local part, or else a whole run of characters that an address may hold, so
that each is read once."""
_ADDRESS = re.compile(r"(https?://)?((?:(?!https?://)[a-z0-9.-]){1,253})", re.IGNORECASE)
_PATH = re.compile(r"(?::\d{1,5})?/[^\s()<>\"']*")


class EmailAddresses:
    """Finds e-mail addresses by their form. It doesn't look up the domain.

    It matches the same addresses as presidio's pattern, which takes quadratic time.
    """

    name = "EMAIL"

    def find(self, text: str, /) -> Iterator[Finding]:
        """Find the addresses, each up to the end of its domain."""
        for match in _RUN.finditer(text) if "@" in text else ():
            if match[1]:
                yield Finding("EMAIL", match.start(1), match.end(1), 1.0)


class Urls:
    """Finds URLs with a scheme, a path or `www`, in the top-level domains that presidio knows.

    The domains are read from presidio's pattern, which tries each of 1,400 at each of 253 places
    for each character. That pattern also takes `great.by`, two sentences without a space, for a
    URL.
    """

    name = "URL"

    def __init__(self, pattern: str) -> None:
        self._domains = frozenset(re.findall(r"\(\?:([a-z]+)\)", pattern))

    def find(self, text: str, /) -> Iterator[Finding]:
        """Find the URLs, each up to the end of its path."""
        if "." not in text:
            return
        end = 0
        for match in _ADDRESS.finditer(text):
            if match.start() < end or "." not in match[2]:  # within the path of the last one
                continue
            host = match[2].casefold()
            while (domain := host.rpartition("."))[0] and domain[2] not in self._domains:
                host = domain[0]
            end = match.start(2) + len(host)
            if not domain[0]:
                continue
            path = _PATH.match(text, end)
            if path or match[1] or host.lstrip(".-").startswith("www"):
                end = path.end() if path else end
                yield Finding("URL", match.start(), end, 0.6 if match[1] else 0.5)


_GENERIC = {
    "CreditCardRecognizer": "CARD",
    "IbanRecognizer": "IBAN",
    "IpRecognizer": "IP",
    "MacAddressRecognizer": "MAC",
    "CryptoRecognizer": "WALLET",
}
"""Kinds of findings, by the name of presidio's class."""
_NATIONAL = (
    "UsSsn", "UsItin", "UkNino", "Nhs", "CaSin", "AuTfn", "AuMedicare", "DeTaxId",
    "DeSocialSecurity", "DeIdCard", "DeHealthInsurance", "EsNif", "EsNie", "ItFiscalCode",
    "PlPesel", "FiPersonalIdentityCode", "SePersonnummer", "InAadhaar", "InPan", "KrRrn", "KrFrn",
    "SgFin", "ThTnin", "TrNationalId", "ZaIdNumber", "NgNin",
)  # fmt: skip
"""Personal numbers of countries that have a check digit, or a form of their own."""
_PHONE_REGIONS = (
    "US", "GB", "DE", "FR", "ES", "IT", "NL", "PL", "AT", "CH", "SE", "IN", "BR", "MX", "AU", "JP",
    "IL",
)  # fmt: skip
"""Countries of phone numbers without a country code; with one, all countries are found."""
_NEAR = 60
"""Characters before a finding that are searched for context words."""
_MORE, _SURE_ENOUGH = 0.35, 0.4
"""Score that a context word adds, and the minimum score with one; presidio's own numbers."""
_PHONE_WORDS = ("phone", "number", "telephone", "cell", "cellphone", "mobile", "call")
_FEW_DIGITS = 4
"""Minimum digits of a number, unless its kind is in `_WITHOUT_DIGITS`."""
_WITHOUT_DIGITS = frozenset(("WALLET", "IP", "MAC"))
_CLUSTER = r"[\d:]++(?:[^\d:]{1,24}[\d:]++)*+|(?i:[0-9a-f]{4}\.[0-9a-f]{4}\.[0-9a-f]{4})"
"""Pattern of number clusters: digits, and characters between them. One may be as long as the text,
so the `regex` module searches, which doesn't block other threads."""
_AROUND_CLUSTER = 64
"""Characters read around a cluster: letters of the number, and words before it."""
_PART, _AROUND = 2000, 300
"""Characters read at once, since some patterns take quadratic time; and those read around them, the
maximum length of a finding."""
_BETWEEN = (
    r"\-x\u2010-\u2015\u2212\u30fc\uff0d-\uff0f \u00a0\u00ad\u200b\u2060\u3000()"
    r"\uff08\uff09\uff3b\uff3d.\[\]/~\u2053\u223c\uff5e"
)
_PHONE = re.compile(rf"[+\uff0b(\uff08\[\uff3b{_BETWEEN}]{{0,8}}\d(?:[{_BETWEEN}]{{0,4}}\d)*+")
"""Candidates for phone numbers: digits, and the marks between them."""
_BLANKS_AND_DASHES = " -./~x\u00a0\u3000"
_AROUND_PHONE = 32
"""Characters read after a candidate, for an extension."""
_READ = 150_000
"""Maximum characters of different number clusters read with the patterns in one text."""
_PHONES = 3_000
"""Maximum characters of different phone numbers looked up in one text."""
_TOKEN = r"[+(]{0,2}\w*[\d:][\w.:/()+-]*"
_SHAPE = re.compile(rf"{_TOKEN}(?: {_TOKEN}){{0,15}}")
"""Numbers by shape: words with digits, one after the other."""
_UPPER = {code: code - 32 for code in range(ord("a"), ord("z") + 1)}

_PHONE_SCORE = 0.4


_is_reading: ContextVar[bool] = ContextVar("moa.guards.recognizers.reading", default=False)


class _Silence(logging.Filter):
    """Keeps presidio from logging numbers that it can't check while a text is read here."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not _is_reading.get()


@dataclass(frozen=True)
class _Numbers:
    """Finds and checks numbers of one kind, by one of presidio's recognizers."""

    kind: str
    recognizer: PatternRecognizer
    words: re.Pattern[str] | None
    """Context words, which raise the score of a finding after them."""

    def find(self, text: str) -> Iterator[Finding]:
        """Find the numbers in a text.

        Raises:
            TimeoutError: it took so long that presidio may have silently skipped a pattern.
        """
        from presidio_analyzer import pattern_recognizer

        # An IBAN may be written in small letters; other patterns ignore the case themselves.
        read = text.translate(_UPPER) if self.kind == "IBAN" else text
        clocks = (
            time.process_time,
            time.monotonic,
        )  # which one `regex` reads depends on the system
        starts = [clock() for clock in clocks]
        results = self.recognizer.analyze(read, [])
        seconds = max(clock() - start for clock, start in zip(clocks, starts, strict=True))
        if seconds >= pattern_recognizer.REGEX_TIMEOUT_SECONDS:
            raise TimeoutError
        for result in results:
            finding = Finding(self.kind, result.start, result.end, result.score)
            yield _with_context(self.words, text, finding)


class PresidioNumbers:
    """Finds all kinds of numbers.

    In one text, at most 150,000 characters of different number clusters and 3,000 of different
    phone numbers are checked. Beyond that, everything of that shape is found, with `checked` False.
    """

    name = "presidio's recognisers"

    def __init__(self, kinds: Sequence[_Numbers]) -> None:
        self._kinds = kinds

    def find(self, text: str, /) -> Iterator[Finding]:
        """Find the numbers in one text."""
        return self.reader().find(text)

    def reader(self) -> NumberReader:
        """Return a reader for several views of one text, which reads each place once."""
        return NumberReader(self._kinds)


class NumberReader:
    """Finds numbers in the views of one text. The same place is read only once."""

    name = PresidioNumbers.name

    def __init__(self, kinds: Sequence[_Numbers]) -> None:
        self._kinds = kinds
        self._phone_words = _words(_PHONE_WORDS)
        self._stretches: dict[str, tuple[Finding, ...]] = {}
        self._phones: dict[str, tuple[Finding, ...]] = {}
        self._read = self._looked_up = 0

    def find(self, text: str, /) -> Iterator[Finding]:
        """Find the numbers in one view."""
        for start, end, begins, ends, first in _stretches(text):
            stretch = text[start:end]
            findings = self._stretches.get(stretch)
            if findings is None and self._read + len(stretch) > _READ:
                for match in _SHAPE.finditer(text, begins, ends):
                    if sum(map(str.isdigit, match[0])) >= 2 or match[0].count(":") > 1:
                        yield Finding("NUMBER", match.start(), match.end(), 1.0, checked=False)
                continue
            if findings is None:
                self._read += len(stretch)
                findings = self._stretches[stretch] = tuple(self._read_stretch(stretch))
            for finding in (finding.shift(start) for finding in findings):
                if finding.start < ends and (finding.end if first else finding.start + 1) > begins:
                    yield finding

    def _read_stretch(self, text: str) -> Iterator[Finding]:
        has_few_digits = sum(map(str.isdigit, text)) < _FEW_DIGITS
        token = _is_reading.set(True)
        try:
            findings = [
                finding
                for kind in self._kinds
                if not has_few_digits or kind.kind in _WITHOUT_DIGITS
                for finding in kind.find(text)
            ]
        finally:
            _is_reading.reset(token)
        yield from findings
        if not has_few_digits:
            yield from self._phone_numbers(text)

    def _phone_numbers(self, text: str) -> Iterator[Finding]:
        for match in _PHONE.finditer(text):
            if sum(map(str.isdigit, match[0])) < _FEW_DIGITS:
                continue
            begins = max(0, match.start() - 1)
            around = text[begins : match.end() + _AROUND_PHONE]
            findings = self._phones.get(around)
            if findings is None and self._looked_up + len(match[0]) > _PHONES:
                start = match.end() - len(match[0].lstrip(_BLANKS_AND_DASHES)) - begins
                end = match.end() - begins
                findings = (Finding("PHONE", start, end, _PHONE_SCORE, checked=False),)
            elif findings is None:
                self._looked_up += len(match[0])
                findings = self._phones[around] = tuple(
                    _look_up(around, match.start() - begins, match.end() - begins)
                )
            for finding in findings:
                yield _with_context(self._phone_words, text, finding.shift(begins))


def _stretches(text: str) -> Iterator[tuple[int, int, int, int, bool]]:
    """Yield the parts of a text that may hold numbers, each to be read at once.

    Each has the range to read, the range in which findings count, and True if a finding may
    begin before that range.
    """
    for cluster in import_module("regex").finditer(_CLUSTER, text, concurrent=True):
        first, last = cluster.span()
        lowest, highest = max(0, first - _AROUND_CLUSTER), min(len(text), last + _AROUND_CLUSTER)
        begins = first
        while begins < last:
            ends = _cut(text, begins, last)
            start, end = max(lowest, begins - _AROUND), min(highest, ends + _AROUND)
            yield start, end, begins, ends, begins == first
            begins = ends


def _cut(text: str, begins: int, last: int) -> int:
    """Return the end of a part: after a line or a word, so that repeated lines are recognised."""
    if last - begins <= _PART:
        return last
    boundary = max(
        text.rfind("\n", begins, begins + _PART), text.rfind(" ", begins, begins + _PART // 2)
    )
    return boundary + 1 if boundary > begins else begins + _PART


def _look_up(text: str, begins: int, ends: int) -> Iterator[Finding]:
    """Find the phone numbers of any region in a candidate."""
    from phonenumbers import PhoneNumberMatcher

    for region in _PHONE_REGIONS:
        covered = 0
        for match in PhoneNumberMatcher(text, region, leniency=1):
            if match.start < ends and match.end > begins:
                covered += match.end - match.start
                yield Finding("PHONE", match.start, match.end, _PHONE_SCORE)
        if covered >= len(text[begins:ends].strip()):
            return


def _with_context(words: re.Pattern[str] | None, text: str, finding: Finding) -> Finding:
    if finding.score >= 1 or words is None:
        return finding
    if not words.search(text, max(0, finding.start - _NEAR), finding.start):
        return finding
    return replace(finding, score=max(min(1.0, finding.score + _MORE), _SURE_ENOUGH))


@functools.cache
def presidio_recognizers() -> Sequence[Recognizer]:
    """Make recognisers of numbers and addresses of persons, with presidio's patterns."""
    purpose = "to recognise numbers by their checksums"
    with require_package("presidio-analyzer", extra="guards", purpose=purpose):
        import presidio_analyzer
        import presidio_analyzer.predefined_recognizers as ready
    logging.getLogger("presidio-analyzer").addFilter(_Silence())
    kinds: list[_Numbers] = []
    for title, kind in {**_GENERIC, **{f"{name}Recognizer": "" for name in _NATIONAL}}.items():
        recognizer: PatternRecognizer = getattr(ready, title)()
        # Let India's PAN look for its letter and its digits in the number, not in all that follows.
        recognizer.patterns = [
            presidio_analyzer.Pattern(
                p.name, p.regex.replace("(?=.*?", r"(?=[\w@#$%^?~-]*?"), p.score
            )
            for p in recognizer.patterns
        ]
        kinds.append(
            _Numbers(
                kind or recognizer.supported_entities[0], recognizer, _words(recognizer.context)
            )
        )
    return (EmailAddresses(), Urls(ready.UrlRecognizer.BASE_URL_REGEX), PresidioNumbers(kinds))


def _words(context: Sequence[str] | None) -> re.Pattern[str] | None:
    if not context:
        return None
    listed = "|".join(re.escape(word) for word in context)
    return re.compile(rf"(?<!\w)(?:{listed})(?!\w)", re.IGNORECASE)
