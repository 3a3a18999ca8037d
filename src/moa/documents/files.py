"""Files: files and folders as documents. What can't be read is named, and the others go on."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from moa.agents.cleaning import html_to_text, is_html, tidy
from moa.documents import Document
from moa.documents.pdf import pages_of
from moa.errors import ConfigError, InputError, MissingDependency

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
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_CHARSET = re.compile(rb"<(?:meta|\?xml)[^>]*?(?:charset|encoding)\s*=\s*[\"']?([\w.-]+)", re.I)
_TITLE = re.compile(r"<title[^>]{0,200}>(.{0,500}?)</title", re.IGNORECASE | re.DOTALL)
_HEADED = 4000
"""Characters at the beginning of a Markdown file in which its heading is looked for."""
_HEADING = re.compile(
    r"\A(?:---\n.*?\n---\s*)?\s*#[^\S\n]+([^\n]+?)[^\S\n]*#*[^\S\n]*$", re.MULTILINE | re.DOTALL
)
_LEADS_OUT = (
    "is a link that leads out of the folder, so it was not read. Where it is meant, name what it "
    "leads to beside the folder"
)

Sources = Path | str | Sequence[Path | str]
"""Files and folders."""


class File(NamedTuple):
    """A file that is to be read."""

    id: str
    """Its path within the folder that was named; of several folders, after the folder's name."""
    path: Path


class Unread(NamedTuple):
    """A file or folder that could not be read."""

    file: str
    """Its id; that of a folder ends with a slash, or is empty, and all ids below begin with it."""
    reason: str
    """A sentence that names it."""

    def __str__(self) -> str:
        return self.reason


class Step(NamedTuple):
    """How far loading is."""

    file: str
    """What is being read."""
    files_done: int
    files: int
    page: int = 0
    """Pages of it that are read; 0 where it has none."""
    pages: int = 0


Progress = Callable[[Step], None]


class Listed(NamedTuple):
    """What is in files and folders."""

    files: tuple[File, ...]
    """To be read."""
    ignored: tuple[str, ...]
    """Ids of files of other kinds in the folders."""
    unread: tuple[Unread, ...]
    """Folders of which nobody knows what is in them, and links that lead out of theirs."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What loading gave."""

    documents: tuple[Document, ...]
    unread: tuple[Unread, ...] = ()
    """Files and folders that could not be read, and why."""
    ignored: tuple[str, ...] = ()
    """Files of other kinds in the folders."""


def load(sources: Sources, *, progress: Progress | None = None) -> Loaded:
    """Read files, and all text, Markdown, HTML and PDF files in folders.

    It blocks; where an event loop runs, call it by `asyncio.to_thread`.

    Args:
        sources: Files and folders. Folders are read with those in them; what is hidden is not,
            and neither is what a link leads to outside of the folder.
        progress: Told of each file before it is read, and of each page of a PDF.

    Raises:
        ConfigError: a file or folder isn't there, or two files would have the same id.
        MissingDependency: what reads a kind of file is not installed.
    """
    files, ignored, folders = listed(sources)
    documents: list[Document] = []
    unread = list(folders)
    for done, file in enumerate(files):
        tell = Telling(progress, file.id, done, len(files))
        tell()
        try:
            documents.append(document_of(file.id, bytes_of(file), progress=tell))
        except InputError as error:
            unread.append(Unread(file.id, str(error)))
    return Loaded(tuple(documents), tuple(unread), ignored)


@dataclass(frozen=True, slots=True)
class Telling:
    """Tells how far one file of many is."""

    progress: Progress | None
    file: str
    done: int
    files: int

    def __call__(self, page: int = 0, pages: int = 0) -> None:
        """Tell of a page that is read."""
        if self.progress is not None:
            self.progress(Step(self.file, self.done, self.files, page, pages))


def bytes_of(file: File) -> bytes:
    """Give the bytes of a file.

    Raises:
        InputError: the system doesn't give them.
    """
    try:
        return file.path.read_bytes()
    except OSError as error:
        raise InputError(f"{file.id} can't be read: {error.strerror or error}") from error


def listed(sources: Sources) -> Listed:
    """Find the files to read.

    Raises:
        ConfigError: a file or folder isn't there, or two files would have the same id.
    """
    given = [sources] if isinstance(sources, Path | str) else list(sources)
    paths = [Path(each) for each in given]
    files: list[File] = []
    ignored: list[str] = []
    unread: list[Unread] = []
    for path in paths:
        if path.is_file():
            files.append(File(_named(path.name), path))
        elif path.is_dir():
            before = f"{_named(path.resolve().name)}/" if len(paths) > 1 else ""
            broken: list[OSError] = []
            for inside, out in _inside(path, broken.append):
                file = File(before + _named(inside.relative_to(path).as_posix()), inside)
                known = inside.suffix.lower() in KINDS
                if out and (known or inside.is_dir()):
                    unread.append(Unread(file.id, f"{file.id} {_LEADS_OUT}"))
                else:
                    files.append(file) if known else ignored.append(file.id)
            unread += [_unlisted(error, path, before) for error in broken]
        else:
            raise ConfigError(f"there is no file or folder {str(path)!r} to read documents from")
    _check_apart(files)
    return Listed(tuple(files), tuple(ignored), tuple(unread))


def _inside(folder: Path, onerror: Callable[[OSError], None]) -> Iterator[tuple[Path, bool]]:
    """Files of a folder in the order of their names, without what is hidden.

    With each, whether it is a link that leads out of the folder; then it may be one to a folder.
    """
    root = os.path.realpath(folder)
    for at, folders, names in os.walk(folder, onerror=onerror):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        shown = {name for name in names if not name.startswith(".")}
        for name in [*folders, *sorted(shown)]:
            path = Path(at) / name
            leads = os.path.realpath(path) if os.path.islink(path) else root
            out = not Path(leads).is_relative_to(root)
            if out or (name in shown and _may_be_file(path)):
                yield path, out


def _may_be_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return True  # in a folder that gives names alone; reading it says what is wrong


def _named(name: str) -> str:
    r"""Write a name so that every name is text: bytes of it that aren't UTF-8 stand as `\xff`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _unlisted(error: OSError, source: Path, before: str) -> Unread:
    folder = Path(os.fsdecode(error.filename))
    inside = "" if folder == source else f"{_named(folder.relative_to(source).as_posix())}/"
    reason = f"the folder {_named(str(folder))} can't be read: {error.strerror or error}"
    return Unread(before + inside, reason)


def _check_apart(files: Sequence[File]) -> None:
    seen: dict[str, Path] = {}
    for file in files:
        if (other := seen.setdefault(file.id, file.path)) is not file.path:
            raise ConfigError(
                f"{str(other)!r} and {str(file.path)!r} would both be called {file.id!r}: name "
                "the folder that holds both"
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
    """Decode as UTF-8, as HTML declares it, or by a guess, which knows the marks of UTF-16."""
    text = _decode(data, "utf-8-sig")
    # Of Japanese pages a guess alone reads a third wrong.
    if text is None and kind == "HTML" and (declared := _CHARSET.search(data[:4096])):
        text = _decode(data, declared[1].decode("ascii", "replace"))
    if text is None and not any(data.startswith(magic) for magic, _ in _MAGIC):
        text = _guessed(data)
    if text is None or _CONTROL.search(text) or text.startswith(("%PDF-", "{\\rtf")):
        raise InputError(_disguised(name, kind, _kind_of(data)))
    return text


def _decode(data: bytes, encoding: str) -> str | None:
    try:
        return data.decode(encoding)
    except (UnicodeError, LookupError):
        return None


def _guessed(data: bytes) -> str | None:
    try:
        from charset_normalizer import from_bytes
    except ImportError as error:
        raise MissingDependency(
            "charset-normalizer", extra="local", purpose="to read a text that is not UTF-8"
        ) from error
    best = from_bytes(data).best()
    return None if best is None else str(best)


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
