"""vLLM as a process: starts servers, watches over them, and stops them. Alone starts them.

    async with moa.vllm.serve("Qwen/Qwen3-0.6B", max_model_len=4096) as endpoint:
        mood = await Sentiment(endpoint).run("Lovely!")

Those of a configuration are started by `moa up`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from moa.usage import UNKNOWN_PRICE, Price, Tier

if TYPE_CHECKING:
    from moa.endpoints.vllm import VLLMEndpoint


@asynccontextmanager
async def serve(
    model: str,
    *,
    name: str = "vllm",
    tier: Tier = "slm",
    price: Price = UNKNOWN_PRICE,
    concurrency: int = 64,
    port: int | None = None,
    dtype: str = "auto",
    max_model_len: int | None = None,
    gpu_memory_utilization: float | None = None,
    quantization: str | None = None,
    lora: Mapping[str, str] | None = None,
    block_size: int | None = None,
    max_num_seqs: int | None = None,
    priority: bool = False,
    python: str | None = None,
    args: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    start_timeout_s: float = 600.0,
) -> AsyncGenerator[VLLMEndpoint, None]:
    """Start a vLLM server on this machine, and give its endpoint as soon as it is ready.

    It listens on loopback with a generated key, is started again after a crash, and ends with the
    `async with`, or with this process, however that ends.

    Args:
        model: A folder, or a name on the hub.
        name: Of the endpoint.
        tier: `slm` or `llm`.
        price: What it costs.
        concurrency: Most requests at once.
        port: Where it listens; `None`: on a free one.
        dtype: See `VLLMConfig`, as for all that follow.
        max_model_len: Most tokens of a prompt and its answer.
        gpu_memory_utilization: Share of the GPU's memory.
        quantization: How the weights are quantised.
        lora: LoRA adapters; each is asked by an endpoint of its own, with its name as `model`.
        block_size: Tokens a block of the KV cache.
        max_num_seqs: Most requests worked on at once.
        priority: Whether requests are served by priority.
        python: Interpreter, or virtual environment, that has vLLM.
        args: Further arguments of vLLM.
        env: Further variables of vLLM.
        start_timeout_s: Seconds until it has to be ready, the download of the model included.

    Raises:
        MissingDependency: vLLM is not installed.
        ConfigError: the port is taken, or an argument is wrong.
        EndpointUnavailable: it failed to come up, and why, or was not ready in time.
    """
    from pydantic import ValidationError

    from moa.endpoints.vllm import VLLMEndpoint, free_port
    from moa.errors import ConfigError
    from moa.vllm.command import specs_of
    from moa.vllm.servers import launch, until_ready
    from moa.vllm.settings import VLLMConfig, local_url

    try:
        config = VLLMConfig(
            port=port or free_port(),
            dtype=dtype,
            max_model_len=max_model_len,
            gpu_memory_utilization=gpu_memory_utilization,
            quantization=quantization,
            lora=dict(lora or {}),
            block_size=block_size,
            max_num_seqs=max_num_seqs,
            priority=priority,
            python=python,
            args=tuple(args),
            env=dict(env or {}),
        )
    except ValidationError as error:
        wrong = "; ".join(f"{it['loc'][0]}: {it['msg']}" for it in error.errors())
        raise ConfigError(f"moa.vllm.serve({model!r}): {wrong}") from error
    (spec,) = await asyncio.to_thread(specs_of, name, model, config, base=Path.cwd())
    spec = spec.model_copy(update={"tethered": True})
    launched = await asyncio.to_thread(launch, spec)
    try:
        await until_ready(launched, timeout_s=start_timeout_s)
        endpoint = VLLMEndpoint(
            name,
            model=model,
            base_url=local_url(config.port),
            api_key=launched.folder.key(),
            tier=tier,
            price=price,
            context_window=max_model_len,
            concurrency=concurrency,
        )
        async with endpoint:
            yield endpoint
    finally:
        await asyncio.shield(asyncio.to_thread(launched.let_go))
