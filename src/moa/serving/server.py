"""Server: what all routes share, and its settings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from moa.config.endpoints import Endpoints
from moa.config.faults import nearest
from moa.errors import ConfigError, RequestRefused
from moa.serving.keys import Caller, Keys
from moa.serving.runs import Runs
from moa.serving.served import Served


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a server takes, and for how long.

    Raises:
        ConfigError: a limit is not positive.
    """

    hosts: tuple[str, ...] = ()
    """Names in the `Host` of requests that are answered, beside `localhost` and addresses of IP."""
    origins: tuple[str, ...] = ()
    """Origins of pages that may ask, such as `https://app.example.org`; none: no page may."""
    timeout_s: float = 300.0
    """Seconds until a run, or a stream, is ended."""
    drain_s: float = 30.0
    """Seconds that runs have left when the server is told to end."""
    body_bytes: int = 4 << 20
    """Most bytes of a request."""
    depth: int = 64
    """Most arrays and objects within each other in a request."""
    concurrency: int = 256
    """Most requests worked on at once; more are told to come again."""
    waiting: int = 1000
    """Most events that wait for a slow reader, before its run is ended."""
    kept: int = 1000
    """Most runs whose traces are kept."""
    kept_s: float = 600.0
    """Seconds for which they are."""
    jobs: Path | None = None
    """Folder of the jobs; `None`: no jobs are taken."""

    def __post_init__(self) -> None:
        for name in ("timeout_s", "body_bytes", "depth", "concurrency", "waiting", "kept"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name}={getattr(self, name)} is to be more than 0")


class Server:
    """What all routes share: what is served, to whom, and the runs.

    Args:
        served: What is served, each under another name.
        endpoints: Whom it asks; `endpoints.slm` is the server's small model.
        settings: What it takes.
        keys: Who may ask.

    Raises:
        ConfigError: two have the same name, or there is none.
    """

    def __init__(
        self, served: Iterable[Served], endpoints: Endpoints, settings: Settings, keys: Keys
    ) -> None:
        self.served: dict[str, Served] = {}
        """By name, in the order in which they were given."""
        for one in served:
            if one.name in self.served:
                raise ConfigError(f"two are to be served as {one.name!r}: give them other names")
            self.served[one.name] = one
        if not self.served:
            raise ConfigError("nothing is to be served: name a graph, as in moa serve support")
        self.endpoints = endpoints
        self.settings = settings
        self.keys = keys
        self.runs = Runs(settings, endpoints)
        self.is_ready = False
        """Whether models are loaded, and it isn't about to end."""

    def named(self, name: str, caller: Caller) -> Served:
        """Give what is served under a name, as far as the caller may know of it.

        Raises:
            RequestRefused: there is nothing of that name (404).
        """
        known = [one for one in self.served if caller.may_run(one)]
        if name not in known:
            raise RequestRefused(
                f"there is no model {name!r} here{nearest(name, known)}",
                status=404,
                code="model_not_found",
                param="model",
            )
        return self.served[name]
