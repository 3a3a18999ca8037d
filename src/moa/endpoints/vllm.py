"""VLLMEndpoint: what only vLLM has: schemas enforced while decoding, priorities.

The fields are those of vLLM 0.32: <https://docs.vllm.ai/en/stable/serving/openai_compatible_server/>.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from moa.context import RunContext
from moa.endpoints import Capability, Prompt
from moa.endpoints.control_tokens import neutralise
from moa.endpoints.detection import Decides
from moa.endpoints.openai import CHAT, OpenAIEndpoint
from moa.endpoints.profiles import VLLM, Profile
from moa.endpoints.vllm_labels import VLLMLabelReader
from moa.errors import InvalidResponse
from moa.usage import NOTHING, UNKNOWN_PRICE, Price, Tier

if TYPE_CHECKING:
    import httpx2


class VLLMEndpoint(OpenAIEndpoint):
    """A model that vLLM serves.

    Args:
        name: Shown in traces, errors and usage.
        model: Name of the model, or of a LoRA adapter, as the server knows it.
        base_url: Address up to `/v1`.
        priority: Lower is served earlier; other than 0 needs `--scheduling-policy priority`.
        api_key: What the server was started with; `None` sends none.
        tier: `slm` or `llm`.
        price: What it charges, such as per hour of the GPU.
        context_window: Tokens that fit into one request (`--max-model-len`).
        concurrency: Most requests at once; vLLM batches them.
        connect_timeout_s: Seconds to wait for a connection.
        timeout_s: Seconds that a whole request may take.
        capabilities: What can be asked of it.
        decides: How it decides. `auto` takes `/v1/systemone` where vLLM decides on the model's
            architecture (Qwen3), else label log-probabilities.
        profile: Limits of `/v1/systemone`.
        http_client: Used in place of aiohttp, such as one over `httpx2.MockTransport`.

    Raises:
        ConfigError: `base_url` is no address of HTTP, the key is no key, or a number is not
            positive.
    """

    def __init__(
        self,
        name: str,
        *,
        model: str,
        base_url: str = "http://127.0.0.1:8000/v1",
        priority: int = 0,
        api_key: SecretStr | str | None = None,
        tier: Tier = "slm",
        price: Price = UNKNOWN_PRICE,
        context_window: int | None = None,
        concurrency: int = 64,
        connect_timeout_s: float = 5.0,
        timeout_s: float = 120.0,
        capabilities: Collection[Capability] = CHAT,
        decides: Decides = "auto",
        profile: Profile = VLLM,
        http_client: httpx2.AsyncClient | None = None,
    ) -> None:
        super().__init__(
            name,
            model=model,
            base_url=base_url,
            api_key=api_key,
            tier=tier,
            price=price,
            context_window=context_window,
            concurrency=concurrency,
            connect_timeout_s=connect_timeout_s,
            timeout_s=timeout_s,
            capabilities=capabilities,
            decides=decides,
            label_reader=lambda client: VLLMLabelReader(client, priority=priority),
            profile=profile,
            http_client=http_client,
        )
        self._priority = priority

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

    def constrained(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        """Say in vLLM's words that the answer must be JSON that follows `schema`."""
        return {"structured_outputs": {"json": schema}}

    def enforces(self, schema: Mapping[str, Any]) -> bool:
        """Say that vLLM holds every answer to its schema."""
        return True
