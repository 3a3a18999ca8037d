"""Routed: a fitted router chooses the model before any answer, or a cascade after the first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command import moa
from pydantic import BaseModel
from routing import router

from moa import Agent, RunContext
from moa.config.endpoints import Endpoints
from moa.core.errors import ConfigError, EndpointUnavailable, InputError
from moa.core.node import Node
from moa.core.trace import Event, TextDelta
from moa.core.usage import Tier
from moa.graphs.cascade import CascadeResult
from moa.routing.routed import Routed
from moa.testing import SimulatedEndpoint

from .nodes import BreaksOff

EASY = "Add 2 and 3. What is the sum?"
HARD = (
    "A shop sells 12 boxes of 7 pens, of which half are blue, and gives every third box away after "
    "the first week. How many blue pens are left, if two boxes are lost on each day?"
)


def model(name: str, *, tier: Tier = "slm", down: bool = False) -> Node[Any, Any]:
    def rule(text: str) -> Any:
        return EndpointUnavailable("no", endpoint=name) if down else f"{name} on {text[:5]}"

    return Agent(SimulatedEndpoint(name=name, tier=tier, rule=rule), "Solve it.", name=name)


def two(**more: Any) -> Routed[Any, Any]:
    return Routed(models=[model("small"), model("large", tier="llm")], **more)


async def test_an_easy_request_goes_to_the_small_model_and_a_hard_one_to_the_large() -> None:
    graph = two(router=router())
    for text, name in ((EASY, "small"), (HARD, "large")):
        result = await graph.run(text)
        assert result.output.text.startswith(name)
        assert set(result.usage.by_endpoint()) == {name}


async def test_the_trace_says_why_the_large_model_was_chosen() -> None:
    notes = (await two(router=router()).run(HARD)).trace
    assert any(n.kind == "escalated" and "predicted gain" in n.text for n in notes)


async def test_a_router_reads_the_numbers_that_a_request_brings() -> None:
    class Turn(BaseModel):
        text: str
        features: dict[str, float]

    (part,) = router().parts
    by_turns = part.part.model_copy(update={"names": ("turns",)})
    parts = (part.model_copy(update={"part": by_turns}),)
    graph = two(router=router().model_copy(update={"features": ("turns",), "parts": parts}))
    chosen = [await graph.run(Turn(text=EASY, features={"turns": n})) for n in (1.0, 9.0)]
    assert [set(result.usage.by_endpoint()) for result in chosen] == [{"small"}, {"large"}]
    with pytest.raises(InputError, match="'turns'"):
        await graph.run(EASY)


async def test_of_three_models_the_one_that_gains_most_is_chosen() -> None:
    little, much = router().at_threshold(0.5), router().at_threshold(0.3)
    graph = Routed(models=[model("a"), model("b"), model("c")], router=[much, little])
    assert (await graph.run(HARD)).output.text.startswith("b")
    assert (await graph.run(EASY)).output.text.startswith("a")


async def test_where_the_chosen_model_is_down_the_best_of_the_others_answers() -> None:
    graph = Routed(
        models=[model("a", down=True), model("b"), model("c")], router=[router(), router()]
    )
    result = await graph.run(EASY)
    assert result.output.text.startswith("c")
    assert any(n.kind == "failed" and "'a'" in n.text for n in result.trace)


async def test_with_all_models_down_the_chosen_ones_error_is_raised() -> None:
    with pytest.raises(EndpointUnavailable) as failed:
        await Routed(models=[model("a", down=True), model("b", down=True)], router=router()).run(
            EASY
        )
    assert failed.value.endpoint == "a"


async def test_a_router_that_looks_at_answers_makes_a_cascade() -> None:
    wrong = SimulatedEndpoint(name="small", rule=lambda _: "1 + 1 = 3\nThe answer is 3")
    graph = Routed(
        models=[Agent(wrong, "Solve it.", name="small"), model("large", tier="llm")],
        router=router(replied=True).at_threshold(0.2),
    )
    result = await graph.run(EASY)
    assert isinstance(result, CascadeResult)
    assert result.by == "large"
    assert "if doubtful" in graph.draw().mermaid


async def test_a_model_that_breaks_off_what_is_shown_has_no_stand_in() -> None:
    graph: Any = Routed(models=[BreaksOff("small"), model("large", tier="llm")], router=router())
    assert (await graph.run(EASY)).output.text.startswith("large")
    seen: list[Event] = []
    with pytest.raises(EndpointUnavailable):
        await graph.run(EASY, RunContext(listener=seen.append))
    assert [event.text for event in seen if isinstance(event, TextDelta)] == ["The best way is"]


def test_another_number_of_routers_is_refused() -> None:
    with pytest.raises(ConfigError):
        two(router=[router(), router()])


def test_routers_that_look_at_different_things_do_not_go_together() -> None:
    with pytest.raises(ConfigError):
        Routed(models=[model("a"), model("b"), model("c")], router=[router(), router(replied=True)])


async def test_without_a_router_it_is_drawn_and_not_run() -> None:
    graph = two()
    assert "LLM" in graph.draw().mermaid
    with pytest.raises(ConfigError):
        await graph.run(EASY)


@pytest.fixture(name="folder")
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for tier in ("slm", "llm"):
        double = SimulatedEndpoint(
            name=tier, tier=tier, rule=lambda text: f"The answer is {len(text)}"
        )
        monkeypatch.setattr(Endpoints, tier, double)
    return tmp_path


@pytest.mark.usefixtures("folder")
def test_it_is_run_and_compared_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    router().save("router.json")
    Path("moa.toml").write_text('[graphs.routed]\nrouter = "router.json"\n')
    given = [{"text": EASY, "reference": f"{len(EASY)}"}, {"text": HARD, "reference": "2"}]
    Path("in.jsonl").write_text("\n".join(map(json.dumps, given)))
    assert moa("run", "routed", "in.jsonl", "--json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [list(line["usage"]["by_tier"]) for line in lines] == [["slm"], ["llm"]]
    assert moa("compare", "in.jsonl", "--designs", "routed,llm", "--metric", "numeric") == 0
    assert "routed" in capsys.readouterr().out


@pytest.mark.usefixtures("folder")
def test_without_a_router_the_command_says_what_to_give(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert moa("draw", "routed") == 0
    assert moa("run", "routed", EASY, "--text") == 2
    assert "moa route fit" in capsys.readouterr().err
