"""PDF: the text of each page, or a sentence that says why there is none."""

from __future__ import annotations

import io
import logging
import re
import struct
import zlib

from moa.errors import InputError, MissingDependency

# What a parser trips over in a broken file; pypdf's own errors are added where it is imported.
_TRIPS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
_HYPHEN = re.compile(r"(?<=[^\W\d_])[-\u00ad]\n(?=[a-zß-öø-ÿ])")
_WRAPPED = re.compile(r"(?<![.!?:;\n])\n(?=[^\W\d_A-ZÀ-ÖØ-Þ])")
_BLANKS = re.compile(r"[^\S\n]+")


def pages_of(name: str, data: bytes) -> tuple[str, list[str]]:
    """Read a PDF: its title, empty where it says none, and the text of each page.

    Words that are split at the end of a line are joined, and so are lines within a sentence.

    Args:
        name: Of the file, for the errors.
        data: Its bytes.

    Raises:
        InputError: it is broken or encrypted, or has no page or no text.
        MissingDependency: `pypdf` is not installed.
    """
    try:
        from pypdf import PdfReader
        from pypdf.errors import DependencyError, PyPdfError
    except ImportError as error:
        raise MissingDependency("pypdf", extra="local", purpose="to read PDF files") from error
    # What pypdf logs of a broken file would go to the terminal; the errors here say it.
    logging.getLogger("pypdf").addHandler(_SILENT)
    try:
        reader = PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise _locked(name)
        title = _clean(reader.metadata.title or "").strip() if reader.metadata else ""
        pages = [_joined(_clean(page.extract_text())) for page in reader.pages]
    except DependencyError as error:
        raise _locked(name) from error
    except (PyPdfError, *_TRIPS) as error:
        raise InputError(
            f"{name} is a broken PDF, and could not be read ({_said(error)}): open it in a "
            "viewer and save it again"
        ) from error
    if not any(pages):
        raise InputError(
            f"{name} holds no text: where its pages are pictures, have their text recognised "
            "first, as `ocrmypdf` does"
        )
    return title, pages


_SILENT = logging.NullHandler()


def _clean(text: str) -> str:
    """Replace halves of characters, which a broken font leaves and nothing can write."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "")


def _joined(text: str) -> str:
    return _BLANKS.sub(" ", _WRAPPED.sub(" ", _HYPHEN.sub("", text))).strip()


def _locked(name: str) -> InputError:
    return InputError(f"{name} is encrypted, and can't be read: save it without a password")


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
