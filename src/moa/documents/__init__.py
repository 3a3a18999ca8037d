"""Documents, the passages that they are split into, and the results of a search."""

from __future__ import annotations

from bisect import bisect_right

from moa.core.node import Frozen
from moa.documents.sentences import sentences


class Document(Frozen):
    """A file that was read, as text."""

    id: str
    """Path within the folder that was read, with `/` between the parts."""
    title: str
    """Title in the file; else its name without the ending."""
    text: str
    pages: tuple[int, ...] = ()
    """Offset of each page in `text`; empty if the file has no pages."""
    markdown: bool = False
    """True if `text` is Markdown, which is split at its headings."""
    digest: str = ""
    """SHA-256 of the file, in hexadecimal."""
    notes: tuple[str, ...] = ()
    """Descriptions of missing parts, such as pages that are pictures."""

    def page_at(self, offset: int) -> int | None:
        """Number of the page on which a character is, from 1; `None` without pages."""
        return bisect_right(self.pages, offset) if self.pages else None


class Passage(Frozen):
    """A piece of a document, with its position."""

    document: str
    """Id of its document."""
    title: str
    """Title of its document."""
    text: str
    start: int = 0
    """Offset of its first character in the document's text."""
    page: int | None = None
    """Number of the page on which it begins; `None` if the document has no pages."""

    def __str__(self) -> str:
        return self.text

    @property
    def end(self) -> int:
        """Offset behind its last character in the document's text."""
        return self.start + len(self.text)

    @property
    def id(self) -> str:
        """Unique name of the passage."""
        return f"{self.document}#{self.start}"

    @property
    def source(self) -> str:
        """Source for people: the title, with the page if there is one."""
        return self.title if self.page is None else f"{self.title}, page {self.page}"

    def sentences(self) -> list[Passage]:
        """Split it into sentences, each with its position in the document."""
        return [
            self.model_copy(update={"text": text, "start": self.start + start})
            for start, text in sentences(self.text)
        ]


class Passages(Frozen):
    """Passages found by a search."""

    passages: tuple[Passage, ...] = ()
    """The best first."""
