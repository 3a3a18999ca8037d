"""`moa choose`: what it prints, writes and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from moa.cli.app import app
from moa.config import load
from moa.errors import ConfigError

HERE = ["--no-gpu", "--ram", "16GB", "--cores", "8"]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_no_api_key_is_read_as_none_also_where_one_is_set() -> None:
    words = ["choose", "classify mails, we have no api key", *HERE]
    done = CliRunner().invoke(app, words, env={"OPENAI_API_KEY": "x"})
    assert "api False ('no api key')" in " ".join(done.stdout.split())


def test_a_plan_at_a_vendor_is_written() -> None:
    words = ["choose", "essay writer, 20 a day", *HERE, "--vendor", "openai", "--api", "--write"]
    assert CliRunner().invoke(app, words).exit_code == 0
    config = load("moa.toml")
    assert config.endpoints["large"].tier == "llm"
    assert config.endpoints["large"].model.startswith("gpt-")


def test_a_plan_on_a_gpu_is_written_for_vllm() -> None:
    words = ["choose", "classify mails, 100 a day", "--gpu", "L4", "--no-api", "--write"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    config = load("moa.toml")
    assert config.endpoints["small"].tier == "slm"
    assert "small" in config.served


def test_the_best_plan_that_is_ready_is_written_where_the_best_is_not() -> None:
    words = ["choose", "--job", "classify", "--stakes", "high", "--labelled", "600", "--gpu", "L4"]
    words += ["--per-day", "200000", "--api", "--write"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "so the next is written: cascade: " in done.stdout
    assert "for slm: " in done.stdout
    assert load("moa.toml").endpoints


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param(["--language", "klingon"], "languages", id="language"),
        pytest.param(["--vendor", "opnai"], "Did you mean 'openai'", id="vendor"),
    ],
)
def test_what_an_option_can_t_be_is_said(words: list[str], said: str) -> None:
    done = CliRunner().invoke(app, ["choose", "--job", "classify", *HERE, *words])
    assert isinstance(done.exception, ConfigError)
    assert said in str(done.exception)
    assert "moa.toml" not in str(done.exception)


@pytest.mark.parametrize("words", [["--job", "sing"], ["--stakes", "huge"], ["--per-day", "-3"]])
def test_an_impossible_value_names_its_option(words: list[str]) -> None:
    done = CliRunner().invoke(app, ["choose", "--job", "classify", *words])
    assert done.exit_code == 2
    assert f"'{words[0]}'" in done.output


def test_what_is_given_goes_before_what_was_read() -> None:
    words = ["choose", "classify German mails", *HERE, "--no-api", "--json"]
    told = json.loads(CliRunner().invoke(app, [*words, "--language", "fr"]).stdout)
    assert told["task"]["languages"] == ["fr"]
    told = json.loads(CliRunner().invoke(app, words).stdout)
    assert told["task"]["languages"] == ["de"]
