"""vLLM: an endpoint for what only vLLM has, and what its server says of itself.

The fields are those of vLLM 0.32: <https://docs.vllm.ai/en/stable/serving/openai_compatible_server/>.
"""

from __future__ import annotations

import socket
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack

from pydantic import SecretStr

from moa.context import RunContext
from moa.endpoints import Prompt
from moa.endpoints.control_tokens import neutralise
from moa.endpoints.dialects import VLLM, Dialect
from moa.endpoints.openai import OpenAIEndpoint, Settings
from moa.errors import EndpointUnavailable, InvalidResponse
from moa.usage import NOTHING, Tier

if TYPE_CHECKING:
    import aiohttp

LOOPBACK = "127.0.0.1"
_TIMEOUT_S = 5.0


class VLLMEndpoint(OpenAIEndpoint):
    """A model that vLLM serves.

    Args:
        name: Shown in traces, errors and usage.
        model: Name of the model, or of a LoRA adapter, as the server knows it.
        base_url: Address up to `/v1`.
        priority: Lower is served earlier; other than 0 needs `--scheduling-policy priority`.
        tier: `slm` or `llm`.
        dialect: What the server does in its own way.
        settings: The others of an `OpenAIEndpoint`. `decides="auto"` takes `/v1/systemone` where
            vLLM decides on the model's architecture (Qwen3), else label log-probabilities.

    Raises:
        ConfigError: `base_url` is no address of HTTP, the key is no key, or a number is not
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
        dialect: Dialect = VLLM,
        **settings: Unpack[Settings],
    ) -> None:
        super().__init__(
            name,
            model=model,
            base_url=base_url,
            tier=tier,
            dialect=dialect,
            **settings,
        )
        self._priority = self._decider.priority = priority

    async def count_tokens(self, text: str, context: RunContext, /) -> int:
        """Count the tokens of a text by the model's own tokenizer.

        Raises:
            EndpointError: the request failed.
            DeadlineExceeded: the run's time is up.
        """
        body = {"model": self.model, "prompt": neutralise(text), "add_special_tokens": False}
        reply, _ = await self.client.post(
            "/tokenize", body, context, estimate=NOTHING, at_root=True
        )
        count = reply.get("count")
        if not isinstance(count, int):
            raise InvalidResponse("the tokenizer sent no count", endpoint=self.name)
        return count

    def chat(self, prompt: Prompt) -> dict[str, Any]:
        """Write a request in vLLM's words."""
        body = super().chat(prompt)
        return {**body, "priority": self._priority} if self._priority else body


@dataclass(frozen=True, slots=True)
class VLLMMetrics:
    """What `/metrics` says, summed over the server's engines."""

    running: int
    """Requests that are worked on."""
    waiting: int
    """Requests that wait for their turn."""
    kv_cache_use: float
    """Share of the KV cache that is in use, of the fullest engine."""
    prefix_queries: int
    """Tokens of prompts that were looked for in the prefix cache since the server started."""
    prefix_hits: int
    """Those of them that were there."""
    prompt_tokens: int
    generated_tokens: int

    @property
    def prefix_hit_rate(self) -> float | None:
        """Share of prompt tokens that were cached; `None` before the first prompt."""
        return self.prefix_hits / self.prefix_queries if self.prefix_queries else None


class VLLMServer:
    """A vLLM server, watched.

    Args:
        name: Named in errors.
        port: Where it listens on this machine.
        api_key: Its key.
    """

    def __init__(self, name: str, *, port: int, api_key: SecretStr) -> None:
        self.name = name
        self._root = f"http://{LOOPBACK}:{port}"
        self._key = api_key

    async def is_ready(self) -> bool:
        """Ask whether it serves, and knows our key; whatever else answers there does not."""
        headers = {"Authorization": f"Bearer {self._key.get_secret_value()}"}
        try:
            status, _ = await self._get("/v1/models", headers)
        except EndpointUnavailable:
            return False
        return status == 200

    async def metrics(self) -> VLLMMetrics:
        """Read `/metrics`.

        Raises:
            EndpointUnavailable: it does not answer.
            InvalidResponse: what it answers is not what vLLM writes.
        """
        status, text = await self._get("/metrics", {})
        if status != 200:
            raise InvalidResponse(f"/metrics answered {status}", endpoint=self.name, status=status)
        return self._read(text)

    def _read(self, text: str) -> VLLMMetrics:
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

        try:
            async with self._session(headers) as session, session.get(self._root + path) as answer:
                return answer.status, await answer.text()
        except (aiohttp.ClientError, TimeoutError, OSError, UnicodeDecodeError) as error:
            raise EndpointUnavailable(
                f"the server at {self._root} does not answer: {error or type(error).__name__}",
                endpoint=self.name,
            ) from error

    @staticmethod
    def _session(headers: dict[str, str]) -> aiohttp.ClientSession:
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
        return aiohttp.ClientSession(timeout=timeout, headers=headers)


def is_free(port: int) -> bool:
    """Say whether a server could listen on a port of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """Find a port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])
