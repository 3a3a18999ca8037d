"""What a value says of itself: in print, in a traceback, and at the end of a notebook's cell."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from moa import Classifier
from moa.agents.sentiment import Mood, Sentiment
from moa.config.endpoints import Endpoints
from moa.core.batch import Item
from moa.core.budget import Budget
from moa.core.context import RunContext
from moa.core.errors import InputError
from moa.core.node import Reply, Result
from moa.core.trace import Note
from moa.core.usage import Amount, Part, Usage
from moa.decisions.features import OptionRecord, QuestionRecord
from moa.decisions.file import Calibration
from moa.endpoints.openai import OpenAIEndpoint
from moa.endpoints.retries import Retried
from moa.endpoints.wrappers import Fallback
from moa.evals.comparison import Comparison, DesignReport
from moa.evals.metrics import Interval
from moa.testing import SimulatedEndpoint
from moa.vllm.endpoint import VLLMEndpoint

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


HOSTILE = "<img src=x onerror=alert(1)>\u202e\x1b[2J</table>" + "x" * 5000


def in_a_notebook(value: object) -> str:
    """Give what a notebook shows at the end of a cell."""
    return str(vars(type(value))["_repr_html_"](value))


def calibration(text: str) -> Calibration:
    question = QuestionRecord(kind="choice", text=text, options=(OptionRecord(name=text),))
    now = datetime(2026, 1, 1, tzinfo=UTC)
    return Calibration(
        made=now, question=question, models={}, features=(), origin=text, notes=(text,)
    )


def comparison(text: str) -> Comparison:
    design = DesignReport(
        name=text,
        answered=1,
        quality=Interval(0.5, 0.4, 0.6),
        labels=None,
        cost=0.1,
        tokens=3,
        llm_calls=1,
        seconds_mean=0.1,
        seconds_p95=0.1,
        verdict=text,
    )
    return Comparison(
        kind="texts", metric=text, n=1, reference=text, budget=None, designs=(design,)
    )


def shown(text: str) -> dict[str, object]:
    """Values of which everything that others may have written is this text."""
    result = Result(output=Reply(text=text), usage=SPENT, trace=(Note("retried", text, text),))
    failed = InputError(text)
    return {
        "result": result,
        "item": Item(number=1, id=text, input={"text": text}, status="answered", result=result),
        "failed item": Item(number=1, id=1, input=text, status="failed", error=failed),
        "calibration": calibration(text),
        "comparison": comparison(text),
    }


@pytest.mark.parametrize("kind", list(shown("")))
def test_a_notebook_shows_tables_of_which_no_text_is_markup(kind: str) -> None:
    html = in_a_notebook(shown(HOSTILE)[kind])
    assert re.sub(r'<(table style="[a-z:;-]+"|/table|/?tr|/?t[hd])>', "", html).count("<") == 0
    assert "&lt;img" in html
    assert not {"\u202e", "\x1b"} & {*html}
    assert len(html) < 10_000


@pytest.mark.parametrize("kind", list(shown("")))
def test_a_table_in_a_notebook_has_the_colours_of_its_page(kind: str) -> None:
    html = in_a_notebook(shown("a text")[kind])
    assert "color:inherit;background:none" in html
    assert not re.search(r'style="[^"]*#', html)


def test_an_item_shows_its_input_its_output_and_what_it_took_or_why_it_failed() -> None:
    assert "<td>Hello</td>" in in_a_notebook(shown("Hello")["item"])
    assert "2 calls" not in in_a_notebook(shown("Hello")["failed item"])
    assert "<td>InputError: Hello</td>" in in_a_notebook(shown("Hello")["failed item"])


def test_probabilities_are_shown_with_the_highest_first_and_what_is_unknown_is_not() -> None:
    small = SimulatedEndpoint(rule=lambda text: {"team": {"repairs": 0.99998, "billing": 0.00002}})
    html = in_a_notebook(Classifier(small, ["billing", "repairs"], name="team").run_sync("Torn."))
    assert "<td>repairs 1.000, billing 0.000</td>" in html
    assert "None" not in html


def test_a_calibration_shows_what_it_promises() -> None:
    assert "<tr><td>guarantee</td><td>none</td></tr>" in in_a_notebook(calibration("Is it spam?"))


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
