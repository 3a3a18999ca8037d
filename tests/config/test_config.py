"""Configuration: where it is found, what it may say, and what is said of what it may not."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from moa.cli.options import load_config
from moa.config import find, load, misspelt_variables
from moa.config.endpoints import Endpoints
from moa.config.tables import AddressConfig, EngineConfig
from moa.core.errors import ConfigError
from moa.core.usage import Price

SMALL = '[endpoints.small]\ntier = "slm"\nmodel = "m"\nbase_url = "http://127.0.0.1:1/v1"\n'
LOCAL = '[endpoints.medium]\ntier = "llm"\nserve = "llama.cpp"\nmodel = "qwen3-4b"\n'
LARGE = '[endpoints.large]\ntier = "llm"\nmodel = "gpt-5-mini"\n'


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def written(text: str, name: str = "moa.toml") -> str:
    Path(name).write_text(text)
    return name


def test_the_option_goes_before_the_variable_and_that_before_the_folder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert find() is None
    here, there, option = written("", "moa.toml"), written("", "b.toml"), written("", "c.toml")
    assert find() == Path(here)
    monkeypatch.setenv("MOA_CONFIG", there)
    assert find() == Path(there)
    assert find(option) == Path(option)


def test_a_file_that_is_named_and_missing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"'x\.toml'"):
        load("x.toml")
    monkeypatch.setenv("MOA_CONFIG", "y.toml")
    with pytest.raises(ConfigError, match=r"'y\.toml'"):
        load()


def test_without_a_file_nothing_is_configured() -> None:
    assert load().endpoints == {}


WRONG = {
    SMALL + 'modle = "m"\n': "'modle'",
    "[endpoint.small]\n": "'endpoint'",
    '[endpoints.small]\ntier = "tiny"\nmodel = "m"\n': "tier",
    '[endpoints.small]\ntier = "slm"\n': "'model'",
    SMALL + "concurrency = 0\n": "concurrency",
    SMALL + '[tiers]\nslm = "smal"\n': "'smal'",
    SMALL.replace("small", "embedded"): "embedded",
    "[endpoints\n": r"moa\.toml",
    "a = " + "[" * 3000 + "]" * 3000: r"moa\.toml",
    "endpoints = 3\n": "endpoints",
    **{f"{SMALL}{key}_price = 1\n": "_price" for key in ("input", "output", "cached_input")},
    SMALL.replace('"http://127.0.0.1:1/v1"', "[]"): "base_url",
    SMALL.replace('"http://127.0.0.1:1/v1"', "3"): "base_url",
    SMALL + 'serve = "vlm"\n': "serve",
    SMALL + '[tiers]\nslm = "x"\nllm = "y"\n': r"'x' .*\n.*'y' ",
    LARGE + "priority = 3\n": "priority",
    LOCAL + 'decide = "systemone"\n': "decide",
    f'{LOCAL}[endpoints.other]\ntier = "slm"\nmodel = "qwen3-4b"\nserved_by = "medium"\n': "serve",
    LOCAL + 'base_url = "http://127.0.0.1:1/v1"\n' + SMALL: "'base_url'",
    LOCAL + 'api_key_env = "KEY"\n' + SMALL: "'api_key_env'",
    LOCAL + 'served_by = "small"\n' + SMALL: "'served_by'",
    LOCAL + "priority = 1\n" + SMALL: "'priority'",
    LOCAL + "vllm = { replicas = 2 }\n" + SMALL: "'vllm'",
}


@pytest.mark.parametrize(("text", "named"), WRONG.items(), ids=range(len(WRONG)))
def test_what_is_wrong_is_named(text: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named) as caught:
        load(written(text))
    assert "pydantic" not in str(caught.value)


def test_all_faults_are_said_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        load(written('[endpoints.small]\nteir = "slm"\n'))
    assert len(str(caught.value).splitlines()) == 3


def test_the_environment_goes_before_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOA_ENDPOINTS__SMALL__MODEL", "other")
    assert load(written(SMALL)).endpoints["small"].model == "other"


def test_the_only_endpoint_of_a_tier_is_its_default_and_of_several_tiers_picks_it() -> None:
    config = load(written(SMALL + LARGE))
    assert (config.default_of("slm"), config.default_of("llm")) == ("small", "large")
    assert load(written(SMALL)).default_of("llm") is None
    two = SMALL + SMALL.replace("small", "second")
    with pytest.raises(ConfigError, match=r"\[tiers\]"):
        load(written(two)).default_of("slm")
    assert load(written(two + '[tiers]\nslm = "second"\n')).default_of("slm") == "second"


def test_the_vendor_of_a_known_model_brings_its_address_and_the_variable_of_its_key() -> None:
    endpoint = AddressConfig(tier="llm", model="gemini-2.5-flash")
    assert endpoint.addresses("x")[0].startswith("https://generativelanguage.googleapis.com/")
    assert endpoint.key_variable == "GEMINI_API_KEY"
    with pytest.raises(ConfigError, match="base_url"):
        AddressConfig(tier="llm", model="my-own").addresses("mine")


def test_a_key_comes_from_the_environment_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = AddressConfig(tier="llm", model="m", base_url="http://h/v1", api_key_env="MY_KEY")
    with pytest.raises(ConfigError, match="MY_KEY"):
        endpoint.key("mine")
    monkeypatch.setenv("MY_KEY", "s3cret")
    key = endpoint.key("mine")
    assert key is not None
    assert key.get_secret_value() == "s3cret"
    assert "s3cret" not in repr(key)
    assert AddressConfig(tier="slm", model="m", base_url="http://127.0.0.1:1/v1").key("x") is None


def test_prices_are_as_configured_else_as_published_else_unknown() -> None:
    published = AddressConfig(tier="llm", model="gpt-5-mini").price()
    assert published.known
    own = AddressConfig(
        tier="llm", model="gpt-5-mini", input_price=Decimal(3), output_price=Decimal(4)
    ).price()
    assert own == Price(input=Decimal(3), output=Decimal(4))
    half = AddressConfig(tier="llm", model="gpt-5-mini", output_price=Decimal(4)).price()
    assert (half.input, half.output) == (published.input, Decimal(4))
    assert not AddressConfig(tier="slm", model="m", base_url="http://127.0.0.1:1/v1").price().known


def test_one_price_of_a_known_model_replaces_the_published_one() -> None:
    written(LARGE + "input_price = 1\n")
    price = load().endpoints["large"].price()
    assert price.input == 1
    assert price.known


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("MOA_CONFG", "MOA_CONFIG"),
        ("MOA_MODELS", "MOA_MODEL"),
        ("MOA_ENDPOINT__SMALL__MODEL", "MOA_ENDPOINTS__SMALL__MODEL"),
    ],
)
def test_a_misspelt_variable_is_found_with_the_right_one(
    name: str, right: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "x")
    assert misspelt_variables() == {name: right}


@pytest.mark.parametrize("name", ["MOA_TIERS__SLM", "MOA_CACHE", "MOA_SOMETHING_ELSE", "MO_CONFG"])
def test_other_variables_are_left_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "x")
    assert misspelt_variables() == {}


def test_a_command_warns_of_a_misspelt_variable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MOA_CONFG", "other.toml")
    load_config(None)
    assert "MOA_CONFG. Did you mean MOA_CONFIG?" in capsys.readouterr().err


def test_an_endpoint_may_have_several_addresses() -> None:
    several = SMALL.replace('"http://127.0.0.1:1/v1"', '["http://a/v1", "http://b/v1"]')
    assert load(written(several)).endpoints["small"].urls == ("http://a/v1", "http://b/v1")
    assert load(written(SMALL)).endpoints["small"].urls == ("http://127.0.0.1:1/v1",)


def test_a_model_in_this_machine_is_no_server_of_moa_up() -> None:
    config = load(written(LOCAL + SMALL))
    assert config.served_endpoints == {}
    assert config.vllm_of("medium") is None
    embedded = [name for name in ("medium", "small", "embedded") if config.embeds(name)]
    assert embedded == ["medium", "embedded"]
    with pytest.raises(ConfigError):
        Endpoints(config, read_keys=False).server("medium")


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("weights/small.Q4_1.gguf", "small.Q4_1"),
        ("hf:owner/name/small-q4.gguf", "small-q4"),
        ("qwen3-0.6b", "qwen3-0.6b"),
    ],
)
def test_a_model_in_this_machine_is_known_by_the_name_of_its_file(model: str, name: str) -> None:
    assert EngineConfig(tier="llm", model=model, serve="llama.cpp").model_name == name
    assert AddressConfig(tier="llm", model=model).model_name == model
