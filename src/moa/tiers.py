"""Tiers: the endpoints of a configuration, each built at first use and closed with the others."""

from __future__ import annotations

from importlib import import_module
from types import TracebackType
from typing import TYPE_CHECKING, Self

from pydantic import SecretStr

from moa.config import EMBEDDED, Config, EndpointConfig, nearest
from moa.context import Reference, RunContext
from moa.endpoints import Endpoint, Prompt
from moa.errors import ConfigError
from moa.usage import Tier

if TYPE_CHECKING:
    from moa.endpoints.embedded import EmbeddedEndpoint
    from moa.endpoints.openai import OpenAIEndpoint

NO_LLM = """\
No LLM is configured, so replies are drafts by the small model. To have them written by a large
one, put three lines into moa.toml:

    for OpenAI             for Gemini                      for a server of your own
    [endpoints.large]      [endpoints.large]               [endpoints.large]
    tier = "llm"           tier = "llm"                    tier = "llm"
    model = "gpt-5-mini"   model = "gemini-2.5-flash"      model = "NAME"
                                                           base_url = "http://HOST:PORT/v1"
    and the key into       and the key into
    $OPENAI_API_KEY        $GEMINI_API_KEY
"""


class Endpoints:
    """The endpoints that a configuration names, and the embedded model.

    Close it when done, or use it as an asynchronous context manager.

    Args:
        config: What is configured.
        read_keys: Whether keys are read from the environment. Without them the endpoints can
            be wired and drawn, and not asked.
    """

    def __init__(self, config: Config, *, read_keys: bool = True) -> None:
        self.config = config
        self._read_keys = read_keys
        self._drafts = False
        self._built: dict[str, Endpoint] = {}
        self._embedded: dict[Tier, EmbeddedEndpoint] = {}

    @property
    def slm(self) -> Endpoint:
        """The default small model: as configured, else the embedded one.

        Raises:
            ConfigError: several are configured and none is the default, or its key is missing.
        """
        name = self.config.of_tier("slm") or EMBEDDED
        return self.embedded("slm") if name == EMBEDDED else self.named(name)

    @property
    def llm(self) -> Endpoint:
        """The default large model; where none is configured, the small one stands in.

        Raises:
            ConfigError: several are configured and none is the default, or its key is missing.
        """
        self._drafts = self._drafts or not self.has_llm
        name = self.config.of_tier("llm") or self.config.of_tier("slm") or EMBEDDED
        return self.embedded("llm") if name == EMBEDDED else self.named(name, tier="llm")

    @property
    def has_llm(self) -> bool:
        """Whether a large model is configured, so that replies are more than drafts."""
        return self.config.of_tier("llm") not in (None, EMBEDDED)

    @property
    def drafts(self) -> bool:
        """Whether a small model has been taken for a large one."""
        return self._drafts

    @property
    def reference(self) -> Reference | None:
        """The large model that the cost of a run is compared with; `None` without one."""
        if not self.has_llm:
            return None
        llm = self.llm
        return Reference(endpoint=llm.name, price=llm.price)

    @property
    def used(self) -> tuple[Endpoint, ...]:
        """Those built so far."""
        return (*self._built.values(), *self._embedded.values())

    def named(self, name: str, *, tier: Tier | None = None) -> Endpoint:
        """Give an endpoint of the configuration.

        Args:
            name: Its name, or `embedded`.
            tier: What it is used as, where that is another tier than its own.

        Raises:
            ConfigError: it isn't there, has no address, or its key is missing.
        """
        if name == EMBEDDED:
            return self.embedded(tier or "slm")
        from moa.endpoints.retried import Retried

        own = self._configured(name).tier
        key = name if tier in (None, own) else f"{name} as {tier}"
        if key not in self._built:
            self._built[key] = Retried(self.server(name, tier=tier))
        return self._built[key]

    def embedded(self, tier: Tier = "slm") -> EmbeddedEndpoint:
        """Give the model that runs in this machine; it starts at first use.

        Args:
            tier: What it is used as. Both tiers share one engine.
        """
        from moa.endpoints.embedded import EmbeddedEndpoint

        if tier not in self._embedded:
            self._embedded[tier] = EmbeddedEndpoint(EMBEDDED, tier=tier)
        return self._embedded[tier]

    async def warm(self) -> None:
        """Load and start what has to be, so that no item waits for it.

        Raises:
            ModelNotFound: the weights of the embedded model can't be had.
            MissingDependency: its engine is not installed.
            EndpointError: its engine does not come up.
        """
        if self.used:
            import_module("openai")
        for endpoint in self._embedded.values():
            await endpoint.complete(Prompt.of("Hello", max_tokens=1), RunContext())

    async def close(self) -> None:
        """Close all that was built. Closing twice does nothing."""
        for endpoint in self.used:
            await endpoint.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def server(self, name: str, *, tier: Tier | None = None) -> OpenAIEndpoint:
        """Build an endpoint of the configuration without its retries; whoever asks closes it.

        Raises:
            ConfigError: it isn't there, has no address, or its key is missing.
        """
        from moa.endpoints.openai import OpenAIEndpoint

        config = self._configured(name)
        return OpenAIEndpoint(
            name,
            model=config.model,
            base_url=config.url(name),
            api_key=config.key(name) if self._read_keys else SecretStr("unread"),
            tier=tier or config.tier,
            price=config.price(),
            context_window=config.context_window,
            concurrency=config.concurrency,
            timeout_s=config.timeout_s,
            decides=config.decide,
        )

    def _configured(self, name: str) -> EndpointConfig:
        if name not in self.config.endpoints:
            known = [*self.config.endpoints, EMBEDDED]
            raise ConfigError(f"there is no endpoint {name!r}{nearest(name, known)}")
        return self.config.endpoints[name]
