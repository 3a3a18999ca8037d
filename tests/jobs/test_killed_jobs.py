"""Rows whose processes are killed by `kill -9` at any moment, and go on."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from counting import serving

from moa.rows.jobs import Job

CHILD = Path(__file__).with_name("killed.py")
CALLS = 3
"""Of a row."""


def child(store: Path, url: str, rows: int, concurrency: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(CHILD), str(store), url, str(rows), str(concurrency)]
    return subprocess.Popen(command)


def kills(store: Path, *, rows: int, moments: int, concurrency: int, seed: int) -> None:
    """Kill a run again and again, let it end, and look at what is there and what was paid."""
    dice = random.Random(seed)
    with serving() as (url, asked):
        for _ in range(moments):
            worker = child(store, url, rows, concurrency)
            began, wait_s = sum(asked.values()), dice.uniform(0.0, 1.5)
            while sum(asked.values()) == began and worker.poll() is None:
                time.sleep(0.01)
            time.sleep(wait_s)
            worker.kill()
            worker.wait()
        assert child(store, url, rows, concurrency).wait() == 0
        paid = sum(asked.values())
    if store.suffix:
        lines = [json.loads(line) for line in store.read_bytes().splitlines()]
        lines.sort(key=lambda line: line["id"])
        assert list(store.parent.iterdir()) == [store]
    else:
        with Job(store) as job:
            lines = list(job.lines())
            assert job.status().rows == {"done": rows}
    assert [line["id"] for line in lines] == list(range(1, rows + 1))
    assert not any("error" in line for line in lines)
    assert all(line["usage"]["calls"] == CALLS for line in lines)
    again = sum(count > 1 for count in asked.values())
    # Both calls at the end of a row may be in flight.
    assert paid - rows * CALLS <= 2 * concurrency * moments, f"{paid} calls, {again} again"
    print(f"{store.name}: {paid - rows * CALLS} of {paid} calls were made again")  # noqa: T201


@pytest.mark.parametrize("name", ["job", "out.jsonl"])
@pytest.mark.timeout(180)
def test_a_run_that_is_killed_loses_nothing_and_pays_for_nothing_twice(
    name: str, tmp_path: Path
) -> None:
    kills(tmp_path / name, rows=200, moments=4, concurrency=4, seed=1)


@pytest.mark.long
@pytest.mark.parametrize("name", ["job", "out.jsonl"])
@pytest.mark.timeout(1800)
def test_ten_thousand_rows_outlast_fifty_kills(name: str, tmp_path: Path) -> None:
    kills(tmp_path / name, rows=10_000, moments=50, concurrency=16, seed=2)


@pytest.mark.timeout(180)
def test_two_processes_share_a_job_and_one_takes_over_what_the_other_dies_with(
    tmp_path: Path,
) -> None:
    rows, store = 200, tmp_path / "job"
    with serving() as (url, asked):
        first, second = (child(store, url, rows, 4) for _ in range(2))
        while sum(asked.values()) < rows:
            time.sleep(0.01)
        first.kill()
        first.wait()
        assert second.wait() == 0
    with Job(store) as job:
        assert [line["id"] for line in job.lines()] == list(range(1, rows + 1))
        assert job.status().rows == {"done": rows}
    assert sum(asked.values()) - rows * CALLS <= 2 * 4
