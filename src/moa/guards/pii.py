"""Pii: takes personal data out of a text, and puts it back into what is made of it."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar, Unpack

from pydantic import Field

from moa.agents.boundary import Limits, TypedNode, beside_the_loop, ready
from moa.context import RunContext
from moa.errors import ConfigError
from moa.guards.findings import Finding, Recognizer, find
from moa.guards.recognizers import Pattern, PresidioNumbers, denied, presidio_recognizers
from moa.guards.vault import PLACEHOLDER, QUOTED, Vault
from moa.guards.walking import changed, texts_of
from moa.node import Text

T = TypeVar("T")

_LONG = 4000
"""Characters from which on a text is read beside the event loop, and not in it."""
_HELD = 256
_OPENED = re.compile(r"\\?\[[^\[]*\Z")


class Redacted(Text):
    """A text with placeholders in the place of personal data; nothing leads back."""

    found: dict[str, int] = Field(default_factory=dict[str, int])
    """How often each kind was found."""


@ready("pii", "Masks personal data in a text")
class Pii(TypedNode[Text | str, Redacted]):
    """Finds personal data, and puts placeholders such as `[EMAIL_1]` in its place.

    By itself it is a node that masks a text for good. As a guard of `moa.guards.guarded` it masks
    a request and puts everything back into the answer, streamed or whole. What it finds by itself:
    credit cards, IBANs, e-mail addresses, phone numbers, IP and MAC addresses, wallets, URLs, and
    the numbers that 17 countries give to people, by presidio's recognisers; checksums are
    computed. It does not find names and postal addresses: those take a list, `deny`.

    The same secret has the same placeholder within a request. What looked like a placeholder
    before is masked itself, so that nothing is taken for another thing. Where a recogniser raises,
    nothing is sent. In a text with more numbers than can be checked one by one (phone numbers: from
    about 250 different ones on; others: 150,000 characters with different numbers), the rest are
    masked by their shape, as `PHONE` or `NUMBER`; the trace says so.

    Args:
        patterns: Regular expressions of your own, by kind: `{"ORDER": "A-[0-9]{6}"}`.
        deny: Phrases that are masked wherever they stand, in any case.
        ignore: Kinds to leave alone, such as `URL`.
        recognizers: Who looks, beside `patterns` and `deny`; `None`: presidio's.
        threshold: Score from which on a finding counts, 0 to 1. Lower finds more, and more
            order numbers among them.
        limits: See `Limits`.

    Raises:
        ConfigError: a pattern, a kind, a phrase or the threshold is not valid.
        MissingDependency: `recognizers` is `None`, and `presidio-analyzer` is not installed.

    Examples:
        >>> from moa.guards.recognizers import Pattern
        >>> mask = Pii(recognizers=[Pattern("ORDER", "A-[0-9]{6}")])  # None: presidio's
        >>> mask.run_sync("Where is A-123456?").output.text
        'Where is [ORDER_1]?'
    """

    masks = True
    """It stands before a node, and not beside it."""

    def __init__(
        self,
        *,
        patterns: Mapping[str, str] | None = None,
        deny: Sequence[str] = (),
        ignore: Sequence[str] | Set[str] = (),
        recognizers: Sequence[Recognizer] | None = None,
        threshold: float = 0.4,
        **limits: Unpack[Limits],
    ) -> None:
        super().__init__(**limits)
        if not 0 < threshold <= 1:
            raise ConfigError(f"threshold={threshold}, but a score lies between 0 and 1")
        if isinstance(deny, str) or isinstance(ignore, str):
            raise ConfigError("deny and ignore are lists of texts, and not one text")
        phrases = list(deny)
        self.threshold = threshold
        self.ignore = frozenset(ignore) - {QUOTED}
        self.recognizers: tuple[Recognizer, ...] = (
            Pattern(QUOTED, PLACEHOLDER.pattern),  # which would be taken for one when it comes back
            *(presidio_recognizers() if recognizers is None else recognizers),
            *(Pattern(kind, expression) for kind, expression in (patterns or {}).items()),
            *([denied(phrases)] if phrases else ()),
        )
        self.held = max(_HELD, *(2 * len(phrase) for phrase in phrases), 0)
        """Characters that a masked stream holds back: no secret with blanks in it is longer."""

    def find(self, text: str) -> list[Finding]:
        """Find what would be masked, in order and without overlaps."""
        asked = [
            recognizer.reading() if isinstance(recognizer, PresidioNumbers) else recognizer
            for recognizer in self.recognizers
        ]
        return find(asked, text, least=self.threshold, ignore=self.ignore)

    @contextmanager
    def session(self, within: Sequence[PiiSession] = ()) -> Generator[PiiSession]:
        """Open what masks and restores the texts of one request; at its end all is forgotten.

        Placeholders of the sessions `within` which it is are left alone.
        """
        others = [session.vault for session in within]
        vault = Vault(others)
        try:
            yield PiiSession(self, vault, others)
        finally:
            vault.close()

    async def answer(self, request: Text | str, context: RunContext) -> Redacted:
        """Mask a text for good, and note how much was found."""
        with self.session() as session:
            text = await session.mask_all(str(request), context)
            found = dict(session.found)
        if found:
            context.note("changed", f"masked {counted(found)}")
        language = request.language if isinstance(request, Text) else None
        return Redacted(text=text, language=language, found=found)


class PiiSession:
    """Masks and restores the texts of one request; `Pii.session` opens it.

    What masks raises `GuardFailed` where a recogniser raised, and all raise `ConfigError` once the
    session is over.
    """

    def __init__(self, pii: Pii, vault: Vault, others: Sequence[Vault] = ()) -> None:
        self._pii = pii
        self._others = others
        self.vault = vault
        """What it has taken out."""
        self.found: Counter[str] = Counter()
        """How often each kind was masked."""
        self.unchecked = 0
        """How many of them by their shape alone: the text has too many numbers to check each."""
        self.altered: set[str] = set()
        """Placeholders that came back so that they could not be put back."""

    def __repr__(self) -> str:
        return f"PiiSession({self.vault!r})"

    def mask(self, text: str) -> str:
        """Put placeholders in the place of everything that is found."""
        return self._masked(text, self._pii.find(text))

    def restore(self, text: str) -> str:
        """Put back what was masked; placeholders of nobody's stay, and such as a model altered.

        One in small letters, or escaped for Markdown, is put back all the same.
        """
        self.altered |= self.vault.altered(text)
        return self.vault.restore(text)

    async def mask_all(self, value: T, context: RunContext) -> T:
        """Mask every text in a value; a long one is read beside the event loop.

        Raises:
            DeadlineExceeded: the time given to the run is up.
            InputError: something in it can't be looked into, or is a number to be masked.
        """
        if sum(map(len, texts_of(value))) < _LONG:
            return changed(value, self.mask, strict=True)
        before = self.unchecked
        masked = await beside_the_loop(lambda: changed(value, self.mask, strict=True), context)
        if more := self.unchecked - before:
            context.note(
                "degraded",
                f"{more} of the numbers were masked by their shape, unchecked: the text has more "
                "than can be checked one by one",
            )
        return masked

    def restore_all(self, value: T) -> T:
        """Put back what was masked in every text of a value."""
        return changed(value, self.restore, strict=False)

    def masking(self) -> Masking:
        """Mask a text that comes in pieces."""
        return Masking(self._pii, self._masked)

    def restoring(self) -> Restoring:
        """Restore a text that comes in pieces."""
        return Restoring(self.vault)

    def _masked(self, text: str, found: Iterable[Finding]) -> str:
        pieces: list[str] = []
        end = 0
        for finding in found:
            secret = text[finding.start : finding.end]
            if any(other.holds(secret) for other in self._others):
                continue
            pieces += [text[end : finding.start], self.vault.placeholder(finding.kind, secret)]
            self.found[finding.kind] += 1
            self.unchecked += not finding.checked
            end = finding.end
        return "".join((*pieces, text[end:]))


class Masking:
    """Masks a text that comes in pieces, however they are cut.

    It gives text on only where no secret can go on in what is still to come: it holds back some
    hundred characters, and what stands without a blank around the cut.
    """

    def __init__(
        self,
        pii: Pii,
        mask: Callable[[str, Iterable[Finding]], str],
    ) -> None:
        self._find = pii.find
        self._mask = mask
        self._held = pii.held
        self._before = ""
        self._pending = ""
        self._due = 2 * pii.held

    def __repr__(self) -> str:
        return f"Masking({len(self._pending)} characters held back)"

    def feed(self, piece: str) -> str:
        """Take a piece, and give the masked text that is safe to go on."""
        self._pending += piece
        if len(self._pending) < self._due:
            return ""
        found = self._found()
        cut = _end_of_word(self._pending, len(self._pending) - self._held)
        while straddling := [f.start for f in found if f.start < cut <= f.end]:
            cut = straddling[0]
        given = self._cut(found, cut)
        # Where nothing could go, twice as much comes before the next look: text without an end.
        self._due = 2 * max(self._held, len(self._pending) if not cut else 0)
        return given

    def close(self) -> str:
        """Give the rest."""
        return self._cut(self._found(), len(self._pending))

    def _found(self) -> list[Finding]:
        """Find in what is pending, seen after what stood before it."""
        offset = len(self._before)
        return [
            replace(f, start=max(0, f.start - offset), end=f.end - offset)
            for f in self._find(self._before + self._pending)
            if f.end > offset
        ]

    def _cut(self, found: Sequence[Finding], cut: int) -> str:
        given = self._mask(self._pending[:cut], [f for f in found if f.end <= cut])
        seen = self._before + self._pending[:cut]
        self._before = seen[_end_of_word(seen, max(0, len(seen) - self._held)) :]
        self._pending = self._pending[cut:]
        return given


class Restoring:
    """Restores a text that comes in pieces: a placeholder may come in several."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self._pending = ""

    def __repr__(self) -> str:
        return f"Restoring({len(self._pending)} characters held back)"

    def feed(self, piece: str) -> str:
        """Take a piece, and give the restored text that is there."""
        self._pending += piece
        opened = _OPENED.search(self._pending)
        begun = opened is not None and self._vault.is_begun(opened[0])
        escapes = self._pending.endswith("\\")
        held = opened.start() if opened and begun else len(self._pending) - escapes
        whole, self._pending = self._pending[:held], self._pending[held:]
        return self._vault.restore(whole)

    def close(self) -> str:
        """Give the rest: what began like a placeholder, and was none."""
        rest, self._pending = self._pending, ""
        return self._vault.restore(rest)


def counted(found: Mapping[str, int]) -> str:
    """Say how much was found, without saying what."""
    return ", ".join(f"{count} {kind}" for kind, count in sorted(found.items()))


def _end_of_word(text: str, place: int) -> int:
    """Give the last place at or before one where a word ends; 0 where there is none."""
    while place > 0:
        last = text[place - 1]
        if last.isspace() or (not last.isascii() and unicodedata.category(last) in ("Lo", "Po")):
            break
        place -= 1
    return place
