"""Tiers: who serves as small and as large model, under every configuration."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from decimal import Decimal
from pathlib import Path

import pytest

from moa.config import config_of
from moa.config.endpoints import NO_LLM, Endpoints
from moa.config.loading import endpoint_names, load_graph
from moa.config.tables import AddressConfig, AnyEndpoint, Config, ServerConfig, Tiers
from moa.core._files import cache_folder
from moa.core.context import Reference, RunContext
from moa.core.errors import ConfigError, ModelNotFound
from moa.core.usage import Price
from moa.endpoints import Endpoint, Prompt
from moa.endpoints.openai import OpenAIEndpoint
from moa.endpoints.retries import Retried
from moa.endpoints.wrappers import Cached, Fallback
from moa.local.embedded import EmbeddedEndpoint
from moa.local.encoders import JointEncoder
from moa.local.weights import find_weights
from moa.testing import ScriptedEndpoint
from moa.vllm.replicas import Replicas

SMALL = AddressConfig(tier="slm", model="small-1", base_url="http://127.0.0.1:9/v1")
LARGE = AddressConfig(tier="llm", model="large-1", base_url="http://127.0.0.1:9/v1")


def endpoints(tiers: Tiers | None = None, **configured: AnyEndpoint) -> Endpoints:
    return Endpoints(Config(endpoints=configured, tiers=tiers or Tiers()))


def served(of: Endpoints) -> tuple[str, str]:
    return of.slm.name, of.llm.name


@pytest.mark.parametrize(
    ("configured", "tiers", "slm", "llm"),
    [
        pytest.param({}, {}, "embedded", "embedded", id="nothing"),
        pytest.param({"large": LARGE}, {}, "embedded", "large", id="an LLM alone"),
        pytest.param({"small": SMALL}, {}, "small", "small", id="an SLM alone"),
        pytest.param({"small": SMALL, "large": LARGE}, {}, "small", "large", id="both"),
        pytest.param(
            {"small": SMALL, "large": LARGE}, {"slm": "embedded"}, "embedded", "large", id="picked"
        ),
        pytest.param(
            {"small": SMALL}, {"slm": "embedded", "llm": "small"}, "embedded", "small", id="misfit"
        ),
    ],
)
def test_a_small_model_stands_in_where_there_is_no_large_one(
    configured: dict[str, AnyEndpoint], tiers: dict[str, str], slm: str, llm: str
) -> None:
    one = endpoints(Tiers.model_validate(tiers), **configured)
    assert one.slm.name == slm
    assert not one.used_slm_as_llm  # before a large one is asked for
    assert one.llm.name == llm
    assert one.has_llm == (llm == "large") == (one.llm.tier == "llm") != one.used_slm_as_llm
    assert (one.reference.endpoint if one.reference else None) == (llm if one.has_llm else None)


def test_the_cost_of_a_run_is_compared_without_the_key_or_the_server_of_the_llm() -> None:
    vendor = AddressConfig(tier="llm", model="gpt-5-mini")
    down = ServerConfig(
        tier="llm",
        model="gpt-5-mini",
        serve="vllm",
        input_price=Decimal(1),
        output_price=Decimal(2),
    )
    for large in (vendor, down):
        one = endpoints(small=SMALL, large=large)
        assert one.reference is not None
        assert (one.reference.endpoint, one.reference.price) == ("large", large.price())
        assert one.reference.price.known
        assert one.used == ()
    assert endpoints(large=LARGE, other=LARGE).reference is None
    assert endpoints(Tiers(llm="other"), large=LARGE, other=LARGE).reference is not None


def test_without_an_argument_the_configuration_is_the_one_of_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert served(Endpoints()) == ("embedded", "embedded")
    table = '[endpoints.{}]\ntier = "slm"\nmodel = "m"\nbase_url = "http://127.0.0.1:9/v1"\n'
    (tmp_path / "moa.toml").write_text(table.format("here"))
    (tmp_path / "other.toml").write_text(table.format("there"))
    assert Endpoints().slm.name == "here"
    assert Endpoints("other.toml").slm.name == "there"


def test_the_notice_fits_a_terminal_of_80_columns() -> None:
    assert max(map(len, NO_LLM.splitlines())) <= 80


def test_an_endpoint_is_built_once() -> None:
    both = endpoints(small=SMALL, large=LARGE)
    assert both.slm is both.named("small")
    assert len(both.used) == 1


def test_an_endpoint_that_is_not_there_is_named_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="'smal'"):
        endpoints(small=SMALL).named("smal")


def test_a_missing_key_is_no_matter_until_its_endpoint_is_used() -> None:
    hosted = AddressConfig(tier="llm", model="gpt-5-mini")
    both = endpoints(small=SMALL, large=hosted)
    assert both.slm.name == "small"
    with pytest.raises(ConfigError, match="OPENAI_API_KEY"):
        _ = both.llm


async def test_closing_twice_does_nothing() -> None:
    both = endpoints(small=SMALL, large=LARGE)
    served(both)
    await both.close()
    await both.close()


async def test_all_endpoints_are_closed_where_one_cannot_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    closed: list[str] = []

    async def close(of: Endpoint) -> None:
        closed.append(of.name)
        raise OSError(f"{of.name} is stuck")

    monkeypatch.setattr("moa.endpoints.wrappers.Wrapping.close", close)
    both = endpoints(small=SMALL, large=LARGE)
    assert served(both) == ("small", "large")
    with pytest.raises(OSError, match="is stuck"):
        await both.close()
    assert sorted(closed) == ["large", "small"]


URLS = ("http://127.0.0.1:8/v1", "http://127.0.0.1:9/v1")


def test_several_addresses_are_replicas_behind_one_name_and_one_is_none() -> None:
    many = endpoints(small=SMALL.model_copy(update={"base_url": URLS}))
    assert isinstance(many.slm, Retried)
    assert isinstance(many.slm.endpoint, Replicas)
    assert many.slm.name == "small"
    assert many.slm.endpoint.alive == ("small@127.0.0.1:8", "small@127.0.0.1:9")
    one = endpoints(small=SMALL.model_copy(update={"base_url": URLS[:1]}))
    assert isinstance(one.slm, Retried)
    assert isinstance(one.slm.endpoint, OpenAIEndpoint)
    assert one.slm.endpoint.name == "small"


def test_a_priority_is_said_to_vllm() -> None:
    urgent = endpoints(small=SMALL.model_copy(update={"priority": -1}))
    body = urgent.server("small").chat(Prompt.of("Hi"))
    assert body["priority"] == -1


def written(folder: Path, model: str, *lines: str, name: str = "moa.toml") -> Path:
    """Write a configuration whose LLM runs in this machine."""
    file = folder / name
    table = ["[endpoints.large]", 'tier = "llm"', 'serve = "llama.cpp"', f'model = "{model}"']
    file.write_text("\n".join([*table, *lines]) + "\n")
    return file


def embedded_in(configured: Endpoints, name: str = "large") -> EmbeddedEndpoint:
    endpoint = configured.named(name)
    assert isinstance(endpoint, EmbeddedEndpoint)
    return endpoint


def test_a_model_in_this_machine_is_an_endpoint_as_its_table_says(tmp_path: Path) -> None:
    (tmp_path / "big.gguf").write_bytes(b"GGUF")
    keys = ("context_window = 2048", "concurrency = 2", "input_price = 1", "output_price = 2")
    large = embedded_in(Endpoints(written(tmp_path, "big.gguf", *keys)))
    assert (large.name, large.tier, large.model) == ("large", "llm", "big")
    assert large.model_path == tmp_path / "big.gguf"
    assert (large.context_window, large.settings.context_window) == (2048, 2048)
    assert large.settings.slots == 2
    assert (large.price.input, large.price.output) == (1, 2)
    one = Endpoints(written(tmp_path, "big.gguf"))
    assert served(one) == ("embedded", "large")
    assert one.has_llm
    assert one.reference is not None


def test_the_variable_of_the_built_in_model_says_nothing_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "big.gguf").write_bytes(b"GGUF")
    monkeypatch.setenv("MOA_MODEL", "other.gguf")
    both = Endpoints(written(tmp_path, "big.gguf"))
    assert embedded_in(both).model_path == tmp_path / "big.gguf"
    assert embedded_in(both, "embedded").model_path == Path("other.gguf")


def test_a_path_that_is_not_there_is_told_when_the_endpoint_is_built(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"\[endpoints.large\]"):
        _ = Endpoints(written(tmp_path, "weights/big.gguf")).llm


@pytest.mark.parametrize("model", ["qwen3-4b", "hf:owner/name/big.gguf"])
def test_a_model_that_is_not_here_yet_is_not_fetched_unasked(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.chdir(tmp_path)
    written(tmp_path, model)
    with pytest.raises(ModelNotFound):
        _ = Endpoints().llm
    other = written(tmp_path, model, name="other.toml")
    with pytest.raises(ModelNotFound, match=r"other\.toml"):
        _ = Endpoints(other).llm
    assert Endpoints(other, read_keys=False).llm.tier == "llm"  # enough to draw it


def test_the_built_in_model_by_its_name_is_fetched_at_first_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MOA_MODEL", "other.gguf")
    large = embedded_in(Endpoints(written(tmp_path, "smollm2-135m")))
    assert large.model_path == cache_folder() / "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("qwen3-4bb", "the catalogue has no model 'qwen3-4bb'. Did you mean 'qwen3-4b'"),
        ("phi-2", "the catalogue knows no GGUF file of 'phi-2'"),
        ("hf:owner/big.gguf", "write hf:OWNER/REPOSITORY/FILE.gguf"),
    ],
)
def test_a_model_that_names_no_weights_is_an_error(model: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"\[endpoints.large\] model: .*{says}"):
        _ = Endpoints(written(tmp_path, model)).llm


@pytest.mark.parametrize(
    ("window", "concurrency", "slots"), [(4096, 6, 4), (1536, 5, 4), (1536, 6, 6), (300, 8, 6)]
)
def test_a_model_in_this_machine_has_the_most_slots_that_its_engine_takes(
    window: int, concurrency: int, slots: int, tmp_path: Path
) -> None:
    (tmp_path / "big.gguf").write_bytes(b"GGUF")
    keys = (f"context_window = {window}", f"concurrency = {concurrency}")
    large = embedded_in(Endpoints(written(tmp_path, "big.gguf", *keys)))
    assert large.settings.slots == slots


@pytest.mark.embedded
async def test_a_model_in_this_machine_answers_at_any_concurrency(tmp_path: Path) -> None:
    file = written(tmp_path, str(find_weights()), "context_window = 512", "concurrency = 3")
    async with Endpoints(file) as configured:
        answer = await configured.llm.complete(Prompt.of("Hi", max_tokens=1), RunContext())
        assert answer.text


@pytest.mark.embedded
async def test_of_the_models_in_this_machine_those_that_will_be_asked_are_started(
    tmp_path: Path,
) -> None:
    file = written(tmp_path, str(find_weights()), "context_window = 512")
    async with Endpoints(file) as both:
        large, small = embedded_in(both), embedded_in(both, "embedded")
        await both.warm({"large"})
        assert large._clients  # pyright: ignore[reportPrivateUsage]
        assert not small._clients  # pyright: ignore[reportPrivateUsage]
        context = RunContext()
        await large.complete(Prompt.of("Hi", max_tokens=1), context)
        assert [(part.tier, part.endpoint) for part in context.usage.parts] == [("llm", "large")]


def test_a_cache_and_a_fallback_stand_around_an_endpoint_as_its_table_says() -> None:
    given = {"cache": "memory", "fallback": "large"}
    one = endpoints(small=SMALL.model_copy(update=given), large=LARGE)
    small = one.slm
    assert isinstance(small, Fallback)
    assert isinstance(small.endpoint, Cached)
    assert isinstance(small.endpoint.endpoint, Retried)
    assert repr(one.named("large")) in repr(small)
    assert isinstance(one.named("large"), Retried)


def test_a_cache_in_a_file_stands_beside_the_configuration(tmp_path: Path) -> None:
    file = tmp_path / "moa.toml"
    file.write_text(
        '[endpoints.small]\ntier = "slm"\nmodel = "m"\nbase_url = "http://127.0.0.1:9/v1"\n'
        'cache = "answers.sqlite"\nfallback = "embedded"\n'
    )
    small = Endpoints(file).slm
    assert isinstance(small, Fallback)
    assert isinstance(small.endpoint, Cached)
    kept = small.endpoint._file  # pyright: ignore[reportPrivateUsage]
    assert kept is not None
    assert kept.path == tmp_path / "answers.sqlite"


@pytest.mark.parametrize(
    ("fallback", "said"),
    [("lrage", "fallback = 'lrage' is no endpoint. Did you mean 'large'"), ("small", "leads back")],
)
def test_a_fallback_that_leads_nowhere_is_refused(fallback: str, said: str) -> None:
    tables = {
        "small": {"tier": "slm", "model": "m", "base_url": "http://h/v1", "fallback": "large"},
        "large": {"tier": "llm", "model": "m", "base_url": "http://h/v1", "fallback": fallback},
    }
    with pytest.raises(ConfigError, match=said):
        config_of({"endpoints": tables}, None)


def test_endpoints_that_exist_are_held_by_name_without_a_file_and_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("moa.toml").write_text("this is no TOML")
    monkeypatch.setenv("MOA_TIERS__SLM", "elsewhere")
    monkeypatch.setenv("MOA_ENDPOINTS__LARGE__MODEL", "other")
    small, other = ScriptedEndpoint(), ScriptedEndpoint()
    large = ScriptedEndpoint(
        name="writer", tier="llm", price=Price(input=Decimal(1), output=Decimal(2))
    )
    held = Endpoints.of(large=large, small=small, other=other)
    assert (held.slm, held.llm, held.named("other")) == (small, large, other)
    assert held.has_llm
    assert held.reference == Reference(endpoint="large", price=large.price)
    assert endpoint_names(load_graph("generator", held)) == {"writer"}
    with pytest.raises(ConfigError, match="'small'"):
        held.named("smal")
    asyncio.run(held.close())
    assert small.closed
    assert large.closed


def test_without_a_large_endpoint_the_small_one_given_stands_in() -> None:
    small = ScriptedEndpoint()
    held = Endpoints.of(small=small)
    assert held.llm is small
    assert held.used_slm_as_llm
    assert not held.has_llm


@pytest.mark.parametrize("texts", [[], ["", "a label"]])
async def test_encoders_are_loaded_before_they_are_asked_where_they_will_be(
    texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []

    def load(self: JointEncoder, texts: Collection[str]) -> None:
        del self
        loaded.extend(texts)

    monkeypatch.setattr(JointEncoder, "load", load)
    table = {"tier": "llm", "model": "some", "base_url": "http://127.0.0.1:1/v1"}
    async with Endpoints(Config.model_validate({"endpoints": {"large": table}})) as endpoints:
        endpoints.named("embedded")
        await endpoints.warm((), texts=texts)
    assert loaded == texts


@pytest.mark.parametrize(("asked", "loads"), [((), False), (("large",), True), (None, True)])
async def test_what_speaks_with_servers_is_loaded_where_one_will_be_asked(
    asked: Collection[str] | None, loads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    monkeypatch.setattr("moa.config.endpoints.import_module", loaded.append)
    table = {"tier": "llm", "model": "some", "base_url": "http://127.0.0.1:1/v1"}
    async with Endpoints(Config.model_validate({"endpoints": {"large": table}})) as endpoints:
        endpoints.named("large")
        loaded.clear()
        await endpoints.warm(asked)
    assert ("aiohttp" in loaded) == loads
