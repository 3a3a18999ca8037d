"""Memory and speed do not depend on how many rows there are."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

CHILD = Path(__file__).with_name("crowd.py")
FEW, MEGABYTES = 1_000, 300.0


def work_through(store: Path, rows: int) -> dict[str, float]:
    command = [sys.executable, str(CHILD), str(store), str(rows)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize("end", ["", ".jsonl"])
@pytest.mark.timeout(300)
def test_many_rows_need_no_more_memory_than_few(end: str, tmp_path: Path) -> None:
    few, many = (work_through(tmp_path / f"{rows}{end}", rows) for rows in (FEW, 10_000))
    assert many["megabytes"] < few["megabytes"] + 10


@pytest.mark.long
@pytest.mark.parametrize("end", ["", ".jsonl"])
@pytest.mark.timeout(7200)
def test_a_million_rows_are_as_quick_as_a_thousand_in_little_memory(
    end: str, tmp_path: Path
) -> None:
    def quickest(name: str) -> float:
        return max(work_through(tmp_path / f"{name}-{n}{end}", FEW)["rows_per_s"] for n in range(3))

    before = quickest("before")
    many = work_through(store := tmp_path / f"many{end}", 1_000_000)
    again = work_through(store, 1_000_000)  # nothing is left to be done, and all is looked up
    few = min(before, quickest("after"))  # the machine may have other work than ten minutes ago
    print(f"{few:.0f} rows/s of {FEW}, {many}, and again {again}")  # noqa: T201
    assert many["rows_per_s"] > 0.9 * few
    assert max(many["megabytes"], again["megabytes"]) < MEGABYTES
