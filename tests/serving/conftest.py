"""A cache folder of the test's own, and nothing left running after it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from moa.vllm.launching import stop
from moa.vllm.settings import ServerFolder

from .fakes import Fake


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("MOA_CACHE", str(folder))
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[Fake]:
    folder = tmp_path / "fake"
    folder.mkdir()
    fake = Fake(folder)
    fake.plans({})
    yield fake
    if (folder / "pids").exists():
        for pid in fake.left():
            with suppress(ProcessLookupError):  # it may have ended meanwhile
                os.kill(pid, 9)


@pytest.fixture(autouse=True)
async def nothing_left_running(cache: Path) -> AsyncIterator[None]:
    yield
    for folder in ServerFolder.all():
        await stop(folder)
