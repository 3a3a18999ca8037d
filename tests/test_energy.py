"""Energy: real counters where there are some (folders of files stand in), else an estimate."""

from __future__ import annotations

import asyncio
import sys
import types
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

from moa.budget import Budget
from moa.context import RunContext
from moa.endpoints import Prompt
from moa.endpoints.wrappers import Metered
from moa.energy import Meter, battery, cpu_estimate, meter, nvml, rapl
from moa.errors import BudgetExceeded, ConfigError, EndpointUnavailable
from moa.testing import ScriptedEndpoint, SimulatedEndpoint
from moa.usage import Price


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)


def zone(sysfs: Path, folder: str, name: str, *, joules: float = 0, most: float = 1000) -> Path:
    made = sysfs / "class" / "powercap" / folder
    made.mkdir(parents=True)
    (made / "name").write_text(f"{name}\n")
    (made / "max_energy_range_uj").write_text(f"{int(most * 1e6)}\n")
    count(made, joules)
    return made


def count(zone: Path, joules: float) -> None:
    (zone / "energy_uj").write_text(f"{int(joules * 1e6)}\n")


def supply(sysfs: Path, **files: object) -> Path:
    made = sysfs / "class" / "power_supply" / "BAT0"
    made.mkdir(parents=True)
    for name, value in files.items():
        (made / name).write_text(f"{value}\n")
    return made


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
    counted = meter(sysfs=tmp_path)
    for each, after in made.items():
        count(each, after)
    assert counted.joules() == pytest.approx(joules)
    assert (counted.measured, counted.source) == (True, "RAPL")
    count(next(iter(made)), next(iter(made.values())) + 1)
    assert counted.joules() == pytest.approx(joules + (len(zones) != 2))


def test_a_second_counter_of_the_same_package_is_not_added(tmp_path: Path) -> None:
    first = zone(tmp_path, "intel-rapl:0", "package-0")
    second = zone(tmp_path, "intel-rapl-mmio:0", "package-0")
    counted = meter(sysfs=tmp_path)
    count(first, 5)
    count(second, 5)
    assert counted.joules() == pytest.approx(5)
    (first / "energy_uj").unlink()
    counted = meter(sysfs=tmp_path)
    count(second, 8)
    assert counted.joules() == pytest.approx(3)


def test_counters_that_only_root_may_read_are_none(tmp_path: Path) -> None:
    made = zone(tmp_path, "intel-rapl:0", "package-0")
    (made / "energy_uj").unlink()
    (made / "energy_uj").mkdir()  # reading it fails, also for root
    assert rapl(tmp_path) == []


POWER = {"power_now": 8_000_000}
CURRENT = {"current_now": -800_000, "voltage_now": 10_000_000}


@pytest.mark.parametrize(
    ("files", "later", "joules"),
    [
        pytest.param(POWER, {}, 80, id="power"),
        pytest.param(CURRENT, {}, 80, id="current"),
        pytest.param(POWER, {"power_now": 4_000_000}, 60, id="a changing power is averaged"),
        pytest.param(
            POWER,
            {"status": "Charging", "power_now": 60_000_000},
            80,
            id="while it is charged the last power stands in",
        ),
    ],
)
def test_a_discharging_battery_tells_the_power(
    files: dict[str, object],
    later: dict[str, object],
    joules: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    made = supply(tmp_path, status="Discharging", **files)
    counted = meter(sysfs=tmp_path)
    for name, value in later.items():
        (made / name).write_text(str(value))
    now += 10
    assert counted.joules() == pytest.approx(joules)
    assert "battery" in counted.source


@pytest.mark.parametrize(
    "files",
    [
        pytest.param({"status": "Charging", "power_now": 8_000_000}, id="charging"),
        pytest.param({"status": "Discharging"}, id="it tells no power"),
        pytest.param({"online": 1}, id="a mains adapter"),
    ],
)
def test_what_is_no_discharging_battery_measures_nothing(
    files: dict[str, object], tmp_path: Path
) -> None:
    supply(tmp_path, **files)
    assert battery(tmp_path) == []


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
    alone = meter(on="gpu", sysfs=tmp_path)
    package = zone(tmp_path, "intel-rapl:0", "package-0")
    both, processor = meter(on="gpu", sysfs=tmp_path), meter(sysfs=tmp_path)
    spent = 53.0
    count(package, 2)
    assert (alone.joules(), both.joules()) == (pytest.approx(3), pytest.approx(5))
    assert (alone.source, both.source) == ("NVML, the GPUs alone", "RAPL and NVML")
    assert (processor.joules(), processor.source) == (pytest.approx(2), "RAPL")


def test_what_only_another_part_measures_is_an_estimate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", card(lambda: 50.0))
    assert not meter(sysfs=tmp_path).measured
    monkeypatch.setitem(sys.modules, "pynvml", None)
    zone(tmp_path, "intel-rapl:0", "package-0")
    on_a_gpu = meter(on="gpu", sysfs=tmp_path)
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


def test_without_counters_it_is_an_estimate_and_says_so(tmp_path: Path) -> None:
    guessed = meter(sysfs=tmp_path, watts_per_core=4)
    reading = guessed.since(guessed.joules())
    assert not reading.measured
    assert "(estimate: CPU seconds at 4 W a core)" in str(reading)


def test_an_estimate_grows_with_the_work_of_this_process() -> None:
    read = cpu_estimate(1.0)
    before = read()
    while read() == before:
        sum(range(100_000))
    assert 0 < read() - before < 5


def fake(values: list[float]) -> Meter:
    """A meter that gives these values, one after another."""
    left = iter([0.0, *values])
    return Meter([lambda: next(left)], measured=True, source="a list")


async def test_joules_are_charged_to_the_run_and_cost_what_they_cost() -> None:
    price = Price(joule=Decimal("0.01"))
    inner = ScriptedEndpoint(price=price, steps=["x"])
    context = RunContext()
    await Metered(inner, fake([0, 1, 4])).complete(Prompt.of("Go."), context)
    total = context.usage.total
    assert (total.joules, total.calls) == (pytest.approx(3), 1)
    assert total.cost == pytest.approx(Decimal("0.03"))


async def test_calls_side_by_side_share_what_was_taken() -> None:
    release = asyncio.Event()

    class Waiting(SimulatedEndpoint):
        async def complete(self, prompt: Prompt, context: RunContext, /):
            await release.wait()
            return await super().complete(prompt, context)

    metered = Metered(Waiting(), fake([0, 0, 2, 6, 7]))
    first, second = RunContext(), RunContext()
    async with asyncio.TaskGroup() as group:
        group.create_task(metered.complete(Prompt.of("1"), first))
        group.create_task(metered.complete(Prompt.of("2"), second))
        await asyncio.sleep(0)
        release.set()
    assert first.usage.total.joules == pytest.approx(4)  # 2 alone, and half of 4
    assert second.usage.total.joules == pytest.approx(3)  # the other half, and 1 alone


async def test_a_failing_call_is_charged_too() -> None:
    context = RunContext()
    down = ScriptedEndpoint(steps=[EndpointUnavailable("refused", endpoint="x")])
    with pytest.raises(EndpointUnavailable):
        await Metered(down, fake([0, 0, 5])).complete(Prompt.of("Go."), context)
    assert context.usage.total.joules == pytest.approx(5)


async def test_a_budget_of_joules_holds() -> None:
    context = RunContext(budget=Budget(joules=4))
    metered = Metered(ScriptedEndpoint(steps=["x", "y"]), fake([0, 0, 5, 5, 5]))
    await metered.complete(Prompt.of("Go."), context)
    with pytest.raises(BudgetExceeded, match="joules"):
        await metered.complete(Prompt.of("Go."), context)


def test_an_estimate_is_no_usage() -> None:
    guess = Meter([lambda: 0.0], measured=False, source="a guess")
    with pytest.raises(ConfigError, match="an estimate"):
        Metered(ScriptedEndpoint(), guess)
