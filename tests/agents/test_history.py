"""What an agent is told besides its instructions: what was said before, examples, templates."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from pydantic import BaseModel

from moa import Agent, Budget, Reply, RunContext, Text
from moa.agents.extractor import Extractor
from moa.core.errors import CapabilityError, ConfigError, EndpointUnavailable, InputError
from moa.core.messages import File, Image, Message, ToolCall
from moa.core.trace import TextDelta
from moa.testing import ScriptedEndpoint, SimulatedEndpoint


def said(endpoint: ScriptedEndpoint) -> list[tuple[str, str]]:
    return [(one.role, one.content) for one in endpoint.prompts[-1].messages]


async def test_the_messages_of_a_result_are_the_history_of_the_next_run() -> None:
    endpoint = ScriptedEndpoint(["Hello, Ada.", "Ada."])
    agent = Agent(endpoint, "Talk.", tag="")
    first = await agent.run("I am Ada.")
    second = await agent.run("Who am I?", history=first)
    assert said(endpoint) == [
        ("system", "Talk."),
        ("user", "I am Ada."),
        ("assistant", "Hello, Ada."),
        ("user", "Who am I?"),
    ]
    assert [one.content for one in second.messages] == [
        *("I am Ada.", "Hello, Ada.", "Who am I?", "Ada.")
    ]
    assert second.new_messages == second.messages[2:]


@pytest.mark.parametrize(
    ("history", "read"),
    [
        (
            [
                {"role": "system", "content": "She is a countess."},
                {"role": "user", "content": [{"type": "text", "text": "I am Ada."}]},
                {"role": "assistant", "content": "Hello."},
            ],
            [
                ("system", "Talk.\n\nShe is a countess."),
                ("user", "I am Ada."),
                ("assistant", "Hello."),
                ("user", "And?"),
            ],
        ),
        (  # it ends with a question, which is no second turn of the user
            [{"role": "user", "content": "Hi"}],
            [("system", "Talk."), ("user", "Hi\n\nAnd?")],
        ),
        (  # calls are told in words to an agent without tools
            [
                Message("user", "1 + 2?"),
                Message("assistant", "", (ToolCall("add", '{"a": 1}', "c1"),)),
                Message("tool", "3", tool_call_id="c1"),
            ],
            [
                ("system", "Talk."),
                ("user", "1 + 2?"),
                ("assistant", '{"tool": "add", "arguments": {"a": 1}}'),
                ("user", "Result of add:\n3\n\nAnd?"),
            ],
        ),
    ],
    ids=["as OpenAI writes it", "a question", "calls"],
)
async def test_a_history_is_read_before_the_request(
    history: Any, read: list[tuple[str, str]]
) -> None:
    endpoint = ScriptedEndpoint(["Well."])
    await Agent(endpoint, "Talk.", tag="").run("And?", history=history)
    assert said(endpoint) == read


def test_a_message_comes_back_from_what_openai_writes() -> None:
    picture = Image(b"\x89PNG12")
    for message in (
        Message("user", "Look.", files=(picture, File(b"%PDF-1", name="a.pdf"))),
        Message("assistant", "", (ToolCall("add", '{"a": 1}', "c1"),)),
        Message("tool", "1", tool_call_id="c1"),
    ):
        assert Message.of(message.as_dict()) == message


@pytest.mark.parametrize(
    "wrong",
    [
        {"role": "narrator", "content": "x"},
        {"role": "user", "content": 3},
        {"role": "user", "content": ["hi"]},
        {"text": "hi"},
        "hello",
    ],
)
async def test_what_is_no_message_is_refused(wrong: Any) -> None:
    with pytest.raises(InputError):
        await Agent(ScriptedEndpoint(), "Talk.").run("Hi", history=[wrong])
    text: Any = json.dumps([wrong])
    with pytest.raises(InputError):
        await Agent(ScriptedEndpoint(), "Talk.").run("Hi", history=text)


async def test_a_repaired_answer_leaves_no_trace_in_the_history() -> None:
    endpoint = ScriptedEndpoint(["  ", "Yes."])
    result = await Agent(endpoint, "Talk.", tag="").run("Well?")
    assert [one.content for one in result.messages] == ["Well?", "Yes."]


# examples and templates


class Mail(BaseModel):
    subject: str
    body: str
    cc: list[str] = []
    urgent: bool | None = None


class Order(BaseModel):
    number: int


async def test_examples_are_shown_as_turns_before_the_request() -> None:
    endpoint = ScriptedEndpoint([Order(number=2)])
    agent = Extractor(endpoint, Order, examples=[("Order 1", Order(number=1))])
    await agent.run("Order 2")
    assert said(endpoint)[1:] == [
        ("user", "<data>\nOrder 1\n</data>"),
        ("assistant", '{"number":1}'),
        ("user", "<data>\nOrder 2\n</data>"),
    ]


@pytest.mark.parametrize("example", [("Hi", {"number": "x"}), ("Hi", "one"), (3, {"number": 1})])
def test_an_example_that_does_not_fit_is_refused_when_built(example: tuple[Any, Any]) -> None:
    with pytest.raises((ConfigError, InputError), match=r"example|takes"):
        Agent(ScriptedEndpoint(), "Find it.", output=Order, examples=[example])


async def test_a_template_puts_fields_in_as_data_that_is_never_a_template() -> None:
    endpoint = ScriptedEndpoint(["Done."])
    agent = Agent(
        endpoint, "Sort it.", input=Mail, prompt="Subject: {subject}\nTo: {cc} {{me}}{urgent}"
    )
    await agent.run(Mail(subject="{body} </data> {0}", body="b", cc=["a@x.org"]))
    assert said(endpoint)[-1][1] == (
        "Subject: <data>\n{body} &lt;/data> {0}\n</data>\n"
        "To: <data>\n\n- a@x.org\n</data> {me}<data>\n\n</data>"
    )


@pytest.mark.parametrize("prompt", ["{subjekt}", "{subject.upper}", "{subject!r}", "{", "{}"])
def test_a_template_is_checked_when_the_agent_is_built(prompt: str) -> None:
    with pytest.raises(ConfigError):
        Agent(ScriptedEndpoint(), "Sort it.", input=Mail, prompt=prompt)


# files


class Photo(BaseModel):
    question: str
    photos: list[Image]


async def test_files_of_an_input_go_with_its_message(tmp_path: Any) -> None:
    (tmp_path / "cat.png").write_bytes(b"\x89PNG12")
    endpoint = ScriptedEndpoint(["A cat."])
    await Agent(endpoint, "Answer.").run(
        Photo(question="Who?", photos=[Image(tmp_path / "cat.png"), Image("https://x.org/dog.jpg")])
    )
    asked = endpoint.prompts[0].messages[-1]
    assert asked.content == "<data>\nquestion: Who?\nphotos: \n- (cat.png)\n- (image)\n</data>"
    assert [file.url[:22] for file in asked.files] == [
        "data:image/png;base64,",
        "https://x.org/dog.jpg",
    ]


async def test_an_endpoint_that_reads_no_images_says_so() -> None:
    endpoint = ScriptedEndpoint(capabilities=frozenset({"complete"}))
    with pytest.raises(CapabilityError, match="'scripted'"):
        await Agent(endpoint, "Look.").run(Image(b"GIF89a"))
    assert not endpoint.prompts


def test_a_file_that_cannot_be_read_is_an_error() -> None:
    with pytest.raises(InputError):
        Image("nowhere.png")
    with pytest.raises(InputError):
        File(b"\x00\x01")


# where nothing is awaited


def test_a_node_runs_where_nothing_is_awaited() -> None:
    agent = Agent(ScriptedEndpoint(["Hello.", "Ada."]), "Talk.", tag="")
    first = agent.run_sync(Text(text="I am Ada."))
    assert agent.run_sync("Who am I?", history=first.messages).output == Reply(text="Ada.")


async def test_a_node_runs_so_beside_a_loop_that_runs() -> None:
    loops = {asyncio.get_running_loop()}

    async def look() -> str:
        """Look at the loop."""
        loops.add(asyncio.get_running_loop())
        return "seen"

    for _ in range(2):
        call = ToolCall("look")
        Agent(ScriptedEndpoint([call, "Seen."]), "Look.", tools=[look]).run_sync("Go.")
    assert len(loops) == 2


async def test_a_node_streams_where_nothing_is_awaited_also_beside_a_loop() -> None:
    model = SimulatedEndpoint(rule=str.upper)
    said = [{"role": "user", "content": "I am Ada."}, {"role": "assistant", "content": "Hello."}]
    events = Agent(model, "Shout.", tag="").stream_sync("hi there", history=said)
    assert [one.text for one in events if isinstance(one, TextDelta)] == ["HI", " THERE"]
    assert len(model.prompts[0].messages) == 4


def test_who_leaves_the_loop_of_a_stream_early_ends_its_run() -> None:
    model = SimulatedEndpoint(rule=lambda _: "one two three", piece_s=60)
    for event in Agent(model, "Count.").stream_sync("Go."):
        assert event == TextDelta("agent", "one")
        break


def test_a_stream_raises_what_its_run_does() -> None:
    agent = Agent(ScriptedEndpoint([EndpointUnavailable("off", endpoint="large")]), "Talk.")
    with pytest.raises(EndpointUnavailable, match="off"):
        list(agent.stream_sync("Hi"))


async def test_a_context_is_given_by_its_place_or_by_its_name() -> None:
    context = RunContext()
    agent = Agent(SimulatedEndpoint(), "Talk.")
    await agent.run("Hi", context)
    await agent.run("Hi", context=context)
    agent.run_sync("Hi", context=context)
    list(agent.stream_sync("Hi", context=context))
    assert context.usage.calls == 4


@pytest.mark.parametrize("way", ["run_sync", "stream_sync"])
def test_a_budget_in_the_place_of_a_context_says_what_to_give(way: str) -> None:
    run: Any = getattr(Agent(SimulatedEndpoint(), "Talk."), way)
    with pytest.raises(ConfigError, match=r"give RunContext\(budget=Budget\(…\)"):
        list(run("Hi", Budget(calls=1)))


def test_a_run_that_would_wait_for_itself_is_refused() -> None:
    inner = Agent(ScriptedEndpoint(["Hello."]), "Talk.")

    async def ask() -> str:
        """Ask another."""
        return inner.run_sync("Hi").output.text

    with pytest.raises(ConfigError):
        Agent(ScriptedEndpoint([ToolCall("ask")]), "Ask.", tools=[ask]).run_sync("Go.")
