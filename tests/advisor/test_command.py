"""`moa choose`: what it prints, writes and refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from command import told

from moa.config import load

HERE = ["--no-gpu", "--ram", "16GB", "--cores", "8"]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_no_api_key_is_read_as_none_also_where_one_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setenv("OPENAI_API_KEY", "x")
        said = told("choose", "classify mails, we have no api key", *HERE)
    assert "api False ('no api key')" in said.words


def test_a_plan_at_a_vendor_is_written() -> None:
    told("choose", "essay writer, 20 a day", *HERE, "--vendor", "openai", "--api", "--write")
    large = load("moa.toml").endpoints["large"]
    assert large.tier == "llm"
    assert large.model.startswith("gpt-")


def test_a_plan_on_a_gpu_is_written_for_vllm() -> None:
    told("choose", "classify mails, 100 a day", "--gpu", "L4", "--no-api", "--write")
    config = load("moa.toml")
    assert config.endpoints["small"].tier == "slm"
    assert "small" in config.served


def test_what_needs_no_endpoint_is_not_claimed_to_be_written() -> None:
    words = ("--job", "classify", "--stakes", "low", "--no-api", "--write")
    said = told("choose", *words, *HERE)
    assert "Nothing to write for slm: " in said.out
    assert "Wrote" not in said.out


def test_the_best_plan_that_is_ready_is_written_where_the_best_is_not() -> None:
    words = ["choose", "--job", "classify", "--stakes", "high", "--labelled", "600", "--gpu", "L4"]
    out = told(*words, "--per-day", "200000", "--api", "--write").out
    assert "so the next is written: cascade: " in out
    assert "for slm: " in out
    assert load("moa.toml").endpoints


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--language klingon", "the task: [languages]"),
        ("--vendor opnai", "Did you mean 'openai'"),
        ("--job sing", "'--job'"),
        ("--stakes huge", "'--stakes'"),
        ("--per-day -3", "'--per-day'"),
    ],
)
def test_what_an_option_can_t_be_is_said(words: str, said: str) -> None:
    err = told("choose", "--job", "classify", *HERE, *words.split(), leaves=2).err
    assert said in err
    assert "moa.toml" not in err


def test_what_is_given_goes_before_what_was_read() -> None:
    words = ("choose", "classify German mails", *HERE, "--no-api", "--json")
    (given,) = told(*words, "--language", "fr").lines
    (read,) = told(*words).lines
    assert (given["task"]["languages"], read["task"]["languages"]) == (["fr"], ["de"])
