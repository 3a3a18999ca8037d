"""Comparing designs: in Python, and by the command."""

from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from command import moa

from moa.agents.agent import Agent
from moa.agents.classifier import Classifier
from moa.config import load
from moa.config.loading import files_in
from moa.core.context import RunContext
from moa.core.errors import ConfigError, EndpointUnavailable, InputError, MissingDependency
from moa.core.node import Node, Result
from moa.core.usage import Price
from moa.evals import compare
from moa.evals.cases import Cache, DesignAnswer
from moa.evals.plots import plot_comparison
from moa.graphs.cascade import Cascade
from moa.recipes.judges import Best
from moa.testing import SimulatedEndpoint, Step

MINE = """
from moa.agents.classifier import Classifier
from moa.config.loading import files_in
from moa.testing import SimulatedEndpoint

def rule(text):
    return {"label": {"spam" if "buy" in text else "ham": 0.9}}

asked = SimulatedEndpoint(name="small", rule=rule)
good = Classifier(asked, ["ham", "spam"], task="Spam?", none=False, name="label")

def broken():
    class Broken:
        name = "broken"
        async def run(self, request, context=None, /):
            raise KeyError("oh")
    return Broken()
"""


def rows(n: int) -> list[dict[str, object]]:
    return [
        {
            "id": i,
            "text": f"message {i}" + " buy" * (i % 3 == 0),
            "label": "ham" if i % 3 else "spam",
        }
        for i in range(n)
    ]


def chance(text: str, salt: str) -> float:
    return int(hashlib.sha256((salt + text).encode()).hexdigest()[:8], 16) / 2**32


def small(text: str) -> Step:
    """Sure between 0.5 and 1, and right as often as that."""
    right, wrong = ("spam", "ham") if "buy" in text else ("ham", "spam")
    sure = 0.5 + chance(text, "sure") / 2
    return {"label": {right if chance(text, "right") < sure else wrong: sure}}


def large(text: str) -> Step:
    right, wrong = ("spam", "ham") if "buy" in text else ("ham", "spam")
    return {"label": {right if chance(text, "large") < 0.97 else wrong: 0.97}}


SMALL = SimulatedEndpoint(
    name="small", rule=small, price=Price(input=Decimal("0.1"), output=Decimal("0.1"))
)
LARGE = SimulatedEndpoint(
    name="large", tier="llm", rule=large, price=Price(input=Decimal(5), output=Decimal(5))
)


def agent(endpoint: SimulatedEndpoint) -> Classifier[str]:
    return Classifier(endpoint, ["ham", "spam"], task="Spam?", none=False, name="label")


def designs() -> dict[str, Node[Any, Any]]:
    both = Cascade(small=agent(SMALL), large=agent(LARGE), confidence=0.9)
    return {"slm": agent(SMALL), "llm": agent(LARGE), "cascade": both}


async def test_designs_stand_side_by_side_with_what_they_reach_and_take() -> None:
    found = await compare(rows(300), designs())
    slm, llm, both = found.designs
    assert (found.n, found.metric, found.reference) == (300, "accuracy", "llm")
    assert slm.quality.value < both.quality.value <= llm.quality.value + 0.02
    assert slm.cost is not None
    assert llm.cost is not None
    assert both.cost is not None
    assert slm.cost < both.cost < llm.cost
    assert (slm.llm_calls, llm.llm_calls) == (0.0, 1.0)
    assert 0.5 < both.llm_calls < 1.0
    assert slm.against is not None
    assert slm.against.p is not None
    assert slm.against.p < 0.001
    assert slm.labels is not None
    assert slm.labels.ece is not None
    assert slm.labels.ece < 0.1


async def test_nothing_is_asked_where_the_measures_are_not_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    asked = SimulatedEndpoint(rule=small)
    with pytest.raises(MissingDependency, match="calibration"):
        await compare(rows(3), {"slm": agent(asked)})
    assert not asked.states


async def test_the_curve_runs_from_the_small_model_to_the_large_one() -> None:
    found = await compare(rows(200), designs())
    first, last = found.curve[0], found.curve[-1]
    slm, llm = found.design("slm"), found.design("llm")
    assert (first.llm_share, last.llm_share) == (0.0, 1.0)
    assert first.quality == pytest.approx(slm.quality.value)
    assert last.quality == pytest.approx(llm.quality.value)
    assert last.cost == pytest.approx((slm.cost or 0) + (llm.cost or 0))
    middle = found.curve[len(found.curve) // 2]
    assert middle.quality > (first.quality + last.quality) / 2


async def test_each_design_has_an_equal_part_of_the_budget() -> None:
    one = 15 * 5 / 1_000_000
    found = await compare(rows(30), designs(), budget_usd=3 * 10.5 * one)
    llm = found.design("llm")
    assert llm.answered == 10
    assert llm.quality.value <= 10 / 30
    assert "BudgetExceeded" in (llm.error or "")
    assert found.design("slm").answered == 30


async def test_answers_are_kept_and_taken_up_and_failures_asked_again(tmp_path: Path) -> None:
    asked: list[str] = []

    def rule(text: str) -> Step:
        asked.append(text)
        if len(asked) == 3:
            return EndpointUnavailable("no", endpoint="small")
        return large(text)

    nodes = {"slm": agent(SimulatedEndpoint(name="small", rule=rule))}
    file = tmp_path / "answers.jsonl"
    first = await compare(rows(5), nodes, cache=file)
    assert (first.designs[0].answered, len(asked)) == (4, 5)
    with file.open("a") as half:
        half.write('{"key": "cut o')
    second = await compare(rows(5), nodes, cache=file)
    assert (second.designs[0].answered, len(asked)) == (5, 6)
    await compare(rows(5), nodes, cache=file, setup={"slm": "another model"})
    assert len(asked) == 11


async def test_a_failed_case_counts_the_calls_it_made() -> None:
    class Breaks:
        name = "breaks"

        async def run(self, request: str, context: RunContext | None = None, /) -> Result[object]:
            await agent(LARGE).run(request, context)
            raise EndpointUnavailable("no", endpoint="search")

    found = await compare(rows(3), {"breaks": Breaks()})
    (design,) = found.designs
    assert design.answered == 0
    assert design.llm_calls == 1.0


def test_answers_are_taken_up_each_time_a_run_was_killed(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    given = {"a": "one\u2028line, é", "b": "two", "c": "three"}
    for request, text in given.items():
        cache = Cache(file)
        assert cache.get("slm", request) is None
        cache.put("slm", request, DesignAnswer(text=text))
        cache.close()
        written = file.read_bytes()
        with file.open("ab") as half:
            half.write(written.splitlines()[0][: written.index("é".encode()) + 1])
    kept = Cache(file)
    assert {request: kept.get("slm", request) for request in given} == {
        request: DesignAnswer(text=text) for request, text in given.items()
    }
    kept.close()


@pytest.mark.parametrize("content", [b'{"text": "x"}\n{"text": "y"}\n', b"\xff\xfe", b"hello"])
def test_a_file_of_something_else_is_not_taken_for_answers(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match="line 1"):
        asyncio.run(compare(rows(2), designs(), cache=file))
    assert file.read_bytes() == content


async def test_texts_are_compared_with_their_references() -> None:
    data = [
        {"prompt": f"What is {i} + 1?", "reference": f"The answer is {i + 1}"} for i in range(20)
    ]

    def right(text: str) -> str:
        number = int(text.split("What is ")[1].split()[0])
        return f"{number} + 1 = {number + 1}. The answer is {number + 1}."

    nodes = {
        "llm": Agent(SimulatedEndpoint(tier="llm", rule=right), "Add."),
        "slm": Agent(SimulatedEndpoint(rule=lambda _: "The answer is 3."), "Add."),
    }
    found = await compare(data, nodes)
    assert found.metric == "numeric"
    assert [round(d.quality.value * 20) for d in found.designs] == [20, 1]
    assert found.curve == ()


async def test_a_judge_tells_ties_from_verdicts_that_it_did_not_give() -> None:
    data = [{"prompt": f"Say {i}.", "reference": "the reference"} for i in range(4)]
    data.append({"prompt": "Say the same.", "reference": "say the same."})

    def verdict(text: str) -> Step:
        if "say 0" in text or "could not be used" in text:
            return "I can't."
        if "say 1" in text:
            return Best(best=1)  # whichever stands there
        reference = 1 if text.index("the reference") < text.index("say ") else 2
        return Best(best=3 - reference if "say 2" in text else reference)

    asked = SimulatedEndpoint(name="judge", tier="llm", rule=verdict)
    writer = Agent(SimulatedEndpoint(rule=lambda t: t.splitlines()[1].lower()), "Say it.")
    found = await compare(data, {"slm": writer}, metric="judge", judge=asked)
    (slm,) = found.designs
    assert (slm.unreadable, slm.quality.value) == (1, 0.5)  # the mean of 0.5, 1, 0, and 0.5
    assert not any("the same" in prompt.messages[-1].content for prompt in asked.prompts)


async def test_a_judge_has_a_part_of_the_budget_and_gives_no_verdict_beyond_it() -> None:
    data = [{"prompt": f"Say {i}.", "reference": f"say {i}"} for i in range(4)]
    price = Price(input=Decimal(0), output=Decimal(1000))
    asked = SimulatedEndpoint(name="judge", tier="llm", rule=lambda _: Best(best=1), price=price)
    writer = Agent(SimulatedEndpoint(rule=lambda _: "something"), "Say it.")
    free = await compare(data, {"slm": writer}, metric="judge", judge=asked)
    assert free.designs[0].unreadable == 0
    found = await compare(data, {"slm": writer}, metric="judge", judge=asked, budget_usd=0.001)
    assert found.budget == 0.0005
    assert found.designs[0].unreadable == 4


@pytest.mark.parametrize("settings", [{"metric": "rouge-l"}, {"reference": "gpt"}])
async def test_what_cannot_be_compared_is_refused(settings: Any) -> None:
    with pytest.raises(ConfigError):
        await compare(rows(3), designs(), **settings)
    with pytest.raises(InputError):
        await compare([], designs())
    with pytest.raises(ConfigError):
        await compare([{"text": "x", "reference": "y z"}], designs(), metric="judge")


async def test_plots_are_drawn_as_png_and_svg(tmp_path: Path) -> None:
    found = await compare(rows(60), designs())
    files = plot_comparison(found, tmp_path / "r.svg") + plot_comparison(found, tmp_path / "r.png")
    assert [file.name for file in files][:3] == [
        "r-cost.svg",
        "r-reliability.svg",
        "r-coverage.svg",
    ]
    assert files[0].read_text().lstrip().startswith("<?xml")
    assert files[3].read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ConfigError):
        plot_comparison(found, tmp_path / "r.doc")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE)
    data = "".join(json.dumps(row) + "\n" for row in rows(30))
    (tmp_path / "data.jsonl").write_text(data)
    return tmp_path


def test_the_command_writes_and_prints_json_markdown_and_plots(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("compare", "data.jsonl", "--designs", "mine.py:good")
    kept_as = ("--report", "r.json", "--plot", "r.png", "--out", "a.jsonl")
    assert moa(*words, *kept_as) == 0
    assert "what the others are compared with" in capsys.readouterr().out
    report = json.loads((folder / "r.json").read_text())
    assert moa(*words, "--json", "--report", "r.md") == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["designs"][0]["verdict"] == report["designs"][0]["verdict"]
    assert "what the others are compared with" in shown.err
    assert report["designs"][0]["quality"][0] == 1.0
    assert report["designs"][0]["labels"]["accuracy"] == 1.0
    assert (folder / "r.md").read_text().splitlines()[2].startswith("| design | accuracy |")
    assert len((folder / "a.jsonl").read_text().splitlines()) == 30
    assert (folder / "r-coverage.png").exists()


def test_a_design_that_answers_nothing_is_told_and_leaves_with_1(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert moa("compare", "data.jsonl", "--designs", "mine.py:good,mine.py:broken") == 1
    assert "30 without an answer, such as: NodeError" in " ".join(capsys.readouterr().out.split())


def test_rows_without_labels_are_refused_by_the_command(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "plain.jsonl").write_text('{"text": "x"}\n')
    assert moa("compare", "plain.jsonl", "--designs", "mine.py:good") == 2
    assert "plain.jsonl, line 1: a row to compare on needs" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ("--labels", "ham,spam,spam"),
        ("--labels", "ham, eggs"),
        ("--labels", "ham,spam", "--calibration", "c.json"),
    ],
)
def test_labels_that_can_t_be_right_are_refused(words: tuple[str, ...], folder: Path) -> None:
    """Rows of a label that nobody may answer would count as wrong."""
    assert moa("compare", "data.jsonl", "--designs", "mine.py:good", *words) == 2


def test_blanks_around_labels_are_none_of_theirs(folder: Path) -> None:
    words = ("--designs", "mine.py:good", "--labels", "ham, spam", "--report", "r.json")
    assert moa("compare", "data.jsonl", *words) == 0
    assert json.loads((folder / "r.json").read_text())["designs"][0]["quality"][0] == 1.0


def kept(folder: Path) -> int:
    return len((folder / "a.jsonl").read_text().splitlines())


def test_answers_of_a_design_whose_file_has_changed_are_not_taken_up(folder: Path) -> None:
    (folder / "other.py").write_text(MINE)
    words = ("compare", "data.jsonl", "--designs", "mine.py:good,other.py:good")
    for _ in range(2):
        assert moa(*words, "--out", "a.jsonl", "--resume") == 0
        assert kept(folder) == 60
    assert moa(*words, "--out", "a.jsonl") == 2
    assert kept(folder) == 60
    (folder / "mine.py").write_text(MINE.replace("0.9", "0.8"))
    assert moa(*words, "--out", "a.jsonl", "--resume") == 0
    assert kept(folder) == 90


def test_a_comparison_that_is_stopped_says_how_to_go_on(folder: Path) -> None:
    stops = "import asyncio, signal; signal.raise_signal(signal.SIGINT); await asyncio.sleep(60)"
    (folder / "mine.py").write_text(MINE.replace('raise KeyError("oh")', stops))
    words = ("--designs", "mine.py:good,mine.py:broken", "--out", "a.jsonl")
    # In a process of its own: what an interrupt leaves behind would be cleared away in ours.
    command = [sys.executable, "-m", "moa", "compare", "data.jsonl", *words]
    stopped = subprocess.run(command, capture_output=True, text=True, check=False)
    assert stopped.returncode == 130
    assert "the same command with --resume goes on" in stopped.stderr
    assert kept(folder) == 30


def test_files_of_designs_are_those_that_tables_name_but_not_what_graphs_write(
    folder: Path,
) -> None:
    (folder / "moa.toml").write_text(
        '[graphs.routed]\nrouter = ["a.json"]\nmodels = [{ calibration = "b.json" }, {}]\n'
        '[graphs.cascade]\ncalibration = "none.json"\nlearn = "s.json"\n'
        '[graphs.self_consistency]\nnode = "own.py:good"\nguards = ["pii"]\n'
        '[graphs.research.answerer]\ndocuments = ["texts"]\nindex = "texts.index"\n'
    )
    for name in ("a.json", "b.json", "s.json", "own.py", "texts.index", "texts"):
        (folder / name).write_text("x")
    found = {path.name for path in files_in(load("moa.toml").graphs, folder)}
    assert found == {"a.json", "b.json", "own.py", "texts"}
