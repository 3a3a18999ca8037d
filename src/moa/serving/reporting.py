"""Reporting: what is known of each server: its state, and what it says of its work."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace

from moa.config import Config
from moa.endpoints.vllm import VLLMMetrics, VLLMServer
from moa.errors import EndpointError
from moa.servers import ServerFolder, ServerState
from moa.serving.launching import runs


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What is known of one server."""

    name: str
    model: str
    port: int
    phase: str
    """As its supervisor wrote it, or `down`, `stopping`, `not answering`."""
    pid: int | None = None
    up_s: float | None = None
    """Seconds since it became ready."""
    restarts: int = 0
    cause: str | None = None
    metrics: VLLMMetrics | None = None
    tokens_per_s: float | None = None
    """Tokens generated in the last second or so."""

    def line(self) -> dict[str, object]:
        """Write it as what `json` can write."""
        metrics = self.metrics
        return {
            "name": self.name,
            "model": self.model,
            "port": self.port,
            "state": self.phase,
            "pid": self.pid,
            "up_s": None if self.up_s is None else round(self.up_s, 1),
            "restarts": self.restarts,
            "cause": self.cause,
            "running": metrics and metrics.running,
            "waiting": metrics and metrics.waiting,
            "kv_cache_use": metrics and metrics.kv_cache_use,
            "prefix_hit_rate": metrics and metrics.prefix_hit_rate,
            "prompt_tokens": metrics and metrics.prompt_tokens,
            "generated_tokens": metrics and metrics.generated_tokens,
            "tokens_per_s": None if self.tokens_per_s is None else round(self.tokens_per_s, 1),
        }


async def reports(config: Config, *, interval_s: float = 1.0) -> list[Report]:
    """Tell of all servers that are configured, and of others on this machine that aren't down.

    Args:
        config: What is configured.
        interval_s: Seconds over which generated tokens are counted.
    """
    kept = {folder: state for folder in ServerFolder.all() if (state := folder.read())}
    found = [_report(folder, state, interval_s) for folder, state in kept.items()]
    told = await asyncio.gather(*found)
    wanted = {
        (name, port): Report(name=name, model=entry.model, port=port, phase="down")
        for name, entry in config.served.items()
        for port in entry.vllm.ports
    }
    known = {(report.name, report.port) for report in told}
    shown = [it for it in told if it.phase != "down" or (it.name, it.port) in wanted]
    return [*shown, *(down for key, down in wanted.items() if key not in known)]


async def _report(folder: ServerFolder, state: ServerState, interval_s: float) -> Report:
    locked = folder.locked
    phase = _phase(state, locked=locked)
    told = Report(
        name=state.name,
        model=state.model,
        port=state.port,
        phase=phase,
        pid=state.pid if locked else None,
        up_s=time.time() - state.ready if phase == "ready" and state.ready else None,
        restarts=state.restarts,
        cause=state.cause,
    )
    key = folder.key()
    if phase != "ready" or key is None:
        return told
    server = VLLMServer(state.name, port=state.port, api_key=key)
    try:
        return await _measured(told, server, interval_s)
    except EndpointError as error:
        return replace(told, phase="not answering", cause=error.message)


async def _measured(report: Report, server: VLLMServer, interval_s: float) -> Report:
    before, since = await server.metrics(), time.monotonic()
    await asyncio.sleep(interval_s)
    after = await server.metrics()
    generated = after.generated_tokens - before.generated_tokens
    rate = max(0.0, generated / (time.monotonic() - since))
    return replace(report, metrics=after, tokens_per_s=rate)


def _phase(state: ServerState, *, locked: bool) -> str:
    if not locked:
        return "failed" if state.phase == "failed" else "down"
    return state.phase if runs(state.pid) else "stopping"
