"""State: the files of a running server, in a folder named by its port.

The folder holds `state.json`, the `key`, the `log`, and the locks of the supervisor and the
keeper. While a lock is held, processes of the server may be running.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError

from moa.core._files import replace_text
from moa.core.errors import ConfigError

if TYPE_CHECKING:
    from filelock import BaseFileLock

_STATE_BYTES = 4096
"""Bytes to which a written state is padded."""

Phase = Literal["starting", "ready", "restarting", "failed", "stopped"]
Holder = Literal["supervisor", "keeper"]


class Server(BaseModel):
    """A server and its model."""

    model_config = ConfigDict(frozen=True)

    name: str
    """Name of its endpoint."""
    model: str
    port: int
    settings: str
    """Digest of its model and settings, to tell whether it is the wanted server."""

    @property
    def label(self) -> str:
        """Name and port of the server, in words."""
        return f"{self.name} on port {self.port}"


class ServerState(Server):
    """The state of a server, written by its supervisor."""

    pid: int
    """Process id of its supervisor."""
    phase: Phase
    ready: float | None = None
    """Time when it last became ready, in seconds since 1970."""
    restarts: int = 0
    """Number of restarts after crashes."""
    cause: str | None = None
    """Reason why it last crashed or failed, in a sentence."""

    @property
    def is_supervised(self) -> bool:
        """True if its supervisor runs. A killed one leaves its last state behind."""
        import psutil

        return psutil.pid_exists(self.pid)


def state_folder() -> Path:
    """Return the folder of all servers: in `$MOA_CACHE`, else in the user's state folder."""
    from platformdirs import user_state_path

    cache = os.environ.get("MOA_CACHE")
    return (Path(cache).expanduser() if cache else user_state_path("moa")) / "servers"


@dataclass(frozen=True, slots=True)
class ServerFolder:
    """The folder of the server on one port."""

    path: Path

    @classmethod
    def of(cls, port: int) -> ServerFolder:
        """Return the folder of a port, without making it."""
        return cls(state_folder() / str(port))

    @classmethod
    def all(cls) -> Iterator[ServerFolder]:
        """Yield the existing folders, by port."""
        folders = state_folder().glob("[0-9]*")
        yield from map(cls, sorted(folders, key=lambda path: path.name.zfill(5)))

    @property
    def log(self) -> Path:
        """The server's log. Older parts are next to it."""
        return self.path / "log"

    def make(self) -> None:
        """Make the folder, private to this user; raises `ConfigError` if it can't be made."""
        try:
            for folder in (self.path.parent, self.path):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                folder.chmod(0o700)
        except OSError as error:
            raise self.unusable(error) from error

    def unusable(self, error: OSError) -> ConfigError:
        """Return an error that says that the folder can't be used, and what to do."""
        return ConfigError(
            f"the state of a server can't be kept in {self.path}: {error.strerror or error}. "
            "Free some space, or set $MOA_CACHE to a folder that has it and can be written"
        )

    def lock(self, holder: Holder) -> BaseFileLock:
        """Return the lock that a process of the server holds while it lives."""
        from filelock import FileLock

        return FileLock(self.path / f"{holder}.lock", mode=0o600)

    def is_held(self, holder: Holder) -> bool:
        """Return True if such a process lives; raises `ConfigError` if this can't be checked."""
        from filelock import Timeout

        if not self.path.exists():
            return False
        try:
            with self.lock(holder).acquire(timeout=0):
                return False
        except Timeout:
            return True
        except FileNotFoundError:  # the folder was removed since: its server has ended
            return False
        except OSError as error:
            raise self.unusable(error) from error

    @property
    def is_running(self) -> bool:
        """True if a server on this port is starting, running or stopping."""
        return self.is_held("supervisor") or self.is_held("keeper")

    @property
    def is_watched(self) -> bool:
        """True if a server is starting or running, and is restarted after a crash."""
        state = self.read()
        has_given_up = state is not None and state.phase in ("failed", "stopped")
        return self.is_running and not has_given_up

    def read(self) -> ServerState | None:
        """Read the last written state; `None` if there is none."""
        try:
            return ServerState.model_validate_json((self.path / "state.json").read_bytes())
        except (OSError, ValidationError):
            return None

    def write(self, state: ServerState) -> None:
        """Write the state; on a full disk, over the old one. Raises `OSError` if there is none."""
        part, file = self.path / "state.json.part", self.path / "state.json"
        data = state.model_dump_json().encode().ljust(_STATE_BYTES) + b"\n"
        try:
            part.write_bytes(data)
            part.replace(file)
        except OSError:
            if not file.exists():
                raise
            # A full disk has no room for a new file, and the old one has room for a new state.
            with file.open("r+b", buffering=0) as old:
                old.write(data)
                old.truncate()

    def key(self) -> SecretStr | None:
        """Read the key of the server; `None` if there is none."""
        try:
            text = (self.path / "key").read_text(encoding="ascii").strip()
        except OSError:
            return None
        return SecretStr(text) if text else None

    def make_key(self) -> SecretStr:
        """Return the key, made at the first start. It stays valid after the next start."""
        if stored_key := self.key():
            return stored_key
        key = secrets.token_urlsafe(32)
        replace_text(self.path / "key", key)
        return SecretStr(key)


def keys_of_running(name: str, ports: Sequence[int]) -> dict[int, SecretStr]:
    """Return the keys of the servers that `moa up` started for an endpoint on some ports.

    Keys of replicas that are down are included, since they may come back.
    """
    keys: dict[int, SecretStr] = {}
    causes: list[str] = []
    for port in ports:
        folder = ServerFolder.of(port)
        state, key = folder.read(), folder.key()
        if state is None or key is None:
            continue
        if state.name != name and folder.is_running:
            raise ConfigError(
                f"[endpoints.{name}] is served on port {port}, where the server of "
                f"{state.name!r} runs, with the model {state.model!r}. Give it another port, or "
                "stop that one"
            )
        if state.name == name:
            keys[port] = key
            causes += [state.cause] if state.cause else []
    if not any(ServerFolder.of(port).is_running for port in keys):
        reason = f" ({causes[-1]})" if causes else ""
        raise ConfigError(
            f"[endpoints.{name}] is served by vLLM on this machine, on port {ports[0]}, and no "
            f"server runs there{reason}. Run: moa up {name}"
        )
    return keys
