"""Files: atomic replacement, JSON Lines that one process at a time appends to, and the cache."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Literal, Self, TypeVar

from filelock import FileLock, Timeout

from moa.core._json import JSON, is_object
from moa.core.errors import ConfigError, MoaError

if TYPE_CHECKING:
    from pydantic import BaseModel

M = TypeVar("M", bound="BaseModel")

Existing = Literal["refuse", "resume", "overwrite"]
"""Action if a file already has lines."""
_NAMES_THE_CACHE = ("MOA_CACHE", "XDG_CACHE_HOME", "HOME", "LOCALAPPDATA")
"""Variables that determine the cache folder."""
_ADDED_TO = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)


def cache_folder() -> Path:
    """Return the folder of `moa`'s downloads: `$MOA_CACHE`, else the user's cache folder."""
    return _cache_folder(*map(os.environ.get, _NAMES_THE_CACHE))


@lru_cache(maxsize=8)
def _cache_folder(folder: str | None, *_of_the_user: str | None) -> Path:
    """Find the folder once per environment: every call to a model asks for it."""
    if folder:
        return Path(folder).expanduser()
    import platformdirs

    return platformdirs.user_cache_path("moa", appauthor=False)


@contextmanager
def replacing(path: Path, *, private: bool = True) -> Generator[BinaryIO]:
    """Replace a file atomically: whole, or not at all.

    An existing file keeps its mode. Anything but a plain file, such as `/dev/stdout`, is written to
    directly. If `private`, only the owner can read a new file.
    """
    target = path.resolve()
    exists = target.exists()
    if exists and not target.is_file():
        with target.open("wb") as file:
            yield file
        return
    draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        with open(os.open(draft, flags, 0o600 if private else 0o666), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if exists:
            draft.chmod(target.stat().st_mode & 0o777)
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


def replace_text(path: Path, text: str, *, private: bool = True) -> None:
    """Replace a file's text atomically; see `replacing`."""
    with replacing(path, private=private) as file:
        file.write(text.encode())


def load_model(
    path: str | Path, kind: type[M], *, what: str, maker: str, error: type[MoaError] = ConfigError
) -> M:
    """Read a pydantic model from a JSON file.

    `error` is raised if the file is missing, can't be read, or holds something else. Its message
    names the value by `what`, and the command that makes one by `maker`.
    """
    from pydantic import ValidationError

    try:
        return kind.model_validate_json(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as problem:
        raise error(f"there is no {what} {str(path)!r}: {maker} makes one") from problem
    except OSError as problem:
        raise error(f"the {what} {str(path)!r} can't be read: {problem.strerror}") from problem
    except UnicodeDecodeError as problem:
        raise error(f"{str(path)!r} is no {what}: it is no text") from problem
    except ValidationError as problem:
        first = problem.errors(include_url=False, include_input=False)[0]
        location = ".".join(map(str, first["loc"])) or "the file"
        raise error(
            f"{str(path)!r} is no {what}'s file of this version of moa ({location}: "
            f"{first['msg']}). {maker} makes one"
        ) from problem


def save_text(
    path: str | Path, text: str, *, error: type[MoaError] = ConfigError, private: bool = False
) -> None:
    """Replace a file's text, readable by all; raise `error` if that fails.

    If `private`, as for texts of customers, only the owner can read it.
    """
    try:
        replace_text(Path(path), text, private=private)
    except OSError as problem:
        raise error(f"{str(path)!r} can't be written: {problem.strerror}") from problem


def make_private(path: Path) -> None:
    """Create a file that only its owner can read; leave an existing one unchanged, and unopened.

    A process that closes any descriptor of a file drops all locks that it has on it (POSIX). If
    SQLite has it open here, another process would take it for free, and drop what isn't merged yet.
    """
    flags = os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with suppress(FileExistsError):
        os.close(os.open(os.path.realpath(path), flags, 0o600))


class LineFile:
    """A JSON Lines file that one process at a time appends to.

    It is a context manager: entering locks it against other processes, and leaving removes it if
    it is empty. Only the owner can read a new file (mode 0600). If it already has lines, `refuse`
    raises `ConfigError`, `resume` appends to them, and `overwrite` drops them when the first line
    is added. `source` is the input file, which must be another one.
    """

    def __init__(
        self, path: str | Path, *, existing: Existing = "refuse", source: str | None = None
    ) -> None:
        self.path = Path(path)
        self._existing: Existing = existing
        self._source = source
        self._file = -1
        self._lock = _Lock(self.path)

    def __enter__(self) -> Self:
        """Open and lock it."""
        check_lines(self.path, existing=self._existing, source=self._source)
        try:
            self._lock.acquire()
        except Timeout as error:
            raise ConfigError(
                f"{self.path} is written by another process: wait for it, or give another file"
            ) from error
        except OSError as error:  # such as a folder that is read-only, or a disk without locks
            raise ConfigError(
                f"{self.path} can't be locked, so that another process doesn't write it too: "
                f"{error.strerror}. Give a file in another folder"
            ) from error
        try:
            check_lines(self.path, existing=self._existing)  # it may have been written since
            self._file = os.open(self.path, _ADDED_TO, 0o600)
        except OSError as error:
            raise self._write_error(error) from error
        finally:
            if self._file < 0:
                self._lock.release()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    def lines(self) -> Iterator[tuple[int, int, JSON]]:
        """Yield each existing line's number, start offset and JSON object; only with `resume`.

        An incomplete last line, left by a killed process, is removed. If a line can't be read or
        isn't a JSON object, the file is closed, and a `ConfigError` raised.
        """
        if self._existing != "resume":
            return
        start, raw = 0, b"\n"
        try:
            with self.path.open("rb") as file:
                for number, raw in enumerate(file, start=1):
                    values = _parse(raw)
                    if values is not None:
                        yield number, start, values
                    elif raw.startswith(b"{") and not raw.endswith(b"\n"):
                        self.cut(start)
                        return
                    elif raw.strip():
                        raise self.line_error(number)
                    start += len(raw)
        except OSError as error:
            self.close()
            raise ConfigError(f"{self.path} can't be read: {error.strerror}") from error
        if not raw.endswith(b"\n"):
            self._append(b"\n")

    def add(self, values: Mapping[str, object]) -> int:
        """Append one line, unbuffered, and return its start offset.

        If the disk is full, or gone, the lines before it stay whole.
        """
        return self.add_line(dump_json(values).encode())

    def add_line(self, line: bytes) -> int:
        """Append one line of encoded JSON; see `add`."""
        if self._existing == "overwrite":
            self.cut(0)
            self._existing = "resume"
        return self._append(line + b"\n")

    def cut(self, start: int) -> None:
        """Remove the line at offset `start`, and all lines after it."""
        with suppress(OSError):  # a device, such as /dev/full, has no lines to remove
            os.ftruncate(self._file, start)

    def close(self) -> None:
        """Close the file and release its lock; remove it if it is empty."""
        if self._file < 0:
            return
        empty = not os.fstat(self._file).st_size
        os.close(self._file)
        self._file = -1
        if empty and self.path.is_file():
            self.path.unlink()
        self._lock.release()

    def line_error(self, number: int) -> ConfigError:
        """Close the file, and return the error for a line that doesn't belong there."""
        self.close()
        return ConfigError(
            f"{self.path}, line {number} is none of those that would be written there, so nothing "
            "is added to this file: give another, or mend it"
        )

    def _append(self, data: bytes) -> int:
        start = os.lseek(self._file, 0, os.SEEK_END)
        left = memoryview(data)
        try:
            while left:
                left = left[os.write(self._file, left) :]
        except OSError as error:
            self.cut(start)
            raise self._write_error(error) from error
        return start

    def _write_error(self, error: OSError) -> ConfigError:
        return ConfigError(f"{self.path} can't be written: {error.strerror}")


def check_lines(path: Path, *, existing: Existing, source: str | None = None) -> None:
    """Check that a file is named `.jsonl` and may be written; see `check_existing`."""
    if path.suffix != ".jsonl":
        raise ConfigError(f"{path} would hold JSON Lines: call it {path.with_suffix('.jsonl')}")
    check_existing(path, existing=existing, source=source)


def check_existing(path: Path, *, existing: Existing, source: str | None = None) -> None:
    """Check that a file may be written, and isn't `source`, the input."""
    if not path.exists():
        return
    if source is not None and Path(source).exists() and path.samefile(source):
        raise ConfigError(f"{path} is the input: what comes out goes into another file")
    if existing == "refuse" and path.stat().st_size:
        raise ConfigError(
            f"{path} is there already: --resume goes on with it, --overwrite replaces it"
        )


def dump_json(value: object) -> str:
    """Encode a value as one line of JSON, in valid Unicode."""
    return join_surrogates(json.dumps(value, ensure_ascii=False))


def encode_json(value: object) -> bytes:
    """Encode a value as one line of JSON, in a third of the time of `to_jsonable` and `dump_json`.

    Types that JSON lacks become strings; NaN and infinity become null.
    """
    from pydantic_core import to_json, to_jsonable_python

    try:
        return to_json(value, inf_nan_mode="null", fallback=str)
    except ValueError:  # a lone surrogate
        jsonable = to_jsonable_python(value, inf_nan_mode="null", fallback=str)
        return dump_json(jsonable).encode()


def to_jsonable(value: object) -> object:
    """Convert a value to types that JSON has."""
    from pydantic_core import to_jsonable_python

    return to_jsonable_python(value, fallback=str)


def join_surrogates(text: str) -> str:
    """Join surrogate pairs; a lone surrogate becomes U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


class _Lock:
    """A lock file beside a file, `.NAME.lock`; the system frees it when the process ends.

    The file itself isn't locked: replacing it would lose the lock, and on Windows a locked file
    can't be read. The lock isn't in a temporary folder: two processes may have different ones.
    """

    def __init__(self, path: Path) -> None:
        target = path.resolve() if path.is_file() or not path.exists() else path.absolute()
        self._path = target.with_name(f".{target.name}.lock")
        self._lock = FileLock(self._path, blocking=False, thread_local=False)

    def acquire(self) -> None:
        """Take it at once, or raise `Timeout`; raise `OSError` if it can't be made."""
        self._lock.acquire()

    def release(self) -> None:
        """Free it, and remove its file; a process that has opened the file sees that it is gone."""
        if os.name != "nt":  # Windows can't remove an open file: filelock does it afterwards
            with suppress(OSError):
                self._path.unlink()
        self._lock.release()


def _parse(raw: bytes) -> JSON | None:
    try:
        values: object = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return values if is_object(values) else None
