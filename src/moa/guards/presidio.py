"""Presidio: its recognisers with their checksums, without a language model and without a network.

What takes a language model is not there: names of people, places and organisations. Put those that
you know on a deny list.
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moa.errors import MissingDependency
from moa.guards.findings import Finding, Recognizer

if TYPE_CHECKING:
    from presidio_analyzer import EntityRecognizer

_GENERIC = {
    "CreditCardRecognizer": "CARD",
    "IbanRecognizer": "IBAN",
    "EmailRecognizer": "EMAIL",
    "PhoneRecognizer": "PHONE",
    "IpRecognizer": "IP",
    "MacAddressRecognizer": "MAC",
    "CryptoRecognizer": "WALLET",
}
"""By the name of presidio's class, what its findings are called."""
_NATIONAL = (
    "UsSsn",
    "UsItin",
    "UkNino",
    "Nhs",
    "CaSin",
    "AuTfn",
    "AuMedicare",
    "DeTaxId",
    "DeSocialSecurity",
    "DeIdCard",
    "DeHealthInsurance",
    "EsNif",
    "EsNie",
    "ItFiscalCode",
    "PlPesel",
    "FiPersonalIdentityCode",
    "SePersonnummer",
    "InAadhaar",
    "InPan",
    "KrRrn",
    "KrFrn",
    "SgFin",
    "ThTnin",
    "TrNationalId",
    "ZaIdNumber",
    "NgNin",
)
"""Numbers that countries give to people: those with a check digit, or a form of their own."""
_PHONE_REGIONS = (
    "US",
    "GB",
    "DE",
    "FR",
    "ES",
    "IT",
    "NL",
    "PL",
    "AT",
    "CH",
    "SE",
    "IN",
    "BR",
    "MX",
    "AU",
    "JP",
    "IL",
)
"""Where a number without a country code may be from; one with a code is found from anywhere."""
_NEAR = 60
"""Characters before a finding in which a word that speaks for it is looked for."""
_MORE, _SURE_ENOUGH = 0.35, 0.4
"""What such a word adds, and what it makes of a finding at least; presidio's own numbers."""
_FEW_DIGITS = 4
"""Fewer digits than that are in no number that is looked for here."""
_WITHOUT_DIGITS = frozenset(("EMAIL", "WALLET", "IP", "MAC"))
_PART, _AROUND = 2000, 300
"""Characters that are read at once, since some patterns take quadratic time; and those around
them, which no finding is longer than."""
_ADDRESS = re.compile(r"(https?://)?((?:(?!https?://)[a-z0-9.-]){1,253})", re.IGNORECASE)
_PATH = re.compile(r"(?::\d{1,5})?/[^\s()<>\"']*")
_UPPER = {code: code - 32 for code in range(ord("a"), ord("z") + 1)}

_timeouts: ContextVar[list[str] | None] = ContextVar("moa.guards.timeouts", default=None)


class _Silence(logging.Filter):
    """While a text is read here, keeps presidio from logging parts of it, and from going on.

    It logs numbers that it can't check, and where a pattern runs out of time it only warns.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        timeouts = _timeouts.get()
        if timeouts is None:
            return True
        if record.exc_info and isinstance(record.exc_info[1], TimeoutError):
            timeouts.append(record.name)
        return False


@dataclass(frozen=True)
class _Presidio:
    """One of presidio's recognisers."""

    kind: str
    recognizer: EntityRecognizer
    words: re.Pattern[str] | None
    """Words that speak for a finding where they stand before it."""

    @property
    def name(self) -> str:
        return f"presidio's {self.recognizer.name}"

    def find(self, text: str, /) -> Iterator[Finding]:
        for begins in range(0, len(text), _PART):
            offset = max(0, begins - _AROUND)
            for finding in self._within(text[offset : begins + _PART + _AROUND]):
                start = offset + finding.start
                if begins <= start < begins + _PART:
                    yield Finding(self.kind, start, offset + finding.end, finding.score)

    def _within(self, text: str) -> Iterator[Finding]:
        few = sum(map(str.isdigit, text)) < _FEW_DIGITS
        if (few and self.kind not in _WITHOUT_DIGITS) or (self.kind == "EMAIL" and "@" not in text):
            return
        timeouts: list[str] = []
        token = _timeouts.set(timeouts)
        try:
            # An IBAN may be written in small letters; other patterns ignore the case themselves.
            read = text.translate(_UPPER) if self.kind == "IBAN" else text
            results = self.recognizer.analyze(read, self.recognizer.supported_entities, None)  # pyright: ignore[reportArgumentType]
        finally:
            _timeouts.reset(token)
        if timeouts:
            raise TimeoutError("a pattern ran out of time")
        for result in results:
            score = self._with_context(text, result.start, result.score)
            yield Finding(self.kind, result.start, result.end, score)

    def _with_context(self, text: str, start: int, score: float) -> float:
        near = text[max(0, start - _NEAR) : start]
        if score >= 1 or self.words is None or not self.words.search(near):
            return score
        return max(min(1.0, score + _MORE), _SURE_ENOUGH)


@functools.cache
def presidio_recognizers() -> Sequence[Recognizer]:
    """Give presidio's recognisers of numbers and addresses that name a person.

    They are made once, and shared.

    Raises:
        MissingDependency: `presidio-analyzer` is not installed.
    """
    try:
        import presidio_analyzer.predefined_recognizers as ready
    except ImportError as error:
        raise MissingDependency(
            "presidio-analyzer", extra="guards", purpose="to recognise numbers by their checksums"
        ) from error
    logging.getLogger("presidio-analyzer").addFilter(_Silence())
    own: dict[str, EntityRecognizer] = {
        "EmailRecognizer": _email(),
        "PhoneRecognizer": ready.PhoneRecognizer(supported_regions=_PHONE_REGIONS),
    }
    found: list[Recognizer] = [_Url(ready.UrlRecognizer.BASE_URL_REGEX)]
    for title, kind in {**_GENERIC, **{f"{name}Recognizer": "" for name in _NATIONAL}}.items():
        made: Any = own.get(title) or getattr(ready, title)()
        found.append(_Presidio(kind or made.supported_entities[0], made, _words(made.context)))
    return tuple(found)


def _email() -> EntityRecognizer:
    from presidio_analyzer.predefined_recognizers import EmailRecognizer

    class Email(EmailRecognizer):
        """Presidio looks the domain up in a list that it fetches; one that isn't in it counts."""

        def validate_result(self, pattern_text: str) -> bool:
            del pattern_text
            return True

    return Email()


class _Url:
    """Finds addresses with a scheme, a path or `www`, of the domains that presidio knows.

    Its own pattern tries each of 1,400 domains at each of 253 places for each character. Without
    any of the three it also takes `great.by`, two sentences without a blank, for one.
    """

    name = "URL"

    def __init__(self, pattern: str) -> None:
        self._domains = frozenset(re.findall(r"\(\?:([a-z]+)\)", pattern))

    def find(self, text: str, /) -> Iterator[Finding]:
        end = 0
        for found in _ADDRESS.finditer(text):
            if found.start() < end:  # within the path of the last one
                continue
            host = found[2].casefold()
            while (domain := host.rpartition("."))[0] and domain[2] not in self._domains:
                host = domain[0]
            end = found.start(2) + len(host)
            if not domain[0]:
                continue
            path = _PATH.match(text, end)
            if path or found[1] or host.lstrip(".-").startswith("www"):
                end = path.end() if path else end
                yield Finding("URL", found.start(), end, 0.6 if found[1] else 0.5)


def _words(context: Sequence[str] | None) -> re.Pattern[str] | None:
    if not context:
        return None
    listed = "|".join(re.escape(word) for word in context)
    return re.compile(rf"(?<!\w)(?:{listed})(?!\w)", re.IGNORECASE)
