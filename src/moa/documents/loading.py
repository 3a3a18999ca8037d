"""Loading: files and folders as documents. What can't be read is named, and the others go on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from moa.documents import Document
from moa.documents.reading import KINDS, document_of
from moa.errors import ConfigError, InputError

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
