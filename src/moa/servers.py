"""Servers: how one that `moa` starts is configured, and what is kept of it while it runs.

Each has a folder under the cache folder, named by its port: `state.json`, `key`, `lock`, `log`.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from moa.endpoints.weights import cache_folder
from moa.errors import ConfigError

_TENSOR_PARALLEL = ("--tensor-parallel-size", "-tp")
_STATE_BYTES = 4096
"""What a state is filled up to."""

Phase = Literal["starting", "ready", "restarting", "failed", "stopped"]


class VLLMConfig(BaseModel):
    """One `[endpoints.NAME.vllm]` table: how `moa up` starts vLLM for an endpoint."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    port: int = Field(default=8000, ge=1, le=65535)
    """Where it listens on 127.0.0.1; further replicas on the ports after it."""
    replicas: int = Field(default=1, ge=1)
    """Servers of the same model, behind one name."""
    dtype: str = "auto"
    """Type of weights and activations: `auto`, `bfloat16`, `float16`, `float32`."""
    max_model_len: int | None = Field(default=None, gt=0)
    """Most tokens of a prompt and its answer; `None`: as the model says. Less takes less memory."""
    gpu_memory_utilization: float | None = Field(default=None, gt=0, le=1)
    """Share of the GPU's memory that each server may take; `None`: vLLM's default, 0.92 in version
    0.32, which replicas on one GPU divide among them."""
    quantization: str | None = None
    """How weights are quantised; `None`: as the model's own files say."""
    lora: dict[str, str] = Field(default_factory=dict[str, str])
    """LoRA adapters: a name for each, and its folder or repository."""
    block_size: int | None = Field(default=None, gt=0)
    """Tokens a block of the KV cache; a prefix is cached in whole blocks. `None`: 32 without a
    GPU, where vLLM's default of 128 would never cache a short prompt; else vLLM's default."""
    max_num_seqs: int | None = Field(default=None, gt=0)
    """Most requests worked on at once; `None`: vLLM's default."""
    priority: bool = False
    """Whether requests are served by priority: see `priority` of an endpoint."""
    python: str | None = None
    """Interpreter, or virtual environment, that has vLLM; `None`: this one, else the one that
    `moa doctor` tells how to make."""
    args: tuple[str, ...] = ()
    """Further arguments of vLLM, such as `["--enforce-eager"]`."""
    env: dict[str, str] = Field(default_factory=dict[str, str])
    """Further environment variables of vLLM, such as `CUDA_VISIBLE_DEVICES`. No secrets."""

    @property
    def gpus_each(self) -> int:
        """GPUs that one server spreads over, as its arguments say."""
        words = [part for word in self.args for part in word.split("=", 1)]
        said = [after for word, after in pairwise(words) if word in _TENSOR_PARALLEL]
        return max(1, int(said[-1])) if said and said[-1].isdecimal() else 1

    @property
    def ports(self) -> tuple[int, ...]:
        """Where its replicas listen."""
        return tuple(range(self.port, self.port + self.replicas))


def local_url(port: int) -> str:
    """Address of a server that `moa` starts on this machine."""
    return f"http://127.0.0.1:{port}/v1"


class ServerState(BaseModel):
    """What is known of a server, written by the process that watches over it."""

    model_config = ConfigDict(frozen=True)

    name: str
    """Of its endpoint."""
    model: str
    port: int
    settings: str
    """A digest of how it was started, to tell whether it is the one that is wanted."""
    pid: int | None = None
    """Of the process that watches over it; `None` before that has started."""
    started: float
    """When that was, in seconds since 1970."""
    phase: Phase
    ready: float | None = None
    """When it last became ready."""
    restarts: int = 0
    """After crashes."""
    cause: str | None = None
    """Why it last crashed or failed, in a sentence."""


@dataclass(frozen=True, slots=True)
class ServerFolder:
    """Where all that is kept of the server on one port is kept."""

    path: Path

    @classmethod
    def of(cls, port: int) -> ServerFolder:
        """Name the folder of a port, without making it."""
        return cls(cache_folder() / "servers" / str(port))

    @classmethod
    def all(cls) -> Iterator[ServerFolder]:
        """List those that there are, by port."""
        found = (cache_folder() / "servers").glob("[0-9]*")
        yield from map(cls, sorted(found, key=lambda path: path.name.zfill(5)))

    @property
    def log(self) -> Path:
        """What the server says; older parts are beside it."""
        return self.path / "log"

    def make(self) -> None:
        """Make it, for this user's eyes alone.

        Raises:
            ConfigError: it can't be made or written to.
        """
        try:
            for folder in (self.path.parent, self.path):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                folder.chmod(0o700)
        except OSError as error:
            raise self.unusable(error) from error

    def unusable(self, error: OSError) -> ConfigError:
        """Say that nothing can be kept here, and what to do."""
        return ConfigError(
            f"the state of a server can't be kept in {self.path}: {error.strerror or error}. "
            "Free some space, or set $MOA_CACHE to a folder that has it and can be written"
        )

    def lock(self) -> int | None:
        """Take its lock, which whatever runs the server holds; `None`: it is held.

        Returns:
            A file descriptor. The lock is free again when all its copies are closed.

        Raises:
            ConfigError: the folder can't be written.
        """
        import fcntl

        try:
            held = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self.unusable(error) from error
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(held)
            return None
        return held

    @property
    def locked(self) -> bool:
        """Whether a server runs on this port, or comes up, or goes down."""
        if not (self.path / "lock").exists():
            return False
        held = self.lock()
        if held is None:
            return True
        os.close(held)
        return False

    @property
    def is_watched(self) -> bool:
        """Whether a server is up, or is being brought up, and will be again after a crash."""
        state = self.read()
        given_up = state is not None and state.phase in ("failed", "stopped")
        return self.locked and not given_up

    def read(self) -> ServerState | None:
        """Read the state that was last written; `None` where there is none."""
        try:
            return ServerState.model_validate_json((self.path / "state.json").read_bytes())
        except (OSError, ValidationError):
            return None

    def write(self, state: ServerState) -> None:
        """Write the state, whole or not at all.

        Raises:
            OSError: it can't be written, such as on a disk that was full from the start.
        """
        part, file = self.path / "state.json.part", self.path / "state.json"
        written = state.model_dump_json().encode().ljust(_STATE_BYTES) + b"\n"
        try:
            part.write_bytes(written)
            os.replace(part, file)
        except OSError:
            if not file.exists():
                raise
            # A full disk has no room for a new file, and the old one has room for a new state.
            with file.open("r+b", buffering=0) as old:
                old.write(written)
                old.truncate()

    def key(self) -> SecretStr | None:
        """Read the key of the server; `None` where there never was one."""
        try:
            written = (self.path / "key").read_text(encoding="ascii").strip()
        except OSError:
            return None
        return SecretStr(written) if written else None

    def make_key(self) -> SecretStr:
        """Read the key of the server, made the first time.

        It stays the same from one start to the next, so that whoever has it can go on.

        Raises:
            ConfigError: it can't be written.
        """
        if known := self.key():
            return known
        key = secrets.token_urlsafe(32)
        file = self.path / "key"
        try:
            held = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(held, "w", encoding="ascii") as opened:
                opened.write(key)
        except OSError as error:
            file.unlink(missing_ok=True)
            raise self.unusable(error) from error
        return SecretStr(key)


def keys_of_running(name: str, ports: Sequence[int]) -> dict[int, SecretStr]:
    """Give the keys of the servers that `moa up` started for an endpoint.

    A replica that is down has its key as well: it may come back.

    Args:
        name: Of the endpoint.
        ports: Where its replicas listen.

    Raises:
        ConfigError: no server runs there, or it is another's.
    """
    keys: dict[int, SecretStr] = {}
    causes: list[str] = []
    for port in ports:
        folder = ServerFolder.of(port)
        state, key = folder.read(), folder.key()
        if state is None or key is None:
            continue
        if state.name != name and folder.locked:
            raise ConfigError(
                f"[endpoints.{name}] is served on port {port}, where the server of "
                f"{state.name!r} runs, with the model {state.model!r}. Give it another port, or "
                "stop that one"
            )
        if state.name == name:
            keys[port] = key
            causes += [state.cause] if state.cause else []
    if not any(ServerFolder.of(port).locked for port in keys):
        why = f" ({causes[-1]})" if causes else ""
        raise ConfigError(
            f"[endpoints.{name}] is served by vLLM on this machine, on port {ports[0]}, and no "
            f"server runs there{why}. Run: moa up {name}"
        )
    return keys
