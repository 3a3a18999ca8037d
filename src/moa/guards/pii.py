"""Pii: masks personal data in a text, and restores it in the output."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Generator, Iterable, Mapping, Sequence, Set
from contextlib import contextmanager
from typing import NoReturn, TypeVar, Unpack

from pydantic import Field, SecretStr

from moa.agents.base import Limits, TypedNode, ready, run_off_loop
from moa.core.context import RunContext
from moa.core.errors import ConfigError
from moa.core.node import Text
from moa.guards.recognizers import (
    Finding,
    Pattern,
    Recognizer,
    deny_list,
    find,
    presidio_recognizers,
)
from moa.guards.texts import change_texts, texts_of

T = TypeVar("T")

_PLACEHOLDER = re.compile(r"\\?\[ ?([A-Za-z](?:[A-Za-z0-9]|\\?_)*\\?_[0-9]+) ?\\?\]")
"""Pattern of placeholders. Square brackets survive HTML, XML and JSON. Models write some in
small letters, or escape them for Markdown."""
_OPENED = re.compile(r"\\?\[[^\[]*\Z")
_QUOTED = "QUOTED"
"""Kind of input texts that look like a placeholder."""


class RedactedText(Text):
    """A text with placeholders for personal data, which can't be restored."""

    found: dict[str, int] = Field(default_factory=dict[str, int])
    """Number of findings, by kind."""


@ready("pii", "Masks personal data in a text")
class Pii(TypedNode[Text | str, RedactedText]):
    """Replaces personal data with placeholders such as `[EMAIL_1]`.

    By itself it is a node that masks a text permanently. As a guard of `moa.guards.guarded` it
    masks a request and restores everything in the answer, streamed or whole. By default it finds
    credit cards, IBANs, e-mail addresses, phone numbers, IP and MAC addresses, crypto wallets,
    URLs, and the personal numbers of 17 countries, by presidio's recognisers and with checksums. It
    doesn't find names and postal addresses: list those in `deny`.

    Within a request, the same secret has the same placeholder. Input that looks like a placeholder
    is itself masked, to avoid confusion. If a recogniser raises, nothing is sent. If a text has too
    many numbers to check one by one (more than about 250 different phone numbers, or 150,000
    characters with different other numbers), the rest are masked by their shape, as `PHONE` or
    `NUMBER`; the trace says so.

    Args:
        patterns: Regular expressions of your own, by kind: `{"ORDER": "A-[0-9]{6}"}`. One that
            takes more than 2 s for a text stops the request; see `Pattern`.
        deny: Phrases that are masked wherever they are, in any case.
        ignore: Kinds to leave alone, such as `URL`.
        recognizers: Recognisers besides `patterns` and `deny`; `None`: presidio's.
        threshold: Minimum score of a finding, 0 to 1. A lower one finds more, including more order
            numbers.
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
    """True: it can't run beside a node."""

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
        self.ignore = frozenset(ignore) - {_QUOTED}
        self.recognizers: tuple[Recognizer, ...] = (
            Pattern(_QUOTED, _PLACEHOLDER.pattern),  # it would be taken for a placeholder later
            *(presidio_recognizers() if recognizers is None else recognizers),
            *(Pattern(kind, expression) for kind, expression in (patterns or {}).items()),
            *([deny_list(phrases)] if phrases else ()),
        )
        self.is_own = bool(patterns or recognizers)
        """True if some recognisers are the user's, and may take long for a short text."""

    def find(self, text: str) -> list[Finding]:
        """Find the texts to mask, in order and without overlaps."""
        return find(self.recognizers, text, least=self.threshold, ignore=self.ignore)

    @contextmanager
    def session(self, within: Sequence[PiiSession] = ()) -> Generator[PiiSession]:
        """Open a session that masks and restores the texts of one request, and then forgets them.

        Placeholders of the enclosing sessions, `within`, are left alone.
        """
        session = PiiSession(self, within)
        try:
            yield session
        finally:
            session.close()

    async def answer(self, request: Text | str, context: RunContext) -> RedactedText:
        """Mask the personal data in a text permanently, and note the number of each kind."""
        with self.session() as session:
            text = await session.mask_all(str(request), context)
            session.note_found(context)
            counts = dict(session.found)
        language = request.language if isinstance(request, Text) else None
        return RedactedText(text=text, language=language, found=counts)


class PiiSession:
    """Masks and restores the texts of one request; `Pii.session` opens it.

    It shows no secret, and can't be copied. The same secret has the same placeholder. Masking
    raises `GuardFailed` if a recogniser raised. After the session, masking a finding and restoring
    a text raise `ConfigError`.
    """

    def __init__(self, pii: Pii, within: Sequence[PiiSession] = ()) -> None:
        self.pii = pii
        self._within = within
        self._secrets: dict[str, SecretStr] = {}
        """Secrets, by placeholder."""
        self._placeholders: dict[SecretStr, str] = {}
        self._made: Counter[str] = Counter()
        """Number of placeholders by kind, including those of the enclosing sessions."""
        for session in within:
            self._made |= session._made
        self._is_open = True
        self.found: Counter[str] = Counter()
        """Number of masked texts, by kind."""
        self.unchecked = 0
        """Number of texts masked by shape alone, since there were too many numbers to check."""
        self.altered: set[str] = set()
        """Placeholders that came back altered, and could not be restored."""

    def __repr__(self) -> str:
        return f"PiiSession({f'{len(self._secrets)} kept' if self._is_open else 'closed'})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a session can't be copied or pickled: it ends with its request")

    def mask(self, text: str) -> str:
        """Replace all findings by placeholders."""
        return self.mask_findings(text, self.pii.find(text))

    def restore(self, text: str) -> str:
        """Replace placeholders by their secrets. Unknown and altered placeholders stay.

        Lower case and Markdown escapes don't count as altered.
        """
        self._note_altered(text)
        return self.put_back(text)

    async def mask_all(self, value: T, context: RunContext) -> T:
        """Mask every text in a value, in a thread if it is long.

        Raises:
            DeadlineExceeded: the time given to the run is up.
            InputError: a part of it can't be searched, or is a number that must be masked.
        """
        before = self.unchecked
        masked = await run_off_loop(
            lambda: change_texts(value, self.mask, strict=True),
            context,
            characters=None if self.pii.is_own else sum(map(len, texts_of(value))),
        )
        if count := self.unchecked - before:
            context.note(
                "degraded",
                f"{count} of the numbers were masked by their shape, unchecked: the text has more "
                "than can be checked one by one",
            )
        return masked

    def note_found(self, context: RunContext, *, by: str = "") -> None:
        """Note how much was masked, without the texts."""
        if self.found:
            counts = ", ".join(f"{count} {kind}" for kind, count in sorted(self.found.items()))
            context.note("changed", f"{by}masked {counts}")

    def restore_all(self, value: T) -> T:
        """Restore the secrets in every text of a value."""
        return change_texts(value, self.restore, strict=False)

    def restorer(self) -> Restorer:
        """Return a restorer for a streamed text."""
        return Restorer(self)

    def close(self) -> None:
        """Forget everything."""
        self._secrets.clear()
        self._placeholders.clear()
        self._is_open = False

    def mask_findings(self, text: str, findings: Iterable[Finding]) -> str:
        """Replace findings in a text by placeholders."""
        pieces: list[str] = []
        end = 0
        for finding in findings:
            secret = text[finding.start : finding.end]
            if any(_normal_form(secret) in session._secrets for session in self._within):
                continue
            pieces += [text[end : finding.start], self._placeholder(finding.kind, secret)]
            self.found[finding.kind] += 1
            self.unchecked += not finding.checked
            end = finding.end
        return "".join((*pieces, text[end:]))

    def _placeholder(self, kind: str, secret: str) -> str:
        """Store a secret, and return its placeholder."""
        self._check()
        secret_str = SecretStr(secret)
        if secret_str not in self._placeholders:
            self._made[kind] += 1
            self._placeholders[secret_str] = f"[{kind}_{self._made[kind]}]"
            self._secrets[self._placeholders[secret_str]] = secret_str
        return self._placeholders[secret_str]

    def put_back(self, text: str) -> str:
        """Restore a text; lookalikes of placeholders stay."""
        self._check()
        return _PLACEHOLDER.sub(self._secret, text)

    def _secret(self, match: re.Match[str]) -> str:
        secret = self._secrets.get(_normal_form(match[0]))
        return match[0] if secret is None else secret.get_secret_value()

    def _note_altered(self, text: str) -> None:
        """Record placeholders that can't be restored, lookalikes included."""
        if not self._secrets:
            return
        kinds = "|".join(re.escape(kind).replace("_", r"[\W_]{1,3}") for kind in self._made)
        pattern = re.compile(rf"(?:{kinds})[\W_]{{1,3}}[0-9]+(?!\w)", re.IGNORECASE)
        lookalikes = pattern.findall(_PLACEHOLDER.sub("", text))
        placeholders = {
            "[" + re.sub(r"[\W_]+", "_", lookalike).upper() + "]" for lookalike in lookalikes
        }
        self.altered |= placeholders & self._secrets.keys()

    def may_continue(self, tail: str) -> bool:
        """Return True if the end of a text may continue as one of its placeholders."""
        prefix = _normal_form(tail)
        return any(
            placeholder.startswith(prefix) and len(tail) <= 2 * len(placeholder)
            for placeholder in self._secrets
        )

    def _check(self) -> None:
        if not self._is_open:
            raise ConfigError(
                "the session is closed: its request is over, and what it kept is forgotten"
            )


def _normal_form(placeholder: str) -> str:
    """Return the original form of a placeholder, or of its start."""
    return placeholder.replace("\\", "").replace(" ", "").upper()


class Restorer:
    """Restores the secrets in a streamed text, even if pieces split a placeholder."""

    def __init__(self, session: PiiSession) -> None:
        self._session = session
        self._pending = ""

    def __repr__(self) -> str:
        return f"Restorer({len(self._pending)} characters held back)"

    def feed(self, piece: str) -> str:
        """Take a piece, and return the text that is complete."""
        self._pending += piece
        opening = _OPENED.search(self._pending)
        may_continue = opening is not None and self._session.may_continue(opening[0])
        escapes = self._pending.endswith("\\")
        end = opening.start() if opening and may_continue else len(self._pending) - escapes
        text, self._pending = self._pending[:end], self._pending[end:]
        return self._session.put_back(text)

    def close(self) -> str:
        """Return the rest: the start of a placeholder that was never completed."""
        rest, self._pending = self._pending, ""
        return self._session.put_back(rest)
