"""Reading: the bytes of a file as a document, or a sentence that says why they are none."""

from __future__ import annotations

import codecs
import hashlib
import re
from collections.abc import Callable
from pathlib import PurePosixPath

from moa.agents.cleaning import html_to_text, is_html, tidy
from moa.documents import Document
from moa.documents.pdf import pages_of
from moa.errors import InputError, MissingDependency

KINDS = {
    ".txt": "text",
    ".text": "text",
    ".rst": "text",
    ".md": "Markdown",
    ".markdown": "Markdown",
    ".html": "HTML",
    ".htm": "HTML",
    ".xhtml": "HTML",
    ".pdf": "PDF",
}
"""What is read, by the ending of a file's name."""
Pages = Callable[[int, int], None]
"""Told the pages read so far, and all that there are."""

_MAGIC = (
    (b"%PDF-", "a PDF"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"GIF8", "a GIF picture"),
    (b"PK\x03\x04", "a ZIP archive, as files of Word, Excel and OpenDocument are"),
    (b"\xd0\xcf\x11\xe0", "a file of an old Word or Excel"),
    (b"{\\rtf", "rich text (RTF)"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
)
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_CHARSET = re.compile(rb"<(?:meta|\?xml)[^>]*?(?:charset|encoding)\s*=\s*[\"']?([\w.-]+)", re.I)
_TITLE = re.compile(r"<title[^>]{0,200}>(.{0,500}?)</title", re.IGNORECASE | re.DOTALL)
_HEADED = 4000
"""Characters at the beginning of a Markdown file in which its heading is looked for."""
_HEADING = re.compile(
    r"\A(?:---\n.*?\n---\s*)?\s*#[^\S\n]+([^\n]+?)[^\S\n]*#*[^\S\n]*$", re.MULTILINE | re.DOTALL
)


def document_of(name: str, data: bytes, *, progress: Pages | None = None) -> Document:
    """Read the bytes of a file.

    Args:
        name: Path of the file within its folder; the ending says what it is.
        data: All of its bytes.
        progress: Told of the pages of a PDF, which take long.

    Raises:
        InputError: it is of no kind that is read, not what its name says, empty, broken,
            encrypted, or holds no text; a sentence names the file.
        MissingDependency: `pypdf`, `lxml` or `charset-normalizer` is not installed.
    """
    kind = KINDS.get(PurePosixPath(name).suffix.lower())
    if kind is None:
        raise InputError(f"{name} is of no kind that is read: {', '.join(KINDS)}")
    if not data.strip():
        raise InputError(f"{name} is empty")
    document = _pdf(name, data, progress) if kind == "PDF" else _written(name, data, kind)
    return document.model_copy(update={"digest": digest_of(data)})


def digest_of(data: bytes) -> str:
    """SHA-256 of the bytes of a file, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def _pdf(name: str, data: bytes, progress: Pages | None) -> Document:
    if b"%PDF-" not in data[:1024]:
        raise InputError(_disguised(name, "a PDF", _kind_of(data)))
    title, pages = pages_of(name, data, progress=progress)
    starts: list[int] = []
    at = 0
    for page in pages:
        starts.append(at)
        at += len(page) + 2
    empty = [number for number, page in enumerate(pages, 1) if not page]
    note = f"{_listed(empty)} of {len(pages)} hold no text, as pictures do" if empty else ""
    return Document(
        id=name,
        title=title or PurePosixPath(name).stem,
        text="\n\n".join(pages),
        pages=tuple(starts),
        notes=(note,) if note else (),
    )


def _written(name: str, data: bytes, kind: str) -> Document:
    text = _decoded(name, data, kind).replace("\r\n", "\n").replace("\r", "\n")
    title = PurePosixPath(name).stem
    if kind == "HTML":
        found = _TITLE.search(text)
        title = (found and tidy(_html(found[1]))) or title
        text = tidy(_html(text))
    elif kind == "Markdown":
        found = _HEADING.match(text[:_HEADED])
        title = found[1] if found else title
    if not text.strip():
        raise InputError(f"{name} holds no text")
    return Document(id=name, title=title, text=text, markdown=kind == "Markdown")


def _html(html: str) -> str:
    try:
        return html_to_text(html)
    except ImportError as error:
        raise MissingDependency("lxml", extra="local", purpose="to read HTML") from error


def _decoded(name: str, data: bytes, kind: str) -> str:
    """Decode by the mark at the beginning, as UTF-8, as HTML declares it, or by a guess."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            text = _decode(data, encoding)
            return _raise(name, kind, data) if text is None else text
    text = _decode(data, "utf-8")
    if text is None and kind == "HTML" and (declared := _CHARSET.search(data[:4096])):
        text = _decode(data, declared[1].decode("ascii", "replace"))
    if text is None and not any(data.startswith(magic) for magic, _ in _MAGIC):
        text = _guessed(data)
    if text is None or _CONTROL.search(text):
        return _raise(name, kind, data)
    if any(text.startswith(magic.decode("latin-1")) for magic in (b"%PDF-", b"{\\rtf")):
        return _raise(name, kind, data)
    return text


def _decode(data: bytes, encoding: str) -> str | None:
    try:
        return data.decode(encoding)
    except (UnicodeError, LookupError):
        return None


def _guessed(data: bytes) -> str | None:
    if b"\0" in data:
        return None
    try:
        from charset_normalizer import from_bytes
    except ImportError as error:
        raise MissingDependency(
            "charset-normalizer", extra="local", purpose="to read a text that is not UTF-8"
        ) from error
    best = from_bytes(data).best()
    return None if best is None else str(best)


def _raise(name: str, kind: str, data: bytes) -> str:
    raise InputError(_disguised(name, kind, _kind_of(data)))


def _disguised(name: str, said: str, found: str) -> str:
    return f"{name} is no {said.removeprefix('a ')}, as its name says, but {found}"


def _kind_of(data: bytes) -> str:
    for magic, kind in _MAGIC:
        if data.startswith(magic):
            return kind
    text = _decode(data, "utf-8")
    if text is None or _CONTROL.search(text):
        return "bytes of an unknown kind"
    return "a web page (HTML)" if is_html(text) else "plain text"


def _listed(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:8])) + (" and more" if len(numbers) > 8 else "")
    return f"page {shown}" if len(numbers) == 1 else f"{len(numbers)} pages ({shown})"
