"""After a million calls of which some fail, a process is as it was, and each row has its line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from live import Gateway

from .soak import HOPELESS

HERE = Path(__file__).parent
TASKS = 1 + 16 + 3
"""The main one, one for each of 16 rows at once, and a few that end."""


@pytest.fixture(scope="module")
def faulty_server() -> Iterator[str]:
    """A server of which one answer in twenty is a fault."""
    with Gateway(every=20) as gateway:
        yield f"http://127.0.0.1:{gateway.port}/v1"


def soaked(file: Path, rows: int, *url: str) -> dict[str, Any]:
    command = [sys.executable, str(HERE / "soak.py"), str(file), str(rows), *url]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def check(found: dict[str, Any], file: Path, rows: int) -> None:
    """Every row has one line, and memory, files and times are flat."""
    hopeless = rows // HOPELESS
    with file.open() as lines:
        ids = sorted(json.loads(line)["id"] for line in lines)
    assert ids == list(range(1, rows + 1))
    assert found["came"]["answered"] >= rows - hopeless - rows // 1000
    assert found["came"]["failed"] >= hopeless
    assert sum(found["came"].values()) == rows
    assert found["calls"] >= rows + 2 * hopeless
    _, early, *_, late = found["marks"]
    assert late["megabytes"] < early["megabytes"] + 10
    assert late["files"] <= early["files"] + 2
    assert late["tasks"] <= TASKS
    assert late["median_s"] < 2 * early["median_s"]


@pytest.mark.timeout(300)
def test_many_calls_of_which_some_fail_leave_nothing_behind(tmp_path: Path) -> None:
    check(soaked(file := tmp_path / "out.jsonl", 10_000), file, 10_000)


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_a_million_calls_of_which_some_fail_leave_nothing_behind(tmp_path: Path) -> None:
    found = soaked(file := tmp_path / "out.jsonl", 1_000_000)
    print(found)  # noqa: T201
    check(found, file, 1_000_000)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_many_calls_of_a_faulty_server_leave_nothing_behind(
    tmp_path: Path, faulty_server: str
) -> None:
    found = soaked(file := tmp_path / "out.jsonl", 100_000, faulty_server)
    print(found)  # noqa: T201
    check(found, file, 100_000)
