"""All questions about a text are asked in one chat turn, with probabilities from its tokens."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa.core.context import RunContext
from moa.core.errors import OutputError
from moa.core.questions import Question
from moa.endpoints import DecisionRequest, Example, TokenLogprobs
from moa.endpoints.json_answers import MOST_TOGETHER, prompt_of, split_request
from moa.endpoints.token_values import read_values

from .conftest import Answer, Asked, Served, chat
from .decider import ALL, REFUND, TOPIC, URGENCY, decided, endpoint


def token(text: str, *others: tuple[str, float]) -> TokenLogprobs:
    """A written token; it has what the others leave of the probability."""
    left = 1.0 - sum(p for _, p in others)
    every = [(text, left), *others]
    return TokenLogprobs(
        text.encode(), tuple((word.encode(), math.log(p)) for word, p in every if p > 0)
    )


def read(
    tokens: Sequence[TokenLogprobs], options: Mapping[str, Sequence[str]]
) -> dict[str, tuple[list[float], float | None]]:
    text = b"".join(each.token for each in tokens).decode()
    readings = read_values(text, tokens, options)
    return {
        key: (
            [round(p, 3) for p in reading.probabilities],
            None if reading.mass is None else round(reading.mass, 3),
        )
        for key, reading in readings.items()
    }


YES_NO = {"q": ("yes", "no")}


def test_the_probability_of_an_option_is_that_of_the_token_it_begins_with() -> None:
    tokens = [token('{"q": "'), token("yes", ("no", 0.3)), token('"}')]
    assert read(tokens, YES_NO) == {"q": ([0.7, 0.3], 1.0)}


def test_other_spellings_of_an_option_are_added_and_what_is_none_is_reported() -> None:
    others = (("Yes", 0.1), (" no", 0.2), ("maybe", 0.3))
    tokens = [token('{"q": "'), token("yes", *others), token('"}')]
    assert read(tokens, YES_NO) == {"q": ([0.714, 0.286], 0.7)}


def test_a_server_that_sends_what_its_schema_has_left_tells_no_mass() -> None:
    forbidden = ((b"perhaps", -9999.0), (b"{", -9999.0))  # so does vLLM
    value = token("yes", ("no", 0.3))
    value = TokenLogprobs(value.token, (*value.alternatives, *forbidden))
    assert read([token('{"q": "'), value, token('"}')], YES_NO) == {"q": ([0.7, 0.3], None)}


def test_a_quote_may_stand_in_one_token_with_the_value_or_before_it() -> None:
    together = [token('{"q":'), token(' "yes', ('"no', 0.2), (' "', 0.1)), token('"}')]
    assert read(together, YES_NO) == {"q": ([0.778, 0.222], 1.0)}
    after = [token('{"q": "'), token('yes"}', ('no"', 0.25))]
    assert read(after, YES_NO) == {"q": ([0.75, 0.25], 1.0)}


def test_options_that_begin_alike_are_read_where_they_part() -> None:
    options = {"q": ("card lost", "card stolen", "app")}
    tokens = [
        token('{"q": "'),
        token("card", ("app", 0.2)),
        token(" stolen", (" lost", 0.25), (" gone", 0.5)),
        token('"}'),
    ]
    assert read(tokens, options) == {"q": ([0.4, 0.4, 0.2], 1.0)}


def test_an_option_that_another_begins_with_ends_at_its_quote() -> None:
    tokens = [token('{"q": "'), token("no"), token('"}', (" one", 0.25))]
    assert read(tokens, {"q": ("no", "no one")}) == {"q": ([0.75, 0.25], 1.0)}


def test_a_beginning_that_was_not_gone_on_with_is_shared_by_its_options() -> None:
    options = {"q": ("They left", "Their flight is late", "Their taxi is late")}
    tokens = [token('{"q": "'), token("They", ("Their", 0.4)), token(' left"}')]
    assert read(tokens, options) == {"q": ([0.6, 0.2, 0.2], 1.0)}


def test_a_token_may_be_a_part_of_a_character() -> None:
    first, *rest = "破損".encode(), "なし".encode()
    pieces = [b'{"q": "', first[:2], first[2:], *rest, b'"}']
    tokens = [TokenLogprobs(piece, ((piece, 0.0),)) for piece in pieces]
    tokens[1] = TokenLogprobs(first[:2], ((first[:2], math.log(0.8)), (b"a", math.log(0.2))))
    text = b"".join(pieces).decode()
    reading = read_values(text, tokens, {"q": ("破損なし", "all right")})["q"]
    assert reading.probabilities == pytest.approx((0.8, 0.2))


def test_thoughts_before_the_object_are_passed_over() -> None:
    tokens = [token('<think>"q": "no"</think>'), *[token('{"q": "'), token("yes"), token('"}')]]
    assert read_values('{"q": "yes"}', tokens, YES_NO)["q"].probabilities[0] > 0.99


def test_two_options_that_differ_by_case_alone_are_told_apart() -> None:
    tokens = [token('{"q": "'), token("US", ("us", 0.3)), token('"}')]
    assert read(tokens, {"q": ("us", "US")}) == {"q": ([0.3, 0.7], 1.0)}


@given(
    st.lists(st.text(min_size=1), min_size=2, max_size=5, unique_by=str.casefold),
    st.data(),
)
def test_a_reading_is_a_distribution_however_the_tokens_are_cut(
    options: list[str], data: st.DataObject
) -> None:
    said = data.draw(st.sampled_from(options))
    text = json.dumps({"a b": said}, ensure_ascii=False)
    try:
        written = text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return
    cuts = sorted(data.draw(st.sets(st.integers(1, len(written) - 1))))
    pieces = [written[i:j] for i, j in zip([0, *cuts], [*cuts, len(written)], strict=True)]
    tokens = [TokenLogprobs(piece, ((piece, -0.1), (b"x", -2.5))) for piece in pieces]
    reading = read_values(text, tokens, {"a b": options})["a b"]
    assert math.fsum(reading.probabilities) == pytest.approx(1.0)
    assert reading.mass is not None
    assert 0.0 < reading.mass <= 1.0


def with_tokens(text: str, *tokens: TokenLogprobs) -> Answer:
    """A chat completion with log-probabilities, as OpenAI, vLLM and llama.cpp write them."""
    content = [
        {
            "token": each.token.decode(),
            "bytes": list(each.token),
            "logprob": dict(each.alternatives)[each.token],
            "top_logprobs": [
                {"token": word.decode(), "bytes": list(word), "logprob": p}
                for word, p in each.alternatives
            ],
        }
        for each in tokens
    ]
    body = chat(text).json()
    body["choices"][0]["logprobs"] = {"content": content}
    return Answer(json=body)


async def test_all_questions_are_one_request_whose_tokens_tell_the_probabilities(
    served: Served,
) -> None:
    said = {"refund": "yes", "topic": "app", "urgency": "low"}
    pieces = [
        token('{"refund": "'),
        token("yes", ("no", 0.1)),
        token('", "topic": "'),
        token("app", ("card", 0.4)),
        token('", "urgency": "'),
        token("low", ("high", 0.3)),
        token('"}'),
    ]
    served.will(with_tokens(json.dumps(said), *pieces))
    made = await decided(endpoint(decides="text"), *ALL)
    assert served.paths == ["/v1/chat/completions"]
    body = served.bodies[0]
    assert (body["logprobs"], body["top_logprobs"], body["temperature"]) == (True, 20, 0.0)
    refund, topic, urgency = made.answers
    assert refund.probabilities == pytest.approx((0.9, 0.1))
    assert topic.probabilities == pytest.approx((0.4, 0.6, 0.0), abs=1e-5)
    assert urgency.probabilities == pytest.approx((0.7, 0.3))
    assert {answer.source for answer in made.answers} == {"logprob"}
    assert refund.label_mass == pytest.approx(1.0)


def test_each_option_is_listed_once_after_the_text() -> None:
    prompt = prompt_of(DecisionRequest("I paid twice", ALL))
    *_, last = prompt.messages
    whole = "\n".join(message.content for message in prompt.messages)
    assert last.content.index("I paid twice") < last.content.index("About what?")
    for option in (*TOPIC.options, *URGENCY.options):
        assert whole.count(json.dumps(option.name)) == 1
    assert "from lowest to highest" in whole
    assert prompt.explained  # so that the schema doesn't list them again


def test_a_request_has_so_many_questions_and_no_more() -> None:
    questions = [replace(REFUND, name=f"q{n}") for n in range(MOST_TOGETHER + 3)]
    parts = split_request(DecisionRequest("x", questions))
    assert [len(part.questions) for part in parts] == [MOST_TOGETHER, 3]


async def test_questions_that_the_examples_answer_and_others_are_two_requests(
    served: Served,
) -> None:
    def answer(request: Asked) -> Answer:
        properties = schema_of(request.json())["properties"]
        return chat(json.dumps({name: each["enum"][0] for name, each in properties.items()}))

    served.will(answer)
    examples = [Example("Money, now!", {"refund": "yes"})]
    made = await endpoint(decides="text").decide(
        "Hi", [TOPIC, REFUND], RunContext(), examples=examples
    )
    assert [a.question.name for a in made.answers] == ["topic", "refund"]
    shown = [len(body["messages"]) for body in served.bodies]
    assert sorted(shown) == [2, 4]


def schema_of(body: dict[str, Any]) -> dict[str, Any]:
    return body["response_format"]["json_schema"]["schema"]


async def test_what_a_text_does_not_tell_is_one_more_option(served: Served) -> None:
    asked = Question("q", "predicate", "Paid?", REFUND.options, unknown=True)
    served.will(chat('{"q": "can\'t be told from the text"}'))
    (answer,) = (await decided(endpoint(decides="text"), asked)).answers
    assert answer.untold
    other = "can't be told"
    pieces = [token('{"q": "'), token(other, ("yes", 0.3), ("no", 0.1)), token(' from the text"}')]
    served.will(with_tokens('{"q": "can\'t be told from the text"}', *pieces))
    (answer,) = (await decided(endpoint(decides="text"), asked)).answers
    assert answer.untold
    assert answer.probabilities == pytest.approx((0.75, 0.25))


async def test_an_answer_that_is_no_json_is_asked_for_once_more(served: Served) -> None:
    served.will(chat("Sure! It is a yes."), chat('{"refund": "yes"}'))
    context = RunContext()
    (answer,) = (await endpoint(decides="text").decide("Hi", [REFUND], context)).answers
    assert answer.best == 0
    assert served.bodies[1]["messages"][-2]["content"] == "Sure! It is a yes."
    assert "retried" in [note.kind for note in context.trace]
    assert context.usage.calls == 2


async def test_a_model_that_thinks_all_the_same_gets_the_room_for_it(served: Served) -> None:
    cut = chat("", finish_reason="length", reasoning_content="Well, let me see")
    served.will(cut, thought(900), thought(900))
    thinker = endpoint(decides="text")
    for _ in range(2):
        await decided(thinker, REFUND)
    limits = [body["max_tokens"] for body in served.bodies]
    assert limits[0] < 100
    assert limits[1] == limits[2] > 4000  # the second decision knows


def thought(tokens: int) -> Answer:
    """An answer for which a model needed so many tokens."""
    body = chat('{"refund": "yes"}').json()
    body["usage"] |= {"prompt_tokens": 90, "completion_tokens": tokens, "total_tokens": 90 + tokens}
    return Answer(json=body)


async def test_a_model_that_was_cut_off_once_is_not_taken_for_one_that_thinks(
    served: Served,
) -> None:
    cut = chat('{"refund": "ye', finish_reason="length")
    served.will(cut, thought(4), thought(4))
    cautious = endpoint(decides="text")
    for _ in range(2):
        await decided(cautious, REFUND)
    first, _, last = [body["max_tokens"] for body in served.bodies]
    assert first == last


async def test_a_question_without_an_option_is_asked_for_once_more_then_missing(
    served: Served,
) -> None:
    half = '{"refund": "yes", "topic": "nothing"}'
    served.will(chat(half), chat(half))
    refund, topic = (await decided(endpoint(decides="text"), REFUND, TOPIC)).answers
    assert (refund.best, topic.status) == (0, "missing")
    assert len(served.bodies) == 2
    assert "'topic'" in served.bodies[1]["messages"][-1]["content"]


async def test_questions_that_other_examples_answer_each_see_their_own(served: Served) -> None:
    def answer(request: Asked) -> Answer:
        properties = schema_of(request.json())["properties"]
        return chat(json.dumps({name: each["enum"][0] for name, each in properties.items()}))

    served.will(answer)
    examples = [
        Example("Money, now!", {"refund": "yes"}),
        Example("The app hangs.", {"topic": "app"}),
    ]
    context = RunContext()
    await endpoint(decides="text").decide("Hi", [TOPIC, REFUND], context, examples=examples)
    turns = ["".join(m["content"] for m in body["messages"]) for body in served.bodies]
    assert sorted("hangs" in one for one in turns) == [False, True]
    assert sorted("Money" in one for one in turns) == [False, True]


async def test_a_server_that_refuses_log_probabilities_is_asked_without(served: Served) -> None:
    refusal = {"error": {"message": "'logprobs' is not supported with this model"}}
    served.will(Answer(400, json=refusal), chat('{"refund": "yes"}'))
    (answer,) = (await decided(endpoint(decides="text"), REFUND)).answers
    assert (answer.best, answer.probabilities, answer.source) == (0, None, "text")
    assert not {"logprobs", "top_logprobs"} & set(served.bodies[1])


async def test_nothing_readable_twice_is_an_error_with_what_was_written(served: Served) -> None:
    served.will(chat("no"))
    with pytest.raises(OutputError) as caught:
        await decided(endpoint(decides="text"), REFUND)
    assert caught.value.text == "no"
