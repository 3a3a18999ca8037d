"""What a value says of itself: in print, in a traceback, and at the end of a notebook's cell."""

from __future__ import annotations

from decimal import Decimal

from moa.agents.sentiment import Mood, Sentiment
from moa.budget import Budget
from moa.config.endpoints import Endpoints
from moa.context import RunContext
from moa.endpoints.openai import OpenAIEndpoint
from moa.endpoints.retries import Retried
from moa.endpoints.vllm import VLLMEndpoint
from moa.endpoints.wrappers import Fallback
from moa.node import Reply, Result
from moa.testing import SimulatedEndpoint
from moa.trace import Note
from moa.usage import Amount, Part, Usage

SPENT = Usage(
    {
        Part("llm", "support/reply", "large"): Amount(
            calls=2, input_tokens=300, output_tokens=40, seconds=1.25, priced_cost=Decimal("0.002")
        ),
        Part("slm", "support/mood", "small"): Amount(calls=1, input_tokens=10, unpriced_calls=1),
    }
)


def test_usage_prints_as_a_table_with_its_sum() -> None:
    assert str(SPENT).splitlines() == [
        "node           tier  endpoint  calls  tokens in  out  seconds       cost",
        "support/mood   slm   small         1         10    0      0.0    unknown",
        "support/reply  llm   large         2        300   40      1.2  US$ 0.002",
        "total                              3        310   40      1.2    unknown",
    ]


def test_usage_is_a_line_where_it_stands_in_others() -> None:
    (reply,) = (one for name, one in SPENT.by_node().items() if name == "support/reply")
    assert repr(reply) == "Usage(2 calls, 300 tokens in, 40 out, 1.2 s, cost US$ 0.002)"


def test_a_result_prints_its_output_its_usage_and_its_notes() -> None:
    notes = (Note("answered", "reply", "m"), Note("retried", "reply", "after 1 s"))
    result = Result(output=Reply(text="Hello"), usage=SPENT, trace=notes)
    output, usage, trace = str(result).split("\n\n")
    assert output == "output  Reply\ntext    Hello"
    assert usage == str(SPENT)
    assert trace == "retried  reply: after 1 s"


def test_a_notebook_shows_no_markup_of_a_text() -> None:
    html = Result(output=Reply(text="<script>"))._repr_html_()  # pyright: ignore[reportPrivateUsage]
    assert "&lt;script&gt;" in html
    assert "<script>" not in html


def test_an_endpoint_says_what_it_serves_and_where_and_no_key() -> None:
    small = VLLMEndpoint("small", model="Q", base_url="http://host:8000/v1", api_key="sk-secret")
    assert repr(Retried(Fallback(small, OpenAIEndpoint("large", model="gpt-5-mini")))) == (
        "Retried(Fallback(VLLMEndpoint(name='small', model='Q', tier='slm', "
        "base_url='http://host:8000/v1'), "
        "OpenAIEndpoint(name='large', model='gpt-5-mini', tier='llm')))"
    )


def test_a_node_says_its_types_and_whom_it_asks() -> None:
    assert repr(Sentiment(SimulatedEndpoint())) == (
        f"Sentiment('sentiment', Text | str -> {Mood.__name__}, "
        "SimulatedEndpoint(name='scripted', model='scripted-1', tier='slm'))"
    )


def test_a_context_says_its_limits_and_what_is_spent() -> None:
    context = RunContext(budget=Budget(calls=3), node="support")
    assert repr(context) == (
        "RunContext('support', budget=Budget(calls=3), "
        "spent: 0 calls, 0 tokens in, 0 out, 0.0 s, cost US$ 0.00)"
    )


def test_endpoints_of_a_file_are_named() -> None:
    assert repr(Endpoints()) == "Endpoints()"
