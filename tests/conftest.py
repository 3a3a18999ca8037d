"""What every test runs under."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

_SETTINGS = ("MOA_CONFIG", "OPENAI_API_KEY", "OPENAI_BASE_URL", "GEMINI_API_KEY")


def pytest_configure() -> None:
    """Let Ctrl-C reach what tests start, also where the whole run was started to ignore it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # How long a machine takes is no property of the code: it has other work too.
    settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("tests")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what takes long, unless it is asked for by its mark."""
    if "long" not in config.option.markexpr:
        left_out = [item for item in items if item.get_closest_marker("long")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session", autouse=True)
def no_trust_from_outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Which files the user of this machine trusts is neither read nor changed, nor are vectors."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        patch.setenv("MOA_VECTORS", "0")
        yield


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A test sees no configuration and no key of the machine it runs on."""
    for name in _SETTINGS:
        monkeypatch.delenv(name, raising=False)
    yield
    assert "OPENAI_API_KEY" not in os.environ


@pytest.fixture(scope="module")
def no_encoder() -> Iterator[None]:
    """Only labels are read: the encoder of sentences takes a download."""
    with pytest.MonkeyPatch.context() as patch:
        missing = staticmethod(lambda: "tokenizers")
        patch.setattr("moa.local.encoders.SentenceEncoder.missing", missing)
        yield


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """A real Postgres on a socket in a folder, where there is one on this machine."""
    pytest.importorskip("psycopg")
    if shutil.which("initdb") is None or shutil.which("postgres") is None:
        pytest.skip("no Postgres on this machine")
    # Not pytest's own folder: a socket's path is short, and Postgres doesn't run as root, who
    # alone gets into that one.
    with tempfile.TemporaryDirectory(prefix="pg") as name:
        folder = Path(name)
        own: int | None = None
        if os.getuid() == 0:
            own = pwd.getpwnam("nobody").pw_uid
            os.chown(folder, own, -1)
        data = folder / "data"
        made = ["initdb", "-D", str(data), "-U", "moa", "-A", "trust", "--no-sync"]
        subprocess.run(made, check=True, capture_output=True, cwd=folder, user=own)
        process = subprocess.Popen(
            ["postgres", "-D", str(data), "-c", "listen_addresses=", "-k", str(folder), "-F"],
            cwd=folder,
            user=own,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        asyncio.run(_up(folder))
        yield f"postgresql://moa@/postgres?host={folder}"
        process.send_signal(signal.SIGINT)  # "fast": whoever is connected is let go
        process.wait(timeout=20)


async def _up(folder: Path) -> None:
    import psycopg

    for _ in range(200):
        try:
            connection = await psycopg.AsyncConnection.connect(
                f"host={folder} user=moa dbname=postgres"
            )
        except psycopg.OperationalError:
            await asyncio.sleep(0.1)  # nothing tells from outside when it is ready
            continue
        await connection.close()
        return
    raise AssertionError("Postgres takes no connections")


@pytest.fixture
def postgres(postgres_server: str) -> str:
    """The server, without what an earlier test left in it."""
    import psycopg

    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
    return postgres_server
