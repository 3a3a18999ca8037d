"""Documents: what is read, the passages that it is split into, and what is found in them."""

from __future__ import annotations

from bisect import bisect_right

from moa.documents.sentences import sentences
from moa.node import Frozen


class Document(Frozen):
    """A file that was read, as text."""

    id: str
    """Its path within the folder that was read, with `/` between the parts."""
    title: str
    """As the file says it; else its name without the ending."""
    text: str
    pages: tuple[int, ...] = ()
    """Where in `text` each page begins; none where the file has no pages."""
    markdown: bool = False
    """Whether `text` is Markdown, whose headings tell where it is best split."""
    digest: str = ""
    """SHA-256 of the file, in hexadecimal."""
    notes: tuple[str, ...] = ()
    """What is missing of it, such as pages that are pictures, in words."""

    def page_at(self, offset: int) -> int | None:
        """Number of the page on which a character stands, from 1; `None` without pages."""
        return bisect_right(self.pages, offset) if self.pages else None


class Passage(Frozen):
    """A piece of a document, and where it stands in it."""

    document: str
    """Id of its document."""
    title: str
    """That of its document."""
    text: str
    start: int = 0
    """Its first character within the document's text."""
    page: int | None = None
    """Number of the page on which it begins; `None` where the document has no pages."""

    def __str__(self) -> str:
        return self.text

    @property
    def end(self) -> int:
        """The end of its last character within the document's text."""
        return self.start + len(self.text)

    @property
    def id(self) -> str:
        """Tells it from all others."""
        return f"{self.document}#{self.start}"

    @property
    def source(self) -> str:
        """Where it stands, for people: the title, or the file where that says more, and page."""
        return self.title if self.page is None else f"{self.title}, page {self.page}"

    def sentences(self) -> list[Passage]:
        """Split it into its sentences, each of which knows where it stands in the document."""
        return [
            self.model_copy(update={"text": text, "start": self.start + start})
            for start, text in sentences(self.text)
        ]


class Passages(Frozen):
    """What was found."""

    passages: tuple[Passage, ...] = ()
    """The best first."""
