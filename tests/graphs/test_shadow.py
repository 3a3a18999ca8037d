"""A node in the shadow of another: what it says is compared, and never acted on."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from command import moa

from moa.agents.classifier import Classifier
from moa.config.endpoints import Endpoints
from moa.context import RunContext
from moa.errors import ConfigError, EndpointUnavailable
from moa.graphs.cascade import Cascade
from moa.graphs.shadow import Shadow
from moa.node import Result
from moa.testing import Rule, SimulatedEndpoint, Step
from moa.usage import Tier

DOWN = EndpointUnavailable("no", endpoint="x")


def small(text: str) -> Step:
    return {"classifier": {"card": 0.9 if "sure" in text else 0.6}}


def large(text: str) -> Step:
    return {"classifier": {"app" if "app" in text else "card": 0.9}}


def down(text: str) -> Step:
    del text
    return DOWN


def agent(rule: Rule, tier: Tier) -> Classifier[str]:
    endpoint = SimulatedEndpoint(name=tier, tier=tier, rule=rule)
    return Classifier(endpoint, ["card", "app"], none=False)


async def test_a_cascade_beside_the_llm_is_compared_and_not_acted_on() -> None:
    llm = agent(large, "llm")
    both = Cascade(small=agent(small, "slm"), large=agent(large, "llm"), confidence=0.8)
    shadow = Shadow(current=llm, candidate=both)
    texts = ("sure", "sure app", "doubt", "doubt app")
    labels = [(await shadow.run(text)).output.label for text in texts]
    assert labels == ["card", "app", "card", "app"]
    seen = shadow.seen
    assert (seen.runs, seen.agreed, seen.differed) == (4, 3, 1)
    assert "another answer 1 times (25.0%), with 0.50 calls" in seen.summary
    assert "US$ unknown instead of unknown" in seen.summary


async def test_what_the_candidate_takes_is_not_charged_to_the_run() -> None:
    context = RunContext()
    shadow = Shadow(current=agent(large, "llm"), candidate=agent(small, "slm"))
    result = await shadow.run("x", context)
    assert result.usage.calls == context.usage.calls == 1


async def test_a_candidate_that_fails_harms_nobody() -> None:
    def broken(text: str) -> Step:
        raise KeyError(text)

    shadow = Shadow(current=agent(large, "llm"), candidate=agent(broken, "slm"))
    assert (await shadow.run("app")).output.label == "app"
    other = Shadow(current=agent(large, "llm"), candidate=agent(down, "slm"))
    await other.run("app")
    assert (shadow.seen.failed, other.seen.failed) == (1, 1)
    assert "nothing to compare yet" in other.seen.summary


class Never:
    """A node that doesn't answer."""

    name = "never"

    async def run(self, request: object, context: RunContext | None = None, /) -> Result[str]:
        del request, context
        await asyncio.Event().wait()
        return Result(output="")


async def test_a_candidate_that_is_late_is_stopped() -> None:
    shadow = Shadow(current=agent(large, "llm"), candidate=Never(), wait_s=0.0)
    assert (await shadow.run("app")).output.label == "app"
    assert shadow.seen.late == 1


async def test_the_failure_of_the_node_in_use_is_raised_at_once() -> None:
    shadow = Shadow(current=agent(down, "llm"), candidate=Never(), wait_s=60.0)
    with pytest.raises(EndpointUnavailable):
        await shadow.run("x")
    assert shadow.seen.runs == 0


async def test_a_candidate_is_not_waited_for_beyond_the_deadline() -> None:
    shadow = Shadow(current=agent(large, "llm"), candidate=Never(), wait_s=60.0)
    context = RunContext(timeout_s=0.3)
    assert (await shadow.run("app", context)).output.label == "app"
    assert context.remaining_s()
    assert shadow.seen.late == 1


async def test_answers_that_can_not_be_compared_harm_nobody() -> None:
    def same(one: object, other: object) -> bool:
        del other
        raise AttributeError(one)

    shadow = Shadow(current=agent(large, "llm"), candidate=agent(small, "slm"), same=same)
    assert (await shadow.run("app")).output.label == "app"
    assert (shadow.seen.runs, shadow.seen.failed) == (1, 1)


async def test_what_the_node_in_use_raises_is_raised_as_it_is() -> None:
    def broken(text: str) -> Step:
        raise KeyError(text)

    with pytest.raises(KeyError):
        await Shadow(current=agent(broken, "llm"), candidate=Never()).run("x")


def test_no_time_is_less_than_none() -> None:
    with pytest.raises(ConfigError):
        Shadow(current=agent(large, "llm"), candidate=Never(), wait_s=-1.0)


TABLES = """
[graphs.llm]
labels = ["card", "app"]

[graphs.cascade]
labels = ["card", "app"]
confidence = 0.8
"""


def test_by_its_name_it_says_at_the_end_what_would_have_been_different(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    said_card, said_app = {"label": {"card": 0.9}}, {"label": {"app": 0.6}}
    small = SimulatedEndpoint(name="slm", tier="slm", rule=lambda _: said_card)
    large = SimulatedEndpoint(name="llm", tier="llm", rule=lambda _: said_app)
    monkeypatch.setattr(Endpoints, "slm", small)
    monkeypatch.setattr(Endpoints, "llm", large)
    Path("moa.toml").write_text(TABLES)
    Path("in.txt").write_text("one\ntwo\n")
    assert moa("draw", "shadow") == 0
    assert "candidate" in capsys.readouterr().out
    assert moa("run", "shadow", "in.txt", "--out", "out.jsonl") == 0
    out = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert [line["output"]["label"] for line in out] == ["app", "app"]
    said = " ".join(capsys.readouterr().err.split())
    assert "in 2 runs the candidate gave another answer 2 times" in said


def test_a_shadow_has_no_shadow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("moa.toml").write_text('[graphs.shadow]\ncandidate = "shadow"\n')
    assert moa("draw", "shadow") == 2
    assert "its own shadow" in capsys.readouterr().err
