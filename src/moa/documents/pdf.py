"""PDF: the text of each page, or a sentence that says why there is none."""

from __future__ import annotations

import io
import logging
import re
import struct
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from moa.errors import InputError, MissingDependency

if TYPE_CHECKING:
    from pypdf import PageObject, PdfReader

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


def pages_of(
    name: str, data: bytes, *, progress: Callable[[int, int], None] | None = None
) -> tuple[str, list[str]]:
    """Read a PDF: its title, empty where it says none, and the text of each page.

    Words that are split at the end of a line are joined, and so are lines within a sentence.

    Args:
        name: Of the file, for the errors.
        data: Its bytes.
        progress: Told the pages read so far, and all that there are.

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
        pages = _texts(reader, progress)
        pictures = not any(pages) and any(map(_has_picture, reader.pages))
    except DependencyError as error:
        raise _locked(name) from error
    except (PyPdfError, *_TRIPS) as error:
        raise InputError(
            f"{name} is a broken PDF, and could not be read ({_said(error)}): open it in a "
            "viewer and save it again"
        ) from error
    if not any(pages):
        raise InputError(_empty(name, len(pages), pictures=pictures))
    return title, pages


_SILENT = logging.NullHandler()


def _texts(reader: PdfReader, progress: Callable[[int, int], None] | None) -> list[str]:
    total = len(reader.pages)
    texts: list[str] = []
    for page in reader.pages:
        texts.append(_joined(_clean(page.extract_text())))
        if progress is not None:
            progress(len(texts), total)
    return texts


def _clean(text: str) -> str:
    """Replace halves of characters, which a broken font leaves and nothing can write."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "")


def _joined(text: str) -> str:
    return _BLANKS.sub(" ", _WRAPPED.sub(" ", _HYPHEN.sub("", text))).strip()


def _has_picture(page: PageObject) -> bool:
    resources: Any = page.get("/Resources")
    objects: Any = resources and resources.get_object().get("/XObject")
    return bool(objects) and any(
        each.get_object().get("/Subtype") == "/Image" for each in objects.get_object().values()
    )


def _empty(name: str, pages: int, *, pictures: bool) -> str:
    if not pages:
        return f"{name} is a PDF without a page"
    where = "its page" if pages == 1 else f"its {pages} pages"
    if pictures:
        return (
            f"{name} holds no text, as {where} {'is a picture' if pages == 1 else 'are pictures'}: "
            "have its text recognised first, as `ocrmypdf` does"
        )
    return f"{name} holds no text on {where}"


def _locked(name: str) -> InputError:
    return InputError(f"{name} is encrypted, and can't be read: save it without a password")


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
