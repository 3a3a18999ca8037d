"""The support graph on a real vLLM: the whole inbox, and the cache its prompts are built for."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from command import moa

from moa import RunContext
from moa.endpoints.openai import OpenAIEndpoint
from moa.inbox.support import intent_of

from .conftest import CONFIG, server_of
from .messages import EXAMPLES, messages

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300)]
INBOX = EXAMPLES / "inbox.jsonl"
ASKING = """
from moa import Support


def graph(endpoints):
    return Support(slm=endpoints.slm, llm=endpoints.llm, decide_by="model")
"""


def test_the_whole_inbox_goes_through_the_support_graph(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    graph = tmp_path / "graph.py"
    graph.write_text(ASKING, encoding="utf-8")
    words = (f"{graph}:graph", str(INBOX), "--config", CONFIG, "--out", str(out))
    assert moa("run", *words) == 0
    found = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    rows = [json.loads(line) for line in INBOX.read_text("utf-8").splitlines()]
    assert len(found) == len(rows)
    assert {line["id"] for line in found} == {row["id"] for row in rows}
    kinds = Counter(line["output"]["kind"] for line in found)
    # Whether a routine reply is among them is up to what the small model makes of the messages.
    assert {"route", "drop"} <= set(kinds) <= {"reply", "route", "drop"}
    read = [line for line in found if line["output"]["decisions"]]
    assert len(read) == len(found) - 1  # one is empty
    assert all(set(line["usage"]["by_endpoint"]) == {"small"} for line in read)
    assert all(line["usage"]["calls"] >= 5 for line in read)


@pytest.mark.asyncio(loop_scope="module")
async def test_what_stands_before_every_message_is_read_once(labels: OpenAIEndpoint) -> None:
    server = server_of("small")
    agent = intent_of(labels)
    texts = [message.text for message in messages() if 0 < len(message.text) < 200][:20]
    await agent.run(texts[0])  # the prefix is cached from here on
    before = await server.metrics()
    context = RunContext()
    for text in texts[1:]:
        await agent.run(text, context)
    after = await server.metrics()
    asked = after.prefix_queries - before.prefix_queries
    hits = after.prefix_hits - before.prefix_hits
    assert asked >= context.usage.total.input_tokens
    assert hits / asked > 0.7
    assert context.usage.total.cached_input_tokens == hits
