"""Servers: which vLLM servers are meant by the endpoints of a configuration."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from moa.config import Config, nearest
from moa.errors import ConfigError
from moa.vllm.command import ServerSpec, specs_of
from moa.vllm.state import ServerFolder


def planned(config: Config, names: Iterable[str]) -> list[ServerSpec]:
    """Say how the servers of endpoints are started; without a name, of all that are served here."""
    entries = {name: config.endpoints[name] for name in _chosen(config, names)}
    return [
        spec
        for name, entry in entries.items()
        for spec in specs_of(name, entry.model, entry.vllm, base=config.folder)
    ]


def _chosen(config: Config, names: Iterable[str]) -> list[str]:
    """Name the endpoints that are meant: those named, or all that vLLM serves here."""
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


def running(
    config: Config, names: Sequence[str], *, everything: bool = False
) -> dict[str, ServerFolder]:
    """Give the folders of servers by their labels, also of ones that are no longer configured.

    Without a name, of all that vLLM serves here; `everything` means every server of this machine.
    """
    kept = {folder: state for folder in ServerFolder.all() if (state := folder.read())}
    if everything:
        return {state.label: folder for folder, state in kept.items()}
    gone = [name for name in names if name not in config.endpoints]
    for name in gone:
        if all(name != state.name for state in kept.values()):
            raise ConfigError(f"there is no server {name!r}{nearest(name, [*config.served])}")
    found = {
        state.label: folder
        for folder, state in kept.items()
        if state.name in gone or (not config.served and not names)
    }
    still = [name for name in names if name not in gone]
    for name in _chosen(config, still) if still or (not names and config.served) else ():
        for port in config.endpoints[name].vllm.ports:
            folder = ServerFolder.of(port)
            state = folder.read()
            if state is None or state.name == name:  # else it is another's
                found[f"{name} on port {port}"] = folder
    return found
