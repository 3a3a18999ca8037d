"""moa models: what is configured; the list of those that are known; and adding one."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from moa.catalogue import models
from moa.cli import main
from moa.config import load
from moa.machine import GPU, Machine

L4 = Machine(cores=8, ram=2**36, ram_free=2**35, gpus=(GPU.named("L4"),))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("moa.machine.machine", lambda: L4)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    return tmp_path


def moa(*words: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(["models", *words])
    assert isinstance(left.value.code, int)
    return left.value.code


def listed(capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, Any]]:
    assert moa("list", "--json", *words) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_without_a_subcommand_the_configured_endpoints_are_shown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert moa("--json") == 0
    assert [json.loads(line)["name"] for line in capsys.readouterr().out.splitlines()] == [
        "embedded"
    ]


def test_all_known_models_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert moa("list") == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in models())
    assert "~16.1" in shown  # Llama 3 8B in bf16, computed


def test_the_list_is_cut_by_tier_kind_and_job(capsys: pytest.CaptureFixture[str]) -> None:
    found = listed(capsys, "--tier", "slm", "--kind", "open", "--for", "code")
    assert found
    for known in found:
        assert known["tier"] == "slm"
        assert known["kind"] == "open"
        assert "code" in known["good_for"]


def test_a_line_holds_what_was_computed_and_where_from(capsys: pytest.CaptureFixture[str]) -> None:
    known = next(line for line in listed(capsys) if line["name"] == "mistral-7b")
    assert known["kv_bytes_per_token"] == 131_072
    assert known["weights"]["bf16"]["bytes"] == 14_496_047_104
    assert known["weights"]["int4"]["published"]
    assert known["sources"]


def test_an_unknown_tier_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert moa("list", "--tier", "medium") == 2
    assert "medium" in capsys.readouterr().err


def test_adding_writes_the_endpoint_and_says_what_is_next(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert moa("add", "mistral-7b", "--name", "small") == 0
    shown = capsys.readouterr().out
    assert "Wrote [endpoints.small] into moa.toml: Mistral 7B Instruct v0.3" in shown
    assert "Next: moa up small" in shown
    assert tomllib.loads((folder / "moa.toml").read_text()) == {
        "endpoints": {
            "small": {
                "tier": "slm",
                "model": "mistralai/Mistral-7B-Instruct-v0.3",
                "serve": "vllm",
                "vllm": {
                    "port": 8000,
                    "quantization": "fp8",
                    "max_model_len": 4096,
                    "gpu_memory_utilization": 0.76,
                },
            }
        }
    }


def test_a_second_model_of_a_tier_leaves_the_configuration_usable(folder: Path) -> None:
    moa("add", "gpt-5-mini", "--name", "large")
    moa("add", "gpt-4o")
    config = load(folder / "moa.toml")
    assert set(config.endpoints) == {"large", "gpt-4o"}
    assert config.of_tier("llm") == "large"


def test_a_name_with_a_dot_becomes_one_without(folder: Path) -> None:
    moa("add", "qwen3-0.6b")
    assert list(load(folder / "moa.toml").endpoints) == ["qwen3-0-6b"]


def test_an_endpoint_is_overwritten_only_by_force(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moa("add", "gpt-4o", "--name", "large")
    assert moa("add", "gpt-5-mini", "--name", "large") == 2
    assert "--force" in capsys.readouterr().err
    assert load(folder / "moa.toml").endpoints["large"].model == "gpt-4o"
    assert moa("add", "gpt-5-mini", "--name", "large", "--force") == 0
    assert load(folder / "moa.toml").endpoints["large"].model == "gpt-5-mini"


def test_a_model_that_does_not_fit_writes_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert moa("add", "llama-3-70b") == 2
    assert "does not fit this machine" in capsys.readouterr().err
    assert not list(folder.iterdir())


def test_room_can_be_asked_for(folder: Path) -> None:
    moa("add", "smollm2-135m", "--name", "s", "--context", "2048", "--concurrency", "32")
    assert load(folder / "moa.toml").endpoints["s"].vllm.max_model_len == 2048


def test_the_file_can_be_named_by_the_variable(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOA_CONFIG", "new.toml")
    assert moa("add", "gpt-4o") == 0
    assert (folder / "new.toml").exists()
    assert moa("add", "gpt-5", "--config", "other.toml") == 0
    assert list(load(folder / "other.toml").endpoints) == ["gpt-5"]


def test_a_misspelt_model_is_answered_with_the_nearest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert moa("add", "mistral7b") == 2
    assert "Did you mean 'mistral-7b'?" in capsys.readouterr().err


@pytest.mark.parametrize("words", [("list", "--help"), ("add", "--help"), ("--help",)])
def test_help_teaches_by_example(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert moa(*words) == 0
    assert "moa models add" in capsys.readouterr().out
