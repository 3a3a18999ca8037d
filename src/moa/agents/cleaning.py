"""Cleaning: HTML, broken encodings and hidden characters become what a person reads."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from itertools import groupby
from typing import Any

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
_QUOTE = re.compile(r"(?:^[ \t]*>.*(?:\n|\Z))+", re.MULTILINE)
_GAPS = re.compile(r"\n{3,}")
_PARTS = 5000
"""Maximum number of parts, about, of a text that is repaired: each takes 20 µs, empty or not."""
_PART = 100_000
HISTORY_WITHIN = 20_000
"""Characters of a mail in which the header above the first quoted one is looked for."""
_HEADER_LINE = 300
"""Characters of its longest line: the time that the patterns take is cubic in it."""


def is_html(text: str) -> bool:
    """Whether a text is HTML, rather than one that speaks of a tag or of `a < b`."""
    return _HTML.search(text) is not None


def html_to_text(html: str) -> str:
    """Write HTML as text: what a reader sees, a line for each block, links by their words.

    Takes time in proportion to its length, whatever it holds.
    """
    # The standard library's parser takes quadratic time for `<!--` or `<a ` many times over.
    html_parser = import_module("lxml.etree").HTMLParser
    parser = html_parser(target=_Reader(), encoding="utf-8", huge_tree=True)
    parser.feed(html.replace("\0", "").encode(errors="replace"))
    return parser.close()


class _Reader:
    """Takes what a parser finds, and keeps what a reader sees."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._unread: list[bool] = []
        """For each open tag."""
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


def repair(text: str, *, entities: bool) -> str:
    """Repair mojibake, broken line ends and control characters; compose Unicode (NFC).

    Args:
        text: Any text.
        entities: Whether `&eacute;` and the like are decoded too.
    """
    from ftfy import TextFixerConfig, fix_and_explain

    repaired: list[str] = []
    for part in _parts(text):
        entities = entities and "<" not in part  # from a tag on they are meant as they stand
        config = TextFixerConfig(unescape_html=entities, uncurl_quotes=False, explain=False)
        repaired.append(fix_and_explain(part, config).text)
    return "".join(repaired)


def _parts(text: str) -> Iterator[str]:
    """Cut a text at ends of lines: each line by itself, and in a long text some together."""
    least = len(text) // _PARTS
    begins = 0
    while begins < len(text):
        ends = text.find("\n", begins + least) + 1
        ends = min(ends or len(text), begins + _PART)
        yield text[begins:ends]
        begins = ends


def show_hidden(text: str) -> str:
    """Take out characters that nobody sees, and that a model would read."""
    return _INVISIBLE.sub("", text)


def tidy(text: str) -> str:
    """Make runs of blanks one, and more than one empty line one."""
    return _GAPS.sub("\n\n", _LINES.sub("\n", _BLANKS.sub(" ", text))).strip()


def without_history(mail: str) -> str:
    """Leave out the mails below a reply, and lines below it that are quoted by `>`.

    A mail that is nothing but a quote stays, and so do quotes that are answered line by line. What
    begins after the first 20,000 characters stays too.
    """
    mail = tidy(mail)
    latest = mail[: _history_begins(mail)].strip()
    return _without_quote(latest) if latest else mail


def _history_begins(mail: str) -> int:
    """Give the place of the header above the first quoted mail, or the length of all."""
    begins = 0
    for heads, lines in groupby(mail[:HISTORY_WITHIN].splitlines(keepends=True), _may_head):
        block = "".join(lines)
        if heads and (found := _header().search(block)):
            return begins + found.start()
        begins += len(block)
    return len(mail)


def _may_head(line: str) -> bool:
    return len(line) <= _HEADER_LINE


@cache
def _header() -> re.Pattern[str]:
    from mailparser_reply.parser import EmailMessage

    message: Any = EmailMessage(text="", languages=list(_MAIL_LANGUAGES))
    return message.HEADER_REGEX


def _without_quote(mail: str) -> str:
    quotes = list(_QUOTE.finditer(mail))
    if len(quotes) != 1:
        return mail
    above, below = mail[: quotes[0].start()].strip(), mail[quotes[0].end() :].strip()
    # More below than above is an answer to the quote; less is a greeting under one's letter.
    return f"{above}\n\n{below}" if len(above) > len(below) else mail


_MAIL_LANGUAGES = [
    "en",
    "de",
    "fr",
    "es",
    "it",
    "nl",
    "pl",
    "pt",
    "sv",
    "da",
    "cs",
    "ja",
    "ko",
    "zh",
]
