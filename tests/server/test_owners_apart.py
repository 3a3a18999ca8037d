"""What one key's inputs do to a model's server closes that server for no other key."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest
from aiohttp import web
from tenacity import wait_none

from moa import Agent
from moa.endpoints.openai import OpenAIEndpoint
from moa.endpoints.retries import Retried
from moa.serving.keys import keys_in

from .harness import add_key, client_of, server_with, until

SAID = {
    "model": "served-1",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "Hi!"}, "finish_reason": "stop"}
    ],
    "usage": {"prompt_tokens": 9, "completion_tokens": 2},
}


class Gateway:
    """Answers, but for inputs with a certain word, for which it gives up on its model."""

    def __init__(self) -> None:
        self.url = ""
        self.gave_up = 0
        self.is_dead = False
        self.probed = 0
        self.written = 0

    async def complete(self, request: web.Request) -> web.Response:
        body = await request.json()
        is_probe = 1 in (body.get("max_tokens"), body.get("max_completion_tokens"))
        self.probed += is_probe
        self.written += not is_probe
        if self.is_dead or "poison" in await request.text():
            self.gave_up += 1
            return web.Response(status=504)
        return web.json_response(SAID)

    async def list_models(self, _: web.Request) -> web.Response:
        return web.json_response({"data": []})  # also while its model is away


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    found = Gateway()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", found.complete)
    app.router.add_get("/v1/models", found.list_models)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    found.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    yield found
    await runner.cleanup()


async def ask(client: httpx2.AsyncClient, key: dict[str, str], text: str) -> int:
    return (await client.post("/run/greeter", json=text, headers=key)).status_code


async def test_a_key_whose_inputs_a_gateway_gives_up_on_closes_the_model_for_no_other(
    gateway: Gateway, tmp_path: Path
) -> None:
    large = Retried(OpenAIEndpoint("large", model="m", base_url=gateway.url), wait=wait_none())
    keys = str(tmp_path / "keys.toml")
    bad, good = add_key(keys, "bad"), add_key(keys, "good")
    _, app = server_with(Agent(large, "Greet.", name="greeter"), keys=keys_in(keys), timeout_s=5.0)

    async def poison(client: httpx2.AsyncClient) -> None:
        while True:
            await ask(client, bad, "poison")

    async with client_of(app) as client:
        poisoners = [asyncio.ensure_future(poison(client)) for _ in range(4)]
        statuses: list[int] = []
        try:
            for _ in range(30):
                seen = gateway.gave_up
                await until(lambda seen=seen: gateway.gave_up >= seen + 3, seconds=30)
                statuses.append(await ask(client, good, "Hi"))
        finally:
            for poisoner in poisoners:
                poisoner.cancel()
            await asyncio.gather(*poisoners, return_exceptions=True)
    assert statuses == [200] * 30


async def test_a_model_that_is_away_behind_a_live_gateway_is_found_so_by_requests_of_one_token(
    gateway: Gateway, tmp_path: Path
) -> None:
    large = Retried(
        OpenAIEndpoint("large", model="m", base_url=gateway.url), wait=wait_none(), timeout_s=3.0
    )
    keys = str(tmp_path / "keys.toml")
    only = add_key(keys, "only")
    _, app = server_with(Agent(large, "Greet.", name="greeter"), keys=keys_in(keys))
    async with client_of(app) as client:
        assert await ask(client, only, "Hi") == 200
        gateway.is_dead, gateway.written = True, 0
        found = await asyncio.gather(*(ask(client, only, "Hi") for _ in range(4)))
        assert 200 not in found
        asked = gateway.written
        assert asked <= 4 * 3
        assert gateway.probed
        assert await ask(client, only, "Hi") != 200
        assert gateway.written == asked  # it was probed, and asked nothing of a client's
        gateway.is_dead = False
        statuses = await asyncio.gather(*(ask(client, only, "Hi") for _ in range(4)))
    assert statuses == [200] * 4
