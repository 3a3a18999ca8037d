"""The endpoints of a configuration, each built at first use, and closed together."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from pydantic import SecretStr

from moa.config import load
from moa.config.faults import nearest
from moa.config.tables import (
    EMBEDDED,
    FILE,
    AddressConfig,
    Config,
    EndpointConfig,
    EngineConfig,
    RemoteConfig,
    Tiers,
)
from moa.core.context import Reference, RunContext
from moa.core.errors import ConfigError, ModelNotFound
from moa.endpoints import Endpoint, close_all
from moa.vllm.settings import VLLMConfig, local_url
from moa.vllm.state import ServerFolder, keys_of_running

if TYPE_CHECKING:
    from moa.config.catalogue import Local
    from moa.endpoints.openai import OpenAIEndpoint
    from moa.local.embedded import EmbeddedEndpoint

_UNREAD = SecretStr("unread")
NO_LLM = """\
No LLM is configured. Small models decide; they write badly, so what they
write is a draft, documents are quoted, and other messages go to people.
To have a large model write, put three lines into moa.toml:

  for OpenAI             for Gemini                   for a server of your own
  [endpoints.large]      [endpoints.large]            [endpoints.large]
  tier = "llm"           tier = "llm"                 tier = "llm"
  model = "gpt-5-mini"   model = "gemini-2.5-flash"   model = "NAME"
                                                      base_url = "http://…/v1"
  and the key into       and the key into
  $OPENAI_API_KEY        $GEMINI_API_KEY

  for one that runs in this machine, without a server: tier = "llm",
  serve = "llama.cpp", model = "qwen3-4b"; and once: moa models fetch large
"""


TO_WRITE = "A large model writes better: name one in moa.toml, as [endpoints.large]"
"""Advice shown with bad drafts."""


class Endpoints(AbstractAsyncContextManager["Endpoints", None]):
    """The endpoints that a configuration names, and the built-in model.

    Args:
        config: A configuration, or its file; `None` uses that of the command line: `$MOA_CONFIG`,
            else `./moa.toml`, else the embedded model alone.
        read_keys: Read keys from the environment. Without keys, endpoints can be wired and drawn,
            but not asked.

    Raises:
        ConfigError: the file is missing or not TOML, or a key or a value in it is wrong.

    Examples:
        >>> async def main() -> None:
        ...     async with Endpoints() as endpoints:  # reads moa.toml
        ...         result = await Sentiment(endpoints.slm).run("I love it!")
        >>> asyncio.run(main())  # doctest: +SKIP
    """

    def __init__(
        self, config: Config | str | Path | None = None, *, read_keys: bool = True
    ) -> None:
        self.config = config if isinstance(config, Config) else load(config)
        self.can_be_asked = read_keys
        """True if they can be asked; without keys they can only be wired and drawn."""
        self.used_slm_as_llm = False
        """True once a small model was returned in place of a large one."""
        self._built: dict[str, Endpoint] = {}

    @classmethod
    def of(cls, **named: Endpoint) -> Self:
        """Hold existing endpoints by name, for tests of code that takes `Endpoints`.

        No file and no variable is read. Each endpoint has its own `tier`, and the first of a tier
        is its default. Without a small one, the built-in model is the default, as with a file.
        Endpoints are asked unchanged, without retries, and closed with this object.

        Examples:
            >>> large = ScriptedEndpoint(["Hello!"], tier="llm")
            >>> endpoints = Endpoints.of(small=SimulatedEndpoint(), large=large)
            >>> print(Agent(endpoints.llm, "Greet.").run_sync("Hi").output)
            Hello!
        """
        configs = {
            name: AddressConfig(tier=endpoint.tier, model=endpoint.model)
            for name, endpoint in named.items()
        }
        first = {config.tier: name for name, config in reversed(configs.items())}
        tiers = Tiers(slm=first.get("slm"), llm=first.get("llm"))
        # Not checked: an endpoint in Python may have the name of the built-in model.
        endpoints = cls(Config.model_construct(endpoints=configs, tiers=tiers, graphs={}))
        endpoints._built.update(named)
        return endpoints

    def __repr__(self) -> str:
        parts = (f"{name}={config.model!r}" for name, config in self.config.endpoints.items())
        return f"Endpoints({', '.join(parts)})"

    @property
    def slm(self) -> Endpoint:
        """The default small model: as configured, else the embedded one.

        Raises:
            ConfigError: several are configured and none is the default, or its key is missing.
        """
        return self.named(self.config.default("slm"))

    @property
    def llm(self) -> Endpoint:
        """The default large model; if none is configured, the small one, whose `tier` is `slm`.

        Raises:
            ConfigError: several are configured and none is the default, or its key is missing.
        """
        self.used_slm_as_llm = self.used_slm_as_llm or not self.has_llm
        return self.named(self.config.default("llm"))

    @property
    def has_llm(self) -> bool:
        """True if a large model is configured, so that replies can be more than drafts."""
        name = self.config.default_of("llm") or EMBEDDED
        return name != EMBEDDED and self._config_of(name).tier == "llm"

    @property
    def reference(self) -> Reference | None:
        """The large model that the cost of a run is compared with; it needs no key and no server.

        `None` without one, and if several are configured and none is the default.
        """
        try:
            name = self.config.default_of("llm")
        except ConfigError:  # raised again when it is asked for
            return None
        if name is None or not self.has_llm:
            return None
        built = self._built.get(name)
        price = built.price if built else self.config.endpoints[name].price()
        return Reference(endpoint=name, price=price)

    @property
    def used(self) -> tuple[Endpoint, ...]:
        """The endpoints that were built so far."""
        return tuple(self._built.values())

    def named(self, name: str) -> Endpoint:
        """Return an endpoint of the configuration.

        Args:
            name: Its name, or `embedded` for the built-in model.

        Raises:
            ConfigError: it isn't configured, has no address, or its key is missing.
            ModelNotFound: it runs on this machine, and its weights haven't been fetched. Only those
                of the built-in model are fetched at first use.
        """
        if name not in self._built:
            self._built[name] = self._wrap(name, self._build(name))
        return self._built[name]

    async def warm(
        self, names: Collection[str] | None = None, *, texts: Collection[str] = ()
    ) -> None:
        """Load and start models in advance, so that no item waits for them.

        Args:
            names: Names of the endpoints that will be asked; `None`: all that were built.
            texts: Texts that both encoders embed in advance; empty: they aren't loaded.

        Raises:
            ModelNotFound: the weights of an embedded model can't be fetched or loaded.
            MissingDependency: its engine is not installed.
            EndpointError: its engine doesn't start.
        """
        built = [
            endpoint for name, endpoint in self._built.items() if names is None or name in names
        ]
        await warm(built, texts=texts)

    async def close(self) -> None:
        """Close all endpoints that were built. A second call does nothing.

        If one can't be closed, close the others, then raise its error.
        """
        await close_all(self.used)

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    def server(self, name: str) -> OpenAIEndpoint:
        """Build an endpoint without retries; of several replicas, the first. See `servers`."""
        return self.servers(name)[0]

    def servers(self, name: str) -> list[OpenAIEndpoint]:
        """Build all replicas of an endpoint without retries, except those never started.

        The caller closes them. If there are several, each has its own name, such as `small@8001`.

        Raises:
            ConfigError: it isn't configured, has no address, its key is missing, or it is served by
                `moa up`, and isn't running.
        """
        config = self._config_of(name)
        if not isinstance(config, RemoteConfig):
            raise ConfigError(
                f"[endpoints.{name}] has no address: its model runs in an engine of moa's own"
            )
        vllm = self.config.vllm_of(name)
        servers: list[tuple[str, str, SecretStr | None]]
        if vllm is not None:
            several = vllm.replicas > 1
            keys = self._keys(name, vllm).items()
            servers = [(str(port), local_url(port), key) for port, key in keys]
        else:
            assert isinstance(config, AddressConfig), "any other has a server of moa up"
            several = len(config.urls) > 1
            key = config.key(name) if self.can_be_asked else _UNREAD
            servers = [(urlsplit(url).netloc, url, key) for url in config.addresses(name)]
        return [
            _build_server(f"{name}@{suffix}" if several else name, config, vllm, url, key)
            for suffix, url, key in servers
        ]

    def _keys(self, name: str, vllm: VLLMConfig) -> dict[int, SecretStr]:
        """Return the keys of the servers that `moa up` started for an endpoint, by port."""
        if not self.can_be_asked:
            return dict.fromkeys(vllm.ports, _UNREAD)
        return keys_of_running(self.config.server_of(name), vllm.ports)

    def _build(self, name: str) -> Endpoint:
        from moa.endpoints.retries import Retried
        from moa.vllm.replicas import Replicas

        if name == EMBEDDED or isinstance(self._config_of(name), EngineConfig):
            return self._build_embedded(name)
        first, *others = self.servers(name)
        servers = Replicas(name, [first, *others]) if others else first
        vllm = self.config.vllm_of(name) if self.can_be_asked else None
        return Retried(self._add_waits(name, vllm, servers) if vllm else servers)

    def _wrap(self, name: str, endpoint: Endpoint) -> Endpoint:
        """Wrap an endpoint in the cache and the fallback that its table names."""
        from moa.endpoints.wrappers import Cached, Fallback

        config = self.config.endpoints.get(name)
        if config is None:
            return endpoint
        if config.cache is not None:  # innermost, so that it stores no answers of the fallback
            file = None if config.cache == "memory" else self.config.folder / config.cache
            endpoint = Cached(endpoint, file=file)
        if config.fallback is not None:
            endpoint = Fallback(endpoint, self.named(config.fallback))
        return endpoint

    def _build_embedded(self, name: str) -> EmbeddedEndpoint:
        """Build an endpoint whose model runs in moa's own engine."""
        from moa.local.embedded import EmbeddedEndpoint, EngineSettings

        if name == EMBEDDED:
            return EmbeddedEndpoint(EMBEDDED)
        config, weights = self._config_of(name), weights_of(self.config, name)
        if self.can_be_asked:
            _check_weights(self.config, name, weights)
        settings = EngineSettings()
        if config.context_window:
            settings = replace(settings, context_window=config.context_window)
        if "concurrency" in config.model_fields_set:
            most = range(config.concurrency, 0, -1)
            # llama.cpp aborts if its slots don't divide the batch.
            settings = replace(settings, slots=next(n for n in most if settings.batch % n == 0))
        return EmbeddedEndpoint(
            name,
            tier=config.tier,
            model=config.model_name,
            model_path=weights.path,
            price=config.price(),
            settings=settings,
            timeout_s=config.timeout_s,
            decides=config.decide if isinstance(config, EngineConfig) else "auto",
        )

    def _add_waits(self, name: str, vllm: VLLMConfig, endpoint: Endpoint) -> Endpoint:
        """Make calls wait for a server that `moa up` restarts after a crash."""
        from moa.vllm.endpoint import VLLMServer, WaitingEndpoint

        keys = self._keys(name, vllm)
        servers = [VLLMServer(name, port=port, api_key=key) for port, key in keys.items()]

        async def is_ready() -> bool:
            return any([await server.is_ready() for server in servers])

        def is_coming() -> bool:
            return any(ServerFolder.of(port).is_watched for port in keys)

        return WaitingEndpoint(endpoint, is_coming=is_coming, is_ready=is_ready)

    def _config_of(self, name: str) -> EndpointConfig:
        if name not in self.config.endpoints:
            names = [*self.config.endpoints, EMBEDDED]
            raise ConfigError(f"there is no endpoint {name!r}{nearest(name, names)}")
        return self.config.endpoints[name]


async def warm(endpoints: Iterable[Endpoint], *, texts: Collection[str] = ()) -> None:
    """Load and start what endpoints need; see `Endpoints.warm`."""
    from moa.endpoints.wrappers import innermost
    from moa.local.embedded import EmbeddedEndpoint
    from moa.local.encoders import JointEncoder

    if texts:
        JointEncoder().load(texts)  # in threads, while the rest is loaded
    due = list(endpoints)
    if due:
        import_module("aiohttp")
    for endpoint in map(innermost, due):
        if isinstance(endpoint, EmbeddedEndpoint):
            await endpoint.start(RunContext())


def _build_server(
    name: str, config: RemoteConfig, vllm: VLLMConfig | None, url: str, key: SecretStr | None
) -> OpenAIEndpoint:
    """Build the endpoint of one server; `vllm` has its settings if `moa up` starts it."""
    from moa.endpoints.openai import OpenAIEndpoint
    from moa.vllm.endpoint import VLLMEndpoint

    kind = OpenAIEndpoint
    if vllm or config.priority:
        kind = partial(VLLMEndpoint, priority=config.priority)
    return kind(
        name,
        model=config.model,
        base_url=url,
        api_key=key,
        tier=config.tier,
        price=config.price,
        context_window=config.context_window or (vllm.max_model_len if vllm else None),
        concurrency=config.concurrency,
        timeout_s=config.timeout_s,
        decides=config.decide,
    )


def weights_of(config: Config, name: str) -> Local:
    """Locate the weights of an endpoint with `serve = "llama.cpp"`, fetched or not."""
    from moa.config.catalogue import local

    try:
        return local(config.endpoints[name].model, folder=config.folder)
    except ConfigError as error:
        raise ConfigError(f"[endpoints.{name}] model: {error}") from error


def locate_weights(config: Config, name: str) -> Local:
    """Locate the weights of an endpoint, of a model of the catalogue, or of a file on the hub."""
    from moa.config.catalogue import BUILT_IN, local, models

    if name == EMBEDDED:
        return local(BUILT_IN, folder=Path())
    if name in config.endpoints:
        if config.embeds(name):
            return weights_of(config, name)
        raise ConfigError(
            f"[endpoints.{name}] is asked over the network, and what serves it has weights of its "
            'own. Only those with serve = "llama.cpp" take a file of this machine'
        )
    if name.startswith("hf:") or name in models():
        return local(name, folder=Path())
    names = [*config.endpoints, *(model.name for model in models().values() if model.gguf)]
    raise ConfigError(
        f"{name!r} is no endpoint, no model of the catalogue, and no file of the hub, which is "
        f"written as hf:OWNER/REPOSITORY/FILE.gguf{nearest(name, names)}"
    )


def _check_weights(config: Config, name: str, weights: Local) -> None:
    """Refuse weights that aren't here: gigabytes are only fetched on request."""
    if weights.built_in or weights.path.is_file():
        return
    if weights.hub is None:
        raise ModelNotFound(
            f"[endpoints.{name}] model: there is no file {weights.path}. Correct the path, which "
            "starts at the folder of the configuration; a file of the hub is written as "
            "hf:OWNER/REPOSITORY/FILE.gguf"
        )
    elsewhere = config.file is not None and config.file != Path(FILE)
    raise ModelNotFound(
        f"the weights of [endpoints.{name}], {weights.hub.name}, are not on this machine yet. Run: "
        f"moa models fetch {name}" + (f" --config {config.file}" if elsewhere else "")
    )
