"""The catalogue: every entry agrees with itself, and the figures with those that are published."""

from __future__ import annotations

from datetime import date
from typing import cast

import pytest
from pydantic import ValidationError

from moa.config.catalogue import BITS, Attention, Model, Quantisation, model, models
from moa.core.errors import ConfigError
from moa.local.weights import HubFile

ALL = list(models())
OPEN = [name for name, known in models().items() if known.kind == "open"]
SOLD = [name for name, known in models().items() if known.kind == "api"]
DECIDING = [name for name, known in models().items() if known.kind == "decision"]


@pytest.mark.parametrize("name", ALL)
def test_an_entry_agrees_with_itself(name: str) -> None:
    known = model(name)
    assert known.parameters is not None or known.active_parameters is None
    assert (known.active_parameters or 0) <= (known.parameters or 0)
    assert known.embeddings <= (known.parameters or 0)
    for kind, size in known.published.items() if known.parameters else ():
        computed = (known.parameters or 0) - known.embeddings
        computed = computed * BITS[kind] / 8 + known.embeddings * 2
        assert size == pytest.approx(computed, rel=0.1)
    assert known.good_for
    assert set(known.good_for) <= set(known.quality)
    assert set(known.unchecked) <= known.model_fields_set
    assert known.verified <= date.today()
    assert known.released is None or known.released <= f"{date.today():%Y-%m}"
    assert all(source.scheme == "https" and source.host for source in known.sources)
    assert set(known.sha256) <= set(known.files) <= set(known.repositories)
    for kind, file in known.files.items():
        assert HubFile.parse(f"hf:{known.repositories[kind]}/{file}").name == file
        assert "llama.cpp" in known.servers


@pytest.mark.parametrize("name", OPEN)
def test_an_open_model_says_what_serving_it_takes_and_fewer_bits_weigh_less(name: str) -> None:
    known = model(name)
    assert known.hub is not None
    assert "vllm" in known.servers
    assert known.context is not None
    assert known.licence_url is not None
    attention = known.attention
    assert attention is not None
    values = 2 * attention.layers * attention.kv_heads * attention.head_dim
    assert known.kv_bytes_per_token == values * 2
    assert (attention.window is None) == (attention.windowed_layers == 0)
    assert attention.windowed_layers < attention.layers
    assert set(known.weights) == set(BITS)
    order: tuple[Quantisation, ...] = ("bf16", "fp8", "int4")
    sizes = [known.weights[kind].bytes for kind in order]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("name", SOLD)
def test_a_vendors_model_has_a_published_price_and_a_cache_that_is_not_known(name: str) -> None:
    known = model(name)
    assert known.vendor_model is not None
    assert known.servers == ("vendor",)
    assert known.price.known
    assert known.kv_bytes_per_token is None
    with pytest.raises(ConfigError, match=f"KV cache of '{name}'"):
        known.kv_bytes(1)


@pytest.mark.parametrize("name", DECIDING)
def test_a_decision_model_says_how_it_decides_and_what_serves_it(name: str) -> None:
    known = model(name)
    assert known.decides is not None
    assert "decide" in known.good_for
    assert known.start is not None or known.servers == ("vendor",)
    assert "vllm" not in known.servers


@pytest.mark.parametrize(
    ("name", "parameters", "kv_bytes"),
    [
        pytest.param("smollm2-135m", 134_515_008, 23_040, id="tied embeddings"),
        pytest.param("mistral-7b", 7_248_023_552, 131_072, id="grouped queries"),
        pytest.param("phi-2", 2_779_683_840, 327_680, id="every head its own keys"),
        pytest.param("llama-3-8b", 8_030_261_248, 131_072, id="8B"),
        pytest.param("llama-3-70b", 70_553_706_496, 327_680, id="70B"),
        pytest.param("qwen3-30b-a3b", 30_532_122_624, 98_304, id="mixture of experts"),
        pytest.param("qwen3.5-9b", None, 2 * 8 * 4 * 256 * 2, id="hybrid, without its state"),
        pytest.param("laya", None, 0, id="an encoder keeps no cache"),
    ],
)
def test_well_known_figures_are_right(name: str, parameters: int | None, kv_bytes: int) -> None:
    assert parameters in (None, model(name).parameters)
    assert model(name).kv_bytes_per_token == kv_bytes


@pytest.mark.parametrize(
    ("layers", "special", "tokens", "kept"),
    [
        pytest.param(6, {"window": 100, "windowed_layers": 5}, 100, 6 * 100 * 32, id="as others"),
        pytest.param(
            6,
            {"window": 100, "windowed_layers": 5},
            1_000,
            (1_000 + 5 * 100) * 32,
            id="full window",
        ),
        pytest.param(2, {"state": 1_000}, 0, 1_000, id="a hybrid's state"),
        pytest.param(2, {"state": 1_000}, 10, 1_000 + 2 * 10 * 32, id="beside its cache"),
    ],
)
def test_a_window_stops_the_cache_from_growing_and_a_hybrid_keeps_a_state_beside_it(
    layers: int, special: dict[str, int], tokens: int, kept: int
) -> None:
    attention = Attention.model_validate({"layers": layers, "kv_heads": 1, "head_dim": 8} | special)
    assert attention.bytes(tokens) == kept


def test_published_weights_go_before_computed_ones() -> None:
    weights = model("mistral-7b").weights
    assert weights["int4"].published
    assert weights["int4"].repository == "RedHatAI/Mistral-7B-Instruct-v0.3-quantized.w4a16"
    assert not weights["fp8"].published
    assert weights["bf16"].repository == "mistralai/Mistral-7B-Instruct-v0.3"


def test_a_misspelt_name_or_key_is_an_error() -> None:
    with pytest.raises(ConfigError, match="'mistral-7b'"):
        model("mistal-7b")
    fields = model("laya").model_dump(exclude_defaults=True)
    with pytest.raises(ValidationError, match="licence_link"):
        Model.model_validate(cast("dict[str, object]", {**fields, "licence_link": "x"}))


def test_the_models_that_a_user_looks_for_are_there() -> None:
    wanted = {"mistral-7b", "phi-2", "phi-4", "llama-3-8b", "llama-3-70b", "qwen3-0.6b"}
    wanted |= {"smollm2-135m", "gemma-3-4b", "gpt-4o", "gemini-2.5-pro", "kev-4b", "laya", "clef"}
    assert wanted <= set(models())
    assert model("jev").price.known
    assert model("jev").price.output == 0, "decisions cost no output"
    assert model("qwen3-0.6b").gguf == HubFile("Qwen/Qwen3-0.6B-GGUF", "Qwen3-0.6B-Q8_0.gguf")
    assert model("phi-2").gguf is None
