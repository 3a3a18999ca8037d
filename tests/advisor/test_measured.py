"""Measured figures: they flow into plans where they hold, and nowhere else."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from moa.advisor.bench import Measurement, Step, keep
from moa.advisor.choice import choose
from moa.advisor.hardware import LocalModel, Machine
from moa.advisor.plans import local_models
from moa.advisor.task import Task
from moa.config import Config, load

from .cases import DESK, L4, LAPTOP

SERVED = '[endpoints.small]\ntier = "slm"\nmodel = "Qwen/Qwen3-8B"\nserve = "vllm"\n'
IN_FP8 = SERVED.replace("Qwen3-8B", "Qwen3.5-9B") + '[endpoints.small.vllm]\nquantization = "fp8"\n'
TASK = Task(job="classify", per_day=1000)
DECISION_S, TOKEN_S = 0.002, 0.01
STEPS = (
    Step(work="read", concurrency=1, seconds=1, requests=10, input_tokens=5000, output_tokens=10),
    Step(
        work="write",
        concurrency=1,
        seconds=10,
        requests=10,
        input_tokens=100,
        output_tokens=1000,
        latency_median_s=1,
    ),
    Step(work="decide", concurrency=1, seconds=1, requests=round(1 / DECISION_S)),
)


def measured_on(
    machine: Machine,
    text: str = SERVED,
    *,
    endpoint: str = "small",
    model: str = "Qwen/Qwen3-8B",
) -> Config:
    """Configure an endpoint that was measured on a machine."""
    Path("moa.toml").write_text(text)
    config = load()
    keep(
        Measurement(
            endpoint=endpoint,
            model=model,
            machine=machine.hardware,
            date=datetime(2026, 11, 25, tzinfo=UTC),
            moa_version="0.1.0",
            hourly_usd=Decimal("3.6"),
            steps=STEPS,
        ),
        config.file,
    )
    return config


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def known(config: Config, machine: Machine) -> set[str]:
    """Say which models, in which form and where, have measured figures."""
    found = local_models(machine, TASK, config=config)
    return {str(one) for one in found if isinstance(one, LocalModel) and one.measured}


def test_a_measured_plan_has_the_measured_latency_and_says_so() -> None:
    text = SERVED.replace("Qwen3-8B", "Qwen3.5-9B")
    config = measured_on(DESK, text, model="Qwen/Qwen3.5-9B")
    plans = choose(TASK, DESK, config=config).plans
    (measured,) = [plan for plan in plans if plan.measured]
    assert str(measured) == "slm: qwen3.5-9b (bf16, RTX 4090)"
    assert measured.latency is not None
    assert measured.latency.mean_s == pytest.approx(DECISION_S + TOKEN_S, rel=0.2)
    assert all(plan.cost.own == Decimal("86.4") for plan in plans)  # an hour costs US$ 3.60
    assert any("writes 100 tokens/s" in it and "(measured)" in it for it in measured.reasons)


def test_figures_hold_for_the_form_and_the_place_that_were_measured() -> None:
    assert known(measured_on(DESK), DESK) == {"qwen3-8b (bf16, RTX 4090)"}


def test_figures_hold_for_as_many_gpus_as_shared_the_weights() -> None:
    pair = replace(DESK, gpus=DESK.gpus * 2)
    text = SERVED + '[endpoints.small.vllm]\nargs = ["--tensor-parallel-size=2"]\n'
    assert known(measured_on(pair, text), pair) == {"qwen3-8b (bf16, 2 x RTX 4090)"}


def test_weights_that_are_quantised_while_loading_are_another_form() -> None:
    config = measured_on(DESK, IN_FP8, model="Qwen/Qwen3.5-9B")
    assert known(config, DESK) == {"qwen3.5-9b (fp8, RTX 4090)"}


def test_another_machine_inherits_nothing() -> None:
    assert known(measured_on(DESK), L4) == set()


def test_a_battery_makes_no_other_machine() -> None:
    config = measured_on(DESK)
    assert known(config, replace(DESK, on_battery=True))


def test_a_server_elsewhere_tells_nothing_of_this_machine() -> None:
    served = 'serve = "vllm"'
    far = SERVED.replace(served, 'base_url = "http://10.0.0.7:8000/v1"')
    assert known(measured_on(DESK, far), DESK) == set()
    near = SERVED.replace(served, 'base_url = "http://localhost:8000/v1"')
    assert "qwen3-8b (bf16, RTX 4090)" in known(measured_on(DESK, near), DESK)


def test_the_built_in_model_is_measured_without_a_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOA_CACHE", str(tmp_path / "cache"))
    file = "SmolLM2-135M-Instruct.Q4_1"
    config = measured_on(LAPTOP, "", endpoint="embedded", model=file)
    assert known(config, LAPTOP) == {"smollm2-135m (q4_k_m, the processor (8 cores))"}
    other = measured_on(LAPTOP, "", endpoint="embedded", model="another")
    assert known(other, LAPTOP) == set()


@pytest.mark.parametrize(
    ("model", "known_as"),
    [("qwen3-4b", "qwen3-4b"), ("weights/Qwen3-4B-Q4_K_M.gguf", "Qwen3-4B-Q4_K_M")],
)
def test_a_model_in_this_machine_is_measured_in_the_form_of_its_file(
    model: str, known_as: str
) -> None:
    text = f'[endpoints.large]\ntier = "llm"\nserve = "llama.cpp"\nmodel = "{model}"\n'
    config = measured_on(LAPTOP, text, endpoint="large", model=known_as)
    assert known(config, LAPTOP) == {"qwen3-4b (q4_k_m, the processor (8 cores))"}
