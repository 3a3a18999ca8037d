"""Files: replaced whole or not at all, or added to line by line, by one process at a time."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Literal, Self, TypeVar

from filelock import FileLock, Timeout

from moa._json import JSON, is_object
from moa.errors import ConfigError, MoaError

if TYPE_CHECKING:
    from pydantic import BaseModel

M = TypeVar("M", bound="BaseModel")

Existing = Literal["refuse", "resume", "overwrite"]
"""What to do if a file has lines already."""
_ADDED_TO = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)


@contextmanager
def replacing(path: Path, *, private: bool = True) -> Generator[BinaryIO]:
    """Write a file in place of the one that is there, whole or not at all.

    What is there keeps its mode, and what isn't a plain file, such as `/dev/stdout`, is written to.
    If `private`, only its owner can read a new file, as with what models wrote.
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
    """Write a text in place of what is there; see `replacing`."""
    with replacing(path, private=private) as file:
        file.write(text.encode())


def load_model(
    path: str | Path, kind: type[M], *, what: str, maker: str, error: type[MoaError] = ConfigError
) -> M:
    """Read a value that was saved as JSON: `what`, in words, that the command `maker` makes.

    An `error` is raised if the file is missing, can't be read, or holds something else.
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
    """Write a text in place of what is there, for all to read; what fails is an `error`.

    If `private`, since it holds texts of customers, only its owner can read it.
    """
    try:
        replace_text(Path(path), text, private=private)
    except OSError as problem:
        raise error(f"{str(path)!r} can't be written: {problem.strerror}") from problem


def make_private(path: Path) -> None:
    """Make a file that only its owner can read; an existing one stays as it is."""
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))


class LineFile:
    """A file of JSON lines that one process at a time adds to.

    It is a context manager: entered, it is locked against other processes; left empty, it is
    removed. Only its owner can read a new file (mode 0600). Of the lines that are
    there, `refuse` raises, `resume` goes on behind them, and `overwrite` drops them when the first
    one is added. `source` is the file that is read meanwhile.
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
        """Yield the number of each line that is there, where it starts, and what is in it.

        What a killed process left of a last line is removed. There are none but with `resume`.
        Where a line isn't a JSON object, or can't be read, the file is closed.
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
        """Write one line, and return where it starts; it has left this process by then.

        If the disk is full, or gone, the lines before it are whole.
        """
        return self.add_line(dump_json(values).encode())

    def add_line(self, line: bytes) -> int:
        """Write one line of JSON that is written already; see `add`."""
        if self._existing == "overwrite":
            self.cut(0)
            self._existing = "resume"
        return self._append(line + b"\n")

    def cut(self, start: int) -> None:
        """Remove the line that starts there, and those behind it."""
        with suppress(OSError):  # a device, such as /dev/full, has no lines to remove
            os.ftruncate(self._file, start)

    def close(self) -> None:
        """Close it, and with that free its lock; an empty one is removed."""
        if self._file < 0:
            return
        empty = not os.fstat(self._file).st_size
        os.close(self._file)
        self._file = -1
        if empty and self.path.is_file():
            self.path.unlink()
        self._lock.release()

    def line_error(self, number: int) -> ConfigError:
        """Close the file, and make the error of a line that doesn't belong there."""
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
    """Make sure that a file is one to add lines to; see `check_existing`."""
    if path.suffix != ".jsonl":
        raise ConfigError(f"{path} would hold JSON Lines: call it {path.with_suffix('.jsonl')}")
    check_existing(path, existing=existing, source=source)


def check_existing(path: Path, *, existing: Existing, source: str | None = None) -> None:
    """Make sure that a file may be written, and is not `source`, which is read meanwhile."""
    if not path.exists():
        return
    if source is not None and Path(source).exists() and path.samefile(source):
        raise ConfigError(f"{path} is the input: what comes out goes into another file")
    if existing == "refuse" and path.stat().st_size:
        raise ConfigError(
            f"{path} is there already: --resume goes on with it, --overwrite replaces it"
        )


def dump_json(value: object) -> str:
    """Write a value as JSON on one line that every reader can read."""
    return join_surrogates(json.dumps(value, ensure_ascii=False))


def encode_json(value: object) -> bytes:
    """Write a value as JSON on one line, in a third of the time of `to_jsonable` and `dump_json`.

    What JSON has no word for is a text, and what isn't a number is null.
    """
    from pydantic_core import to_json, to_jsonable_python

    try:
        return to_json(value, inf_nan_mode="null", fallback=str)
    except ValueError:  # half of a surrogate pair, which isn't a text
        jsonable = to_jsonable_python(value, inf_nan_mode="null", fallback=str)
        return dump_json(jsonable).encode()


def to_jsonable(value: object) -> object:
    """Turn a value into what JSON can say."""
    from pydantic_core import to_jsonable_python

    return to_jsonable_python(value, fallback=str)


def join_surrogates(text: str) -> str:
    """Join the halves of surrogate pairs; a half alone, which isn't a text, becomes U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


class _Lock:
    """A lock beside a file, `.NAME.lock`, which the system frees when its process ends.

    It is not on the file itself: a file that is replaced would lose it, and on Windows nobody could
    read what is locked. Nor is it in a folder of temporary files: two processes may have two.
    """

    def __init__(self, path: Path) -> None:
        target = path.resolve() if path.is_file() or not path.exists() else path.absolute()
        self._path = target.with_name(f".{target.name}.lock")
        self._lock = FileLock(self._path, blocking=False, thread_local=False)

    def acquire(self) -> None:
        """Take it at once, or raise `Timeout`; an `OSError` if no lock can be there."""
        self._lock.acquire()

    def release(self) -> None:
        """Free it, and remove its file: who has opened that meanwhile sees that it is gone."""
        if os.name != "nt":  # where an open file can't be removed, filelock does it after
            with suppress(OSError):
                self._path.unlink()
        self._lock.release()


def _parse(raw: bytes) -> JSON | None:
    try:
        values: object = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return values if is_object(values) else None
