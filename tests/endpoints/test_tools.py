"""Tools and files as servers are sent them, and calls as they send them."""

from __future__ import annotations

import time
import tracemalloc
from typing import Any

import pytest

from moa.core.context import RunContext
from moa.core.messages import File, Image, Message, ToolCall
from moa.core.usage import Tier
from moa.endpoints import Completion, Prompt, ToolSchema
from moa.endpoints.dialects import OPENAI, VLLM
from moa.endpoints.openai import OpenAIEndpoint
from moa.endpoints.tools import WithTools
from moa.endpoints.wrappers import Cached
from moa.testing import ScriptedEndpoint

from .conftest import Answer, Served, chat, events, piece

SUMS: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "integer"}}}
ADD = ToolSchema("add", "Add.", SUMS)
ASKED = Prompt(messages=(Message("user", "1 + 2?"),), tools=(ADD,))
SCHEMA = {"title": "Sum", "type": "object", "properties": {"value": {"type": "integer"}}}


def endpoint(**settings: Any) -> OpenAIEndpoint:
    return OpenAIEndpoint("writer", model="m", base_url="http://model.test/v1", **settings)


def function(**call: Any) -> dict[str, Any]:
    return {"type": "function", **call}


async def test_tools_and_their_results_are_sent_as_openai_does(served: Served) -> None:
    served.will(chat("3"))
    call = ToolCall("add", '{"a": "<|im_end|>"}', "c1")
    said = (Message("assistant", "", (call,)), Message("tool", "3", tool_call_id="c1"))
    prompt = Prompt(messages=(*ASKED.messages, *said), tools=(ADD,))
    await endpoint().complete(prompt, RunContext())
    (body,) = served.bodies
    told = {"name": "add", "description": "Add.", "parameters": SUMS}
    assert body["tools"] == [{"type": "function", "function": told}]
    sent = {"name": "add", "arguments": '{"a": "< |im_end|>"}'}
    assert body["messages"][1:] == [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c1", "type": "function", "function": sent}],
        },
        {"role": "tool", "content": "3", "tool_call_id": "c1"},
    ]


async def test_calls_are_read_also_without_an_id_or_with_arguments_that_are_no_text(
    served: Served,
) -> None:
    calls = [
        function(id="c1", function={"name": "add", "arguments": '{"a": 1}'}),
        function(id="", function={"name": "add", "arguments": {"a": 2}}),
    ]
    served.will(chat(None, finish_reason="tool_calls", tool_calls=calls))
    completion = await endpoint().complete(ASKED, RunContext())
    assert completion.text == ""
    assert completion.tool_calls == (
        ToolCall("add", '{"a": 1}', "c1"),
        ToolCall("add", '{"a": 2}', "call_1_1"),
    )


@pytest.mark.parametrize(
    ("parts", "calls"),
    [
        (
            [
                {"id": "c1", "function": {"name": "add", "arguments": ""}},
                {"function": {"arguments": '{"a"'}},
                {"function": {"arguments": ": 1}"}},
                {"id": "c2", "function": {"name": "add", "arguments": "{}"}},
            ],
            [ToolCall("add", '{"a": 1}', "c1"), ToolCall("add", "{}", "c2")],
        ),
        (
            [{"function": {"name": "add", "arguments": f'{{"a": {n}}}'}} for n in (1, 2)],
            [ToolCall("add", f'{{"a": {n}}}', f"call_1_{n - 1}") for n in (1, 2)],
        ),
    ],
    ids=["in pieces", "without ids"],
)
async def test_streamed_calls_are_put_together_and_told_apart(
    served: Served, parts: list[dict[str, Any]], calls: list[ToolCall]
) -> None:
    # Gemini's index is always 0.
    pieces = (piece(tool_calls=[{"index": 0, **part}]) for part in parts)
    served.will(events(*pieces, piece(finish_reason="tool_calls")))
    (completion,) = [one async for one in endpoint().stream(ASKED, RunContext())]
    assert isinstance(completion, Completion)
    assert list(completion.tool_calls) == calls


@pytest.mark.parametrize(("dialect", "sent"), [(OPENAI, True), (None, False)])
async def test_a_schema_goes_beside_tools_only_where_a_server_takes_both(
    served: Served, dialect: Any, sent: bool
) -> None:
    served.will(chat("3"))
    prompt = Prompt(messages=ASKED.messages, tools=(ADD,), json_schema=SCHEMA)
    await endpoint(dialect=dialect).complete(prompt, RunContext())
    assert ("response_format" in served.bodies[0]) is sent


@pytest.mark.parametrize(
    "said",
    [
        '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set',
        "registry.ollama.ai/library/gemma:2b does not support tools",
        "tools param requires --jinja flag",
        "body.tools: Extra inputs are not permitted",
    ],
    ids=["vLLM", "Ollama", "llama.cpp", "checked fields"],
)
async def test_a_server_that_takes_no_tools_is_asked_for_json(served: Served, said: str) -> None:
    refused = Answer(400, json={"error": {"message": said}})
    served.will(refused, chat('{"tool": "add", "arguments": {"a": 1}}'))
    context = RunContext()
    completion = await WithTools(endpoint()).complete(ASKED, context)
    assert completion.tool_calls == (ToolCall("add", '{"a": 1}', "call_1"),)
    assert "tools" not in served.bodies[1]
    assert served.bodies[1]["response_format"]["json_schema"]["schema"]["title"] == "Turn"
    assert context.trace[0].kind == "fell back"


@pytest.mark.parametrize(("tier", "natively"), [("slm", False), ("llm", True)])
async def test_a_small_model_is_asked_by_a_schema_where_its_server_enforces_one(
    served: Served, tier: Tier, natively: bool
) -> None:
    served.will(chat('{"answer": "3"}'))
    await WithTools(endpoint(tier=tier, dialect=VLLM)).complete(ASKED, RunContext())
    assert ("tools" in served.bodies[0]) is natively


async def test_files_are_parts_of_a_message(served: Served) -> None:
    served.will(chat("A cat."))
    picture, paper = Image(b"\x89PNG" + b"0" * 300_000), File(b"%PDF-1", name="a.pdf")
    prompt = Prompt(messages=(Message("user", "Who?", files=(picture, paper)),))
    await endpoint().complete(prompt, RunContext())
    text, image, file = served.bodies[0]["messages"][0]["content"]
    assert text == {"type": "text", "text": "Who?"}
    assert image["image_url"]["url"].startswith("data:image/png;base64,iVBORzAw")
    assert file["file"] == {"filename": "a.pdf", "file_data": paper.url}


def reserved(text: str, *files: File) -> int:
    """Return the tokens reserved for a text and files, without those of an empty message."""
    estimates = [
        endpoint()._request(Prompt(messages=(message,)))[1]  # pyright: ignore[reportPrivateUsage]
        for message in (Message("user", text, files=files), Message("user", ""))
    ]
    return estimates[0].input_tokens - estimates[1].input_tokens


@pytest.mark.parametrize(
    "picture",
    [Image(b"\x89PNG"), Image(b"\x89PNG" + b"0" * 300_000), Image("https://example.org/cat.png")],
    ids=["small", "large", "by its address"],
)
def test_a_picture_reserves_the_most_that_models_read_of_one(picture: Image) -> None:
    assert 16_384 <= reserved("", picture) < 16_500


@pytest.mark.parametrize("kind", [File, Image])
def test_any_other_file_reserves_tokens_by_its_size(kind: type[File]) -> None:
    assert reserved("", kind(b"%PDF" + b"0" * 300_000)) > 100_000


@pytest.mark.parametrize(
    "text",
    [
        "data:text/plain;base64," + "QUJDRA+/" * 40_000,
        "data:image/png;base64," + "QUJDRA+/" * 40_000,
        "data:a;base64,A " * 20_000,
    ],
    ids=["text", "picture", "many"],
)
def test_a_text_that_only_looks_like_a_file_is_counted_as_text(text: str) -> None:
    assert len(text) // 3 <= reserved(text) <= len(text) // 3 + 100


def test_no_text_is_made_that_is_much_larger_than_the_prompt() -> None:
    text = "data:a;base64,A " * 20_000
    tracemalloc.start()
    reserved(text)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 * len(text)


async def test_a_cache_tells_pictures_apart() -> None:
    model = ScriptedEndpoint(["A cat.", "A dog."])
    cached, context = Cached(model), RunContext()
    for data, said in ((b"\x89PNG1", "A cat."), (b"\x89PNG2", "A dog."), (b"\x89PNG1", "A cat.")):
        prompt = Prompt(messages=(Message("user", "Who?", files=(Image(data),)),))
        assert (await cached.complete(prompt, context)).text == said


async def test_a_call_that_a_model_writes_as_text_is_read_and_a_schema_taken_from_then_on() -> None:
    written = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
    model = ScriptedEndpoint([written, '{"answer": "3"}'])
    tooled, context = WithTools(model), RunContext()
    (completion,) = [one async for one in tooled.stream(ASKED, context)]  # nothing is shown of it
    assert isinstance(completion, Completion)
    assert completion.tool_calls == (ToolCall("add", '{"a": 1}', "call_1"),)
    assert (await tooled.complete(ASKED, context)).text == "3"
    assert [bool(prompt.tools) for prompt in model.prompts] == [True, False]
    assert [note.kind for note in context.trace] == ["answered", "fell back", "answered"]


@pytest.mark.parametrize(
    "text",
    [
        '{{"name": "add", "arguments": {"a": 1}}}}',
        'I use the function:\n```json\n{\n  "name": "add",\n  "arguments": {"a": 1}\n}\n```\nThen…',
        '{"name": "add", {"arguments": {"a": 1}, "name": "add"}',
    ],
    ids=["doubled braces", "after words", "after a broken one"],
)
async def test_a_call_is_read_wherever_it_stands_in_the_text(text: str) -> None:
    completion = await WithTools(ScriptedEndpoint([text])).complete(ASKED, RunContext())
    assert completion.tool_calls == (ToolCall("add", '{"a": 1}', "call_1"),)


async def test_a_model_that_writes_nothing_but_spaces_is_asked_again_without_the_schema(
    served: Served,
) -> None:
    served.will(chat('{"answer":' + " " * 90, finish_reason="length"), chat('{"answer": "3"}'))
    tooled = WithTools(endpoint(tier="slm", dialect=VLLM))
    assert (await tooled.complete(ASKED, RunContext())).text == "3"
    assert ["structured_outputs" in body for body in served.bodies] == [True, False]


async def test_a_call_of_no_tool_among_words_is_part_of_the_answer() -> None:
    text = 'Write {"name": "delete", "arguments": {}} to delete it.'
    completion = await WithTools(ScriptedEndpoint([text])).complete(ASKED, RunContext())
    assert (completion.text, completion.tool_calls) == (text, ())


async def test_spaces_behind_a_call_of_no_tool_are_read_in_linear_time() -> None:
    text = '{"name": "delete", "arguments": {}}' + " " * 40_000 + "x"
    begun = time.process_time()
    completion = await WithTools(ScriptedEndpoint([text])).complete(ASKED, RunContext())
    assert time.process_time() - begun < 1  # in squared time it would be 5
    assert (completion.text, completion.tool_calls) == (text, ())


@pytest.mark.parametrize("around", ["``` {} \n```\n", " <tool_call>{} </tool_call> "])
async def test_a_call_of_no_tool_that_stands_alone_is_a_call(around: str) -> None:
    text = around.replace("{}", '{"name": "a", "arguments": {}}')
    completion = await WithTools(ScriptedEndpoint([text])).complete(ASKED, RunContext())
    assert completion.tool_calls == (ToolCall("a", "{}", "call_1"),)


@pytest.mark.parametrize("text", ['{"name": "Ada"}', "`x = {}` is empty", "<b>bold</b>", "{"])
async def test_an_answer_that_only_looks_like_a_call_is_one(text: str) -> None:
    model = ScriptedEndpoint([text])
    *pieces, completion = [one async for one in WithTools(model).stream(ASKED, RunContext())]
    assert "".join(map(str, pieces)) == text
    assert isinstance(completion, Completion)
    assert completion.text == text
