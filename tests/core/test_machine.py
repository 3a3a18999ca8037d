"""Counting the cores that may be used."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from moa.core._blas import one_blas_thread
from moa.local.machine import usable_cores, usable_memory


@pytest.fixture
def cpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four cores of two threads each: 0 and 4, 1 and 5, and so on."""
    for cpu in range(8):
        topology = tmp_path / f"cpu{cpu}/topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(f"{cpu % 4},{cpu % 4 + 4}\n")
    monkeypatch.setattr("moa.local.machine._CPUS", tmp_path)
    monkeypatch.setattr("moa.local.machine._CGROUP", tmp_path)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    allow(monkeypatch, range(8))
    return tmp_path


def allow(monkeypatch: pytest.MonkeyPatch, allowed: range | set[int]) -> None:
    def affinity(pid: int) -> set[int]:
        del pid
        return set(allowed)

    monkeypatch.setattr(os, "sched_getaffinity", affinity, raising=False)


@pytest.mark.usefixtures("cpus")
def test_two_threads_of_one_core_count_once() -> None:
    assert usable_cores() == 4


@pytest.mark.usefixtures("cpus")
def test_a_process_bound_to_some_processors_counts_those(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    allow(monkeypatch, {1, 5, 6})
    assert usable_cores() == 2


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        pytest.param("200000 100000", 2, id="two"),
        pytest.param("10000 100000", 1, id="a tenth"),
        pytest.param("max 100000", 4, id="no limit"),
    ],
)
def test_a_container_counts_no_more_than_its_quota(cpus: Path, quota: str, cores: int) -> None:
    (cpus / "cpu.max").write_text(f"{quota}\n")
    assert usable_cores() == cores


@pytest.mark.usefixtures("cpus")
def test_without_topology_every_processor_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moa.local.machine._CPUS", tmp_path / "none")
    assert usable_cores() == 8


def test_memory_is_that_of_the_container_where_that_is_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moa.local.machine._CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("4000\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert usable_memory() == (4000, 3000)
    (tmp_path / "memory.max").write_text("max\n")
    assert usable_memory().free > 4000


def test_numpy_has_one_thread_until_the_last_who_wants_that_is_through() -> None:
    pytest.importorskip("numpy")
    pools = pytest.importorskip("threadpoolctl").ThreadpoolController()

    def threads() -> list[int]:
        return [pool["num_threads"] for pool in pools.info() if pool["user_api"] == "blas"]

    with pools.limit(limits=2, user_api="blas"):
        first, second = one_blas_thread(), one_blas_thread()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert set(threads()) == {1}
        second.__exit__(None, None, None)
        assert set(threads()) == {2}


_SCIPY_LATER = """
import scipy
from threadpoolctl import ThreadpoolController
from moa.core._blas import one_blas_thread

with one_blas_thread():
    pass
import scipy.special
with one_blas_thread():
    pools = ThreadpoolController().select(user_api="blas").info()
    print({pool["num_threads"] for pool in pools})
"""


def test_a_pool_that_scipy_loads_later_is_limited_too() -> None:
    pytest.importorskip("scipy")
    pytest.importorskip("threadpoolctl")
    seen = subprocess.run([sys.executable, "-c", _SCIPY_LATER], capture_output=True, text=True)
    assert seen.stdout.strip() == "{1}", seen.stderr
