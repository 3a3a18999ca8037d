"""The endpoint that a known model becomes, and what its user is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from moa.advisor.catalogue import model, models
from moa.advisor.config import Setup, setup
from moa.advisor.hardware import GPU, Machine
from moa.config import Config, EndpointConfig, Tiers, load
from moa.config.file import write_endpoint
from moa.errors import ConfigError

GIB = 2**30
NOTHING = Config()
SMALL = Machine(cores=4, ram=16 * GIB, ram_free=14 * GIB)
LARGE = Machine(cores=64, ram=512 * GIB, ram_free=500 * GIB, gpus=(GPU.named("H100"),) * 8)


def add(name: str, *, machine: Machine = LARGE, config: Config = NOTHING, **wished: Any) -> Setup:
    return setup(model(name), "new", machine=machine, config=config, **wished)


@pytest.mark.parametrize("name", [name for name, known in models().items() if not known.retired])
def test_every_known_model_becomes_an_endpoint_that_loads(name: str, tmp_path: Path) -> None:
    made = add(name)
    file = write_endpoint(tmp_path / "moa.toml", "new", made.table, tiers=made.tiers)
    endpoint = load(file).endpoints["new"]
    assert endpoint.tier == model(name).tier
    assert endpoint.url("new").startswith("http")
    assert made.notes
    assert made.steps


def test_an_open_model_is_brought_up_next() -> None:
    assert add("qwen3-8b").steps == ("moa up new",)
    assert add("qwen3-8b").table["serve"] == "vllm"


def test_a_gated_model_says_where_its_licence_is_accepted() -> None:
    first, *rest = add("llama-3-8b").steps
    assert "https://huggingface.co/meta-llama/Meta-Llama-3-8B-Instruct" in first
    assert "export HF_TOKEN=" in first
    assert rest == ["moa up new"]


def test_a_vendors_model_needs_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    made = add("claude-haiku-4-5")
    assert made.table == {"tier": "llm", "model": "claude-haiku-4-5"}
    assert made.steps[0] == "export ANTHROPIC_API_KEY=…"
    assert "US$ 1 per million input tokens" in made.notes[0]
    monkeypatch.setenv("ANTHROPIC_API_KEY", "k")
    assert add("claude-haiku-4-5").steps == ("moa models",)


def test_a_model_that_decides_is_asked_so() -> None:
    assert add("gpt-6-luna").table["decide"] == "decisions"
    assert add("jev").table["decide"] == "systemone"


def test_a_decision_model_says_what_starts_it() -> None:
    made = add("laya")
    assert made.table["base_url"] == "http://127.0.0.1:8080/v1"
    assert made.steps[0] == "llama serve -hf ggml-org/Laya-GGUF:BF16"


def test_a_model_that_does_not_fit_says_what_it_takes() -> None:
    with pytest.raises(ConfigError) as caught:
        add("llama-3-70b", machine=SMALL)
    said = str(caught.value)
    assert "Llama 3 70B Instruct does not fit this machine (4 cores, 16 GiB of RAM" in said
    assert "GB of 13." in said
    assert "Nothing was written" in said


def test_a_model_that_does_not_fit_is_added_all_the_same_where_that_is_wished() -> None:
    made = add("llama-3-70b", machine=SMALL, anyway=True)
    assert made.table["model"] == "RedHatAI/Meta-Llama-3-70B-Instruct-quantized.w4a16"
    assert "does not fit this machine" in made.notes[0]


def test_what_is_asked_for_and_does_not_fit_is_said_as_it_was_asked() -> None:
    with pytest.raises(ConfigError, match="room for 999 requests of 32,768 tokens"):
        add("qwen3-8b", tokens=32_768, concurrency=999)


def test_a_gpu_that_is_given_away_is_not_written_as_a_share_of_nothing() -> None:
    there = {"a": EndpointConfig(tier="llm", model="m", serve="vllm")}
    made = add("smollm2-135m", config=Config(endpoints=there), anyway=True)
    assert EndpointConfig.model_validate(made.table).vllm.gpu_memory_utilization == 0.92
    assert "beside what is configured" in made.notes[0]


def test_a_retired_model_is_not_added_unasked() -> None:
    with pytest.raises(ConfigError, match="retired by its vendor"):
        add("gemini-1.5-pro")
    assert add("gemini-1.5-pro", anyway=True).table["model"] == "gemini-1.5-pro"


def test_a_port_is_given_that_nobody_else_has() -> None:
    taken = {
        "a": EndpointConfig(tier="llm", model="m", base_url="http://127.0.0.1:8000/v1"),
        "b": EndpointConfig.model_validate(
            {"tier": "llm", "model": "n", "serve": "vllm", "vllm": {"port": 8001, "replicas": 2}}
        ),
    }
    made = add("smollm2-135m", machine=SMALL, config=Config(endpoints=taken))
    assert EndpointConfig.model_validate(made.table).vllm.port == 8003


def test_an_endpoint_that_is_overwritten_does_not_stand_in_its_own_way() -> None:
    there = EndpointConfig.model_validate(add("qwen3-30b-a3b").table)
    again = add("qwen3-30b-a3b", config=Config(endpoints={"new": there}))
    assert again.table == add("qwen3-30b-a3b").table
    assert not again.tiers


def test_the_default_of_a_tier_stays_what_it_was() -> None:
    large = {"large": EndpointConfig(tier="llm", model="gpt-5-mini")}
    made = add("gpt-4o", config=Config(endpoints=large))
    assert made.tiers == {"llm": "large"}
    assert any("[endpoints.large] stays the default" in note for note in made.notes)
    stated = add("gpt-4o", config=Config(endpoints=large, tiers=Tiers(llm="large")))
    assert not stated.tiers
    assert not add("qwen3-0.6b", config=Config(endpoints=large)).tiers


def test_a_tier_can_be_chosen() -> None:
    assert add("gpt-5-nano", tier="slm").table["tier"] == "slm"
    assert add("qwen3-8b", tier="llm").table["tier"] == "llm"


def test_what_was_not_checked_is_said() -> None:
    assert "not compared with a source: repositories, files" in add("qwen3-1.7b").notes
    assert not any("not compared" in note for note in add("smollm2-135m").notes)
