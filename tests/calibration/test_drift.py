"""Drift: a change is found out and named, and without one there is hardly ever an alarm."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping

import pytest

from moa.core.errors import ConfigError
from moa.decisions.drift import Drift, Value

Input = Mapping[str, Value | None]


def an_input(rng: random.Random, *, longer: float = 1.0, foreign: float = 0.05) -> Input:
    return {
        "confidence": rng.choice([0.6, 0.9, 0.9, 1.0, 1.0, 1.0]),
        "length": rng.lognormvariate(4, 0.6) * longer,
        "language": rng.choice(["de", "fr", "es"]) if rng.random() < foreign else "en",
    }


def started(rng: random.Random, *, n: int = 200, alpha: float = 0.01) -> Drift:
    inputs = [an_input(rng) for _ in range(n)]
    reference = {
        name: [value for i in inputs if (value := i[name]) is not None] for name in inputs[0]
    }
    return Drift.of(reference, alpha=alpha, seed=rng.randrange(1000))


@pytest.mark.parametrize("n", [20, 100], ids="reference of {}".format)
def test_inputs_that_do_not_change_raise_no_more_alarms_than_stated(n: int) -> None:
    alarmed = 0
    for seed in range(80):
        rng = random.Random(seed)
        drift = started(rng, n=n, alpha=0.2)
        for _ in range(120):
            drift = drift.update(an_input(rng))
        alarmed += bool(drift.alarms)
    assert alarmed / 80 <= 0.2 + 3 * (0.2 * 0.8 / 80) ** 0.5


def test_names_that_are_all_different_are_no_change() -> None:
    alarmed = 0
    for seed in range(60):
        rng = random.Random(seed)
        drift = Drift.of({"topic": [f"t{rng.random()}" for _ in range(40)]}, alpha=0.2, seed=seed)
        for _ in range(100):
            drift = drift.update({"topic": f"t{rng.random()}"})
        alarmed += bool(drift.alarms)
    assert alarmed / 60 <= 0.2 + 3 * (0.2 * 0.8 / 60) ** 0.5


@pytest.mark.parametrize(
    ("before", "change", "name", "said"),
    [
        (0, {"longer": 2.0}, "length", "length moved up"),
        (300, {"longer": 2.0}, "length", "length moved up"),
        (0, {"foreign": 0.6}, "language", "mostly en"),
    ],
)
def test_a_change_is_found_out_and_named(
    before: int, change: dict[str, float], name: str, said: str
) -> None:
    rng = random.Random(1)
    drift = started(rng)
    for _ in range(before):
        drift = drift.update(an_input(rng))
    assert not drift.alarms
    for _ in range(200):
        drift = drift.update(an_input(rng, **change))
    assert [alarm.name for alarm in drift.alarms] == [name]
    assert said in drift.alarms[0].message


@pytest.mark.parametrize(("share", "tolerant"), [(0.09, []), (0.5, ["length"])])
def test_a_change_of_few_inputs_is_tolerated_however_long_it_goes_on(
    share: float, tolerant: list[str]
) -> None:
    for tolerance, said in ((0.0, ["length"]), (0.1, tolerant)):
        rng = random.Random(2)
        lengths = [float(rng.randint(50, 150)) for _ in range(400)]
        drift = Drift.of({"length": lengths}, tolerance=tolerance)
        for _ in range(1500):
            longer = 3.0 if rng.random() < share else 1.0
            drift = drift.update({"length": longer * rng.randint(50, 150)})
        assert [alarm.name for alarm in drift.alarms] == said


def test_few_late_labels_show_that_answers_became_wrong() -> None:
    rng = random.Random(3)

    def gap(confidence: float, accuracy: float) -> float:
        return float(rng.random() < accuracy) - confidence

    drift = Drift.of({"right": [gap(0.9, 0.9) for _ in range(200)]})
    for number in range(1000):
        late = gap(0.9, 0.6) if number % 10 == 0 else None
        drift = drift.update({"right": late, "unknown": 1.0})
    assert drift.seen == 1000
    assert drift.alarms[0].name == "right"
    assert drift.alarms[0].seen <= 100


def test_what_is_yes_or_no_is_told_in_shares() -> None:
    rng = random.Random(7)
    drift = Drift.of({"accepted": [float(rng.random() < 0.9) for _ in range(400)]})
    while not drift.alarms:
        drift = drift.update({"accepted": float(rng.random() < 0.4)})
    said = drift.alarms[0].message
    found = re.match(
        r"accepted moved down: lately in about (\d+) % of inputs, in the calibration in (\d+) %",
        said,
    )
    assert found is not None
    assert int(found[1]) <= 80
    assert 85 <= int(found[2]) <= 95


def test_what_was_always_the_same_and_is_less_now_is_told_without_two_like_numbers() -> None:
    drift = Drift.of({"label mass": [1.0] * 100})
    while not drift.alarms:
        drift = drift.update({"label mass": 0.7})
    said = "label mass moved down: 1 in the calibration, lately often less"
    assert drift.alarms[0].message.startswith(said)


def test_texts_of_more_varied_length_are_found_out() -> None:
    rng = random.Random(4)
    drift = Drift.of({"length": [rng.gauss(100, 10) for _ in range(200)]})
    for _ in range(150):
        drift = drift.update({"length": rng.gauss(100, 30)})
    assert "further apart" in drift.alarms[0].message


def test_a_check_on_drift_goes_on_from_its_json_which_does_not_grow() -> None:
    rng = random.Random(5)
    drift = started(rng)
    size = len(drift.model_dump_json())
    for _ in range(300):
        drift = drift.update(an_input(rng))
    written = drift.model_dump_json()
    assert len(written) < size + 2500
    back = Drift.model_validate_json(written)
    assert back == drift
    new = an_input(rng)
    assert back.update(new) == drift.update(new)


@pytest.mark.parametrize("reference", [{}, {"length": [1.0] * 19}], ids=["none", "few"])
def test_too_small_a_reference_is_refused(reference: Mapping[str, list[Value]]) -> None:
    with pytest.raises(ConfigError):
        Drift.of(reference)
