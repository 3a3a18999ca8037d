"""The engine's process: started once, shut to others, restarted, and never left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
from pydantic import SecretStr

from moa.core.context import RunContext
from moa.core.errors import (
    EndpointUnauthorized,
    EndpointUnavailable,
    MissingDependency,
    ModelNotFound,
)
from moa.endpoints import Prompt
from moa.endpoints.openai import OpenAIEndpoint
from moa.endpoints.retries import Retried
from moa.local.embedded import (
    EmbeddedEndpoint,
    Engine,
    EngineHost,
    EngineSettings,
    check_engine,
)
from moa.local.weights import find_weights

pytestmark = pytest.mark.embedded

GONE_WITHIN_S = 20


class Counted:
    """Finds the weights, and counts how often it was asked to."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> Path:
        self.times += 1
        return find_weights()


@pytest.fixture
def find() -> Counted:
    return Counted()


@pytest.fixture
def host(find: Counted) -> Iterator[EngineHost]:
    host = EngineHost(find, EngineSettings(context_window=512))
    yield host
    host.stop()


async def test_first_calls_at_once_start_one_engine(host: EngineHost, find: Counted) -> None:
    engines = await asyncio.gather(*(host.get_engine() for _ in range(20)))
    assert len(set(engines)) == find.times == 1


async def test_a_cancelled_first_call_leaves_the_engine_to_the_others(
    host: EngineHost, find: Counted
) -> None:
    async with asyncio.timeout(0.01):
        first = asyncio.ensure_future(host.get_engine())
        await asyncio.sleep(0)
        first.cancel()
    assert (await host.get_engine()).is_alive
    assert find.times == 1


async def test_a_stopped_engine_is_gone_and_can_be_started_again(host: EngineHost) -> None:
    first = await host.get_engine()
    host.stop()
    host.stop()
    assert not psutil.pid_exists(first.process.pid)
    assert (await host.get_engine()).is_alive


async def test_a_dead_engine_is_started_again_but_not_forever(host: EngineHost) -> None:
    for _ in range(4):
        engine = await host.get_engine()
        engine.process.kill()
        engine.process.wait()
    with pytest.raises(EndpointUnavailable, match="SIGKILL"):
        await host.get_engine()


async def test_weights_that_are_not_found_are_told_each_time() -> None:
    def find() -> Path:
        raise ModelNotFound("no weights")

    host = EngineHost(find, EngineSettings())
    for _ in range(5):
        with pytest.raises(ModelNotFound, match="no weights"):
            await host.get_engine()
    host.stop()


async def test_a_file_that_is_no_model_is_told_with_what_llama_cpp_finds_wrong(
    tmp_path: Path,
) -> None:
    path = tmp_path / "mine.gguf"
    path.write_bytes(b"GGUF" + bytes(1000))
    async with Retried(EmbeddedEndpoint("mine", model_path=path)) as endpoint:
        context = RunContext()
        with pytest.raises(ModelNotFound, match=r"mine\.gguf"):
            await endpoint.complete(Prompt.of("Hi"), context)
        assert not context.trace


async def test_an_engine_that_does_not_come_up_is_told_by_the_name_of_its_endpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mine.gguf"
    path.write_bytes(b"GGUF" + bytes(1000))
    program = tmp_path / "broken.py"
    program.write_text("raise SystemExit('out of luck')")
    monkeypatch.setattr("moa.local.embedded._PROGRAM", program)
    async with EmbeddedEndpoint("mine", model_path=path) as endpoint:
        with pytest.raises(EndpointUnavailable, match="out of luck"):
            await endpoint.complete(Prompt.of("Hi"), RunContext())


def test_an_engine_that_is_gone_before_it_is_spoken_to_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = subprocess.Popen

    def gone(words: list[str], **settings: Any) -> subprocess.Popen[Any]:
        del words
        process: subprocess.Popen[Any] = start(
            [sys.executable, "-c", "raise SystemExit(3)"], **settings
        )
        process.wait()
        return process

    monkeypatch.setattr(subprocess, "Popen", gone)
    with pytest.raises(EndpointUnavailable, match="exit code 3"):
        Engine(tmp_path / "mine.gguf", EngineSettings())


def test_a_library_that_llama_cpp_lacks_is_told_with_what_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    why = "libgomp.so.1: cannot open shared object file: No such file or directory"
    (tmp_path / "xllamacpp.py").write_text(f"raise ImportError({why!r})")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "xllamacpp", raising=False)
    with pytest.raises(MissingDependency, match="apt-get install libgomp1"):
        check_engine()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(MissingDependency, match="apt-get install libgomp1"):
        Engine(tmp_path / "x", EngineSettings())


def test_without_llama_cpp_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> None:
        del name

    monkeypatch.setattr("moa.local.embedded.find_spec", nothing)
    with pytest.raises(MissingDependency, match=r'pip install "mixture-of-agents\[local\]"'):
        Engine(Path("x"), EngineSettings())


async def test_it_answers_to_nobody_without_its_key(engine: Engine) -> None:
    stranger = OpenAIEndpoint(
        "stranger", model="x", base_url=engine.base_url, api_key=SecretStr("guessed")
    )
    with pytest.raises(EndpointUnauthorized):
        await stranger.complete(Prompt.of("Hi"), RunContext())
    await stranger.close()


async def test_it_lets_no_web_page_read_what_it_says(engine: Engine) -> None:
    url = engine.base_url.removesuffix("/v1") + "/health"
    async with aiohttp.request("GET", url, headers={"Origin": "http://evil.test"}) as answer:
        assert answer.status == 200
    assert answer.headers.get("access-control-allow-origin", "") == ""


def test_it_listens_to_this_machine_alone(engine: Engine) -> None:
    listening = [
        c.laddr.ip
        for c in psutil.Process(engine.process.pid).net_connections()
        if c.status == psutil.CONN_LISTEN
    ]
    assert listening == ["127.0.0.1"]


def test_its_key_is_in_no_command_line(engine: Engine) -> None:
    command = psutil.Process(engine.process.pid).cmdline()
    assert engine.api_key.get_secret_value() not in " ".join(command)


PROGRAM = """
import asyncio, sys
from moa.core.context import RunContext
from moa.local.embedded import EmbeddedEndpoint
asyncio.run(EmbeddedEndpoint().start(RunContext()))
print("started", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def program() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        yield process
        process.kill()


def only_child(program: subprocess.Popen[str]) -> psutil.Process:
    (child,) = psutil.Process(program.pid).children(recursive=True)
    assert any("engine_server" in word for word in child.cmdline())
    return child


def test_it_ends_with_a_program_that_never_closed_it(program: subprocess.Popen[str]) -> None:
    child = only_child(program)
    program.communicate("done\n")
    assert program.returncode == 0
    child.wait(GONE_WITHIN_S)


def test_it_ends_with_a_program_that_was_killed(program: subprocess.Popen[str]) -> None:
    child = only_child(program)
    program.kill()
    child.wait(GONE_WITHIN_S)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no process groups")
def test_control_c_ends_it_without_a_word_of_its_own(program: subprocess.Popen[str]) -> None:
    child = only_child(program)
    os.killpg(program.pid, signal.SIGINT)
    _, said = program.communicate()
    child.wait(GONE_WITHIN_S)
    assert said.count("Traceback") == 1
    assert "KeyboardInterrupt" in said
    assert "engine_server" not in said
