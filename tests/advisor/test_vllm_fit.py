"""How vLLM serves a model on a machine: what is taken, and with which arguments."""

from __future__ import annotations

from typing import Any, cast

import pytest

from moa.advisor.catalogue import Model, model, models
from moa.advisor.config import vllm_table
from moa.advisor.fit import STEPS, LocalModel, vllm_fit
from moa.advisor.hardware import GPU, Machine
from moa.config import Config, EndpointConfig
from moa.errors import ConfigError
from moa.vllm.settings import VLLMConfig

GIB = 2**30


def computer(*cards: str, ram: int = 64) -> Machine:
    gpus = tuple(GPU.named(card) for card in cards)
    return Machine(cores=8, ram=ram * GIB, ram_free=ram * GIB * 9 // 10, gpus=gpus)


MACHINES = {
    "none": computer(ram=8),
    "big RAM": computer(ram=256),
    "T4": computer("T4"),
    "L4": computer("L4"),
    "eight H100": computer(*["H100"] * 8, ram=512),
}
OPEN = [known for known in models().values() if known.kind == "open"]


def serving(name: str, machine: Machine, **wish: Any) -> LocalModel:
    found = vllm_fit(model(name), machine, **wish)
    assert found.fits
    return found


def arguments(served: LocalModel) -> dict[str, object]:
    return cast("dict[str, object]", vllm_table(served)["vllm"])


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
@pytest.mark.parametrize("known", OPEN, ids=lambda known: known.name)
def test_what_is_taken_fits_and_is_a_table_that_loads(known: Model, machine: Machine) -> None:
    if known.no_float16 and machine is MACHINES["T4"]:
        return
    served = vllm_fit(known, machine)
    if not served.fits:
        assert served.needed > served.budget
        return
    assert served.tokens <= (known.context or 0)
    endpoint = EndpointConfig.model_validate(vllm_table(served))
    assert endpoint.serve == "vllm"
    share = endpoint.vllm.gpu_memory_utilization
    if served.place.gpu:
        assert share is not None
        given = share * served.place.gpu.memory * served.place.count
        assert given >= served.needed * 0.995
        assert share <= 0.92
    else:
        assert int(endpoint.vllm.env["VLLM_CPU_KVCACHE_SPACE"]) * GIB >= served.kv


@pytest.mark.parametrize(
    ("name", "machine", "kept", "served_as", "quantization"),
    [
        ("mistral-7b", "eight H100", "bf16", "mistralai/Mistral-7B-Instruct-v0.3", None),
        ("mistral-7b", "L4", "fp8", "mistralai/Mistral-7B-Instruct-v0.3", "fp8"),
        ("qwen3-14b", "L4", "int4", "Qwen/Qwen3-14B-AWQ", None),
    ],
)
def test_weights_are_as_exact_as_fits_and_published_files_are_served_as_they_are(
    name: str, machine: str, kept: str, served_as: str, quantization: str | None
) -> None:
    served = serving(name, MACHINES[machine])
    assert served.quantisation == kept
    assert vllm_table(served)["model"] == served_as
    assert arguments(served).get("quantization") == quantization
    assert kept != "bf16" or (served.tokens, served.concurrency) == STEPS[0]


def test_a_card_before_ampere_computes_in_float16() -> None:
    assert arguments(serving("mistral-7b", MACHINES["T4"]))["dtype"] == "float16"
    assert "dtype" not in arguments(serving("mistral-7b", MACHINES["L4"]))


def test_a_model_that_goes_wrong_in_float16_is_not_served_there() -> None:
    with pytest.raises(ConfigError, match="compute in float16"):
        vllm_fit(model("gemma-3-4b"), MACHINES["T4"])
    assert vllm_fit(model("gemma-3-4b"), MACHINES["L4"]).fits


def test_several_gpus_share_weights_before_they_are_made_coarse() -> None:
    served = serving("llama-3.3-70b", MACHINES["eight H100"])
    assert served.quantisation == "fp8"
    assert arguments(served)["args"] == ["--tensor-parallel-size", "2"]


def test_what_is_asked_for_is_kept_to() -> None:
    served = serving("qwen3-8b", MACHINES["eight H100"], tokens=2048, concurrency=64)
    assert (served.tokens, served.concurrency) == (2048, 64)
    assert arguments(served)["max_model_len"] == 2048
    assert not vllm_fit(model("qwen3-8b"), MACHINES["T4"], tokens=32_768, concurrency=64).fits


def test_a_processor_gets_the_space_of_its_cache_and_few_requests_at_once() -> None:
    served = serving("smollm2-135m", MACHINES["none"])
    assert arguments(served) == {
        "port": 8000,
        "max_model_len": 8192,
        "max_num_seqs": 4,
        "env": {"VLLM_CPU_KVCACHE_SPACE": "1"},
    }


def test_a_processor_is_given_no_fp8() -> None:
    kinds = {
        served.quantisation for known in OPEN if (served := vllm_fit(known, computer(ram=16))).fits
    }
    assert kinds == {"bf16", "int4"}


@pytest.mark.parametrize("place", ["L4", "none"])
def test_what_is_configured_already_is_not_taken_twice(place: str) -> None:
    machine = MACHINES[place]
    one = serving("qwen3-14b" if place == "L4" else "qwen3-1.7b", machine)
    first = EndpointConfig.model_validate(vllm_table(one))
    beside = vllm_fit(one.model, machine, config=Config(endpoints={"first": first}))
    assert (beside.tokens, beside.concurrency) < (one.tokens, one.concurrency) or not beside.fits


def test_a_server_without_a_stated_share_takes_the_whole_gpu() -> None:
    first = EndpointConfig(tier="slm", model="m", serve="vllm", vllm=VLLMConfig())
    config = Config(endpoints={"first": first})
    assert not vllm_fit(model("smollm2-135m"), MACHINES["L4"], config=config).fits


def test_memory_of_a_server_that_is_up_is_counted_once() -> None:
    gpu = GPU(name="L4", memory=24 * GIB, free=12 * GIB, capability=(8, 9))
    machine = Machine(cores=8, ram=64 * GIB, ram_free=60 * GIB, gpus=(gpu,))
    up = EndpointConfig(
        tier="slm", model="m", serve="vllm", vllm=VLLMConfig(gpu_memory_utilization=0.5)
    )
    served = serving("qwen3-1.7b", machine, config=Config(endpoints={"up": up}))
    assert served.budget == pytest.approx(0.42 * 24 * GIB, rel=0.01)


def test_a_model_that_vllm_does_not_serve_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no form of 'laya'"):
        vllm_fit(model("laya"), MACHINES["L4"])
