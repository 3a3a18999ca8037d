"""Chunking: a document into passages that know where they stand."""

from __future__ import annotations

from moa.agents.splitting import chunks
from moa.documents import Document, Passage
from moa.documents.sentences import sentences

MAX_TOKENS = 200
"""Of a passage: what a sentence encoder reads as a whole, and a small model decides on well."""


def passages_of(document: Document, *, max_tokens: int = MAX_TOKENS) -> list[Passage]:
    """Split a document, at the ends of sections, paragraphs and sentences where that is possible.

    A passage may run over the end of a page; its `page` is that on which it begins.

    Args:
        document: One without text has no passages.
        max_tokens: Most tokens of a passage, by an estimate on the safe side.

    Raises:
        ConfigError: `max_tokens` is less than 1.
        MissingDependency: `semantic-text-splitter` is not installed.
    """
    return [
        Passage(
            document=document.id,
            title=document.title,
            text=text,
            start=start,
            page=document.page_at(start),
        )
        for start, text in chunks(document.text, max_tokens=max_tokens, markdown=document.markdown)
    ]


def sentences_of(passage: Passage) -> list[Passage]:
    """Split a passage into its sentences, each of which knows where it stands in the document."""
    return [
        passage.model_copy(update={"text": text, "start": passage.start + start})
        for start, text in sentences(passage.text)
    ]
