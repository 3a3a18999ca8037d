"""Cleaning: HTML, broken encodings and hidden characters become what a person reads."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from moa.errors import InputError

if TYPE_CHECKING:
    from bs4 import Tag

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


def is_html(text: str) -> bool:
    """Whether a text is HTML, rather than one that speaks of a tag or of `a < b`."""
    return _HTML.search(text) is not None


def html_to_text(html: str) -> str:
    """Write HTML as text: what a reader sees, a line for each block, links by their words.

    Raises:
        InputError: the parser takes it for no HTML, such as `<![foo[`, or can't read a number in
            it, such as `&#` before 5,000 digits.
    """
    from bs4 import BeautifulSoup, Tag
    from bs4.element import NavigableString
    from bs4.exceptions import ParserRejectedMarkup

    try:
        soup = BeautifulSoup(re.sub(r"^\s*<\?xml[^>]*>", "", html), "html.parser")
    except (ParserRejectedMarkup, ValueError) as error:
        raise InputError("the HTML is broken, and can't be read") from error
    pieces: list[str] = []
    inside: list[Tag] = []
    unread = 0
    for element in soup.descendants:
        # One pass that keeps the open tags itself: changing the tree takes quadratic time.
        while inside and element.parent is not inside[-1]:
            closed = inside.pop()
            unread -= _is_unread(closed)
            pieces.append("\n" if _BLOCKS.fullmatch(closed.name) else "")
        if isinstance(element, Tag):
            inside.append(element)
            unread += _is_unread(element)
            if not unread:
                pieces.append(_before(element))
        elif not unread and type(element) is NavigableString:
            verbatim = any(tag.name == "pre" for tag in inside[-2:])
            pieces.append(element if verbatim else _SPACE.sub(" ", element))
    return "".join(pieces)


def repair(text: str, *, entities: bool) -> str:
    """Repair mojibake, broken line ends and control characters; compose Unicode (NFC).

    Args:
        text: Any text.
        entities: Whether `&eacute;` and the like are decoded too.
    """
    from ftfy import TextFixerConfig, fix_text

    config = TextFixerConfig(unescape_html="auto" if entities else False, uncurl_quotes=False)
    return fix_text(text, config)


def show_hidden(text: str) -> str:
    """Take out characters that nobody sees, and that a model would read."""
    return _INVISIBLE.sub("", text)


def tidy(text: str) -> str:
    """Make runs of blanks one, and more than one empty line one."""
    return _GAPS.sub("\n\n", _LINES.sub("\n", _BLANKS.sub(" ", text))).strip()


def without_history(mail: str) -> str:
    """Leave out the mails below a reply, and lines below it that are quoted by `>`.

    A mail that is nothing but a quote stays, and so do quotes that are answered line by line.
    """
    from mailparser_reply import EmailReplyParser

    replies = EmailReplyParser(languages=_MAIL_LANGUAGES).read(mail).replies
    latest: str = replies[0].content if replies else ""
    return _without_quote(latest) if latest.strip() else mail


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


def _is_unread(tag: Tag) -> bool:
    hidden = tag.has_attr("hidden") or _UNSEEN.search(str(tag.get("style", ""))) is not None
    return hidden or tag.name in _UNREAD


def _before(tag: Tag) -> str:
    if tag.name == "img":
        return str(tag.get("alt", ""))
    return _SPACED.get(tag.name, "\n" if _BLOCKS.fullmatch(tag.name) else "")
