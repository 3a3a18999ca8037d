"""The benchmark of recipes: what its graders count as right, and that no answer is paid twice."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from moa.core.context import RunContext
from moa.core.errors import ConfigError, MoaError, OutputError
from moa.core.questions import Question
from moa.documents.rag import ABSENT
from moa.endpoints import Completion, Decision, Prompt
from moa.evals.comparison import pays
from moa.evals.metrics import Interval
from moa.local.encoders import SentenceEncoder
from moa.testing import ScriptedEndpoint, SimulatedEndpoint

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
answers: Any = import_module("recipes_answers")
recipes: Any = import_module("recipes")
shared: Any = import_module("recipes_shared")
texts: Any = import_module("recipes_texts")
documents: Any = import_module("recipes_documents")
kept: Any = import_module("kept")

QUESTION = {"id": "q", "answers": ["Al-Muwaffaq"], "holding": ["p-1"]}
HIDDEN = {"id": "h", "answers": ["Paris"], "holding": []}
SOURCES = {"1": "p-1", "2": "p-2"}


def recipe(name: str) -> Any:
    return recipes.RECIPES[name]


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("18 - 3 = 15.\nAnswer: 15", 1.0),
        ("**Answer:** $1,015.00", 0.0),
        ("He pays 15 dollars in 3 days. Answer: 15 dollars", 1.0),
        ("The answer is **15**.", 1.0),
        ("So it makes 12 + 3 = 15", 1.0),
        ("\\boxed{15}", 1.0),
        ("Answer: fifteen or so, I can't tell", 0.0),
        ("Answer: 15.5", 0.0),
        ("Answer: $0,015", 1.0),
    ],
)
def test_the_number_of_a_word_problem_is_the_one_behind_the_mark_or_the_last(
    text: str, right: float
) -> None:
    assert recipe("solve").grade({"answer": "15"}, {"text": text}) == {"right": right}


def test_an_answer_is_held_word_by_word_whatever_its_case_and_punctuation() -> None:
    assert shared.holds("It was Al Muwaffaq, in the 10th century.", ["Al-Muwaffaq"])
    assert not shared.holds("It was in 1066.", ["106"])
    assert shared.holds("seven of them", ["7", "Seven"])


@pytest.mark.parametrize(
    ("item", "text", "right", "cites"),
    [
        (QUESTION, "Al-Muwaffaq wrote it [1].", 1.0, 1.0),
        (QUESTION, "Al-Muwaffaq wrote it [2].", 1.0, 0.0),
        (QUESTION, ABSENT, 0.0, None),
        (HIDDEN, ABSENT, 1.0, None),  # the right answer to a hidden passage is none
        (HIDDEN, "Paris [1].", 0.0, None),
    ],
)
def test_a_right_answer_counts_and_its_citation_counts_apart(
    item: Any, text: str, right: float, cites: float | None
) -> None:
    found = documents.answered(item, {"text": text, "sources": SOURCES})
    assert found["right"] == right
    assert cites is None or found["cites it"] == cites


def test_a_report_is_graded_by_the_parts_of_its_question() -> None:
    other = {"id": "o", "answers": ["1911"], "holding": ["p-2"]}
    answer = {"text": "Al-Muwaffaq wrote it [1]. Nobody knows when [2].", "sources": SOURCES}
    found = documents.reported({"parts": [QUESTION, other]}, answer)
    assert (found["holds the answers"], found["cites them"]) == (0.5, 0.5)


def test_a_summary_is_graded_by_rouge_l_against_the_nearest_reference() -> None:
    item = {"summaries": ["a b c d", "the cat sat on the mat"]}
    found = recipe("summarize").grade(item, {"text": "The cat lay on the mat."})
    assert found["ROUGE-L"] == pytest.approx(5 / 6)  # 5 of 6 words in order, both ways


def test_a_summary_of_a_business_text_is_graded_by_its_facts_and_figures() -> None:
    items = recipe("summarize_business").items(Path())
    assert len(items) >= 16
    for item in items:
        assert all(texts.holds(item["source"], each) for each in item["facts"])
    long = {"source": "1 2 3 4 5", "facts": [["5"]]}  # said behind the length that was asked for
    scores = texts.facts_kept(long, {"text": "Is 1. Is 2. Is 3. Is 4. It is 5."})
    assert (scores["facts kept"], scores["as short as asked"]) == (0.0, 0.0)
    item = {"source": "412 housings; plan 450.", "facts": [["412"], ["450"], ["Hilke"]]}
    scores = texts.facts_kept(item, {"text": "Of 450 housings 412 came, 38 too few."})
    assert scores["facts kept"] == pytest.approx(2 / 3)
    assert scores["figures of the text"] == pytest.approx(2 / 3)
    assert scores["as short as asked"] == 1.0


def test_points_that_share_most_of_their_words_are_one() -> None:
    text = "Ideas:\n1. Plant a tree in the park\n2) Plant a tree in the big park\n- Hold a quiz"
    assert shared.listed(text)[1:] == ["Plant a tree in the big park", "Hold a quiz"]
    assert len(shared.distinct(shared.listed(text))) == 2
    assert texts.ideas_apart({}, {"text": text})["different ideas of 25"] == 2 / 25


@pytest.mark.parametrize(
    ("given", "gold", "right"),
    [
        ("Desk lamps", "desk lamp", True),
        ("water glasses", "water glass", True),
        ("the Town Hall", "Town Hall", True),
        ("Town", "Town Hall", False),
        (89.7, 89.70, True),
        ("89.7", 89.70, False),
        (None, None, True),
        ("", None, True),
        ("unknown", None, False),
        (None, "Town Hall", False),
    ],
)
def test_a_field_is_right_by_its_words_or_its_value(
    given: object, gold: object, right: bool
) -> None:
    assert shared.same(given, gold) is right


def test_a_form_that_lacks_a_field_has_no_field_right() -> None:
    item = {"kind": "event", "gold": {"title": "A", "date": "B", "time": None, "place": None}}
    whole = '```json\n{"title": "A", "date": "B", "time": null, "place": "C"}\n```'
    assert answers.fields_right(item, {"text": whole}) == {"right by field": 0.75, "valid": 1.0}
    part = {"text": '{"title": "A"}'}
    assert answers.fields_right(item, part) == {"right by field": 0.0, "valid": 0.0}
    assert answers.fields_right(item, {"text": "none"})["valid"] == 0.0


def test_only_new_items_of_the_catalogue_suit() -> None:
    item = {"history": ["tea-2"], "gold": ["night-1", "night-3"]}
    found = texts.advice(item, {"text": "id: night-1: it is light\n2. **night-1**: x\nmoon-9:"})
    assert found["suits"] == 0.5
    assert found["nothing twice"] == pytest.approx(2 / 3)
    assert found["in the catalogue, and new"] == pytest.approx(2 / 3)
    assert found["with a reason"] == pytest.approx(1 / 3)


def test_a_program_is_right_only_if_its_hidden_tests_pass() -> None:
    for item in shared.own("code"):
        assert shared.Subprocess().now(item["reference"], item["tests"]).passed, item["id"]
    item = {"tests": "assert double(2) == 4"}
    for text, right in {
        "```python\ndef double(x):\n    return 2 * x\n```": 1,
        "def double(x):\n    return x": 0,
        "I can't write that.": 0,
    }.items():
        assert recipe("code").grade(item, {"text": text})["pass@1"] == right


def test_an_endless_program_is_killed_with_its_children() -> None:
    code = "import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', 'while True: pass'])"
    begun = time.perf_counter()
    result = shared.Subprocess(limit_s=1.0).now(code, "while True: pass")
    assert not result.passed
    assert "1 s" in result.output
    assert time.perf_counter() - begun < 10


def test_a_program_has_neither_the_environment_nor_memory_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RECIPES_SECRET", "s3cret")
    run = shared.Subprocess().now
    assert run("import os", "assert 'RECIPES_SECRET' not in os.environ").passed
    assert not run("x = bytearray(2 * 2**30)", "").passed


def test_halves_share_no_item() -> None:
    items = [{"id": n} for n in range(7)]
    chosen = shared.half_of(items, "chosen", 9)
    reported = shared.half_of(items, "reported", 2)
    assert [one["id"] for one in chosen] == [0, 2, 4, 6]
    assert [one["id"] for one in reported] == [1, 3]


def test_a_talk_asks_for_its_facts_at_the_third_sixth_and_twelfth_turn() -> None:
    for place, talk in enumerate(shared.own("talks")):
        turns = texts.turns_of(talk, place)
        assert [turns[n - 1] for n in (3, 6, 12)] == [ask["question"] for ask in talk["asks"]]
        assert len(set(turns)) == 12
        for ask in talk["asks"]:
            assert shared.holds(turns[0], ask["gold"]), ask
            assert not any(shared.holds(turn, ask["gold"]) for turn in turns[1:])


@pytest.mark.parametrize(
    ("low", "high", "ratio", "said"),
    [
        (0.01, 0.2, 3.0, "**pays**"),
        (-0.04, 0.02, 0.5, "**pays**"),
        (-0.04, 0.02, 1.5, "doesn't pay"),
        (-0.2, 0.2, None, "doesn't pay"),
        (-0.3, -0.1, 0.5, "can't be told"),
        (-0.2, 0.2, 0.5, "can't be told"),
    ],
)
def test_what_costs_more_has_to_be_shown_to_be_better(
    low: float, high: float, ratio: float | None, said: str
) -> None:
    assert recipes.VERDICTS[pays(Interval((low + high) / 2, low, high), ratio)] == said


async def test_a_plain_call_is_made_once_and_its_cost_counts_each_time(tmp_path: Path) -> None:
    model = ScriptedEndpoint(name="large", tier="llm", steps=["yes"])
    for _ in range(2):  # the second as after a restart
        ask = shared.Plain(model, kept.Kept(tmp_path / "plain.json"))
        assert await ask(Prompt.of("Is it?", temperature=0.0)) == "yes"
        assert (ask.spent["calls"], ask.spent["output"]) == (1, 5)
    model.assert_used_up()


class Doubles:
    """Stands for the models of a run."""

    def __init__(self, file: Path | None, *steps: Any) -> None:
        self.llm = ScriptedEndpoint(name="large", tier="llm", steps=steps)
        self.kept = kept.Kept(file)


def made(run: Any) -> Any:
    """A recipe whose plain call echoes the model, and whose graph is a function."""

    async def graph(models: Any) -> Any:
        del models
        return run

    async def plain(models: Any, item: Any, ask: Any) -> Any:
        del models
        return {"text": await ask(Prompt.of(item["id"], temperature=0.0))}

    def grade(item: Any, answer: Any) -> dict[str, float]:
        return {"right": float(answer["text"] == item["id"])}

    return shared.Recipe(
        name="made",
        measures=("right",),
        items=shared.own,
        graph=graph,
        plain=plain,
        grade=grade,
    )


async def test_a_sample_that_is_kept_is_charged_as_it_was_and_told_from_the_next(
    tmp_path: Path,
) -> None:
    llm, file = ScriptedEndpoint(["a", "b"], name="large", tier="llm"), tmp_path / "samples.json"
    prompt = Prompt.of("Which letter?", temperature=0.7)
    for _ in range(2):
        endpoint, context = shared.Shared(llm, kept.Kept(file)), RunContext()
        with shared.one_item():
            said = [(await endpoint.complete(prompt, context)).text for _ in range(2)]
        assert said == ["a", "b"]
        assert context.usage.calls == 2
        assert context.usage.input_tokens > 0
    llm.assert_used_up()


async def test_a_run_that_is_stopped_goes_on_where_it_was(tmp_path: Path) -> None:
    asked: list[str] = []

    async def run(item: Any, context: RunContext) -> Any:
        del context
        asked.append(item["id"])
        if len(asked) == 2:
            raise asyncio.CancelledError
        return {"text": item["id"]}

    items, file = [{"id": "a"}, {"id": "b"}], tmp_path / "found.json"
    plain = kept.Kept(tmp_path / "plain.json")
    with pytest.raises(asyncio.CancelledError):
        await recipes.measured(made(run), Doubles(file, "a", "x"), items, plain)
    await recipes.measured(made(run), Doubles(file), items, plain)
    assert asked == ["a", "b", "b"]
    found = recipes.Found(made(run), "scripted-1", items, kept.Kept(file))
    assert (found.mean("plain", "right"), found.mean("graph", "right")) == (0.5, 1.0)


@pytest.mark.parametrize("error", [OutputError("no JSON", node="made", text=""), ConfigError("no")])
async def test_a_graph_that_fails_is_wrong_and_one_that_is_set_up_wrong_no_answer(
    error: MoaError,
) -> None:
    async def run(item: Any, context: RunContext) -> Any:
        await models.llm.complete(Prompt.of(item["id"]), context)
        raise error

    models, items = Doubles(None, "a", "b"), [{"id": "a"}]
    if isinstance(error, ConfigError):
        with pytest.raises(ConfigError):
            await recipes.measured(made(run), models, items, kept.Kept(None))
        assert not recipes.Found(made(run), "scripted-1", items, models.kept).whole
        return
    await recipes.measured(made(run), models, items, kept.Kept(None))
    found = recipes.Found(made(run), "scripted-1", items, models.kept)
    assert (found.mean("graph", "right"), found.took("graph", "calls")) == (0.0, 1)
    assert "0 → 1" in found.row()


async def test_what_an_agent_finds_out_once_is_in_no_item_s_cost() -> None:
    asked: list[str] = []

    async def run(item: Any, context: RunContext) -> Any:
        del context
        asked.append(item["id"])
        return {"text": item["id"]}

    models = Doubles(None, "a", "b")
    items = [{"id": "a"}, {"id": "b"}]
    await recipes.measured(made(run), models, items, kept.Kept(None), warm={"id": "other"})
    assert asked == ["other", "a", "b"]
    assert [key for key in models.kept.found if "other" in key] == []


def test_the_page_has_a_row_for_each_recipe_and_says_which_half_it_is_of(tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    answer = {"text": "a", "calls": 1, "input": 10, "output": 5, "seconds": 1.0}
    lines = [json.dumps([f"m|made|{way}|a", answer]) for way in ("plain", "graph")]
    file.write_text("\n".join(lines))
    store = kept.Kept(file)
    store.keep("m|routed|refused", "it doesn't pay")
    found = recipes.Found(made(None), "m", [{"id": "a"}], store)
    names = ("made", "routed")
    body = recipes.body_of({"m": [found]}, store, names, half="chosen", long=False)
    assert "| `made`: right | 1 | 1.000 | 1.000 |" in body
    assert "- `routed` with m: it doesn't pay" in body
    assert "too good" in body


def filled(schema: Any, whole: Any) -> Any:
    """Write the least that a JSON schema takes."""
    if "$ref" in schema:
        return filled(whole["$defs"][schema["$ref"].rpartition("/")[2]], whole)
    if "anyOf" in schema:
        return filled(schema["anyOf"][0], whole)
    if "enum" in schema or "const" in schema:
        return schema.get("const", schema.get("enum", [None])[0])
    match schema.get("type"):
        case "object":
            return {name: filled(one, whole) for name, one in schema["properties"].items()}
        case "array":
            return [filled(schema["items"], whole)] * schema.get("minItems", 1)
        case "integer" | "number":
            return schema.get("minimum", 1)
        case "boolean":
            return True
        case _:
            return "12"


@dataclass
class Writer(SimulatedEndpoint):
    """Writes what is asked for, as short as it can be, and decides by the words of the text."""

    async def complete(self, prompt: Prompt, context: RunContext, /) -> Completion:
        schema = prompt.json_schema
        text = "```python\nn = 12\n```\nAnswer: 12 [1]."
        text = text if schema is None else json.dumps(filled(schema, schema))
        answer = ScriptedEndpoint(name=self.name, tier=self.tier, model=self.model, steps=[text])
        return await answer.complete(prompt, context)

    async def decide(
        self, state: str, questions: Sequence[Question], context: RunContext, /, **more: Any
    ) -> Decision:
        del more
        shown: dict[str, dict[str, float]] = {}
        for question in questions:
            names = [option.name for option in question.options]
            named = next((name for name in names if name in state), names[0])
            wrong = self.name == "embedded" and "hard" in state
            chosen = next(name for name in names if name != named) if wrong else named
            shown[question.name] = {chosen: 0.6 if wrong else 0.95}
        double = ScriptedEndpoint(name=self.name, tier=self.tier, model=self.model, steps=[shown])
        return await double.decide(state, questions, context)

    async def count_tokens(self, text: str, context: RunContext, /) -> int:
        del context
        return len(text.split())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few rows in the form of each data set."""
    folder = tmp_path_factory.mktemp("data")
    rows: dict[str, list[dict[str, Any]]] = {
        "reasoning_gsm8k/dev": [
            {"id": f"g{n}", "question": f"What is {n} and 12?", "answer": "12"} for n in range(2)
        ],
        "rag_xquad/corpus_dev": [
            {"pid": f"p{n}", "title": "T", "text": f"Town {n} has 12 mills."} for n in range(48)
        ],
        "rag_xquad/dev": [
            {"id": f"q{n}", "question": f"What has town {n}?", "answers": ["mills"], "pid": f"p{n}"}
            for n in range(48)
        ],
        "summarise_scitldr/dev": [
            {"id": f"s{n}", "title": f"Mill {n}", "source": "It turns. " * 9, "summaries": ["It"]}
            for n in range(40)
        ],
        "intent_banking10/dev": [
            {"id": f"b{n}", "text": f"{('hard' if n % 3 else 'easy')} {label} {n}", "label": label}
            for n in range(64)
            for label in [("refund", "card")[n % 2]]
        ],
    }
    for name, some in rows.items():
        file = folder / f"{name}.jsonl"
        file.parent.mkdir(exist_ok=True)
        file.write_text("".join(f"{json.dumps(row)}\n" for row in some))
    return folder


@pytest.mark.skipif(SentenceEncoder.missing() is not None, reason="the encoder is not installed")
@pytest.mark.parametrize("name", list(recipes.RECIPES))
async def test_every_recipe_is_asked_in_both_ways_and_graded(
    name: str, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "FIT_ON", 60)
    one = recipe(name)
    async with shared.Models("writer.gguf", data, kept.Kept(None), kept.Kept(None)) as models:
        models.large = Writer(name="large", tier="llm", model="writer-1")
        small = Writer(name="small", model="writer-1")
        models._built = {"large": models.large, "small": small, "embedded": Writer(name="embedded")}
        items = shared.half_of(one.items(data), "reported", 1)
        await recipes.measured(one, models, items, kept.Kept(None))
        found = recipes.Found(one, "writer-1", items, models.kept)
        assert [answer for answer in found.answers["graph"] if "error" in answer] == []
        assert [answer for answer in found.answers["plain"] if "error" in answer] == []
        assert found.took("plain", "calls") >= 1
        assert set(found.scores["graph"][0]) <= set(one.measures)
        assert one.measures[0] in found.scores["graph"][0]
