"""Energy: real counters where there are some (folders of files stand in), else an estimate."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from moa.advisor.energy import cpu_estimate, meter, nvml, rapl


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setattr("moa.advisor.energy.SYSFS", tmp_path)


def zone(sysfs: Path, folder: str, name: str, *, joules: float = 0, most: float = 1000) -> Path:
    made = sysfs / "class" / "powercap" / folder
    made.mkdir(parents=True)
    (made / "name").write_text(f"{name}\n")
    (made / "max_energy_range_uj").write_text(f"{int(most * 1e6)}\n")
    count(made, joules)
    return made


def count(zone: Path, joules: float) -> None:
    (zone / "energy_uj").write_text(f"{int(joules * 1e6)}\n")


@pytest.mark.parametrize(
    ("zones", "joules"),
    [
        pytest.param(
            {"0 package-0": (100, 107), "0:0 core": (50, 55), "0:1 dram": (10, 11)},
            8,
            id="packages and memory, and not their parts",
        ),
        pytest.param(
            {"0 package-0": (0, 5), "1 psys": (0, 9)}, 9, id="the whole platform stands for all"
        ),
        pytest.param({"0 package-0": (990, 5)}, 15, id="one that starts again at 1000"),
    ],
)
def test_counters_are_added_up(
    zones: dict[str, tuple[float, float]], joules: float, tmp_path: Path
) -> None:
    made = {
        zone(tmp_path, f"intel-rapl:{name.split()[0]}", name.split()[1], joules=before): after
        for name, (before, after) in zones.items()
    }
    counted = meter()
    for each, after in made.items():
        count(each, after)
    assert counted.joules() == pytest.approx(joules)
    assert (counted.measured, counted.source) == (True, "RAPL")
    count(next(iter(made)), next(iter(made.values())) + 1)
    assert counted.joules() == pytest.approx(joules + (len(zones) != 2))


def test_a_second_counter_of_the_same_package_is_not_added(tmp_path: Path) -> None:
    first = zone(tmp_path, "intel-rapl:0", "package-0")
    second = zone(tmp_path, "intel-rapl-mmio:0", "package-0")
    counted = meter()
    count(first, 5)
    count(second, 5)
    assert counted.joules() == pytest.approx(5)
    (first / "energy_uj").unlink()
    counted = meter()
    count(second, 8)
    assert counted.joules() == pytest.approx(3)


def test_counters_that_only_root_may_read_are_none(tmp_path: Path) -> None:
    made = zone(tmp_path, "intel-rapl:0", "package-0")
    (made / "energy_uj").unlink()
    (made / "energy_uj").mkdir()  # reading it fails, also for root
    assert rapl() == []


def card(joules: Callable[[], float]) -> types.ModuleType:
    library = types.ModuleType("pynvml")
    library.__dict__.update(
        NVMLError=OSError,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda index: index,  # pyright: ignore[reportUnknownLambdaType]
        nvmlDeviceGetTotalEnergyConsumption=lambda card: int(joules() * 1000),  # pyright: ignore[reportUnknownLambdaType]
    )
    return library


def test_gpus_are_counted_beside_the_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spent = 50.0
    monkeypatch.setitem(sys.modules, "pynvml", card(lambda: spent))
    alone = meter(on="gpu")
    package = zone(tmp_path, "intel-rapl:0", "package-0")
    both, processor = meter(on="gpu"), meter()
    spent = 53.0
    count(package, 2)
    assert (alone.joules(), both.joules()) == (pytest.approx(3), pytest.approx(5))
    assert (alone.source, both.source) == ("NVML, the GPUs alone", "RAPL and NVML")
    assert (processor.joules(), processor.source) == (pytest.approx(2), "RAPL")


def test_what_only_another_part_measures_is_an_estimate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", card(lambda: 50.0))
    assert not meter().measured
    monkeypatch.setitem(sys.modules, "pynvml", None)
    zone(tmp_path, "intel-rapl:0", "package-0")
    on_a_gpu = meter(on="gpu")
    assert not on_a_gpu.measured
    assert "without the GPU" in on_a_gpu.source


def test_a_card_that_does_not_count_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    library = card(lambda: 50.0)

    def joules(card: int) -> int:
        if card == 0:
            raise OSError("not supported")
        return 50

    library.__dict__.update(
        nvmlDeviceGetCount=lambda: 3, nvmlDeviceGetTotalEnergyConsumption=joules
    )
    monkeypatch.setitem(sys.modules, "pynvml", library)
    assert len(nvml()) == 2


def test_without_a_driver_no_gpu_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> float:
        raise OSError("no driver")

    monkeypatch.setitem(sys.modules, "pynvml", card(fails))
    assert nvml() == []


def test_without_counters_it_is_an_estimate_and_says_so() -> None:
    guessed = meter(watts_per_core=4)
    reading = guessed.since(guessed.joules())
    assert not reading.measured
    assert "(estimate: CPU seconds at 4 W a core)" in str(reading)


def test_an_estimate_grows_with_the_work_of_this_process() -> None:
    read = cpu_estimate(1.0)
    before = read()
    while read() == before:
        sum(range(100_000))
    assert 0 < read() - before < 5
