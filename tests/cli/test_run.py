"""The command line, through its own door: words in, lines and an exit code out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from command import kept, moa, told, written

GRAPH = """
from pydantic import BaseModel
from moa import Reply
from moa.graphs.engine.graph import Graph
from moa.core.node import Dropped
from moa.testing import SimulatedEndpoint
from moa.agents.agent import Agent
from moa.core.usage import Price

class Mail(BaseModel):
    text: str
    stars: int = 0

def answer(text: str) -> str:
    return "too bad" if "fail" in text else f"re: {text.splitlines()[1]}"

large = SimulatedEndpoint(
    name="large", tier="llm", rule=answer, tokens=(1000, 100), price=Price(input=1000, output=0)
)
free = SimulatedEndpoint(name="free", rule=answer)

async def checked(reply: Reply) -> Reply | Dropped:
    if "too bad" in reply.text:
        raise ValueError("I can't take this")
    return Dropped(reason="a joke") if "joke" in reply.text else reply

def build(endpoint, name="write"):
    g = Graph("mails", Mail)
    reply = g.add(Agent(endpoint, "Answer.", name=name), g.input.map(lambda m: m.text))
    return g.build(g.add(checked, reply))

graph = build(large)
def unpriced(): return build(free)
def bracketed(): return build(large, "write[card]")
def wrong(): return 3
several = lambda a, b: None
def failing(): return {}["key"]
def empty(): return Agent(large, "Answer.", repairs=-1)
class Own(Agent): pass
"""


@pytest.fixture(autouse=True)
def mails(folder: Path) -> None:
    (folder / "mails.py").write_text(GRAPH)


def rows_in(name: str, *rows: str) -> str:
    return written(name, rows)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("in.txt", "one\ntwo\n"),
        ("in.csv", "id,text\n1,one\n2,two\n"),
        ("in.jsonl", '{"text": "one"}\n{"text": "two"}\n'),
    ],
)
def test_every_kind_of_file_is_read(name: str, content: str) -> None:
    Path(name).write_text(content)
    found = told("run", "mails.py:graph", name, "--json").lines
    assert [line["status"] for line in found] == ["answered"] * 2


def test_a_literal_text_is_one_item() -> None:
    (line,) = told("run", "mails.py:graph", "--text", "hello there", "--json").lines
    assert (line["id"], line["input"]) == (1, "hello there")


def test_malformed_and_failed_rows_are_reported_and_the_others_are_done() -> None:
    rows_in("in.jsonl", '{"text": "1"}', "{", '{"text": "fail"}', '{"stars": 1}', '{"text": "5"}')
    said = told("run", "mails.py:graph", "in.jsonl", "--out", "out.jsonl", "--json", leaves=1)
    assert [line["status"] for line in kept()] == ["answered", *["failed"] * 3, "answered"]
    errors = " ".join(line.get("error", "") for line in kept())
    for words in ("line 2 is malformed", "I can't take this", "text: Field required"):
        assert words in errors
    assert "line 2 is malformed" in said.err


def test_brackets_in_ids_and_names_are_printed_as_they_are() -> None:
    rows_in("in.jsonl", '{"id": "[/a]", "text": "fail"}')
    out, err = told("run", "mails.py:bracketed", "in.jsonl", "--out", "[b].jsonl", leaves=1)
    assert "failed [/a]: " in err
    assert "mails/write[card]" in out
    assert "1 lines in [b].jsonl" in out


def test_a_name_that_is_like_none_is_not_taken_for_one() -> None:
    assert "Did you mean" not in told("run", "nope", "--text", "x", leaves=2).err


def test_lines_are_counted_with_those_that_were_there() -> None:
    rows_in("in.txt", "one")
    told("run", "mails.py:graph", "in.txt", "--out", "out.jsonl")
    rows_in("in.txt", "one", "two", "three")
    out = told("run", "mails.py:graph", "in.txt", "--out", "out.jsonl", "--resume").out
    assert "3 lines in out.jsonl" in out
    assert len(kept()) == 3


def test_where_a_function_of_ones_own_failed_is_told() -> None:
    source = rows_in("in.txt", "fail")
    lines = Path("mails.py").read_text().splitlines()
    line = next(n for n, line in enumerate(lines, 1) if line.strip().startswith("raise ValueError"))
    assert f"(mails.py:{line})" in told("run", "mails.py:graph", source, leaves=1).err


def test_no_more_than_the_limit_is_run() -> None:
    source = rows_in("in.txt", "one", "two", "three")
    assert len(told("run", "mails.py:graph", source, "--limit", "2", "--json").lines) == 2


def test_the_budget_is_for_the_whole_run() -> None:
    source = rows_in("in.txt", "one", "two", "three", "four")
    words = ("run", "mails.py:graph", source, "--budget-usd", "2.5", "--json")
    found = told(*words, leaves=1).lines
    assert sorted(line["status"] for line in found) == ["answered"] * 2 + ["failed"] * 2
    assert all("budget" in line["error"] for line in found if line["status"] == "failed")


def test_calls_without_a_price_are_said_once_not_to_count() -> None:
    source = rows_in("in.txt", "one", "two")
    out, err = told("run", "mails.py:unpriced", source, "--budget-usd", "1")
    assert err.count("don't count against") == 1
    assert "unknown" in out


MISTAKES = {
    "run suport --text x": "Did you mean 'support'",
    "run mails.py --text x": "It has mails.py:graph",
    "draw support --out nowhere/x.svg": "there is no folder nowhere",
    "run mails.py:grph --text x": "Did you mean 'graph'",
    "run nowhere.py:graph --text x": "no file",
    "run mails.py:wrong --text x": "is int, and no node",
    "run mails.py:several --text x": "takes 2 arguments",
    "run broken.py:graph --text x": "line 1",
    "run mails.py:Own --text x": "name an instance",
    "run mails.py:failing --text x": "KeyError: 'key'",
    "run mails.py:empty --text x": "repairs=-1",
    "run own.py:nothing in.jsonl": "own.py has no 'nothing'. Known: build\n",
    "run mails.py:graph in.md": "in.md",
    "run filter --text x": "needs 'criterion'",
    "run classifier in.jsonl --config one.toml": "labels: value should have at",
    "run rag --text x": "documents = [",
    "run recommend --text x": "catalogue = ",
    "run support empty.jsonl": "no rows in it",
    "run mails.py:graph --text x --config no.toml": "no.toml",
    "run mails.py:graph --text x --limit 0": "--limit",
    "run suport --text x --out no/where.jsonl": "there is no folder no",
    "run suport --text x --out f.jsonl": "it is a folder",
    "run suport --text x --out o.txt": "o.jsonl",
    "run mails.py:graph some_words": "Give --text",
    "run": "Missing argument",
    "decide in.txt --task ? --labels one": "two",
    "eval no.json labelled.jsonl": "there is no calibration 'no.json': moa learn makes",
    "eval c.json some_words": "nor - for standard input",
    "compare labelled.jsonl --designs slm,lmm": "--designs: there is no 'lmm'. Did",
    "compare one.jsonl --designs slm": "one.jsonl has rows of the label 'a' alone",
    "compare labelled.jsonl --designs slm,llm --config none.toml": (
        "--designs has llm, and no LLM is configured"
    ),
}


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_is_named_as_what_it_is_before_anything_is_asked(words: str) -> None:
    rows_in("in.txt", "one")
    rows_in("in.jsonl", '{"text": "x"}')
    rows_in("labelled.jsonl", '{"text": "x", "label": "a"}', '{"text": "y", "label": "b"}')
    rows_in("one.jsonl", '{"text": "x", "label": "a"}')
    rows_in("broken.py", "1 / 0")
    rows_in("own.py", "import json", "from pathlib import Path", "def build(): ...")
    rows_in("one.toml", "[graphs.classifier]", 'labels = ["a"]')
    for name in ("empty.jsonl", "none.toml"):
        Path(name).touch()
    Path("f.jsonl").mkdir()
    err = told(*words.split(), leaves=2).err
    assert MISTAKES[words] in err
    assert "Traceback" not in err
    assert "--text" not in err or words.startswith("run")  # no other takes a text itself


HEAVY = ("aiohttp", "langgraph", "numpy", "psutil", "tomlkit", "xllamacpp")


@pytest.mark.parametrize(
    ("words", "said", "heavy"),
    [
        (["--help"], "moa run support --demo", (*HEAVY, "pydantic")),
        # typer itself takes pydantic to read the options of a command
        (["run", "--help"], "moa run support --demo", HEAVY),
        (["choose", "--help"], "moa choose ", HEAVY),
    ],
)
def test_help_teaches_by_example_and_loads_nothing_heavy(
    words: list[str], said: str, heavy: tuple[str, ...]
) -> None:
    code = (
        "import sys\n"
        "from moa.cli import main\n"
        f"try: main({words})\n"
        "except SystemExit: pass\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said in done.stdout
    assert done.stdout.strip().endswith("[]")


def test_rows_of_standard_input_are_run() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "moa", "run", "mails.py:graph", "-", "--json"],
        input='{"text": "one"}\n{"text": "two"}\n',
        capture_output=True,
        text=True,
        check=True,
    )
    assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == [1, 2]


def test_every_row_of_a_big_csv_has_a_line() -> None:
    source = rows_in("in.csv", "id,text", *(f"{i},text {i}" for i in range(300)))
    found = told("run", "mails.py:graph", source, "--concurrency", "16", "--json").lines
    assert {line["id"] for line in found} == {str(i) for i in range(300)}


def test_the_input_is_not_overwritten() -> None:
    source = rows_in("in.jsonl", '{"text": "one"}')
    told("run", "mails.py:graph", source, "--out", source, leaves=2)
    assert Path(source).read_text() == '{"text": "one"}\n'


GPT = '[endpoints.{0}]\ntier = "{0}"\nmodel = "gpt-5-mini"\n'


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("run mails.py:grph in.txt", "Did you mean 'graph'"),
        ("run sentiment in.txt", "OPENAI_API_KEY"),
        ("run mails.py:graph in.csv", "are called 'text'"),
        ("decide in.txt --task ? --labels a,b", "OPENAI_API_KEY"),
    ],
)
def test_a_run_that_cannot_begin_leaves_what_out_holds(words: str, said: str) -> None:
    rows_in("in.txt", "one")
    rows_in("in.csv", "text,text", "one,two")
    Path("moa.toml").write_text(GPT.format("slm"))
    rows_in("old.jsonl", "{}")
    assert said in told(*words.split(), "--out", "old.jsonl", "--overwrite", leaves=2).err
    assert Path("old.jsonl").read_text() == "{}\n"


@pytest.mark.parametrize("tier", ["llm", "two"])
def test_an_llm_that_is_not_asked_needs_no_key(tier: str) -> None:
    tables = GPT.format("llm")
    if tier == "two":
        tables += tables.replace("endpoints.llm", "endpoints.other")
    Path("moa.toml").write_text(tables)
    assert moa("run", "mails.py:graph", "--text", "hello") == 0
    assert "'support'" in told("run", "suport", "--text", "hello", leaves=2).err


def test_a_long_text_is_no_file() -> None:
    text = "hello " * 80
    assert moa("run", "mails.py:graph", "--text", text, "--out", "out.jsonl") == 0
    assert kept()[0]["input"] == text
    err = told("run", "mails.py:graph", f"{text}.txt", leaves=2).err
    assert "can't be read: File name too long" in err


def test_a_closed_standard_input_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    told("run", "mails.py:graph", "-", leaves=2)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
def test_a_full_disk_stops_the_run_with_a_sentence() -> None:
    Path("out.jsonl").symlink_to("/dev/full")
    words = ("run", "mails.py:graph", rows_in("in.txt", "one"), "--out", "out.jsonl")
    told(*words, leaves=2)


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that can't be read")
def test_a_disk_that_fails_while_it_is_read_is_a_sentence() -> None:
    Path("in.txt").symlink_to("/proc/self/mem")
    said = told("run", "mails.py:graph", "in.txt", "--json", leaves=1)
    assert "can't be read: Input/output error" in said.lines[0]["error"]
    assert "Traceback" not in said.err


def test_a_guard_of_ones_own_is_found_beside_the_settings_that_name_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "short.py").write_text(
        "from moa import Result\nfrom moa.agents.filter import Verdict\n"
        "class Short:\n"
        "    name = 'short'\n"
        "    async def run(self, request, context=None, /):\n"
        "        said = Verdict(kept=False, reason='too long', confidence=None, met=True)\n"
        "        return Result(output=said)\n"
        "guard = Short()\n"
    )
    (tmp_path / "moa.toml").write_text('[graphs.spam]\nguards = { before = ["short.py:guard"] }\n')
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (line,) = told("run", "spam", "--config", "../moa.toml", "--text", "Hello.", "--json").lines
    assert line["output"]["reason"] == "too long"


DRAFTS = """
from moa import Agent
from moa.testing import SimulatedEndpoint

bad = "A long and bad draft. " * 20
small = SimulatedEndpoint(model="SmolLM2-135M-Instruct", rule=lambda text: bad)
graph = Agent(small, "Answer.")
"""


def test_what_a_model_that_writes_badly_wrote_is_marked_and_warned_of_once() -> None:
    Path("graph.py").write_text(DRAFTS)
    source = written("in.txt", ("one", "two"))
    done = told("run", "graph.py:graph", source)
    assert done.out.count("drafted") == 3  # two rows, and what became of them
    assert done.err.count("writes badly") == 1
    assert told("run", "graph.py:graph", source, "--quiet").err.count("writes badly") == 1


def test_outcomes_are_cut_unless_they_are_wanted_in_full() -> None:
    Path("graph.py").write_text(DRAFTS)
    source = written("in.txt", ("one",))
    assert told("run", "graph.py:graph", source).out.count("bad draft") < 10
    assert told("run", "graph.py:graph", source, "--full").words.count("bad draft") == 20
