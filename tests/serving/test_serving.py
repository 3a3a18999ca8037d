"""Servers: up, down, crashed, killed; nothing is left of them, and each failure is a sentence."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from moa import vllm
from moa.core._json import at
from moa.core.context import RunContext
from moa.core.errors import (
    ConfigError,
    EndpointUnauthorized,
    EndpointUnavailable,
    MissingDependency,
)
from moa.endpoints.openai import OpenAIEndpoint
from moa.vllm.command import ServerSpec
from moa.vllm.servers import LaunchedServer, launch, stop, wait_until_ready
from moa.vllm.settings import local_url
from moa.vllm.state import ServerFolder

from .fakes import Fake, wait_until

pytestmark = pytest.mark.timeout(180)  # real processes, on machines that may be busy


async def up(spec: ServerSpec) -> LaunchedServer:
    """Start a server, and wait until it is ready."""
    launched = launch(spec)
    await wait_until_ready(launched, timeout_s=60)
    return launched


OUT_OF_MEMORY = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB."


async def test_a_server_is_ready_inside_the_with_and_gone_after_it(fake: Fake, cache: Path) -> None:
    async with vllm.serve(
        "Qwen/Qwen3-0.6B", python=sys.executable, env=fake.env, max_model_len=2048
    ) as endpoint:
        listed = await endpoint.client.get("/models", RunContext())
        assert at(listed, "data", 0, "id") == endpoint.model == "Qwen/Qwen3-0.6B"
        assert endpoint.context_window == 2048
        assert len(fake.left()) == 2
    assert fake.left() == []
    assert list((cache / "servers").iterdir()) == []


async def test_a_server_stays_up_until_it_is_stopped_and_takes_its_engine_along(fake: Fake) -> None:
    launched = launch(fake.spec())
    state = await wait_until_ready(launched, timeout_s=60)
    assert (state.phase, state.restarts, state.port) == ("ready", 0, launched.spec.port)
    assert len(fake.left()) == 2
    assert await stop(launched.folder)
    assert fake.left() == []
    assert not await stop(launched.folder)
    after = launched.folder.read()
    assert after is not None
    assert after.phase == "stopped"


async def test_a_server_that_is_deaf_to_signals_is_stopped_all_the_same(fake: Fake) -> None:
    fake.plans({"hang": True, "after": "never"})
    launched = launch(fake.spec())
    wait_until(lambda: (fake.folder / "started.json").exists())
    assert await stop(launched.folder)
    assert fake.left() == []


async def test_a_server_wants_its_key_and_shows_it_to_nobody(fake: Fake) -> None:
    launched = await up(fake.spec())
    url = local_url(launched.spec.port)
    async with OpenAIEndpoint("other", model="m", base_url=url) as unkeyed:
        with pytest.raises(EndpointUnauthorized):
            await unkeyed.client.get("/models", RunContext())
    key = launched.folder.key()
    assert key is not None
    secret = key.get_secret_value()
    assert secret not in str(fake.started["argv"])
    assert secret not in launched.folder.log.read_text()
    assert secret not in (launched.folder.path / "state.json").read_text()
    path = launched.folder.path
    assert [stat.S_IMODE(it.stat().st_mode) for it in (path / "key", path)] == [0o600, 0o700]


async def test_a_server_gets_no_secrets_but_its_key_and_the_token_of_the_hub(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "aws")
    monkeypatch.setenv("DATABASE_URL", "postgres://user:password@host")
    monkeypatch.setenv("VLLM_SOME_API_KEY", "other")
    monkeypatch.setenv("HF_TOKEN", "hub")
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "INFO")
    launched = await up(fake.spec())
    env = fake.started["env"]
    assert {"HF_TOKEN", "VLLM_API_KEY", "VLLM_LOGGING_LEVEL", "PATH"} <= set(env)
    assert not {"AWS_SECRET_ACCESS_KEY", "DATABASE_URL", "VLLM_SOME_API_KEY"} & set(env)
    assert "DATABASE_URL" not in psutil.Process(_pid(launched.folder)).environ()


async def test_a_crash_is_mended_and_the_cause_is_told(fake: Fake) -> None:
    fake.plans({}, {})
    launched = await up(fake.spec())
    server, _ = fake.pids
    os.kill(server, signal.SIGKILL)
    wait_until(lambda: _phase(launched.folder) == "ready" and fake.starts == 2)
    state = launched.folder.read()
    assert state is not None
    assert state.restarts == 1
    assert state.cause is not None
    assert "killed (SIGKILL)" in state.cause
    assert len(fake.left()) == 2  # the engine of the first one is gone as well


async def test_restarts_are_bounded(fake: Fake) -> None:
    fake.plans({}, {"log": OUT_OF_MEMORY, "exit": 1})
    launched = await up(fake.spec(most_restarts=2))
    os.kill(fake.pids[0], signal.SIGKILL)
    wait_until(lambda: not launched.folder.is_running)
    assert fake.starts == 3
    with pytest.raises(EndpointUnavailable):
        await wait_until_ready(launched)
    assert fake.left() == []


async def test_a_killed_supervisor_leaves_nothing(fake: Fake) -> None:
    launched = await up(fake.spec())
    os.kill(_pid(launched.folder), signal.SIGKILL)
    wait_until(lambda: not launched.folder.is_running)
    assert fake.left() == []


async def test_a_killed_keeper_leaves_nothing_and_the_server_comes_up_again(fake: Fake) -> None:
    launched = await up(fake.spec())
    (keeper,) = psutil.Process(_pid(launched.folder)).children()
    keeper.kill()
    wait_until(lambda: fake.starts == 2 and _phase(launched.folder) == "ready")
    assert len(fake.left()) == 2


def test_a_killed_parent_leaves_nothing(fake: Fake) -> None:
    program = (
        "import asyncio, sys\n"
        "from moa import vllm\n"
        "async def main():\n"
        f"    async with vllm.serve('m', python=sys.executable, env={fake.env!r}):\n"
        "        print('ready', flush=True)\n"
        "        await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "ready\n"
    parent.kill()
    parent.communicate()
    wait_until(lambda: not fake.left())
    wait_until(lambda: not any(folder.is_running for folder in ServerFolder.all()))


async def test_a_cancelled_with_leaves_nothing(fake: Fake) -> None:
    fake.plans({"after": "never"})

    async def wait() -> None:
        async with vllm.serve("m", python=sys.executable, env=fake.env):
            raise AssertionError("it is never ready")

    waiting = asyncio.ensure_future(wait())
    await asyncio.to_thread(wait_until, lambda: (fake.folder / "started.json").exists())
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert fake.left() == []


async def test_a_port_that_another_program_has_is_refused_before_anything_starts(
    fake: Fake,
) -> None:
    spec = fake.spec()
    taken = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", spec.port)
    async with taken:
        with pytest.raises(ConfigError, match=f"port {spec.port} is taken by another program"):
            launch(spec)
    assert fake.starts == 0


async def test_a_port_on_which_another_model_is_served_is_refused(fake: Fake) -> None:
    spec = fake.spec()
    await up(spec)
    other = spec.model_copy(update={"settings": "other"})
    with pytest.raises(ConfigError):
        launch(other)
    with pytest.raises(ConfigError, match="'small'"):
        launch(other.model_copy(update={"name": "second"}))


async def test_a_full_disk_is_told_before_anything_starts(fake: Fake) -> None:
    spec = fake.spec()
    folder = ServerFolder.of(spec.port)
    folder.make()
    (folder.path / "state.json.part").symlink_to("/dev/full")
    with pytest.raises(ConfigError):
        launch(spec)
    assert fake.starts == 0
    assert not folder.is_running


async def test_a_disk_that_fills_up_later_stops_no_server(fake: Fake) -> None:
    spec = fake.spec()
    folder = ServerFolder.of(spec.port)
    folder.make()
    folder.log.symlink_to("/dev/full")
    await up(spec)
    part = folder.path / "state.json.part"
    part.symlink_to("/dev/full")
    os.kill(fake.pids[0], signal.SIGKILL)
    wait_until(lambda: _phase(folder) == "ready" and fake.starts == 2)
    state = folder.read()
    assert state is not None
    assert state.restarts == 1  # told in the room of the old state


async def test_a_crash_is_explained_where_its_log_could_not_be_kept(fake: Fake) -> None:
    fake.plans({"log": OUT_OF_MEMORY, "exit": 1})
    spec = fake.spec()
    folder = ServerFolder.of(spec.port)
    folder.make()
    folder.log.symlink_to("/dev/full")
    with pytest.raises(EndpointUnavailable):
        await up(spec)


async def test_logs_are_rotated_and_bounded(fake: Fake) -> None:
    line = "x" * 99
    fake.plans({"log": "\n".join([line] * 500)})
    launched = await up(fake.spec(log_bytes=10_000, log_parts=2))
    wait_until(lambda: (launched.folder.path / "log.2").exists())
    parts = sorted(launched.folder.path.glob("log*"))
    assert [part.name for part in parts] == ["log", "log.1", "log.2"]
    assert all(part.stat().st_size <= 10_000 for part in parts)


async def test_a_python_without_vllm_is_told_with_the_command(tmp_path: Path) -> None:
    with pytest.raises(MissingDependency, match="pip install vllm"):
        async with vllm.serve("m", python=sys.executable):
            pass
    with pytest.raises(ConfigError):
        async with vllm.serve("m", python=str(tmp_path / "none")):
            pass


async def test_a_model_that_is_a_folder_without_a_model_is_told_at_once(
    fake: Fake, tmp_path: Path
) -> None:
    for model, said in ((str(tmp_path), "no config.json"), ("./nowhere", "no such folder")):
        with pytest.raises(ConfigError, match=said):
            async with vllm.serve(model, python=sys.executable, env=fake.env):
                pass
    assert fake.starts == 0


def _pid(folder: ServerFolder) -> int:
    state = folder.read()
    assert state is not None
    return state.pid


def _phase(folder: ServerFolder) -> str | None:
    state = folder.read()
    return state and state.phase
