"""What a server says that a call took: believed where it can be true, else the estimate counts."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa.core.budget import Budget
from moa.core.context import RunContext
from moa.core.errors import BudgetExceeded
from moa.core.usage import Amount, Price
from moa.endpoints import Prompt
from moa.endpoints.layouts import LabelPrompt
from moa.endpoints.logprobs import VLLMLabelReader
from moa.endpoints.openai import OpenAIEndpoint
from moa.endpoints.tokens import amount_of, approximate_tokens, estimate_of, texts_in

from .conftest import Answer, Ask, Served, both_ways, chat, events, piece, streamed
from .decider import REFUND, endpoint, reply

ESTIMATE = Amount(calls=1, input_tokens=5000, output_tokens=512)
ENGLISH = "The parcel left our warehouse on Monday, and it should reach you by Friday. " * 20
CHINESE = "您的包裹已于星期一从我们的仓库发出，预计星期五送达。" * 20  # noqa: RUF001
GERMAN = "Donaudampfschifffahrtsgesellschaftskapitänsmützenabzeichen verschwunden. " * 20
CODE = "    for (int i = 0; i < parcels.size(); i++) { send(parcels.get(i)); }\n" * 20
RULER = "=" * 2000 + " " * 500 + "\n" * 100
LARGE = Price(input=Decimal(1), output=Decimal(10))


def stated(read: str = "Hi", written: str = "Hello", **usage: Any) -> Amount | None:
    return amount_of(
        {"usage": usage},
        estimate=estimate_of(read, max_tokens=512, price=LARGE),
        sent=[read],
        texts=[written],
    )


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        pytest.param(ENGLISH, len(ENGLISH) // 7, id="a tokenizer of whole phrases"),
        pytest.param(CHINESE, len(CHINESE) // 3, id="Chinese"),
        pytest.param(GERMAN, len(GERMAN) // 8, id="German"),
        pytest.param(CODE, len(CODE) // 8, id="code"),
        pytest.param(RULER, 40, id="one character again and again"),
        pytest.param("x" * 60, 1, id="one long token"),
        pytest.param("", 0, id="nothing"),
        pytest.param("Hello", 400, id="thoughts that nobody sees"),
    ],
)
def test_what_a_tokenizer_may_make_of_a_text_is_believed(text: str, tokens: int) -> None:
    amount = stated(read=text, written=text, prompt_tokens=tokens + 1, completion_tokens=tokens)
    assert amount is not None
    assert (amount.input_tokens, amount.output_tokens) == (tokens + 1, tokens)


@pytest.mark.parametrize("text", [ENGLISH, CHINESE, GERMAN, CODE])
@pytest.mark.parametrize("tokens", [1, 20])
def test_fewer_tokens_than_any_tokenizer_makes_are_not_believed(text: str, tokens: int) -> None:
    assert stated(written=text, prompt_tokens=5, completion_tokens=tokens) is None
    assert stated(read=text, prompt_tokens=tokens, completion_tokens=5) is None


@given(text=st.text(max_size=300))
def test_a_count_of_at_least_a_third_of_the_characters_is_believed_of_any_text(text: str) -> None:
    tokens = approximate_tokens(text) + 1
    assert stated(read=text, written=text, prompt_tokens=tokens, completion_tokens=tokens)


@pytest.mark.parametrize(
    "usage",
    [
        pytest.param({"prompt_tokens": 5, "completion_tokens": 0}, id="no output with a text"),
        pytest.param({"prompt_tokens": -5, "completion_tokens": 5}, id="negative"),
        pytest.param(
            {"prompt_tokens": 5, "completion_tokens": -5, "total_tokens": 20}, id="negative part"
        ),
        pytest.param({"prompt_tokens": float("inf"), "completion_tokens": 5}, id="infinite"),
        pytest.param({"prompt_tokens": float("nan"), "completion_tokens": 5}, id="no number"),
        pytest.param({"prompt_tokens": 10**8, "completion_tokens": 5}, id="huge"),
        pytest.param({"prompt_tokens": 5, "completion_tokens": 10**400}, id="beyond floats"),
        pytest.param({"prompt_tokens": True, "completion_tokens": 5}, id="true"),
        pytest.param(
            {"prompt_tokens": 5, "completion_tokens": "5", "total_tokens": 10}, id="a text"
        ),
        pytest.param({"prompt_tokens": {"n": 5}, "completion_tokens": [5]}, id="no counts"),
        pytest.param(
            {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 7}, id="a small total"
        ),
        pytest.param(
            {
                "prompt_tokens": 5,
                "completion_tokens": 5,
                "prompt_tokens_details": {"cached_tokens": 6},
            },
            id="more cached than read",
        ),
    ],
)
def test_usage_that_cant_be_true_is_not_believed(usage: dict[str, Any]) -> None:
    assert stated(**usage) is None


def test_more_than_the_window_and_the_answer_take_is_not_believed() -> None:
    usage = {"prompt_tokens": 8000, "completion_tokens": 500}
    for window, believed in ((8192, True), (4096, False), (None, True)):
        found = amount_of({"usage": usage}, estimate=ESTIMATE, window=window)
        assert (found is not None) == believed


def test_what_servers_count_differently_is_no_text_of_a_request() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    message = {"role": "user", "content": [{"type": "text", "text": "What is it?"}, picture]}
    body = {"messages": [message], "tools": [{"function": {"name": "f"}}], "model": "m"}
    assert texts_in(body) == ["What is it?"]
    twice = {"message": {"content": "It.", "reasoning": "Hm", "reasoning_content": "Hm"}}
    assert sorted(texts_in({"choices": [twice]})) == ["Hm", "It."]
    deep: Any = "end"
    for _ in range(100_000):
        deep = [deep]
    assert texts_in({"content": deep}) == ["end"]


LIE: Any = {"prompt_tokens": 1, "completion_tokens": 0, "total_tokens": 1}


@both_ways
async def test_a_server_that_says_too_little_passes_no_limit(served: Served, ask: Ask) -> None:
    if ask is streamed:
        pieces = [piece(f"{word} ") for word in ENGLISH.split()]
        served.will(events(*pieces, piece(finish_reason="stop"), {"choices": [], "usage": LIE}))
    else:
        served.will(Answer(json={**chat(ENGLISH).json(), "usage": LIE}))
    writer = OpenAIEndpoint("large", model="m", base_url="http://m.test/v1", price=LARGE)
    run, prompt = RunContext(budget=Budget(cost=0.02)), Prompt.of("Hi", max_tokens=512)
    for _ in range(3):  # each takes half a cent, as estimated
        await ask(writer, prompt, run)
    with pytest.raises(BudgetExceeded):
        await ask(writer, prompt, run)
    assert [note.kind for note in run.trace].count("degraded") == 3


@pytest.mark.parametrize(
    "message",
    [
        {"reasoning_content": ENGLISH},
        {"reasoning_content": "", "reasoning": ENGLISH},
        {"content": [1, {"type": "text", "text": ENGLISH}, 2]},
    ],
    ids=["a thought", "by another name", "in parts, among what is none"],
)
async def test_all_that_is_read_counts_as_written(served: Served, message: Any) -> None:
    answer = chat(**{"content": "Yes.", **message}).json()
    served.will(Answer(json={**answer, "usage": {"prompt_tokens": 20, "completion_tokens": 2}}))
    run = RunContext()
    writer = OpenAIEndpoint("large", model="m", base_url="http://m.test/v1")
    await writer.complete(Prompt.of("Hi"), run)
    assert run.usage.output_tokens == 512


async def test_a_stream_that_repeats_its_message_in_each_event_is_believed(served: Served) -> None:
    said, words = list[Any](), ENGLISH.split()[:200]
    for number, word in enumerate(words, 1):
        event = piece(f"{word} ", finish_reason="stop" if number == len(words) else None)
        event["choices"][0]["message"] = {"content": " ".join(words[:number])}
        said.append(event)
    usage = {"prompt_tokens": 20, "completion_tokens": 250}
    served.will(events(*said, {"choices": [], "usage": usage}))
    run = RunContext()
    await streamed(
        OpenAIEndpoint("w", model="m", base_url="http://m.test/v1"), Prompt.of("Hi"), run
    )
    assert run.usage.output_tokens == 250


async def test_a_decision_whose_usage_cant_be_true_is_charged_as_estimated(served: Served) -> None:
    served.will(reply(usage={"input_tokens": 1, "output_tokens": 0}))
    run = RunContext()
    await endpoint().decide(ENGLISH, [REFUND], run)
    assert run.usage.input_tokens >= len(ENGLISH) // 3
    assert [note.kind for note in run.trace] == ["degraded", "answered"]


async def test_a_label_whose_usage_cant_be_true_is_charged_as_estimated(served: Served) -> None:
    def answer(asked: Any) -> Answer:
        if asked.path == "/tokenize":
            words = asked.json()["prompt"].split()
            return Answer(json={"tokens": [7 + len(word) for word in words]})
        named = {f"token_id:{token}": -1.0 for token in asked.json()["logprob_token_ids"]}
        choice = {"text": " y", "logprobs": {"top_logprobs": [named]}}
        return Answer(json={"choices": [choice], "usage": LIE})

    served.will(answer)
    writer = OpenAIEndpoint("small", model="m", base_url="http://m.test/v1")
    run = RunContext()
    prompt = LabelPrompt(f"{ENGLISH}\nLabel:", (" yes", " nope"))
    await VLLMLabelReader(writer.client).read_labels(prompt, run)
    assert run.usage.input_tokens >= len(ENGLISH) // 3


async def test_vectors_whose_usage_cant_be_true_are_charged_as_estimated(served: Served) -> None:
    row = {"index": 0, "embedding": [0.0, 1.0]}
    served.will(Answer(json={"data": [row], "usage": {"prompt_tokens": 1, "total_tokens": 1}}))
    writer = OpenAIEndpoint(
        "e", model="m", base_url="http://m.test/v1", capabilities={"embed"}, price=LARGE
    )
    run = RunContext()
    await writer.embed([ENGLISH], run)
    assert run.usage.input_tokens >= len(ENGLISH) // 3


async def test_the_window_of_an_endpoint_bounds_what_is_believed(served: Served) -> None:
    usage = {"prompt_tokens": 500_000, "completion_tokens": 4}
    served.will(Answer(json={**chat().json(), "usage": usage}))
    for window, read in ((None, 500_000), (8192, 41)):
        writer = OpenAIEndpoint("w", model="m", base_url="http://m.test/v1", context_window=window)
        run = RunContext()
        await writer.complete(Prompt.of("Hi"), run)
        assert run.usage.input_tokens == pytest.approx(read, rel=0.5)
