"""A model server that answers after a set time: `python benchmarks/mock_server.py`.

It prints its port, and stops when its input is closed. A model called `NAME-20` answers after
20 ms; `half-20` sends half of the answer then, and `empty-20` one without a text. It runs in a
process of its own, so that its work is not counted as the client's.
"""

from __future__ import annotations

import asyncio
import json
import sys

from aiohttp import web

TEXT = "A short answer to the text."


def answer(model: str) -> bytes:
    """A chat completion as OpenAI and vLLM send it, or as they don't."""
    fault = model.partition("-")[0]
    content = "" if fault == "empty" else TEXT
    whole = json.dumps(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": model,
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": content},
                    "logprobs": None,
                    "finish_reason": "stop",
                }
            ],
            "usage": {"prompt_tokens": 40, "completion_tokens": 8, "total_tokens": 48},
        }
    ).encode()
    return whole[: len(whole) // 2] if fault == "half" else whole


async def complete(request: web.Request) -> web.Response:
    model = str((await request.json())["model"])
    delay_s = int(model.rpartition("-")[2]) / 1000
    if delay_s:
        await asyncio.sleep(delay_s)
    return web.Response(body=answer(model), content_type="application/json")


async def serve() -> None:
    app = web.Application()
    app.router.add_post("/v1/chat/completions", complete)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=2048)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(serve())
