"""Spec: one server that is to be started, in all that its supervisor must know."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class ServerSpec(BaseModel):
    """One server: what it is, how it is started, and how it is watched."""

    model_config = ConfigDict(frozen=True)

    name: str
    model: str
    port: int
    settings: str
    """A digest of what it serves and how."""
    command: list[str]
    env: dict[str, str] = Field(repr=False)
    """May hold the hub's token, so it is never shown."""
    tethered: bool = False
    """Whether it ends with the process that starts it."""
    passing: bool = False
    """Whether its folder goes when it ends."""
    most_restarts: int = 5
    """Tries to bring it up again after a crash, until it has been up for `steady_s`."""
    first_wait_s: float = 1.0
    """Seconds before the first of these tries; doubled for each further one."""
    steady_s: float = 300.0
    grace_s: float = 15.0
    """Seconds that it has to end by itself, once it is told to."""
    log_bytes: int = 5_000_000
    """Most bytes of its log, before it goes on in a new file."""
    log_parts: int = 3
    """Older files of its log that are kept."""
