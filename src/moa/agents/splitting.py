"""Splitting: cuts a long text into chunks, at the ends of paragraphs and sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from moa.core.errors import ConfigError, MissingDependency
from moa.core.node import Text
from moa.endpoints.tokens import BYTES_A_TOKEN, approximate_tokens

_WINDOW, _WINDOW_MARKDOWN = 24, 96
"""Characters to split at once, per token of a chunk: about eight chunks, and about thirty in
Markdown, which is split by headings."""


def split(
    text: Text | str, *, max_tokens: int, count: Callable[[str], int] = approximate_tokens
) -> list[Text]:
    """Split a text into chunks, in order; nothing but white space between them is lost.

    It splits at the end of a paragraph if it can, else of a sentence, else of a word.

    Args:
        text: Any text; an empty one has no chunks.
        max_tokens: Maximum number of tokens of a chunk.
        count: Counts the tokens of a text, by the tokenizer of the model that will read it.

    Raises:
        ConfigError: `max_tokens` is less than 1.
        MissingDependency: `semantic-text-splitter` is not installed.
    """
    language = text.language if isinstance(text, Text) else None
    return [
        Text(text=chunk, language=language)
        for _, chunk in chunks(str(text), max_tokens=max_tokens, count=count)
    ]


def excerpt(text: str, *, max_tokens: int, left_out: str = "[…]") -> str:
    """Return the opening and the end of a text that is too long; any other unchanged."""
    if approximate_tokens(text) <= max_tokens:
        return text
    half = max(1, max_tokens * BYTES_A_TOKEN // 2)
    # Drop the word at the cut; a text without blanks has none to drop.
    opening = _decode_part(text[:half].encode("utf-8", "replace")[:half]).rsplit(maxsplit=1)
    end = _decode_part(text[-half:].encode("utf-8", "replace")[-half:]).split(maxsplit=1)
    return "\n".join((*opening[:1], left_out, *end[-1:]))


def _decode_part(data: bytes) -> str:
    """Decode a part of a text, without partial characters at its ends."""
    return data.decode("utf-8", "ignore")


def chunks(
    text: str,
    *,
    max_tokens: int,
    count: Callable[[str], int] = approximate_tokens,
    markdown: bool = False,
) -> Iterator[tuple[int, str]]:
    """Split as `split` does, and yield each chunk after the index of its first character.

    With `markdown`, it splits at headings and blocks. Chunks are made lazily.
    """
    if max_tokens < 1:
        raise ConfigError(f"max_tokens={max_tokens}, but a chunk has at least 1 token")
    try:
        from semantic_text_splitter import MarkdownSplitter, TextSplitter
    except ImportError as error:
        raise MissingDependency(
            "semantic-text-splitter", extra="local", purpose="to split a text at its sentences"
        ) from error
    splitter = MarkdownSplitter if markdown else TextSplitter
    window = max_tokens * (_WINDOW_MARKDOWN if markdown else _WINDOW)
    return _split_windows(splitter.from_callback(count, max_tokens).chunk_indices, text, window)


def _split_windows(
    cut: Callable[[str], list[tuple[int, str]]], text: str, window: int
) -> Iterator[tuple[int, str]]:
    """Split a text window by window, since the splitter takes quadratic time.

    The last chunk of a window is split again at the beginning of the next one.
    """
    begin, size = 0, window
    while begin < len(text):
        parts = cut(text[begin : begin + size])
        end = begin + size
        if end < len(text):
            if len(parts) == 1:  # such as a long run of blanks, which is one token
                size *= 2
                continue
            end = begin + parts.pop()[0] if parts else end
        yield from ((begin + offset, chunk) for offset, chunk in parts)
        begin, size = end, window
