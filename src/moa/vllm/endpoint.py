"""vLLM: an endpoint for vLLM's own features, and the metrics of its server.

The fields are those of vLLM 0.32:
<https://docs.vllm.ai/en/stable/serving/openai_compatible_server/>.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Unpack

from pydantic import SecretStr

from moa.core._async import off_loop
from moa.core._json import JSON
from moa.core.context import RunContext
from moa.core.errors import EndpointUnavailable, InvalidResponse, require_package
from moa.core.usage import NOTHING, Tier
from moa.endpoints import Endpoint, Prompt
from moa.endpoints.dialects import VLLM
from moa.endpoints.openai import OpenAIEndpoint, Settings
from moa.endpoints.tokens import neutralise
from moa.endpoints.wrappers import ScopedSender, Wrapping

LOOPBACK = "127.0.0.1"
_TIMEOUT_S = 5.0
_LONGEST_START_S = 900.0
_POLL_S = 0.5
"""Seconds between two checks of a server that starts."""
"""Maximum seconds to wait for a server's start."""


class VLLMEndpoint(OpenAIEndpoint):
    """A model that vLLM serves.

    Args:
        name: Shown in traces, errors and usage.
        model: Name of the model, or of a LoRA adapter, as the server knows it.
        base_url: Address up to `/v1`.
        priority: Lower is served earlier; other than 0 needs `--scheduling-policy priority`.
        tier: `slm` or `llm`.
        settings: The other settings of `OpenAIEndpoint`. `decides="auto"` uses `/v1/systemone` if
            vLLM supports it for the model (Qwen3), else label log-probabilities.

    Raises:
        ConfigError: `base_url` is not an HTTP address, the key is invalid, or a number is not
            positive.

    Examples:
        >>> small = VLLMEndpoint("small", base_url="http://127.0.0.1:8000/v1", model="qwen")
        >>> Sentiment(small).run_sync("I love it!")  # doctest: +SKIP
    """

    def __init__(
        self,
        name: str,
        *,
        model: str,
        base_url: str = "http://127.0.0.1:8000/v1",
        priority: int = 0,
        tier: Tier = "slm",
        **settings: Unpack[Settings],
    ) -> None:
        super().__init__(name, model=model, base_url=base_url, tier=tier, dialect=VLLM, **settings)
        self._priority = self._decider.priority = priority

    async def count_tokens(self, text: str, context: RunContext, /) -> int:
        """Count the tokens of a text by the model's own tokenizer; see `CountsTokens`."""
        neutral = await off_loop(
            partial(neutralise, text), context.remaining_s(), owner=context.owner, size=len(text)
        )
        body = {"model": self.model, "prompt": neutral, "add_special_tokens": False}
        reply, _ = await self.client.post(
            "/tokenize", body, context, estimate=NOTHING, at_root=True
        )
        count = reply.get("count")
        if not isinstance(count, int):
            raise InvalidResponse("the tokenizer sent no count", endpoint=self.name)
        return count

    def chat(self, prompt: Prompt) -> JSON:
        """Return the body of a request, with vLLM's priority."""
        body = super().chat(prompt)
        return {**body, "priority": self._priority} if self._priority else body


def make_vllm(name: str, model: str, base_url: str, tier: Tier, settings: Settings) -> VLLMEndpoint:
    """Make the endpoint that a string such as `vllm:MODEL@URL` stands for."""
    return VLLMEndpoint(name, model=model, base_url=base_url, tier=tier, **settings)


@dataclass(frozen=True, slots=True)
class VLLMMetrics:
    """The figures of `/metrics`, summed over the server's engines."""

    running: int
    """Requests in progress."""
    waiting: int
    """Requests in the queue."""
    kv_cache_use: float
    """Used share of the KV cache, of the fullest engine."""
    prefix_queries: int
    """Prompt tokens looked up in the prefix cache since the start of the server."""
    prefix_hits: int
    """Prompt tokens found there."""
    prompt_tokens: int
    generated_tokens: int

    @property
    def prefix_hit_rate(self) -> float | None:
        """Share of cached prompt tokens; `None` before the first prompt."""
        return self.prefix_hits / self.prefix_queries if self.prefix_queries else None


class VLLMServer:
    """Watches a vLLM server on this machine; its name is in errors."""

    def __init__(self, name: str, *, port: int, api_key: SecretStr) -> None:
        self.name = name
        self._root = f"http://{LOOPBACK}:{port}"
        self._key = api_key

    async def is_ready(self) -> bool:
        """Return True if it serves and accepts our key; another program on the port does not."""
        headers = {"Authorization": f"Bearer {self._key.get_secret_value()}"}
        try:
            status, _ = await self._get("/v1/models", headers)
        except EndpointUnavailable:
            return False
        return status == 200

    async def metrics(self) -> VLLMMetrics:
        """Read `/metrics`.

        Raises:
            MissingDependency: prometheus-client is not installed.
            EndpointUnavailable: the server does not answer.
            InvalidResponse: the status isn't 200, or the answer isn't in vLLM's format.
        """
        status, text = await self._get("/metrics", {})
        if status != 200:
            raise InvalidResponse(f"/metrics answered {status}", endpoint=self.name, status=status)
        return self._read(text)

    def _read(self, text: str) -> VLLMMetrics:
        # vLLM may be in an environment of its own, so this is not told to install vLLM here.
        command = "pip install prometheus-client"
        purpose = "to read the figures of a vLLM server"
        with require_package("prometheus-client", extra="vllm", purpose=purpose, command=command):
            from prometheus_client.parser import text_string_to_metric_families

        sums: defaultdict[str, float] = defaultdict(float)
        fullest = 0.0
        try:
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    sums[sample.name] += sample.value
                    if sample.name == "vllm:kv_cache_usage_perc":
                        fullest = max(fullest, sample.value)
        except ValueError as error:
            raise InvalidResponse("/metrics is not Prometheus's", endpoint=self.name) from error
        if "vllm:num_requests_running" not in sums:
            raise InvalidResponse("/metrics is not vLLM's", endpoint=self.name)
        return VLLMMetrics(
            running=int(sums["vllm:num_requests_running"]),
            waiting=int(sums["vllm:num_requests_waiting"]),
            kv_cache_use=fullest,
            prefix_queries=int(sums["vllm:prefix_cache_queries_total"]),
            prefix_hits=int(sums["vllm:prefix_cache_hits_total"]),
            prompt_tokens=int(sums["vllm:prompt_tokens_total"]),
            generated_tokens=int(sums["vllm:generation_tokens_total"]),
        )

    async def _get(self, path: str, headers: dict[str, str]) -> tuple[int, str]:
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, headers=headers) as session,
                session.get(self._root + path) as answer,
            ):
                return answer.status, await answer.text()
        except (aiohttp.ClientError, TimeoutError, OSError, UnicodeDecodeError) as error:
            raise EndpointUnavailable(
                f"the server at {self._root} does not answer: {error or type(error).__name__}",
                endpoint=self.name,
            ) from error


class WaitingEndpoint(ScopedSender, Wrapping):
    """Delays a lost server's error until the server is back, or won't come back.

    So the next try, such as that of `Retried` around it, reaches a running server, however long its
    start takes. The wait ends with the run's deadline, or after a quarter of an hour.

    Args:
        endpoint: The endpoint to ask.
        is_coming: Returns True while the server is being started or supervised.
        is_ready: Returns True once the server is ready.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        is_coming: Callable[[], bool],
        is_ready: Callable[[], Awaitable[bool]],
    ) -> None:
        super().__init__(endpoint)
        self._is_coming = is_coming
        self._is_ready = is_ready

    @asynccontextmanager
    async def scope(self, context: RunContext) -> AsyncGenerator[Endpoint, None]:
        """Hold an error back until the server is ready again."""
        try:
            yield self.endpoint
        except EndpointUnavailable as error:
            await self._wait(error, context)
            raise

    async def _wait(self, error: EndpointUnavailable, context: RunContext) -> None:
        start = time.monotonic()
        while time.monotonic() - start < _LONGEST_START_S and self._is_coming():
            if await self._is_ready():
                break
            left_s = context.remaining_s()
            await asyncio.sleep(_POLL_S if left_s is None else min(_POLL_S, left_s))
        waited_s = time.monotonic() - start
        if waited_s >= _POLL_S:
            text = f"{waited_s:.0f} s waited for the server to be started again: {error}"
            context.note("retried", text, endpoint=self.name, error=error)


def is_free(port: int) -> bool:
    """Return True if a server could listen on a port of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])
