"""Splitting: a long text into chunks that fit, at the ends of paragraphs and sentences."""

from __future__ import annotations

from collections.abc import Callable

from moa.endpoints.tokens import approximate_tokens
from moa.errors import ConfigError, MissingDependency
from moa.node import Text


def split(
    text: Text | str, *, max_tokens: int, count: Callable[[str], int] = approximate_tokens
) -> list[Text]:
    """Split a text into chunks, in order; nothing but white space between them is lost.

    It splits at the end of a paragraph where it can, else of a sentence, else of a word.

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
    """Give the opening and the end of a text that is too long; another one comes back as it is."""
    tokens = approximate_tokens(text)
    if tokens <= max_tokens:
        return text
    half = max(1, len(text) * max_tokens // tokens // 2)
    # The word at the cut goes; a language that writes no blanks keeps all of it.
    opening, end = text[:half].rsplit(maxsplit=1), text[-half:].split(maxsplit=1)
    return "\n".join((*opening[:1], left_out, *end[-1:]))


def chunks(
    text: str,
    *,
    max_tokens: int,
    count: Callable[[str], int] = approximate_tokens,
    markdown: bool = False,
) -> list[tuple[int, str]]:
    """Split as `split` does, and say at which character each chunk begins.

    With `markdown` it splits where headings and blocks end.
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
    return splitter.from_callback(count, max_tokens).chunk_indices(text)
