"""Server: the state that all routes share, and its settings."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

from moa.config.endpoints import Endpoints, warm
from moa.config.faults import nearest
from moa.config.loading import endpoints_in, texts_to_encode
from moa.core._async import cancel
from moa.core.context import RunContext
from moa.core.errors import ConfigError, MoaError, RequestRefused
from moa.core.questions import Option, Question
from moa.decisions.encoders import deciding_encoder_for, encoder_for
from moa.endpoints import Endpoint
from moa.endpoints.wrappers import innermost
from moa.local.embedded import EmbeddedEndpoint
from moa.local.encoders import JointEncoder
from moa.serving.jobs import Jobs
from moa.serving.keys import Caller, Keys
from moa.serving.runs import Runs
from moa.serving.served import ServedNode

DECIDE = "decide"
"""Model name of the server's small model."""
ENCODER = "encoder"
"""Model name of the encoder, which turns texts into vectors."""
_logger = logging.getLogger(__name__)
_FIRST = Question(
    "first",
    "predicate",
    "Is this a question?",
    (Option("yes", value=True), Option("no", value=False)),
)
_ORIGIN = re.compile(r"https?://[^/*\s]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Limits of a server, in size and time.

    Raises:
        ConfigError: a limit is not positive.
    """

    hosts: tuple[str, ...] = ()
    """Accepted names in the `Host` header, in addition to `localhost` and IP addresses."""
    origins: tuple[str, ...] = ()
    """Origins of pages that may send requests, such as `https://app.example.org`; empty: none."""
    timeout_s: float = 300.0
    """Seconds after which a run or a stream is stopped."""
    drain_s: float = 30.0
    """Seconds that runs have left at shutdown."""
    body_bytes: int = 4 << 20
    """Maximum bytes of a request body."""
    depth: int = 64
    """Maximum nesting of arrays and objects in a request."""
    values: int = 100_000
    """Maximum number of values in a request: fields, items, arrays and objects."""
    concurrency: int = 256
    """Maximum concurrent requests. Further ones are told to retry later. Where there are keys, one
    key has at most half of them; see `concurrency_per_key`."""
    waiting: int = 1000
    """Maximum events that wait for a slow reader before its run is stopped."""
    kept: int = 1000
    """Maximum runs whose traces are kept."""
    kept_s: float = 600.0
    """Seconds for which traces are kept."""
    jobs: Path | None = None
    """Folder of the jobs; `None`: jobs are refused."""
    starts_decide: bool = False
    """True to start the small model of `decide` before `/ready`, if a served node uses it too.
    Otherwise it starts at the first question. `moa serve` sets this."""

    @property
    def concurrency_per_key(self) -> int:
        """Maximum concurrent requests of one key: half of `concurrency`, rounded up."""
        return (self.concurrency + 1) // 2

    def __post_init__(self) -> None:
        for setting in fields(self):
            value = getattr(self, setting.name)
            if isinstance(value, int | float) and not isinstance(value, bool) and value <= 0:
                raise ConfigError(f"{setting.name}={value} is to be more than 0")
        for origin in self.origins:
            if not _ORIGIN.fullmatch(origin):
                raise ConfigError(
                    f"{origin!r} is no origin: name each whose pages may ask, such as "
                    "https://app.example.org, without a path or a *"
                )


class Server:
    """The state that all routes share: the nodes, the keys, and the runs.

    Args:
        served: Nodes to serve, each under a different name.
        endpoints: The endpoints to ask; `endpoints.slm` is the server's small model.
        settings: Limits of size and time.
        keys: The keys that may send requests.

    Raises:
        ConfigError: there are no nodes, two have the same name, or a name is empty or has a `/`.
    """

    def __init__(
        self, served: Iterable[ServedNode], endpoints: Endpoints, settings: Settings, keys: Keys
    ) -> None:
        self.served: dict[str, ServedNode] = {}
        """Nodes by name, in the given order."""
        for node in served:
            if not node.name or "/" in node.name:
                raise ConfigError(f"{node.name!r} is no name to be served by: give one without '/'")
            if node.name in self.served:
                raise ConfigError(f"two are to be served as {node.name!r}: give them other names")
            self.served[node.name] = node
        if not self.served:
            raise ConfigError("nothing is to be served: name a graph, as in moa serve support")
        self.endpoints = endpoints
        self.settings = settings
        self.keys = keys
        self.runs = Runs(settings, endpoints)
        self.jobs = Jobs(settings.jobs, self.served, keys, endpoints)
        self.is_open = False
        """True from startup to shutdown."""
        self.warming: asyncio.Future[None] | None = None
        """Future that is done once the models are loaded, or has the error."""

    @property
    def is_ready(self) -> bool:
        """True once it accepts requests and models are loaded."""
        is_warm = self.warming is not None and self.warming.done()
        return self.is_open and is_warm and not self.warming_error

    @property
    def warming_error(self) -> BaseException | None:
        """Error of loading the models; `None`: they are loaded, or still loading."""
        warming = self.warming
        has_ended = warming is not None and warming.done() and not warming.cancelled()
        return warming.exception() if warming is not None and has_ended else None

    def visible_to(self, caller: Caller) -> list[ServedNode]:
        """Return the nodes that a caller may run."""
        return [served for name, served in self.served.items() if caller.may_run(name)]

    @cached_property
    def decider(self) -> Endpoint | None:
        """The server's small model, if it can decide."""
        try:
            small = self.endpoints.slm
        except ConfigError as error:
            _logger.warning("no small model can be asked questions: %s", error)
            return None
        return small if "decide" in small.capabilities else None

    @cached_property
    def encoder(self) -> Endpoint | None:
        """The encoder that goes with the server's small model, if there is one."""
        return None if self.decider is None else encoder_for(self.decider)

    def own_models(self, caller: Caller) -> dict[str, str]:
        """Return the server's own models that a caller may use, with their descriptions."""
        models = (
            (DECIDE, self.decider, "answers to any questions, by /v1/systemone"),
            (ENCODER, self.encoder, "vectors of texts, by /v1/embeddings"),
        )
        return {
            name: description
            for name, model, description in models
            if model is not None and name not in self.served and caller.may_run(name)
        }

    def find(self, name: str, caller: Caller) -> ServedNode:
        """Return the node with this name, if the caller may see it.

        Raises:
            RequestRefused: the caller sees no node with this name (404).
        """
        nodes = {served.name: served for served in self.visible_to(caller)}
        if name not in nodes:
            message = f"there is no model {name!r:.100} here{nearest(name, list(nodes))}"
            if description := self.own_models(caller).get(name):
                message = f"{name!r} can't be asked in this way. It gives {description}"
            raise RequestRefused(
                message,
                status=404,
                code="model_not_found",
                param="model",
            )
        return nodes[name]

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        """Accept requests, load the models meanwhile, and resume jobs. On exit, wait for runs."""
        await self.keys.open()
        try:
            async with self.jobs.lifespan():
                self.warming = asyncio.ensure_future(self._warm())
                self.is_open = True
                try:
                    yield
                finally:
                    self.is_open = False
                    await cancel([self.warming])
                    await self.runs.wait_until_idle()
        finally:
            await self.keys.close()

    async def _warm(self) -> None:
        """Load and start the models, so that no request has to wait for them."""
        try:
            nodes = [served.node for served in self.served.values()]
            groups = [endpoints_in(node) for node in nodes]
            endpoints = [endpoint for group in groups for endpoint in group or ()]
            due = [*self.endpoints.used, *endpoints] if None in groups else endpoints
            texts = [text for node in nodes for text in texts_to_encode(node)]
            await warm(due, texts=texts)
            if texts:
                await JointEncoder().read(texts)
        except MoaError as error:
            _logger.error("the models can't be loaded: %s", error)
            raise
        if self.settings.starts_decide:
            await self._warm_decide()

    async def _warm_decide(self) -> None:
        """Start the small model of `decide` with a question, so that its weights are loaded.

        If no served node uses it, or this fails, it starts at the first question instead.
        """
        endpoints, small = self.endpoints.used, self.decider
        if small is None or small not in endpoints:
            return
        if not isinstance(innermost(small), EmbeddedEndpoint):
            return
        try:
            await warm([small])
            if deciding_encoder_for(small) is not None:
                await JointEncoder().read([_FIRST.text])
            await small.decide(_FIRST.text, [_FIRST], RunContext())
        except MoaError as error:
            _logger.warning("the small model can't be asked questions: %s", error)
