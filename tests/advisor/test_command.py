"""moa models: what is configured, known, added, fetched; moa choose: what it writes and refuses."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import Told, told
from hub import CONTENT, SHA256, Hub, isolate, serving

from moa.advisor.hardware import GPU, Machine
from moa.config import load
from moa.config.catalogue import models

L4 = Machine(cores=8, ram=2**36, ram_free=2**35, gpus=(GPU.from_name("L4"),))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("moa.advisor.hardware.machine", lambda: L4)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    return tmp_path


def moa_models(*words: str, leaves: int = 0) -> Told:
    return told("models", *words, leaves=leaves)


def test_without_a_subcommand_the_configured_endpoints_are_shown() -> None:
    assert [line["name"] for line in moa_models("--json").lines] == ["embedded"]


def test_all_known_models_are_listed_with_what_was_computed_and_where_from() -> None:
    shown = moa_models("list").out
    assert all(name in shown for name in models())
    assert "~16.1" in shown  # Llama 3 8B in bf16, computed
    known = next(it for it in moa_models("list", "--json").lines if it["name"] == "mistral-7b")
    assert known["kv_bytes_per_token"] == 131_072
    assert known["weights"]["bf16"]["bytes"] == 14_496_047_104
    assert known["weights"]["int4"]["published"]
    assert known["sources"]


def test_the_list_is_cut_by_tier_kind_and_job() -> None:
    words = ("list", "--json", "--tier", "slm", "--kind", "open", "--for", "code")
    found = moa_models(*words).lines
    assert {(known["tier"], known["kind"]) for known in found} == {("slm", "open")}
    assert all("code" in known["good_for"] for known in found)
    assert "medium" in moa_models("list", "--tier", "medium", leaves=2).err


def test_adding_writes_the_endpoint_and_says_what_is_next(folder: Path) -> None:
    shown = moa_models("add", "mistral-7b", "--name", "small").out
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
    moa_models("add", "gpt-5-mini", "--name", "large")
    moa_models("add", "gpt-4.1")
    config = load(folder / "moa.toml")
    assert set(config.endpoints) == {"large", "gpt-4-1"}  # no name holds a dot
    assert config.default_of("llm") == "large"


def test_an_endpoint_is_overwritten_only_where_that_is_asked_for(folder: Path) -> None:
    moa_models("add", "gpt-4o", "--name", "large")
    assert "--overwrite" in moa_models("add", "gpt-5-mini", "--name", "large", leaves=2).err
    assert load(folder / "moa.toml").endpoints["large"].model == "gpt-4o"
    moa_models("add", "gpt-5-mini", "--name", "large", "--overwrite")
    assert load(folder / "moa.toml").endpoints["large"].model == "gpt-5-mini"


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("llama-3-70b", "does not fit this machine"),
        ("mistral7b", "Did you mean 'mistral-7b'?"),
    ],
)
def test_a_model_that_cannot_be_added_writes_nothing(model: str, said: str, folder: Path) -> None:
    assert said in moa_models("add", model, leaves=2).err
    assert not list(folder.iterdir())


def test_room_can_be_asked_for_and_the_file_be_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moa_models("add", "smollm2-135m", "--name", "s", "--context", "2048", "--concurrency", "32")
    assert load(folder / "moa.toml").served_endpoints["s"].vllm.max_model_len == 2048
    monkeypatch.setenv("MOA_CONFIG", "new.toml")
    moa_models("add", "gpt-4o")
    assert (folder / "new.toml").exists()
    moa_models("add", "gpt-5", "--config", "other.toml")
    assert list(load(folder / "other.toml").endpoints) == ["gpt-5"]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("MOA_CACHE", str(tmp_path / "cache"))
    isolate(monkeypatch, tmp_path)
    with serving() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


def configured(folder: Path, model: str, *lines: str) -> None:
    table = ["[endpoints.medium]", 'tier = "llm"', 'serve = "llama.cpp"', f'model = "{model}"']
    (folder / "moa.toml").write_text("\n".join([*table, *lines]) + "\n")


@pytest.mark.parametrize("name", ["medium", "hf:owner/name/mine.gguf"])
def test_a_model_is_fetched_by_the_name_of_its_endpoint_or_of_its_file(
    name: str, folder: Path, hub: Hub
) -> None:
    configured(folder, "hf:owner/name/mine.gguf")
    out, err = moa_models("fetch", name)
    kept = folder / "cache/models/owner/name/mine.gguf"
    assert out == f"fetched: {kept}\nchecked: its SHA-256 is {SHA256}\n"
    assert err == "Fetching mine.gguf (owner/name, 0 MB)\n"
    assert kept.read_bytes() == CONTENT
    assert moa_models("fetch", name).out == f"already there: {kept}\n"
    assert [path for path, _ in hub.asked] == ["/owner/name/resolve/main/mine.gguf"]


def test_a_model_of_the_catalogue_is_fetched_and_that_nobody_knows_its_hash_is_said(
    folder: Path, hub: Hub
) -> None:
    hub.headers = {}
    said = moa_models("fetch", "qwen3-0.6b").out
    assert "not checked: neither the catalogue nor the hub says" in said
    (asked,) = hub.asked
    assert asked[0] == "/Qwen/Qwen3-0.6B-GGUF/resolve/main/Qwen3-0.6B-Q8_0.gguf"
    assert (folder / "cache/models/Qwen/Qwen3-0.6B-GGUF/Qwen3-0.6B-Q8_0.gguf").exists()


def test_a_file_of_one_s_own_is_there_already(folder: Path, hub: Hub) -> None:
    (folder / "mine.gguf").write_bytes(CONTENT)
    configured(folder, "mine.gguf")
    assert moa_models("fetch", "medium").out == f"already there: {folder / 'mine.gguf'}\n"
    assert not hub.asked


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("qwen3_4b", "Did you mean 'qwen3-4b'?"),
        ("phi-2", "the catalogue knows no GGUF file of 'phi-2'"),
        ("large", "[endpoints.large] is asked over the network"),
        ("medium", "weights.gguf can't be read"),
    ],
)
def test_what_cannot_be_fetched_is_told(name: str, says: str, folder: Path, hub: Hub) -> None:
    configured(folder, "weights.gguf", "[endpoints.large]", 'tier="llm"', 'model="gpt-5-mini"')
    assert says in moa_models("fetch", name, leaves=2).err
    assert not hub.asked


def test_ctrl_c_keeps_what_was_fetched_and_the_next_fetch_goes_on(folder: Path, hub: Hub) -> None:
    hub.content, hub.go_on = CONTENT * 240, threading.Event()  # it is kept in pieces of 10 MB
    hub.headers = {"ETag": f'"{hashlib.sha256(hub.content).hexdigest()}"'}
    command = [sys.executable, "-m", "moa", "models", "fetch", "hf:owner/name/mine.gguf"]
    part = folder / "cache/models/owner/name/mine.gguf.part"
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as fetching:
        late = time.monotonic() + 30
        while not (part.exists() and part.stat().st_size):
            assert time.monotonic() < late
            time.sleep(0.02)
        fetching.send_signal(signal.SIGINT)
        _, err = fetching.communicate(timeout=20)
    assert fetching.returncode == 130
    assert "the same command goes on from there" in err
    there = part.stat().st_size
    assert 0 < there < len(hub.content)
    hub.go_on = None
    moa_models("fetch", "hf:owner/name/mine.gguf")
    assert hub.told("Range") == [None, f"bytes={there}-"]


def test_models_and_doctor_say_what_is_not_fetched_yet(folder: Path, hub: Hub) -> None:
    configured(folder, "qwen3-0.6b", "input_price = 1", "output_price = 2")
    medium, _ = moa_models("--json").lines
    assert (medium["reachable"], medium["default_of"]) == (False, ["llm"])
    assert (medium["model"], medium["address"]) == ("qwen3-0.6b", "this machine")
    assert "Run: moa models fetch medium" in medium["state"]
    assert medium["output_price"] == 2
    assert "miss endpoint medium (qwen3-0.6b)" in told("doctor", leaves=1).out
    assert not hub.asked
    moa_models("fetch", "medium")
    medium, _ = moa_models("--json").lines
    assert medium["reachable"]
    assert medium["state"].startswith("ready, weights in ")


def test_a_probe_of_what_may_cost_money_waits_for_a_yes(folder: Path) -> None:
    (folder / "moa.toml").write_text(
        '[endpoints.far]\ntier = "slm"\nmodel = "m"\nbase_url = "https://models.example.com/v1"\n'
    )
    said = moa_models("probe", "far", "--config", "moa.toml", leaves=2).err
    assert "far may cost money, and nothing was sent" in said
    assert "--yes" in said


HERE = ["--no-gpu", "--ram", "16GB", "--cores", "8"]


@pytest.mark.parametrize(
    ("words", "endpoint", "tier", "served", "said"),
    [
        ("create --complexity complex --vendor openai", "large", "llm", False, "[endpoints.large]"),
        ("classify --labelled 200 --gpu L4", "small", "slm", True, "Wrote [endpoints.small] into"),
        ("classify --complexity simple", None, "", False, "Nothing to write for SmolLM2 135M"),
    ],
)
def test_what_needs_an_endpoint_is_written_and_nothing_else_claimed_to_be(
    words: str, endpoint: str | None, tier: str, served: bool, said: str
) -> None:
    here = [] if "--gpu" in words else HERE
    assert said in told("choose", *words.split(), *here, "--write").out
    assert Path("moa.toml").exists() == (endpoint is not None)
    if endpoint is not None:
        config = load("moa.toml")
        assert config.endpoints[endpoint].tier == tier
        assert (endpoint in config.served_endpoints) == served


def test_a_vendor_is_asked_where_its_key_is_set_unless_the_items_are_private(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MISTRAL_API_KEY", "x")
    words = ("choose", "create", "--complexity", "complex", *HERE, "--json")
    assert told(*words).lines[0]["plans"][0]["vendor_model"]
    private = told(*words, "--private").lines[0]
    assert not any(plan["vendor_model"] for plan in private["plans"])


def test_models_are_shown_with_memory_and_hours_and_what_is_left_out_with_the_reason() -> None:
    shown = told("choose", "converse", "--gpu", "L4", "--ram", "16GB", "--per-day", "2000").out
    assert "hours for 2,000" in shown
    assert "more: --json" in shown
    assert "too big: " in shown
    assert "llama-3-70b (" in shown


def test_where_nothing_fits_that_is_said_and_nothing_written() -> None:
    words = ("choose", "converse", "--private", "--latency", "0.001", *HERE, "--write")
    assert "Nothing fits" in told(*words, leaves=1).out
    assert not Path("moa.toml").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("classify --language klingon", "the task languages[0]"),
        ("classify --vendor opnai", "Did you mean 'openai'"),
        ("classify --vendor openai --private", "contradict"),
        ("sing", "'JOB'"),
        ("classify --complexity huge", "'--complexity'"),
        ("classify --per-day -3", "'--per-day'"),
    ],
)
def test_what_an_option_can_t_be_is_said(words: str, said: str) -> None:
    err = told("choose", *words.split(), *HERE, leaves=2).err
    assert said in err
    assert "moa.toml" not in err
