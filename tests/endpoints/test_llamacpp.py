"""Reading labels as llama.cpp gives them: over the wire, and from the real engine."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from typing import Any

import pytest

from moa.core._json import at, number_of, objects_of
from moa.core.context import RunContext
from moa.core.errors import InvalidResponse
from moa.core.questions import Option, Question
from moa.core.usage import Amount
from moa.endpoints.client import Client
from moa.endpoints.decide import Decides
from moa.endpoints.layouts import LabelPrompt
from moa.endpoints.logprobs import LlamaCppReader
from moa.endpoints.openai import OpenAIEndpoint
from moa.local.embedded import Engine

from .conftest import Answer, Asked, Served

WET = Question("wet", "predicate", "Is it?", (Option("yes", True), Option("no", False)))
PROMPT = "Question: Is fire cold?\nAnswer: no\n\nQuestion: Is water wet?\nAnswer:"


ASKED = LabelPrompt("Is it?", (" no", " yes"))


@pytest.fixture
def reader() -> LlamaCppReader:
    client = Client("slm", tier="slm", model="tiny", base_url="http://engine/v1")
    return LlamaCppReader(client)


def tokens(request: Asked) -> Answer:
    """One token a word, by its length."""
    words = request.json()["content"].split()
    return Answer(json={"tokens": [len(word) for word in words]})


TOKENS = [tokens] * 3
"""Of the prompt and its two labels."""


def probabilities(shares: dict[int, float]) -> Answer:
    top = [{"id": token, "prob": p} for token, p in shares.items()]
    choice: dict[str, Any] = {"text": "x", "logprobs": {"content": [{"top_probs": top}]}}
    usage = {"prompt_tokens": 40, "completion_tokens": 1}
    return Answer(json={"choices": [choice], "usage": usage})


def pushed(p: float, mass: float, push: float = 8.0) -> float:
    """What sampling shows of a token of probability `p` when labels of `mass` were pushed."""
    return p * math.exp(push) / (mass * math.exp(push) + 1 - mass)


async def test_the_push_is_taken_back(served: Served, reader: LlamaCppReader) -> None:
    served.will(*TOKENS, probabilities({2: pushed(0.02, 0.03), 3: pushed(0.01, 0.03), 9: 0.1}))
    reading = await reader.read_labels(ASKED, RunContext())
    assert reading.logprobs == pytest.approx((math.log(0.02), math.log(0.01)), abs=1e-3)
    assert reading.label_mass == pytest.approx(0.03, abs=1e-4)
    assert served.bodies[-1]["logit_bias"] == [[2, 8.0], [3, 8.0]]


async def test_a_label_that_the_first_push_leaves_hidden_is_pushed_harder(
    served: Served, reader: LlamaCppReader
) -> None:
    served.will(
        *TOKENS, probabilities({2: pushed(0.02, 0.02)}), probabilities({2: 1 - 1e-6, 3: 1e-6})
    )
    reading = await reader.read_labels(ASKED, RunContext())
    assert reading.probabilities == pytest.approx((1, 1e-6), rel=1e-3)
    assert reading.amount.calls == 2


@pytest.mark.parametrize("first", [[], [probabilities({2: pushed(0.02, 0.02)})]])
@pytest.mark.parametrize("text", ["\N{REPLACEMENT CHARACTER}", " \N{REPLACEMENT CHARACTER}", ""])
async def test_labels_are_read_from_the_whole_vocabulary_where_the_sampled_token_has_no_text(
    served: Served, reader: LlamaCppReader, first: list[Answer], text: str
) -> None:
    cut = Answer(json={"choices": [{"text": text, "logprobs": None}]})
    top = [{"id": n, "logprob": math.log(p)} for n, p in ((1, 0.7), (2, 0.02), (3, 0.01))]
    choice = {"text": ".", "logprobs": {"content": [{"top_logprobs": top}]}}
    served.will(*TOKENS, *first, cut, tokens, Answer(json={"choices": [choice]}))
    reading = await reader.read_labels(ASKED, RunContext())
    assert reading.logprobs == pytest.approx((math.log(0.02), math.log(0.01)))
    assert served.bodies[-1]["logit_bias"] == [[1, 60.0]]  # the full stop


async def test_labels_are_tokenised_once(served: Served, reader: LlamaCppReader) -> None:
    served.will(*TOKENS, probabilities({2: 0.5, 3: 0.5}), tokens, probabilities({2: 0.5, 3: 0.5}))
    for _ in range(2):
        await reader.read_labels(ASKED, RunContext())
    assert served.paths.count("/tokenize") == 4


async def test_nothing_in_a_prompt_is_parsed_as_a_control_token(
    served: Served, reader: LlamaCppReader
) -> None:
    served.will(*TOKENS, probabilities({2: 0.5, 3: 0.5}))
    await reader.read_labels(LabelPrompt("Is it <|im_end|>?", (" no", " yes")), RunContext())
    asked = [body for body in served.bodies if "content" in body]
    assert [body["parse_special"] for body in asked] == [False] * 3


@pytest.mark.parametrize(
    ("prompt", "answers"),
    [
        (ASKED, [*TOKENS, Answer(json={"choices": []})]),
        (ASKED, [*TOKENS, Answer(json={"choices": [{"logprobs": None}]})]),
        (ASKED, [*TOKENS, probabilities({})]),
        (ASKED, [Answer(json={"tokens": []})]),
    ],
    ids=["no choice", "no list", "none of the labels", "no tokens"],
)
async def test_what_leaves_out_what_was_asked_for_is_garbled(
    served: Served, reader: LlamaCppReader, prompt: LabelPrompt, answers: list[Any]
) -> None:
    served.will(*answers)
    with pytest.raises(InvalidResponse):
        await reader.read_labels(prompt, RunContext())


@pytest.mark.parametrize("decides", ["auto", "labels"])
async def test_a_server_that_says_it_is_llama_cpp_is_read_by_its_labels(
    served: Served, decides: Decides
) -> None:
    def server(request: Asked) -> Answer:
        match request.path:
            case "/v1/models":
                return Answer(json={"data": [{"id": "m", "owned_by": "llamacpp"}]})
            case "/v1/systemone":
                return Answer(501, json={"error": {"message": "no decision model"}})
            case "/tokenize":
                return tokens(request)
            case path:
                assert path == "/v1/completions"
                return probabilities({3: pushed(0.3, 0.4), 2: pushed(0.1, 0.4)})

    served.will(server)
    endpoint = OpenAIEndpoint(
        "small", model="smollm2-135m", base_url="http://l.test/v1", decides=decides
    )
    context = RunContext()
    (answer,) = (await endpoint.decide("Water is wet.", [WET], context)).answers
    assert answer.probabilities == pytest.approx((0.75, 0.25), abs=1e-3)
    assert answer.source == "logprob"
    kinds = ["fell back", "answered"] if decides == "auto" else ["answered"]
    assert [note.kind for note in context.trace] == kinds


async def full(endpoint: OpenAIEndpoint, ids: list[int], wanted: list[int]) -> list[float]:
    """Log-probabilities of tokens from the whole vocabulary, as the engine sends it: slowly."""
    body = {"prompt": ids, "n_predict": 1, "temperature": 1.0, "n_probs": 49152}
    context = RunContext()
    estimate = endpoint.price.charge(Amount(calls=1))
    answer, _ = await endpoint.client.post(
        "/completion", body, context, estimate=estimate, at_root=True
    )
    top = objects_of(at(answer, "completion_probabilities", 0, "top_logprobs"))
    found = {t["id"]: number_of(t["logprob"]) for t in top}
    return [found[token] for token in wanted]


@pytest.fixture
async def real(engine: Engine) -> AsyncIterator[OpenAIEndpoint]:
    endpoint = OpenAIEndpoint(
        "slm", model=engine.model, base_url=engine.base_url, api_key=engine.api_key
    )
    yield endpoint
    await endpoint.close()


@pytest.mark.embedded
@pytest.mark.parametrize(
    "labels",
    [
        pytest.param((" yes", " no"), id="likely"),
        pytest.param((" yes", " purple", " Tuesday"), id="unlikely"),
        pytest.param((" Danube", " trombone"), id="hidden without a push"),
        pytest.param((" 破損なし", " 一部に破損"), id="parts of characters"),
    ],
)
async def test_the_engine_is_read_as_exactly_as_its_whole_vocabulary_says(
    real: OpenAIEndpoint, labels: tuple[str, ...]
) -> None:
    reader = LlamaCppReader(real.client)
    context = RunContext()
    ids = await reader.tokenize(PROMPT, context, whole=True)
    tokens = [(await reader.tokenize(label, context, whole=False))[0] for label in labels]
    reading = await reader.read_next_tokens(ids, tokens, context)
    expected = await full(real, ids, tokens)
    assert reading.logprobs == pytest.approx(expected, abs=0.02)


@pytest.mark.embedded
async def test_a_control_token_in_a_text_is_plain_characters_to_the_engine(
    real: OpenAIEndpoint,
) -> None:
    written = await LlamaCppReader(real.client).tokenize("a<|im_end|>b", RunContext(), whole=True)
    body = {"content": "<|im_end|>", "parse_special": True}
    meant = await real.client.post("/tokenize", body, RunContext(), estimate=Amount(), at_root=True)
    control = at(meant.body, "tokens", 0)
    assert control not in written


@pytest.mark.embedded
async def test_the_engine_is_found_to_be_llama_cpp(real: OpenAIEndpoint) -> None:
    context = RunContext()
    (answer,) = (await real.decide("Water is wet.", [WET], context)).answers
    assert answer.source == "logprob"
    assert [note.kind for note in context.trace] == ["fell back", "answered"]
