"""Measurements: what is worked out from their steps, and how they are kept."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from moa.advisor.bench import FILE, Measurement, Step, Work, keep, measured, percentile, price_of

from moa.config import load
from moa.errors import ConfigError
from moa.usage import Price

SMALL = '[endpoints.small]\ntier = "slm"\nmodel = "m"\nbase_url = "http://127.0.0.1:1/v1"\n'


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MOA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "moa.toml"
    file.write_text(SMALL)
    return file


def step(work: Work, seconds: float, *, fresh: int, out: int, cached: int = 0, at: int = 8) -> Step:
    return Step(
        work=work,
        concurrency=at,
        seconds=seconds,
        requests=10,
        input_tokens=fresh + cached,
        cached_input_tokens=cached,
        output_tokens=out,
    )


def measurement(*steps: Step, usd: str | None = "3.60", model: str = "m") -> Measurement:
    return Measurement(
        endpoint="small",
        model=model,
        machine="a machine",
        date=datetime(2026, 11, 25, tzinfo=UTC),
        moa_version="0.1.0",
        hourly_usd=None if usd is None else Decimal(usd),
        steps=steps,
    )


SECONDS = st.floats(1e-6, 1e-1)


@given(SECONDS, SECONDS, st.floats(0, 1))
def test_the_seconds_of_each_kind_of_token_are_found_again(
    per_input: float, per_output: float, share: float
) -> None:
    """Three steps, whose times are what their tokens took, give those times back."""

    def timed(work: Work, fresh: int, out: int, cached: int = 0) -> Step:
        took = fresh * per_input + out * per_output + cached * per_input * share
        return step(work, took, fresh=fresh, out=out, cached=cached)

    steps = timed("read", 5000, 10), timed("write", 200, 1000), timed("reread", 500, 10, 4500)
    found = measurement(*steps).token_seconds
    assert found is not None
    assert found.input == pytest.approx(per_input, rel=1e-3, abs=1e-9)
    assert found.output == pytest.approx(per_output, rel=1e-3, abs=1e-9)
    assert found.cached_input == pytest.approx(per_input * share, rel=1e-2, abs=1e-6)


def test_an_hour_of_hardware_becomes_a_price_of_tokens() -> None:
    one = measurement(step("read", 10, fresh=10_000, out=0), step("write", 10, fresh=0, out=1000))
    # A tenth of a cent a second: 1 ms an input token, 10 ms an output token.
    assert one.price == Price(input=Decimal(1), output=Decimal(10), measured=True)


def test_the_concurrency_that_uses_the_hardware_best_counts() -> None:
    alone = step("read", 10, fresh=1000, out=0, at=1), step("write", 10, fresh=0, out=100, at=1)
    busy = step("read", 10, fresh=9000, out=0, at=8), step("write", 10, fresh=0, out=900, at=8)
    found = measurement(*alone, *busy).token_seconds
    assert found is not None
    assert found.concurrency == 8


@pytest.mark.parametrize(
    ("read", "write"),
    [
        pytest.param((1.0, 1000, 500), (10.0, 100, 600), id="reading costs nothing"),
        pytest.param((10.0, 1000, 5), (0.5, 600, 50), id="writing costs nothing"),
    ],
)
def test_no_token_costs_less_than_nothing(
    read: tuple[float, int, int], write: tuple[float, int, int]
) -> None:
    (a, b, c), (d, e, f) = read, write
    steps = step("read", a, fresh=b, out=c), step("write", d, fresh=e, out=f)
    found = measurement(*steps).token_seconds
    assert found is not None
    assert min(found.input, found.output) == 0


def test_two_steps_that_tell_nothing_apart_give_no_price() -> None:
    same = step("read", 10, fresh=100, out=100), step("write", 10, fresh=100, out=100)
    assert measurement(*same).token_seconds is None
    assert not measurement(*same).price.known


def test_decisions_are_priced_at_their_best_rate() -> None:
    slow, fast = (step("decide", s, fresh=1, out=0, at=c) for s, c in ((10, 1), (1, 8)))
    one = measurement(slow, fast)
    assert one.decisions_per_s == 10
    assert one.usd_per_thousand_decisions == Decimal("0.1")


def test_without_a_price_per_hour_there_is_none_per_token() -> None:
    steps = step("read", 10, fresh=10_000, out=0), step("write", 10, fresh=0, out=1000)
    assert not measurement(*steps, usd=None).price.known


def test_a_measurement_is_kept_beside_the_configuration(config: Path) -> None:
    assert measured("small", config) is None
    first, second = measurement(), measurement(step("decide", 1, fresh=1, out=1))
    other = first.model_copy(update={"endpoint": "other"})
    for one in (first, other, second):
        assert keep(one, config) == (config.with_name(FILE), one)
    assert measured("small", config) == second
    assert measured("other", config) == other


HALF = step("read", 1, fresh=1, out=1)
WHOLE = HALF, step("write", 1, fresh=1, out=1)


@pytest.mark.parametrize(
    ("changes", "stays"),
    [
        pytest.param({"steps": (HALF,)}, True, id="a step is missing"),
        pytest.param({"steps": (*WHOLE, step("decide", 1, fresh=1, out=1))}, False, id="no less"),
        pytest.param({"steps": (HALF,), "stopped": False}, False, id="not stopped"),
        pytest.param({"steps": (HALF,), "model": "another"}, False, id="another model"),
        pytest.param({"steps": (HALF,), "machine": "another"}, False, id="another machine"),
    ],
)
def test_a_stopped_measurement_never_takes_the_place_of_a_complete_one(
    config: Path, changes: dict[str, object], stays: bool
) -> None:
    complete = measurement(*WHOLE)
    keep(complete, config)
    later = complete.model_copy(update={"stopped": True, **changes})
    assert keep(later, config).measurement == (complete if stays else later)
    assert measured("small", config) == (complete if stays else later)


def test_a_stopped_measurement_takes_the_place_of_one_that_was_stopped(config: Path) -> None:
    for steps in (WHOLE, (HALF,)):
        stopped = measurement(*steps).model_copy(update={"stopped": True})
        assert keep(stopped, config).measurement == stopped


def test_nothing_but_the_file_is_left_behind(config: Path) -> None:
    keep(measurement(), config)
    assert {path.name for path in config.parent.iterdir()} == {FILE, "moa.toml"}


def test_without_a_configuration_it_is_kept_in_the_cache(cache: Path) -> None:
    assert keep(measurement()).file == cache / FILE
    assert measured("small") == measurement()


@pytest.mark.parametrize("text", ["", "{", '{"version": 2}', '{"endpoints": {"a": 1}}'])
def test_a_file_that_is_none_of_ours_is_said_and_left_alone(config: Path, text: str) -> None:
    config.with_name(FILE).write_text(text)
    with pytest.raises(ConfigError, match="measure again"):
        measured("small", config)
    with pytest.raises(ConfigError):
        keep(measurement(), config)
    assert config.with_name(FILE).read_text() == text


def test_a_place_that_can_t_be_written_is_said(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ConfigError, match="No space left"):
        keep(measurement(), config)
    assert {path.name for path in config.parent.iterdir()} == {"moa.toml"}


PRICED = step("read", 10, fresh=10_000, out=0), step("write", 10, fresh=0, out=1000)


def test_an_endpoint_of_one_s_own_takes_the_measured_price(config: Path) -> None:
    assert not price_of(load(config), "small").known
    keep(measurement(*PRICED), config)
    assert price_of(load(config), "small").measured


def test_a_stated_price_goes_before_the_measured_one(config: Path) -> None:
    config.write_text(SMALL + "input_price = 7\noutput_price = 8\n")
    keep(measurement(*PRICED), config)
    assert price_of(load(config), "small") == Price(input=Decimal(7), output=Decimal(8))


def test_the_price_of_another_model_is_none_of_this_one(config: Path) -> None:
    keep(measurement(*PRICED, model="another"), config)
    assert not price_of(load(config), "small").known


def test_a_model_in_this_machine_is_priced_by_the_name_of_its_file(tmp_path: Path) -> None:
    file = tmp_path / "moa.toml"
    file.write_text(
        '[endpoints.small]\ntier = "llm"\nserve = "llama.cpp"\nmodel = "weights/m.gguf"\n'
    )
    steps = (step("read", 1, fresh=1000, out=0), step("write", 1, fresh=0, out=10))
    keep(measurement(*steps), file)
    assert price_of(load(file), "small").measured


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=120), st.integers(1, 100))
def test_a_percentile_is_the_least_value_that_so_many_do_not_pass(
    values: list[float], percent: int
) -> None:
    found = percentile(values, percent / 100)
    assert found in values
    assert 100 * sum(value <= found for value in values) >= percent * len(values)
    assert 100 * sum(value < found for value in values) < percent * len(values)
