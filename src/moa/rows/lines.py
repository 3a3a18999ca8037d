"""Lines of a file or a pipe, in any encoding, and the rows made of them."""

from __future__ import annotations

import codecs
import errno
import io
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, AnyStr, BinaryIO

from moa.core.batch import MalformedLine, Row
from moa.core.errors import ConfigError

IN_WHICH = "Say what it is written in, such as --encoding cp1252 for most of Windows and Excel"
_BOM = b"\xef\xbb\xbf"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_LONGEST_LINE = 64 << 20
"""Maximum length of a line: bytes, or characters in another encoding. More is not a row of
texts."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a file, as bytes."""

    number: int
    raw: bytes

    @property
    def legible(self) -> str:
        """The line as text, with replacement characters for invalid UTF-8."""
        return self.raw.decode("utf-8", errors="replace")

    def text(self) -> str:
        """Decode it, or raise a `ValueError` that says where it isn't UTF-8."""
        try:
            return self.raw.decode("utf-8")
        except UnicodeDecodeError as error:
            problem = f"{error.reason} at byte {error.start}"
            raise ValueError(f"not UTF-8: {problem}. {IN_WHICH}") from error


def encoding_of(encoding: str | None) -> str | None:
    """Return the encoding if it is a text encoding of Python, else raise a `ConfigError`."""
    if encoding is None:
        return None
    try:
        if not codecs.lookup(encoding)._is_text_encoding:
            raise LookupError
    except LookupError as error:
        raise ConfigError(
            f"{encoding!r} is no encoding of texts that Python knows: give one such as utf-8, "
            "cp1252, latin-1, utf-16 or shift_jis"
        ) from error
    return encoding


def lines_of(file: BinaryIO, encoding: str | None) -> Iterator[Line]:
    """Yield the lines of a file, without a byte order mark. The encoding `None` is UTF-8."""
    raw_lines = iter_lines(file) if encoding is None else _recode(file, encoding)
    for number, raw in enumerate(raw_lines, start=1):
        if number == 1:
            raw = raw.removeprefix(_BOM)
            if raw.startswith(_UTF_16):
                raise ConfigError("this is UTF-16, and no UTF-8: give --encoding utf-16")
        yield Line(number, raw.rstrip(b"\r\n"))


def iter_lines(file: IO[AnyStr]) -> Iterator[AnyStr]:
    """Yield the lines of a file. A line of gigabytes, as in a zip bomb, raises an `OSError`."""
    while line := file.readline(_LONGEST_LINE + 1):
        if len(line) > _LONGEST_LINE:
            raise OSError(errno.EFBIG, f"a line has more than {_LONGEST_LINE >> 20} MiB")
        yield line


def _recode(file: BinaryIO, encoding: str) -> Iterator[bytes]:
    """Yield the lines as UTF-8. Bytes that can't be decoded stay as they are."""
    text = io.TextIOWrapper(file, encoding, errors="surrogateescape", newline="\n")
    try:
        for line in iter_lines(text):
            yield line.encode("utf-8", "surrogateescape")
    except UnicodeError as error:
        raise ConfigError(f"this can't be read as {encoding}: {error}") from error
    finally:
        with suppress(ValueError):  # the file is already closed if not all of it was read
            text.detach()


def malformed_row(number: int, error: str, raw: str) -> MalformedLine:
    """Make a malformed row from an invalid line."""
    return MalformedLine(number=number, error=error, raw=raw)


def row_of(number: int, value: dict[str, object]) -> Row:
    """Make a row. Its id is the `id` in `value`; without one, its number."""
    row_id = own_id(value)
    return Row(number=number, id=number if row_id is None else row_id, value=value)


def own_id(value: Mapping[str, object]) -> str | int | None:
    """Return a row's own id; `None` if it has none."""
    row_id = value.get("id")
    if isinstance(row_id, bool) or row_id == "":
        return None
    return row_id if isinstance(row_id, str | int) else None


def encodable(text: str) -> bool:
    """Return True if a text can be encoded as UTF-8, without lone surrogates."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
