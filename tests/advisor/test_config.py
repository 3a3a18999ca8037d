"""How vLLM serves a model on a machine, the endpoint that it becomes, and what its user is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from moa.advisor.config import Setup, setup, vllm_table
from moa.advisor.fit import STEPS, LocalModel, vllm_fit
from moa.advisor.hardware import GPU, Machine
from moa.config import load
from moa.config.catalogue import Model, model, models
from moa.config.file import write_endpoint
from moa.config.tables import AddressConfig, Config, ServerConfig, Tiers, endpoint_of
from moa.core.errors import ConfigError
from moa.vllm.settings import VLLMConfig

GIB = 2**30


def computer(*cards: str, ram: int = 64) -> Machine:
    gpus = tuple(GPU.from_name(card) for card in cards)
    return Machine(cores=8, ram=ram * GIB, ram_free=ram * GIB * 9 // 10, gpus=gpus)


MACHINES = {
    "none": computer(ram=8),
    "big RAM": computer(ram=256),
    "T4": computer("T4"),
    "L4": computer("L4"),
    "eight H100": computer(*["H100"] * 8, ram=512),
}
NOTHING = Config()
SMALL = Machine(cores=4, ram=16 * GIB, ram_free=14 * GIB)
OPEN = [known for known in models().values() if known.kind == "open"]


def serving(name: str, machine: Machine, **wish: Any) -> LocalModel:
    found = vllm_fit(model(name), machine, **wish)
    assert found.fits
    return found


def endpoints(**tables: dict[str, object]) -> Config:
    return Config(
        endpoints={
            name: endpoint_of({"tier": "llm", "model": "m"} | table)
            for name, table in tables.items()
        }
    )


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
@pytest.mark.parametrize("known", OPEN, ids=lambda known: known.name)
def test_what_is_taken_fits_and_is_a_table_that_loads(known: Model, machine: Machine) -> None:
    if known.no_float16 and machine is MACHINES["T4"]:
        return
    served = vllm_fit(known, machine)
    if not served.fits:
        assert served.total_bytes > served.budget
        return
    assert served.tokens <= (known.context or 0)
    endpoint = ServerConfig.model_validate(vllm_table(served))
    assert endpoint.serve == "vllm"
    share = endpoint.vllm.gpu_memory_utilization
    if served.place.gpu:
        assert share is not None
        given = share * served.place.gpu.memory * served.place.count
        assert given >= served.total_bytes * 0.995
        assert share <= 0.92
    else:
        assert int(endpoint.vllm.env["VLLM_CPU_KVCACHE_SPACE"]) * GIB >= served.kv


ON_CPU = {
    "port": 8000,
    "max_model_len": 8192,
    "max_num_seqs": 4,
    "env": {"VLLM_CPU_KVCACHE_SPACE": "1"},
}
MISTRAL = "mistralai/Mistral-7B-Instruct-v0.3"


@pytest.mark.parametrize(
    ("name", "machine", "kept", "served_as", "settings"),
    [
        ("mistral-7b", "eight H100", "bf16", MISTRAL, {"quantization": None}),
        ("mistral-7b", "L4", "fp8", MISTRAL, {"quantization": "fp8", "dtype": None}),
        ("qwen3-14b", "L4", "int4", "Qwen/Qwen3-14B-AWQ", {"quantization": None}),
        pytest.param(
            *("mistral-7b", "T4", "int4", "RedHatAI/Mistral-7B-Instruct-v0.3-quantized.w4a16"),
            {"dtype": "float16"},
            id="a card before Ampere computes in float16",
        ),
        pytest.param(
            *("llama-3.3-70b", "eight H100", "fp8", "RedHatAI/Llama-3.3-70B-Instruct-FP8-dynamic"),
            {"args": ["--tensor-parallel-size", "2"]},
            id="several GPUs share weights before they are made coarse",
        ),
        pytest.param(
            *("smollm2-135m", "none", "bf16", "HuggingFaceTB/SmolLM2-135M-Instruct", ON_CPU),
            id="a processor gets the space of its cache, and few requests at once",
        ),
    ],
)
def test_weights_are_as_exact_as_fits_and_published_files_are_served_as_they_are(
    name: str, machine: str, kept: str, served_as: str, settings: dict[str, object]
) -> None:
    served = serving(name, MACHINES[machine])
    table = vllm_table(served)
    written = cast("dict[str, object]", table["vllm"])
    assert served.quantisation == kept
    assert table["model"] == served_as
    assert {key: written.get(key) for key in settings} == settings
    assert machine != "none" or written == settings
    assert machine != "eight H100" or (served.tokens, served.concurrency) == STEPS[0]


def test_a_model_that_goes_wrong_in_float16_and_one_of_another_server_are_not_served() -> None:
    with pytest.raises(ConfigError, match="compute in float16"):
        vllm_fit(model("gemma-3-4b"), MACHINES["T4"])
    assert vllm_fit(model("gemma-3-4b"), MACHINES["L4"]).fits
    with pytest.raises(ConfigError, match="'laya'"):
        vllm_fit(model("laya"), MACHINES["L4"])


def test_what_is_asked_for_is_kept_to() -> None:
    served = serving("qwen3-8b", MACHINES["eight H100"], tokens=2048, concurrency=64)
    assert (served.tokens, served.concurrency) == (2048, 64)
    assert ServerConfig.model_validate(vllm_table(served)).vllm.max_model_len == 2048
    assert not vllm_fit(model("qwen3-8b"), MACHINES["T4"], tokens=32_768, concurrency=64).fits


def test_a_processor_is_given_no_fp8() -> None:
    found = [vllm_fit(known, computer(ram=16)) for known in OPEN]
    assert {served.quantisation for served in found if served.fits} == {"bf16", "int4"}


def test_what_is_configured_already_is_not_taken_twice() -> None:
    one = serving("qwen3-14b", MACHINES["L4"])
    beside = vllm_fit(one.model, MACHINES["L4"], config=endpoints(first=vllm_table(one)))
    assert (beside.tokens, beside.concurrency) < (one.tokens, one.concurrency) or not beside.fits


def test_a_server_takes_the_share_that_is_stated_else_all_and_is_counted_once() -> None:
    whole = endpoints(first={"serve": "vllm"})
    assert not vllm_fit(model("smollm2-135m"), MACHINES["L4"], config=whole).fits
    gpu = GPU(name="L4", memory=24 * GIB, free=12 * GIB, capability=(8, 9))
    machine = Machine(cores=8, ram=64 * GIB, ram_free=60 * GIB, gpus=(gpu,))
    up = endpoints(up={"serve": "vllm", "vllm": VLLMConfig(gpu_memory_utilization=0.5)})
    served = serving("qwen3-1.7b", machine, config=up)
    assert served.budget == pytest.approx(0.42 * 24 * GIB, rel=0.01)


def add(
    name: str,
    *,
    machine: Machine = MACHINES["eight H100"],
    config: Config = NOTHING,
    **wished: Any,
) -> Setup:
    return setup(model(name), "new", machine=machine, config=config, **wished)


@pytest.mark.parametrize("name", [name for name, known in models().items() if not known.retired])
def test_every_known_model_becomes_an_endpoint_that_loads(name: str, tmp_path: Path) -> None:
    made = add(name)
    file = write_endpoint(tmp_path / "moa.toml", "new", made.table, tiers=made.tiers)
    endpoint = load(file).endpoints["new"]
    assert endpoint.tier == model(name).tier
    assert not isinstance(endpoint, AddressConfig) or endpoint.addresses("new")[0].startswith(
        "http"
    )
    assert made.notes
    assert made.steps


ANYWAY = {"machine": SMALL, "anyway": True}
LLAMA = "RedHatAI/Meta-Llama-3-70B-Instruct-quantized.w4a16"


@pytest.mark.parametrize(
    ("name", "wished", "table", "said"),
    [
        ("qwen3-8b", {}, {"serve": "vllm"}, "moa up new"),
        ("qwen3-8b", {"tier": "llm"}, {"tier": "llm"}, "moa up new"),
        ("llama-3-8b", {}, {}, "https://huggingface.co/meta-llama/Meta-Llama-3-8B-Instruct"),
        ("llama-3-8b", {}, {}, "export HF_TOKEN="),
        ("llama-3-8b", {}, {}, "moa up new"),
        ("llama-3-70b", ANYWAY, {"model": LLAMA}, "does not fit this machine"),
        ("qwen3-1.7b", {}, {}, "not compared with a source: repositories, files"),
        ("gpt-5-nano", {"tier": "slm"}, {"tier": "slm"}, "moa models"),
        ("gpt-6-luna", {}, {"decide": "decisions"}, "moa models"),
        ("jev", {}, {"decide": "systemone"}, "moa models"),
        ("laya", {}, {"base_url": "http://127.0.0.1:8080/v1"}, "llama serve -hf ggml-org/Laya-"),
        ("gemini-1.5-pro", {"anyway": True}, {"model": "gemini-1.5-pro"}, "moa models"),
    ],
)
def test_a_table_is_made_and_what_its_user_does_next_is_said(
    name: str, wished: dict[str, Any], table: dict[str, object], said: str
) -> None:
    made = add(name, **wished)
    assert dict(made.table) | table == made.table
    assert said in "\n".join((*made.notes, *made.steps))


def test_a_note_is_given_only_where_there_is_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    made = add("claude-haiku-4-5")
    assert made.table == {"tier": "llm", "model": "claude-haiku-4-5"}
    assert made.steps[0] == "export ANTHROPIC_API_KEY=…"
    assert "US$ 1 per million input tokens" in made.notes[0]
    monkeypatch.setenv("ANTHROPIC_API_KEY", "k")
    assert add("claude-haiku-4-5").steps == ("moa models",)
    assert add("qwen3-8b").steps == ("moa up new",)
    assert not any("not compared" in note for note in add("smollm2-135m").notes)


@pytest.mark.parametrize(
    ("name", "wished"),
    [
        ("llama-3-70b", {"machine": SMALL}),
        ("qwen3-8b", {"tokens": 32_768, "concurrency": 999}),
        ("gemini-1.5-pro", {}),
    ],
)
def test_what_does_not_fit_or_is_retired_is_refused_as_it_was_asked(
    name: str, wished: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError):
        add(name, **wished)


def test_a_gpu_that_is_given_away_is_not_written_as_a_share_of_nothing() -> None:
    made = add("smollm2-135m", config=endpoints(a={"serve": "vllm"}), anyway=True)
    assert ServerConfig.model_validate(made.table).vllm.gpu_memory_utilization == 0.92
    assert "beside what is configured" in made.notes[0]


def test_a_port_is_given_that_nobody_else_has() -> None:
    taken = endpoints(
        a={"base_url": "http://127.0.0.1:8000/v1"},
        b={"serve": "vllm", "vllm": {"port": 8001, "replicas": 2}},
    )
    made = add("smollm2-135m", machine=SMALL, config=taken)
    assert ServerConfig.model_validate(made.table).vllm.port == 8003


def test_an_endpoint_that_is_overwritten_does_not_stand_in_its_own_way() -> None:
    first = add("qwen3-30b-a3b")
    again = add("qwen3-30b-a3b", config=endpoints(new=dict(first.table)))
    assert again.table == first.table
    assert not again.tiers


def test_the_default_of_a_tier_stays_what_it_was() -> None:
    large = endpoints(large={"model": "gpt-5-mini"})
    made = add("gpt-4o", config=large)
    assert made.tiers == {"llm": "large"}
    assert any("[endpoints.large] stays the default" in note for note in made.notes)
    stated = large.model_copy(update={"tiers": Tiers(llm="large")})
    assert not add("gpt-4o", config=stated).tiers
    assert not add("qwen3-0.6b", config=large).tiers
