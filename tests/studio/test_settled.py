"""How many rows are settled is one figure: on the terminal, in JSON, on the page and in metrics."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from command import told
from starlette.testclient import TestClient

from moa import Agent, Result, serve
from moa.config.endpoints import Endpoints
from moa.config.loading import load_graph
from moa.config.tables import Config
from moa.core.batch import Item, Status
from moa.core.node import Dropped, Text
from moa.core.questions import Choice
from moa.core.trace import Note
from moa.studio.app import recent_runs
from moa.studio.sources import View, find_source
from moa.testing import ScriptedEndpoint
from studio.lines import row, written

GRAPH = """
from pydantic import BaseModel
from moa import Graph, RunContext, Text
from moa.core.node import Became, Dropped
from moa.core.questions import Choice

class Ended(BaseModel):
    became: Became

async def end(text: str, context: RunContext) -> Ended | Dropped:
    first, *more = text.split()
    if first == "fails":
        raise ValueError("it fails")
    if "asks" in more:
        context.note("escalated", "to the large model")
    return Dropped(reason="spam") if first == "spam" else Ended(became=first)

async def decide(text: str, context: RunContext) -> Choice[str]:
    first, *more = text.split()
    if first == "fails":
        raise ValueError("it fails")
    if "asks" in more:
        context.note("escalated", "to the large model")
    accepted = {"accepted": True, "unsure": False}.get(first)
    sure = {"good": 0.9, "bad": 0.1}
    return Choice[str](
        probabilities=sure, label="good", accepted=accepted, doubtful=first == "doubtful"
    )

def made(name, node):
    g = Graph(name, Text)
    return g.build(g.add(node, g.input.map(lambda text: text.text)))

desk, mood = made("desk", end), made("mood", decide)
"""
ROWS = {
    "desk": (
        *("replied", "routed", "routed", "replied asks", "waiting", "drafted", "written"),
        *("quarantined", "dropped", "in danger", "spam", "fails"),
    ),
    "mood": ("accepted", "plain", "plain", "plain asks", "unsure", "doubtful", "fails"),
}


@pytest.mark.parametrize("name", ["desk", "mood"])
def test_the_terminal_its_json_the_page_and_the_metrics_settle_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    Path("desk.py").write_text(GRAPH)
    texts = ROWS[name]
    source = written(tmp_path / "in.jsonl", [{"text": text} for text in texts])
    run = ("run", f"desk.py:{name}", source)
    closing = re.search(r"settled +(\d+) of (\d+)", told(*run, "--out", "out.jsonl", leaves=1).out)
    assert closing
    counts = {"terminal": (int(closing[1]), int(closing[2]))}
    lines = told(*run, "--json", leaves=1).lines
    counts["json"] = sum(one["settled"] for one in lines), len(lines)
    counts["page"] = on_page(View(find_source("out.jsonl")))

    app = serve(load_graph(f"desk.py:{name}", Endpoints(Config())))
    view = View(recent_runs(app.state.server), texts=False)
    with TestClient(app, base_url="http://127.0.0.1") as client:
        for text in texts:
            client.post(f"/run/{name}", json={"text": text})
        metrics = client.get("/metrics").text
    runs = re.findall(rf'moa_runs_total{{model="{name}".*}} (\d+)', metrics)
    (settled,) = re.findall(rf'moa_settled_total{{model="{name}"}} (\d+)', metrics)
    counts["metrics"] = int(settled), sum(map(int, runs))
    counts["page of a server"] = on_page(view)
    assert counts == dict.fromkeys(counts, (3, len(texts)))


def on_page(view: View) -> tuple[int, int]:
    settled = view.overview().figures[0]
    found = re.match(r"(\d+) of (\d+) rows", settled.detail)
    assert found
    assert settled.title == "Settled"
    return int(found[1]), int(found[2])


def item(output: object, *, status: Status = "answered", trace: tuple[Note, ...] = ()) -> bool:
    result = None if status == "failed" else Result(output=output)
    item = Item(number=1, id=1, input="", status=status, result=result, trace=trace)
    return item.settled


def test_a_text_is_settled_unless_it_is_a_draft_or_was_dropped() -> None:
    assert item(Text(text="Hello."))
    assert not item(Text(text="Hello."), trace=(Note("drafted", "reply", "it writes badly"),))
    assert not item(Dropped(reason="spam"), status="dropped")
    assert not item(None, status="failed")


def test_an_answer_that_is_missing_is_not_settled() -> None:
    assert not item(Choice[str](status="missing"))


def test_what_asked_a_large_model_is_not_settled() -> None:
    app = serve(Agent(ScriptedEndpoint(["Hello!"], tier="llm"), "Greet.", name="greeter"))
    with TestClient(app, base_url="http://127.0.0.1") as client:
        assert client.post("/run/greeter", json="Hi").status_code == 200
        assert 'moa_settled_total{model="greeter"} 0.0' in client.get("/metrics").text


def test_rows_that_do_not_say_whether_they_are_settled_are_not_guessed(tmp_path: Path) -> None:
    lines = [row(str(i), f"Text {i}.", {"a": 0.9, "b": 0.1}) for i in range(3)]
    del lines[0]["settled"]
    figure = View(find_source(str(written(tmp_path / "run.jsonl", lines)))).overview().figures[0]
    assert figure.value == "unknown"
    assert figure.detail == "2 of 3 rows, 1 don't say"
