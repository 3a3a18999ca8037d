"""A task in words: what is read, from which words, and what corrects it."""

from __future__ import annotations

from typing import Any

import pytest

from moa.advisor.task import read, task_of
from moa.errors import ConfigError

SENTENCES: list[tuple[str, dict[str, Any]]] = [
    (
        "classify support tickets in German, 10k a day, at most 300 ms",
        {"job": "classify", "languages": ("de",), "per_day": 10_000, "latency_s": 0.3},
    ),
    ("a real-time support bot on a laptop", {"job": "converse", "streamed": True, "latency_s": 2}),
    ("recommendations on an 8 GB edge board", {"job": "recommend"}),
    ("scientific reasoning on eight H100s", {"job": "reason"}),
    (
        "essay writer with an API key, 20 essays a day of 1,500 words",
        {"job": "create", "per_day": 20, "output_tokens": 2025, "api": True},
    ),
    ("10 million messages a day, sentiment", {"job": "classify", "per_day": 10_000_000}),
    (
        "answer questions about our manuals, private, 3 seconds, 500 per hour",
        {"job": "answer-from-documents", "private": True, "latency_s": 3, "per_day": 12_000},
    ),
    (
        "extract fields in French and Italian offline, 200 labelled examples, $0.5 per thousand",
        {"job": "extract", "languages": ("fr", "it"), "offline": True, "labels": 200}
        | {"max_usd_per_thousand": "0.5"},
    ),
    (
        "summarise medical letters of 3 pages, 50 at once",
        {"job": "summarise", "risk": "high", "input_tokens": 1950, "concurrency": 50},
    ),
    ("classify mails, we have no api key", {"job": "classify", "api": False}),
    ("classify mails without an API", {"job": "classify", "api": False}),
    ("write essays, we don't have an API key", {"job": "create", "api": False}),
    ("write essays by api, not openai", {"job": "create", "api": True}),
    ("write essays by gemini, no labels", {"job": "create", "api": True, "vendors": ("gemini",)}),
    ("classify mails, not sensitive", {"job": "classify"}),
]


@pytest.mark.parametrize(("text", "fields"), SENTENCES, ids=[text for text, _ in SENTENCES])
def test_a_sentence_is_read_into_fields(text: str, fields: dict[str, Any]) -> None:
    assert {one.field: one.value for one in read(text)} == fields


def test_what_is_given_goes_before_what_is_read() -> None:
    task, understood = task_of("classify mails, 10k a day", {"job": "extract", "per_day": 5})
    assert (task.job, task.per_day) == ("extract", 5)
    assert not understood


@pytest.mark.parametrize(
    ("text", "given", "said"),
    [("ten thousand things", {}, "--job"), ("", {"job": "classify", "per_day": -1}, "per_day")],
)
def test_no_job_and_an_impossible_value_are_told(
    text: str, given: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        task_of(text, given)


def test_a_key_in_the_environment_lets_its_vendor_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setenv("OPENAI_API_KEY", "x")
        task, understood = task_of("classify mails", {})
        assert not task_of("classify mails", {"api": False})[0].api
        assert not task_of("classify mails, we have no api key", {})[0].api
    assert task.api
    assert "openai" in task.vendors
    assert {one.words for one in understood if one.field == "api"} == {"a key in the environment"}
