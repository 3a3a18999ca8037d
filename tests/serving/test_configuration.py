"""Configuration of servers that moa starts, and the endpoints that are built from it."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from moa.config import load
from moa.config.endpoints import Endpoints
from moa.core.errors import ConfigError
from moa.endpoints.wrappers import Wrapping
from moa.vllm.endpoint import VLLMEndpoint
from moa.vllm.replicas import Replicas
from moa.vllm.state import ServerFolder, ServerState

SMALL = '[endpoints.small]\ntier = "slm"\nmodel = "Qwen/Qwen3-0.6B"\nserve = "vllm"\n'
TABLE = '[endpoints.small.vllm]\nmax_model_len = 2048\nlora = { refunds = "a/b" }\n'
REFUNDS = '[endpoints.refunds]\ntier = "slm"\nmodel = "refunds"\nserved_by = "small"\n'


def written(text: str) -> None:
    Path("moa.toml").write_text(text)


WRONG = {
    SMALL + 'base_url = "http://127.0.0.1:1/v1"\n': "'base_url'",
    SMALL + 'api_key_env = "K"\n': "'api_key_env'",
    REFUNDS + 'base_url = "http://127.0.0.1:1/v1"\n': "'base_url'",
    '[endpoints.x]\ntier = "llm"\nmodel = "o1"\n[endpoints.x.vllm]\nport = 1\n': "vllm",
    SMALL + "[endpoints.small.vllm]\nprot = 1\n": "'prot'",
    SMALL + TABLE + REFUNDS.replace('"small"', '"smal"'): "'smal'",
    SMALL + TABLE + REFUNDS.replace('model = "refunds"', 'model = "refund"'): "'refund'",
    SMALL + "priority = 1\n": "priority",
    f"{SMALL}[endpoints.small.vllm]\nreplicas = 2\n{SMALL.replace('small', 'other')}"
    "[endpoints.other.vllm]\nport = 8001\n": "8001",
}


@pytest.mark.parametrize(("text", "named"), WRONG.items())
def test_what_can_not_work_is_named(text: str, named: str) -> None:
    written(text)
    with pytest.raises(ConfigError, match=named):
        load()


def test_a_server_of_a_vendors_model_is_not_the_vendors() -> None:
    written(SMALL.replace("Qwen/Qwen3-0.6B", "mistral-7b"))
    endpoint = load().endpoints["small"]
    assert endpoint.vendor is None
    assert endpoint.key_variable is None
    server = Endpoints(read_keys=False).server("small")
    assert server.base_url == "http://127.0.0.1:8000/v1"


def test_an_adapter_is_asked_by_its_name_on_the_server_of_its_base() -> None:
    written(SMALL + TABLE + REFUNDS)
    endpoints = Endpoints(read_keys=False)
    server = endpoints.server("refunds")
    assert isinstance(server, VLLMEndpoint)
    assert (server.name, server.model, server.context_window) == ("refunds", "refunds", 2048)


async def test_replicas_are_one_endpoint_and_one_that_is_down_may_come_back() -> None:
    written(SMALL + "[endpoints.small.vllm]\nport = 8300\nreplicas = 3\n")
    async with Endpoints() as endpoints:
        with kept(8300), kept(8301):
            small = endpoints.slm
        assert small.name == "small"
        inside = small
        while isinstance(inside, Wrapping) and not isinstance(inside, Replicas):
            inside = inside.endpoint
        assert isinstance(inside, Replicas)


async def test_without_a_running_replica_the_command_is_told() -> None:
    written(SMALL)
    with pytest.raises(ConfigError, match="moa up"):
        Endpoints().server("small")
    folder = ServerFolder.of(8000)
    folder.make()
    folder.make_key()
    folder.write(state(8000).model_copy(update={"phase": "failed", "cause": "It broke"}))
    with pytest.raises(ConfigError, match="moa up"):
        Endpoints().server("small")


async def test_a_server_of_another_endpoint_is_not_asked() -> None:
    written(SMALL.replace("endpoints.small", "endpoints.mine"))
    with kept(8000), pytest.raises(ConfigError, match="'small'"):
        Endpoints().server("mine")


def test_a_server_whose_folder_is_removed_meanwhile_does_not_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = ServerFolder(tmp_path / "removed")

    def there(_: Path) -> bool:
        return True

    monkeypatch.setattr("pathlib.Path.exists", there)

    def acquire(*_: object, **__: object) -> None:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr("filelock.FileLock.acquire", acquire)
    assert not folder.is_running


def state(port: int) -> ServerState:
    return ServerState(
        name="small", model="m", port=port, settings="s", pid=os.getpid(), phase="ready"
    )


@contextmanager
def kept(port: int) -> Generator[None, None, None]:
    """Keep what is kept of a server that runs."""
    folder = ServerFolder.of(port)
    folder.make()
    folder.make_key()
    folder.write(state(port))
    with folder.lock("supervisor"):
        yield
