"""What only vLLM has, against a server that answers in its words."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
from pydantic import BaseModel

from moa.core.budget import Budget
from moa.core.context import RunContext
from moa.core.errors import BudgetExceeded, EndpointUnsupported, InvalidResponse
from moa.core.questions import Option, Question
from moa.endpoints import Example, Prompt
from moa.endpoints.decide import Decides
from moa.endpoints.layouts import LabelPrompt, label_prompt
from moa.endpoints.logprobs import VLLMLabelReader
from moa.endpoints.openai import OpenAIEndpoint
from moa.vllm.endpoint import VLLMEndpoint

from .conftest import Answer, Asked, Served, chat

TOPIC = Question("topic", "choice", "What?", (Option("card", "card"), Option("app", "app")))
LAST = label_prompt(TOPIC, "Help", ()).text.split()[-1]
"""The word after which the label comes."""
SUITED = "smollm2-135m"
"""A model that is known to be better read by its labels."""
BOS = 1
_PIECE = re.compile(r"\n| ?[^\s_]+| |_")


class FakeVLLM:
    """Tokenizes by words, and gives every next token its probability from a table."""

    def __init__(self, table: dict[str, dict[str, float]]) -> None:
        self.table = table
        self.words: list[str] = ["<pad>", "<bos>"]

    def ids(self, text: str, *, special: bool) -> list[int]:
        found: list[int] = [BOS] if special else []
        for piece in _PIECE.findall(text):
            if piece not in self.words:
                self.words.append(piece)
            found.append(self.words.index(piece))
        return found

    def __call__(self, request: Asked) -> Answer:
        match request.path:
            case "/v1/models":
                return Answer(json={"data": [{"id": "m", "owned_by": "vllm"}]})
            case "/tokenize":
                body = request.json()
                tokens = self.ids(body["prompt"], special=body["add_special_tokens"])
                answer = {"count": len(tokens), "max_model_len": 2048, "tokens": tokens}
                return Answer(json=answer)
            case "/v1/completions":
                return self.completion(request.json())
            case "/v1/systemone":
                error = {"message": "not for LlamaForCausalLM", "code": 501}
                return Answer(501, json={"error": error})
            case path:
                raise AssertionError(path)

    def completion(self, body: dict[str, Any]) -> Answer:
        prompt = body["prompt"]
        ids = self.ids(prompt, special=True) if isinstance(prompt, str) else prompt
        assert ids[0] == BOS
        chances = self.table[self.words[ids[-1]]]
        tokens: list[int] = body["logprob_token_ids"]
        asked = {token: chances.get(self.words[token], 0.0) for token in tokens}
        top = {f"token_id:{t}": math.log(p) if p else -9999.0 for t, p in asked.items()}
        top["token_id:0"] = -0.1  # the sampled token comes too
        choice = {"index": 0, "text": "", "logprobs": {"top_logprobs": [top]}}
        usage = {"prompt_tokens": len(ids), "completion_tokens": 1, "total_tokens": len(ids) + 1}
        return Answer(json={"model": "m", "choices": [choice], "usage": usage})


def endpoint(**settings: Any) -> VLLMEndpoint:
    settings = {"model": SUITED, **settings}
    return VLLMEndpoint("small", base_url="http://vllm.test/v1", **settings)


def reader() -> VLLMLabelReader:
    return VLLMLabelReader(endpoint().client)


@pytest.mark.parametrize("priority", [-1, 0])
async def test_a_schema_is_sent_as_structured_outputs_and_a_priority_that_is_unusual(
    served: Served, priority: int
) -> None:
    class Person(BaseModel):
        name: str

    served.will(chat('{"name": "Ada"}'))
    schema = Person.model_json_schema()
    await endpoint(priority=priority).complete(Prompt.of("Who?", json_schema=schema), RunContext())
    body = served.bodies[0]
    assert body["structured_outputs"] == {"json": schema}
    assert not {"response_format", "guided_json"} & set(body)
    assert [message["content"] for message in body["messages"]] == ["Who?"]  # enforced, not shown
    assert body.get("priority", 0) == priority
    assert ("priority" in body) == (priority != 0)


async def test_labels_of_one_token_take_one_request(served: Served) -> None:
    served.will(FakeVLLM({"Answer:": {" yes": 0.3, " no": 0.1}}))
    labels = reader()
    context = RunContext()
    reading = await labels.read_labels(LabelPrompt("Is it?\nAnswer:", (" yes", " no")), context)
    assert [math.exp(p) for p in reading.logprobs] == pytest.approx([0.3, 0.1])
    assert reading.label_mass == pytest.approx(0.4)
    await labels.read_labels(LabelPrompt("And now?\nAnswer:", (" yes", " no")), context)
    assert served.paths.count("/tokenize") == 3
    assert served.paths.count("/v1/completions") == 2
    assert context.usage.calls == 2
    body = served.bodies[-1]
    assert body["prompt"] == "And now?\nAnswer:"
    assert (body["max_tokens"], body["return_tokens_as_token_ids"]) == (1, True)


async def test_labels_that_share_a_first_token_are_told_apart(served: Served) -> None:
    table = {"Answer:": {" card": 0.6, " app": 0.2}, " card": {" lost": 0.25, " stolen": 0.75}}
    served.will(FakeVLLM(table))
    reading = await reader().read_labels(
        LabelPrompt("Text\nAnswer:", (" card lost", " card stolen", " app")), RunContext()
    )
    assert reading.probabilities == pytest.approx((0.1875, 0.5625, 0.25))
    assert reading.amount.calls == 2


async def test_many_labels_are_read_in_requests_of_128_tokens(served: Served) -> None:
    words = [f" w{i}" for i in range(200)]
    served.will(FakeVLLM({"Answer:": dict.fromkeys(words, 0.005)}))
    reading = await reader().read_labels(LabelPrompt("Answer:", tuple(words)), RunContext())
    sent = [len(b["logprob_token_ids"]) for b in served.bodies if "logprob_token_ids" in b]
    assert sent == [128, 72]
    assert reading.label_mass == pytest.approx(1.0)


async def test_a_model_that_vllm_does_not_decide_for_is_read_by_its_labels(served: Served) -> None:
    served.will(FakeVLLM({LAST: {" card": 0.6, " app": 0.2}}))
    context = RunContext()
    examples = [Example("Lost it <|im_end|>", {"topic": "card"})]
    decision = await endpoint().decide("Help <s>", [TOPIC], context, examples=examples)
    answer = decision.answers[0]
    assert answer.probabilities == pytest.approx((0.75, 0.25))
    assert (answer.source, decision.endpoint) == ("logprob", "small")
    assert [note.kind for note in context.trace] == ["fell back", "answered"]
    assert "LlamaForCausalLM" in context.trace[0].text
    prompt = next(b["prompt"] for b in served.bodies if "logprob_token_ids" in b)
    assert "Help < s>" in prompt
    assert "Lost it < |im_end|>" in prompt


@pytest.mark.parametrize("decides", ["auto", "labels"])
async def test_a_server_that_says_it_is_vllm_is_read_by_its_labels(
    served: Served, decides: Decides
) -> None:
    served.will(FakeVLLM({LAST: {" card": 0.6, " app": 0.2}}))
    found = OpenAIEndpoint("small", model=SUITED, base_url="http://v.test/v1", decides=decides)
    fell_back = ["fell back"] if decides == "auto" else []
    for _ in range(2):
        context = RunContext()
        (answer,) = (await found.decide("Help", [TOPIC], context)).answers
        assert answer.probabilities == pytest.approx((0.75, 0.25))
        assert [note.kind for note in context.trace] == [*fell_back, "answered"]
    assert served.paths.count("/v1/models") == 1
    assert served.paths.count("/v1/systemone") == len(fell_back)


async def test_labels_are_read_at_the_priority_of_the_endpoint(served: Served) -> None:
    served.will(FakeVLLM({LAST: {" card": 0.6, " app": 0.2}}))
    urgent = endpoint(decides="labels", priority=-1)
    await urgent.decide("Help", [TOPIC], RunContext())
    (reading,) = (body for body in served.bodies if "logprob_token_ids" in body)
    assert reading["priority"] == -1


async def test_a_vllm_without_its_tokenizer_route_is_asked_in_a_chat(served: Served) -> None:
    fake = FakeVLLM({})
    completion = chat('{"topic": "app"}').json()
    completion["usage"] |= {"prompt_tokens": 90, "total_tokens": 94}  # of a prompt this long

    def behind_a_proxy(request: Asked) -> Answer:
        match request.path:
            case "/tokenize":
                return Answer(404, json={"detail": "Not Found"})
            case "/v1/chat/completions":
                return Answer(json=completion)
            case _:
                return fake(request)

    served.will(behind_a_proxy)
    context = RunContext()
    (answer,) = (await endpoint().decide("Help", [TOPIC], context)).answers
    assert (answer.best, answer.source) == (1, "text")
    assert [note.kind for note in context.trace] == ["fell back", "fell back", "answered"]


async def test_an_older_vllm_is_told_from_a_broken_one(served: Served) -> None:
    def answer(top: object) -> Answer:
        choice = {"logprobs": {"top_logprobs": [top]}}
        return Answer(json={"choices": [choice], "tokens": [2]})

    served.will(answer({"yes": -0.1}))
    prompt, labels = "Answer:", [" yes", " no"]
    tokens = Answer(json={"tokens": [5]})
    served.will(tokens, *[Answer(json={"tokens": [5, n]}) for n in (6, 7)])
    served.answers.append(answer({"token_id:9": -0.1}))
    with pytest.raises(EndpointUnsupported, match=r"0\.32"):
        await reader().read_labels(LabelPrompt(prompt, tuple(labels)), RunContext())
    served.will(tokens, *[Answer(json={"tokens": [5, n]}) for n in (6, 7)])
    served.answers.append(Answer(json={"choices": [{"logprobs": None}]}))
    with pytest.raises(InvalidResponse, match="log-probabilities"):
        await reader().read_labels(LabelPrompt(prompt, tuple(labels)), RunContext())


async def test_reading_labels_is_reserved_and_tokenizing_is_free(served: Served) -> None:
    served.will(FakeVLLM({"Answer:": {" yes": 0.3, " no": 0.1}}))
    context = RunContext(budget=Budget(calls=0))
    with pytest.raises(BudgetExceeded):
        await reader().read_labels(LabelPrompt("Answer:", (" yes", " no")), context)
    assert "/v1/completions" not in served.paths
