"""What is read of a machine: GPUs by NVML, and what users describe."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

import pytest

from moa.advisor.hardware import CARDS, Machine, card, describe_machine, machine
from moa.core.errors import ConfigError

GIB = 2**30


class NVMLError(Exception):
    pass


class Memory(NamedTuple):
    total: int
    free: int


class Driver(ModuleType):
    """A driver with two GPUs, which says of them what it is given, and else that it can't."""

    NVMLError = NVMLError
    NVML_CLOCK_MEM = 2

    def __init__(self, **answers: object) -> None:
        super().__init__("pynvml")
        self.answers = {"nvmlInit": None, "nvmlDeviceGetCount": 2, **answers}

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def __getattr__(self, name: str) -> Callable[..., object]:
        def asked(*arguments: object) -> object:
            if name not in self.answers or self.answers[name] is NVMLError:
                raise NVMLError
            return self.answers[name]

        return asked


L4 = {
    "nvmlDeviceGetName": "NVIDIA L4",
    "nvmlDeviceGetMemoryInfo": Memory(24 * GIB, 20 * GIB),
    "nvmlDeviceGetCudaComputeCapability": (8, 9),
    "nvmlDeviceGetMemoryBusWidth": 192,
    "nvmlDeviceGetMaxClockInfo": 6251,
}


@pytest.fixture
def l4(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setitem(sys.modules, "pynvml", Driver(**L4))


@pytest.mark.usefixtures("l4")
def test_gpus_are_read_with_the_bandwidth_that_their_maker_states() -> None:
    first, _ = machine().gpus
    known = card(first.name)
    assert known is not None
    assert (first.memory, first.free, first.capability) == (24 * GIB, 20 * GIB, (8, 9))
    assert first.bandwidth == pytest.approx(known.gb_per_s * 1e9, rel=0.01)


@pytest.mark.usefixtures("l4")
@pytest.mark.parametrize(("listed", "count"), [("1", 1), ("", 0), ("-1", 0), ("GPU-abc", 2)])
def test_hidden_gpus_are_not_counted(
    listed: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
    assert len(machine().gpus) == count


@pytest.mark.usefixtures("l4")
@pytest.mark.parametrize(
    ("answers", "found"),
    [
        ({"nvmlInit": NVMLError}, []),
        ({"nvmlDeviceGetName": b"Old", "nvmlDeviceGetMemoryInfo": Memory(GIB, GIB)}, ["Old"] * 2),
    ],
)
def test_no_driver_and_one_that_knows_little_are_no_error(
    answers: dict[str, object], found: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", Driver(**answers))
    gpus = machine().gpus
    assert [gpu.name for gpu in gpus] == found
    assert all((gpu.capability, gpu.bandwidth) == (None, None) for gpu in gpus)


def test_this_machine_is_read() -> None:
    here = machine()
    assert here.cores >= 1
    assert 0 < here.ram_free <= here.ram


@pytest.mark.parametrize(
    ("told", "found"),
    [
        ("NVIDIA A100-SXM4-40GB", "A100 40GB"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("Apple M4 Max", "Apple M4 Max"),
    ],
)
def test_a_card_is_known_by_what_its_driver_calls_it(told: str, found: str) -> None:
    assert card(told) == card(found)
    assert all(card(one.name) == one for one in CARDS)


HERE = Machine(cores=2, ram=8 * GIB, ram_free=6 * GIB)


def test_another_machine_is_described_in_words() -> None:
    other = describe_machine(HERE, gpus=["L4:2", "Foo:1:10GB"], ram="64GB", cores=16)
    assert [gpu.name for gpu in other.gpus] == ["L4", "L4", "Foo"]
    assert (other.cores, other.ram, other.gpus[2].memory) == (16, 64 * GIB, 10 * GIB)


@pytest.mark.parametrize("wrong", [*(it for it in ("L4:x", "L4:0", ":2")), "L4:1:much", "Foo"])
def test_a_gpu_that_cannot_be_read_is_told(wrong: str) -> None:
    with pytest.raises(ConfigError):
        describe_machine(HERE, gpus=[wrong])
