"""Planning: from a configuration to the servers that are to be started."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from moa.config import Config, nearest
from moa.errors import ConfigError
from moa.servers import VLLMConfig
from moa.serving.arguments import command, variables
from moa.serving.environments import find_environment
from moa.serving.spec import ServerSpec


def spec_of(
    name: str, model: str, config: VLLMConfig, *, port: int, base: Path, replica: int = 0
) -> ServerSpec:
    """Say how a server is started.

    Args:
        name: Of its endpoint.
        model: A folder, or a name on the hub.
        config: How it is served.
        port: Where it listens.
        base: Folder that relative paths start at.
        replica: Which of several it is, from 0 on.

    Raises:
        MissingDependency: vLLM is not installed.
        ConfigError: a folder is not there, or an argument is `moa`'s own.
    """
    environment = find_environment(config.python, env=config.env)
    words = command(model, config, environment, port=port, base=base)
    said = json.dumps([model, words, config.env], sort_keys=True)
    return ServerSpec(
        name=name,
        model=model,
        port=port,
        settings=hashlib.sha256(said.encode()).hexdigest()[:16],
        command=words,
        env=variables(model, config, environment, base=base, replica=replica),
    )


def chosen(config: Config, names: Iterable[str]) -> list[str]:
    """Name the endpoints that are meant: those named, or all that vLLM serves here.

    Raises:
        ConfigError: one is not there or served by others, or there is none at all.
    """
    served = config.served
    for name in names:
        if name not in config.endpoints and served:
            raise ConfigError(f"there is no endpoint {name!r}{nearest(name, list(served))}")
    known = [config.server_of(name) for name in names if name in config.endpoints]
    found = list(dict.fromkeys(known)) or list(served)
    for name in found:
        if config.embeds(name):
            raise ConfigError(
                f"there is nothing to start or to stop for [endpoints.{name}]: it runs in an "
                "engine of moa's own, which starts at its first call and ends with its process"
            )
        if name not in served:
            raise ConfigError(
                f'[endpoints.{name}] has no serve = "vllm", so its server is not moa\'s to start'
            )
    if not found:
        where = config.file or "moa.toml"
        embedded = [name for name in config.endpoints if config.embeds(name)]
        of_own = f" ({', '.join(embedded)}: started at the first call)" if embedded else ""
        raise ConfigError(
            f'{where} names no endpoint with serve = "vllm", so there is no server to start'
            f'{of_own}. Add three lines: [endpoints.small], tier = "slm", '
            'model = "Qwen/Qwen3-0.6B", and serve = "vllm"'
        )
    return found


def specs_of(config: Config, names: Iterable[str]) -> list[ServerSpec]:
    """Say how the servers of endpoints are started, one for each replica.

    Args:
        config: What is configured.
        names: Of endpoints; none: all that vLLM serves here.

    Raises:
        MissingDependency: vLLM is not installed.
        ConfigError: there is no such endpoint, or its server can't be started as configured.
    """
    base = config.file.parent.absolute() if config.file else Path.cwd()
    found: list[ServerSpec] = []
    for name in chosen(config, names):
        entry = config.endpoints[name]
        for replica, port in enumerate(entry.vllm.ports):
            found.append(
                spec_of(name, entry.model, entry.vllm, port=port, base=base, replica=replica)
            )
    return found
