"""vLLM as a process: start, supervise and stop servers. No other package starts them.

    async with moa.vllm.serve("Qwen/Qwen3-0.6B", max_model_len=4096) as endpoint:
        mood = await Sentiment(endpoint).run("Lovely!")

`moa up` starts the servers of a configuration.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from moa.core.usage import UNKNOWN_PRICE, Price, Tier

if TYPE_CHECKING:
    from moa.vllm.endpoint import VLLMEndpoint
    from moa.vllm.settings import VLLMSettings


@asynccontextmanager
async def serve(
    model: str,
    *,
    name: str = "vllm",
    tier: Tier = "slm",
    price: Price = UNKNOWN_PRICE,
    concurrency: int = 64,
    start_timeout_s: float = 600.0,
    **settings: Unpack[VLLMSettings],
) -> AsyncGenerator[VLLMEndpoint, None]:
    """Start a vLLM server on this machine, and yield its endpoint once it is ready.

    The server listens on loopback with a generated key, and is restarted after a crash. It stops
    with the `async with`, or with this process, however that ends.

    Args:
        model: A folder, or a name on the hub.
        name: Name of the endpoint.
        tier: `slm` or `llm`.
        price: Price of the endpoint.
        concurrency: Maximum concurrent requests.
        start_timeout_s: Maximum seconds to start, including the download of the model.
        settings: Settings of a `VLLMConfig`, such as `max_model_len`. The default `port` is a free
            one. Use a separate endpoint for each LoRA adapter, with its name as `model`.

    Raises:
        MissingDependency: vLLM is not installed.
        ConfigError: the port is taken, or an argument is wrong.
        EndpointUnavailable: the server failed to start, or was not ready in time.

    Examples:
        >>> async def main():
        ...     async with serve("Qwen/Qwen3-0.6B") as small:
        ...         return await Sentiment(small).run("Lovely.")
        >>> result = asyncio.run(main())  # doctest: +SKIP
    """
    from pydantic import ValidationError

    from moa.core.errors import ConfigError
    from moa.vllm.command import specs_of
    from moa.vllm.endpoint import VLLMEndpoint, free_port
    from moa.vllm.servers import launch, wait_until_ready
    from moa.vllm.settings import VLLMConfig, local_url

    try:
        config = VLLMConfig.model_validate({"port": free_port(), **settings})
    except ValidationError as error:
        faults = "; ".join(f"{fault['loc'][0]}: {fault['msg']}" for fault in error.errors())
        raise ConfigError(f"moa.vllm.serve({model!r}): {faults}") from error
    (spec,) = await asyncio.to_thread(specs_of, name, model, config, base=Path.cwd())
    spec = spec.model_copy(update={"tethered": True})
    launched = await asyncio.to_thread(launch, spec)
    try:
        await wait_until_ready(launched, timeout_s=start_timeout_s)
        endpoint = VLLMEndpoint(
            name,
            model=model,
            base_url=local_url(config.port),
            api_key=launched.folder.key(),
            tier=tier,
            price=price,
            context_window=config.max_model_len,
            concurrency=concurrency,
        )
        async with endpoint:
            yield endpoint
    finally:
        await asyncio.shield(asyncio.to_thread(launched.release))
