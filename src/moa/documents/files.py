"""Reads files and folders as documents. Unreadable files are reported, and the others read."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import re
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import NamedTuple

from moa.core.errors import ConfigError, InputError, require_package
from moa.documents import Document
from moa.documents.preprocessor import html_to_text, tidy

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
"""Kinds of files, by extension."""
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_CHARSET = re.compile(rb"<(?:meta|\?xml)[^>]*?(?:charset|encoding)\s*=\s*[\"']?([\w.-]+)", re.I)
_TITLE = re.compile(r"<title[^>]{0,200}>(.{0,500}?)</title", re.IGNORECASE | re.DOTALL)
_HEADED = 4000
"""Number of first characters of a Markdown file to search for its heading."""
_HEADING = re.compile(
    r"\A(?:---\n.*?\n---\s*)?\s*#[^\S\n]+([^\n]+?)[^\S\n]*#*[^\S\n]*$", re.MULTILINE | re.DOTALL
)
# Errors of parsers on a broken file; pypdf's own errors are added if it is imported.
_TRIPS = (
    ArithmeticError, AssertionError, AttributeError, LookupError, NotImplementedError, OSError,
    RecursionError, TypeError, ValueError, struct.error, zlib.error,
)  # fmt: skip
_HYPHEN = re.compile(r"(?<=[^\W\d_])[-\u00ad]\n(?=[a-zß-öø-ÿ])")
_WRAPPED = re.compile(r"(?<![.!?:;\n])\n(?=[^\W\d_A-ZÀ-ÖØ-Þ])")
_BLANKS = re.compile(r"[^\S\n]+")
_LEADS_OUT = (
    "is a link that leads out of the folder, so it was not read. Where it is meant, name what it "
    "leads to beside the folder"
)

Sources = Path | str | Sequence[Path | str]
"""Files and folders."""


class File(NamedTuple):
    """A file to read."""

    id: str
    """Path within the named folder; with several folders, after the folder's name."""
    path: Path


class UnreadFile(NamedTuple):
    """A file or folder that could not be read."""

    file: str
    """Id of the file; of a folder, the prefix of the ids in it: empty, or ending with a slash."""
    reason: str
    """A sentence that names it."""

    def __str__(self) -> str:
        return self.reason


Progress = Callable[[str], None]
"""Called with the progress, in words."""


@dataclass(frozen=True, slots=True)
class LoadedDocuments:
    """Result of `load`."""

    documents: tuple[Document, ...]
    unread: tuple[UnreadFile, ...] = ()
    """Files and folders that could not be read, and why."""
    ignored: tuple[str, ...] = ()
    """Files of other kinds in the folders."""


def load(sources: Sources) -> LoadedDocuments:
    """Read files, and all text, Markdown, HTML and PDF files in folders.

    It blocks: in an event loop, use `asyncio.to_thread`.

    Args:
        sources: Files and folders. Folders are read recursively, without hidden files and without
            links that lead out of the folder.

    Raises:
        ConfigError: a file or folder doesn't exist, or two files would have the same id.
        MissingDependency: the package for a kind of file is not installed.
    """
    files, ignored, folders = files_under(sources)
    results = [result for _, result in read_each(files)]
    documents = tuple(result for result in results if isinstance(result, Document))
    unread = tuple(result for result in results if isinstance(result, UnreadFile))
    return LoadedDocuments(documents, (*folders, *unread), ignored)


def read_each(
    files: Sequence[File],
    hashes: Mapping[str, str] = MappingProxyType({}),
    *,
    progress: Progress | None = None,
) -> Iterator[tuple[File, Document | UnreadFile | None]]:
    """Read files, one after another; yield `None` for one with its SHA-256 in `hashes`, by id."""
    for number, file in enumerate(files, 1):
        if progress is not None:
            progress(f"reading {number} of {len(files)}: {file.id}")
        try:
            data = file.path.read_bytes()
            digest = hashlib.sha256(data).hexdigest()
            yield file, None if hashes.get(file.id) == digest else _document(file.id, data, digest)
        except OSError as error:
            yield file, UnreadFile(file.id, f"{file.id} can't be read: {error.strerror or error}")
        except InputError as error:
            yield file, UnreadFile(file.id, str(error))


def files_under(sources: Sources) -> tuple[list[File], tuple[str, ...], list[UnreadFile]]:
    """Find the files to read, the ids of files of other kinds, and unreadable folders.

    A missing file or folder, or a repeated id, raises `ConfigError`.
    """
    paths = [Path(source) for source in ([sources] if isinstance(sources, Path | str) else sources)]
    files, ignored, unread = list[File](), list[str](), list[UnreadFile]()
    for path in paths:
        if path.is_file():
            files.append(File(_printable(path.name), path))
        elif path.is_dir():
            prefix = f"{_printable(path.resolve().name)}/" if len(paths) > 1 else ""
            errors: list[OSError] = []
            for inner_path, leads_out in _walk(path, errors.append):
                file = File(
                    prefix + _printable(inner_path.relative_to(path).as_posix()), inner_path
                )
                is_readable = inner_path.suffix.lower() in KINDS
                if leads_out and (is_readable or inner_path.is_dir()):
                    unread.append(UnreadFile(file.id, f"{file.id} {_LEADS_OUT}"))
                else:
                    files.append(file) if is_readable else ignored.append(file.id)
            unread += [_unread_folder(error, path, prefix) for error in errors]
        else:
            raise ConfigError(f"there is no file or folder {str(path)!r} to read documents from")
    seen: dict[str, Path] = {}
    for file in files:
        if (first := seen.setdefault(file.id, file.path)) is not file.path:
            raise ConfigError(
                f"{str(first)!r} and {str(file.path)!r} would both be called {file.id!r}: name "
                "the folder that holds both"
            )
    return files, tuple(ignored), unread


def _walk(folder: Path, onerror: Callable[[OSError], None]) -> Iterator[tuple[Path, bool]]:
    """Yield the files of a folder in order of name, without hidden ones.

    Each comes with True if it is a link that leads out of the folder, to a file or a folder.
    """
    root = os.path.realpath(folder)
    for parent, folders, names in os.walk(folder, onerror=onerror):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        file_names = {name for name in names if not name.startswith(".")}
        for name in [*folders, *sorted(file_names)]:
            path = Path(parent) / name
            target = os.path.realpath(path) if os.path.islink(path) else root
            leads_out = not Path(target).is_relative_to(root)
            if leads_out or (name in file_names and _may_be_file(path)):
                yield path, leads_out


def _may_be_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return True  # the folder only allows listing; reading the file tells what is wrong


def _printable(name: str) -> str:
    r"""Return a name as valid text: bytes that aren't UTF-8 become escapes such as `\xff`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _unread_folder(error: OSError, source: Path, prefix: str) -> UnreadFile:
    folder = Path(os.fsdecode(error.filename))
    subpath = "" if folder == source else f"{_printable(folder.relative_to(source).as_posix())}/"
    reason = f"the folder {_printable(str(folder))} can't be read: {error.strerror or error}"
    return UnreadFile(prefix + subpath, reason)


def _document(name: str, data: bytes, digest: str) -> Document:
    """Read the bytes of a file, whose extension tells its kind."""
    kind = KINDS.get(PurePosixPath(name).suffix.lower())
    if kind is None:
        raise InputError(f"{name} is of no kind that is read: {', '.join(KINDS)}")
    if not data.strip():
        raise InputError(f"{name} is empty")
    document = _pdf_document(name, data) if kind == "PDF" else _text_document(name, data, kind)
    return document.model_copy(update={"digest": digest})


def _pages_of(name: str, data: bytes) -> tuple[str, list[str]]:
    """Read a PDF: its title, empty if it has none, and the text of each page.

    Words split at the end of a line are joined, and so are lines within a sentence.
    """
    with require_package("pypdf", extra="local", purpose="to read PDF files"):
        from pypdf import PdfReader
        from pypdf.errors import DependencyError, PyPdfError
    # pypdf would log faults to the terminal; the errors here report them.
    logging.getLogger("pypdf").addHandler(_SILENT)
    try:
        reader = PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise _locked_error(name)
        title = _clean(reader.metadata.title or "").strip() if reader.metadata else ""
        pages = [_clean(page.extract_text()) for page in reader.pages]
    except DependencyError as error:
        raise _locked_error(name) from error
    except (PyPdfError, *_TRIPS) as error:
        reason = f"{type(error).__name__}: {error}".removesuffix(": ")
        raise InputError(
            f"{name} is a broken PDF, and could not be read ({reason}): open it in a "
            "viewer and save it again"
        ) from error
    pages = [_BLANKS.sub(" ", _WRAPPED.sub(" ", _HYPHEN.sub("", page))).strip() for page in pages]
    if not any(pages):
        raise InputError(
            f"{name} holds no text: where its pages are pictures, have their text recognised "
            "first, as `ocrmypdf` does"
        )
    return title, pages


_SILENT = logging.NullHandler()


def _clean(text: str) -> str:
    """Replace halves of surrogate pairs, which broken fonts leave, and remove NUL characters."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "")


def _locked_error(name: str) -> InputError:
    return InputError(f"{name} is encrypted, and can't be read: save it without a password")


def _pdf_document(name: str, data: bytes) -> Document:
    if b"%PDF-" not in data[:1024]:
        raise InputError(f"{name} is no PDF, as its name says")
    title, pages = _pages_of(name, data)
    starts = accumulate((len(page) + 2 for page in pages[:-1]), initial=0)
    empty = [number for number, page in enumerate(pages, 1) if not page]
    note = f"{_format_pages(empty)} of {len(pages)} hold no text, as pictures do" if empty else ""
    return Document(
        id=name,
        title=title or PurePosixPath(name).stem,
        text="\n\n".join(pages),
        pages=tuple(starts),
        notes=(note,) if note else (),
    )


def _text_document(name: str, data: bytes, kind: str) -> Document:
    text = _decode_text(name, data, kind).replace("\r\n", "\n").replace("\r", "\n")
    title = PurePosixPath(name).stem
    if kind == "HTML":
        match = _TITLE.search(text)
        with require_package("lxml", extra="local", purpose="to read HTML"):
            title = (match and tidy(html_to_text(match[1]))) or title
            text = tidy(html_to_text(text))
    elif kind == "Markdown":
        match = _HEADING.match(text[:_HEADED])
        title = match[1] if match else title
    if not text.strip():
        raise InputError(f"{name} holds no text")
    return Document(id=name, title=title, text=text, markdown=kind == "Markdown")


def _decode_text(name: str, data: bytes, kind: str) -> str:
    """Decode as UTF-8, as HTML declares it, or by a guess, which recognises UTF-16."""
    text = _decode(data, "utf-8-sig")
    # A guess alone decodes a third of Japanese pages wrongly.
    if text is None and kind == "HTML" and (declared := _CHARSET.search(data[:4096])):
        text = _decode(data, declared[1].decode("ascii", "replace"))
    if text is None:
        purpose = "to read a text that is not UTF-8"
        with require_package("charset-normalizer", extra="local", purpose=purpose):
            from charset_normalizer import from_bytes
        guess = from_bytes(data).best()
        text = None if guess is None else str(guess)
    if text is None or _CONTROL.search(text) or text.startswith(("%PDF-", "{\\rtf")):
        raise InputError(f"{name} is no {kind}, as its name says")
    return text


def _decode(data: bytes, encoding: str) -> str | None:
    try:
        return data.decode(encoding)
    except (UnicodeError, LookupError):
        return None


def _format_pages(numbers: list[int]) -> str:
    pages = ", ".join(map(str, numbers[:8])) + (" and more" if len(numbers) > 8 else "")
    return f"page {pages}" if len(numbers) == 1 else f"{len(numbers)} pages ({pages})"
