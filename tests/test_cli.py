"""The command line, through its own door: words in, lines and an exit code out."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command import moa

GRAPH = """
from pydantic import BaseModel
from moa import Reply
from moa.graphs.engine.builder import Graph
from moa.node import Dropped
from moa.testing import SimulatedEndpoint
from moa.agents import Agent
from moa.usage import Price

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
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mails.py").write_text(GRAPH.replace("def answer(text", "def answer(text"))
    return tmp_path


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_json_is_one_line_an_item_on_stdout_and_the_rest_on_stderr(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("in.jsonl").write_text('{"id": "a", "text": "one"}\n{"text": "a joke"}\n')
    assert moa("run", "mails.py:graph", "in.jsonl", "--json") == 0
    out, err = capsys.readouterr()
    first, second = lines(out)
    assert (first["id"], first["status"], first["output"]["text"][:3]) == ("a", "answered", "re:")
    assert first["input"] == {"id": "a", "text": "one"}
    assert first["seconds"] >= 0
    assert first["usage"]["cost"] == 1.0
    assert first["usage"]["by_tier"]["llm"]["calls"] == 1
    assert first["trace"][0]["endpoint"] == "large"
    assert "error" not in first
    assert (second["id"], second["status"]) == (2, "dropped")
    assert "needed the LLM" in err


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("in.txt", "one\ntwo\n"),
        ("in.csv", "id,text\n1,one\n2,two\n"),
        ("in.jsonl", '{"text": "one"}\n{"text": "two"}\n'),
    ],
)
def test_every_kind_of_file_is_read(
    name: str, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(name).write_text(content)
    assert moa("run", "mails.py:graph", name, "--json") == 0
    assert [line["status"] for line in lines(capsys.readouterr().out)] == ["answered"] * 2


def test_a_literal_text_is_one_item(capsys: pytest.CaptureFixture[str]) -> None:
    assert moa("run", "mails.py:graph", "--text", "hello there", "--json") == 0
    (line,) = lines(capsys.readouterr().out)
    assert (line["id"], line["input"]) == (1, "hello there")


def test_malformed_and_failed_rows_are_reported_and_the_others_are_done(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = ['{"text": "one"}', "{", '{"text": "fail"}', '{"stars": 1}', '{"text": "five"}']
    Path("in.jsonl").write_text("\n".join(rows))
    assert moa("run", "mails.py:graph", "in.jsonl", "--out", "out.jsonl", "--json") == 1
    found = sorted(lines(Path("out.jsonl").read_text()), key=lambda line: line["id"])
    assert [line["status"] for line in found] == [
        "answered",
        "failed",
        "failed",
        "failed",
        "answered",
    ]
    assert found[1]["error"].startswith("line 2 is malformed")
    assert "I can't take this" in found[2]["error"]
    assert "text: Field required" in found[3]["error"]
    assert "line 2 is malformed" in capsys.readouterr().err


def test_brackets_in_ids_and_names_are_printed_as_they_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("in.jsonl").write_text('{"id": "[/a]", "text": "fail"}')
    assert moa("run", "mails.py:bracketed", "in.jsonl", "--out", "[b].jsonl") == 1
    out, err = capsys.readouterr()
    assert "failed [/a]: " in err
    assert "mails/write[card]" in out
    assert "1 lines in [b].jsonl" in out


def test_without_json_a_table_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    Path("in.txt").write_text("one\n")
    assert moa("run", "mails.py:graph", "in.txt") == 0
    out = capsys.readouterr().out
    assert "re: " in out
    assert "1 of 1 (100%)" in out
    assert "mails/write" in out


def test_no_more_than_the_limit_is_run(capsys: pytest.CaptureFixture[str]) -> None:
    Path("in.txt").write_text("one\ntwo\nthree\n")
    assert moa("run", "mails.py:graph", "in.txt", "--limit", "2", "--json") == 0
    assert len(lines(capsys.readouterr().out)) == 2


def test_the_budget_is_for_the_whole_run(capsys: pytest.CaptureFixture[str]) -> None:
    Path("in.txt").write_text("one\ntwo\nthree\nfour\n")
    assert moa("run", "mails.py:graph", "in.txt", "--budget-usd", "2.5", "--json") == 1
    found = lines(capsys.readouterr().out)
    assert sorted(line["status"] for line in found) == ["answered"] * 2 + ["failed"] * 2
    assert all("budget" in line["error"] for line in found if line["status"] == "failed")


def test_calls_without_a_price_are_said_once_not_to_count(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("in.txt").write_text("one\ntwo\n")
    assert moa("run", "mails.py:unpriced", "in.txt", "--budget-usd", "1") == 0
    out, err = capsys.readouterr()
    assert err.count("don't count against") == 1
    assert "unknown" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param(("run", "suport", "--text", "x"), "Did you mean 'support'", id="name"),
        pytest.param(("run", "mails.py:grph", "--text", "x"), "Did you mean 'graph'", id="object"),
        pytest.param(("run", "nowhere.py:graph", "--text", "x"), "no file", id="file"),
        pytest.param(("run", "mails.py:wrong", "--text", "x"), "is int, and no node", id="type"),
        pytest.param(("run", "mails.py:several", "--text", "x"), "takes 2 arguments", id="args"),
        pytest.param(("run", "broken.py:graph", "--text", "x"), "line 1", id="broken"),
        pytest.param(("run", "mails.py:Own", "--text", "x"), "name an instance", id="class"),
        pytest.param(("run", "mails.py:failing", "--text", "x"), "KeyError: 'key'", id="raises"),
        pytest.param(("run", "mails.py:empty", "--text", "x"), "repairs=-1", id="refuses"),
        pytest.param(("run", "mails.py:graph", "in.md"), "in.md", id="input"),
        pytest.param(("run", "filter", "--text", "x"), "needs 'criterion'", id="settings"),
        pytest.param(("run", "rag", "--text", "x"), "documents = [", id="documents"),
        pytest.param(("run", "recommend", "--text", "x"), "catalogue = ", id="catalogue"),
        pytest.param(("run", "support", "empty.jsonl"), "no rows in it", id="rows"),
        pytest.param(
            ("run", "mails.py:graph", "--text", "x", "--config", "no.toml"), "no.toml", id="config"
        ),
        pytest.param(
            ("run", "mails.py:graph", "--text", "x", "--out", "no/where.jsonl"), "no", id="out"
        ),
        pytest.param(("decide", "in.txt", "--task", "?", "--labels", "one"), "two", id="labels"),
    ],
)
def test_what_cannot_work_is_said_and_leaves_with_2(
    words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("in.txt").write_text("one\n")
    Path("empty.jsonl").touch()
    Path("broken.py").write_text("1 / 0\n")
    assert moa(*words) == 2
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err


def test_wrong_usage_leaves_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert moa("run") == 2
    assert moa("run", "mails.py:graph", "--text", "x", "--limit", "0") == 2
    capsys.readouterr()


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
    assert [line["id"] for line in lines(done.stdout)] == [1, 2]


def test_every_row_of_a_big_csv_has_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with Path("in.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text"])
        writer.writerows([i, f"text {i}"] for i in range(300))
    assert moa("run", "mails.py:graph", "in.csv", "--concurrency", "16", "--json") == 0
    assert {line["id"] for line in lines(capsys.readouterr().out)} == {str(i) for i in range(300)}


def test_the_input_is_not_overwritten(capsys: pytest.CaptureFixture[str]) -> None:
    Path("in.jsonl").write_text('{"text": "one"}\n')
    assert moa("run", "mails.py:graph", "in.jsonl", "--out", "in.jsonl") == 2
    assert Path("in.jsonl").read_text() == '{"text": "one"}\n'
    assert "is the input" in capsys.readouterr().err


GPT = '[endpoints.{0}]\ntier = "{0}"\nmodel = "gpt-5-mini"\n'


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param(("run", "mails.py:grph", "in.txt"), "Did you mean 'graph'", id="object"),
        pytest.param(("run", "sentiment", "in.txt"), "OPENAI_API_KEY", id="key"),
        pytest.param(("run", "mails.py:graph", "in.csv"), "are called 'text'", id="rows"),
        pytest.param(
            ("decide", "in.txt", "--task", "?", "--labels", "a,b"), "OPENAI_API_KEY", id="decide"
        ),
    ],
)
def test_a_run_that_cannot_begin_leaves_what_out_holds(
    words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("in.txt").write_text("one\n")
    Path("in.csv").write_text("text,text\none,two\n")
    Path("moa.toml").write_text(GPT.format("slm"))
    Path("old.jsonl").write_text("{}\n")
    assert moa(*words, "--out", "old.jsonl", "--overwrite") == 2
    assert said in capsys.readouterr().err
    assert Path("old.jsonl").read_text() == "{}\n"


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("no/where.jsonl", "there is no folder no"),
        ("f.jsonl", "it is a folder"),
        ("o.txt", "o.jsonl"),
    ],
)
def test_an_out_that_cannot_be_written_is_said_before_anything_is_asked(
    out: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("f.jsonl").mkdir()
    assert moa("run", "suport", "--text", "x", "--out", out) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("tier", ["llm", "two"])
def test_an_llm_that_is_not_asked_needs_no_key(
    tier: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = GPT.format("llm")
    if tier == "two":
        tables += tables.replace("endpoints.llm", "endpoints.other")
    Path("moa.toml").write_text(tables)
    assert moa("run", "mails.py:graph", "--text", "hello") == 0
    capsys.readouterr()
    assert moa("run", "suport", "--text", "hello") == 2
    assert "Did you mean 'support'" in capsys.readouterr().err


def test_a_long_text_is_no_file(capsys: pytest.CaptureFixture[str]) -> None:
    text = "hello " * 80
    assert moa("run", "mails.py:graph", "--text", text, "--out", "out.jsonl") == 0
    assert lines(Path("out.jsonl").read_text())[0]["input"] == text
    assert moa("run", "mails.py:graph", f"{text}.txt") == 2
    assert "can't be read: File name too long" in capsys.readouterr().err


def test_a_closed_standard_input_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", None)
    assert moa("run", "mails.py:graph", "-") == 2
    assert "there is no standard input" in capsys.readouterr().err


def test_only_the_command_that_takes_a_text_itself_says_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert moa("run", "mails.py:graph", "some words") == 2
    assert "Give --text" in capsys.readouterr().err
    assert moa("eval", "c.json", "some words") == 2
    err = capsys.readouterr().err
    assert "nor - for standard input" in err
    assert "--text" not in err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
def test_a_full_disk_stops_the_run_with_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    Path("in.txt").write_text("one\n")
    Path("out.jsonl").symlink_to("/dev/full")
    assert moa("run", "mails.py:graph", "in.txt", "--out", "out.jsonl") == 2
    assert "can't be written: No space left on device" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that can't be read")
def test_a_disk_that_fails_while_it_is_read_is_a_sentence(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("in.txt").symlink_to("/proc/self/mem")
    assert moa("run", "mails.py:graph", "in.txt", "--json") == 1
    out, err = capsys.readouterr()
    (line,) = lines(out)
    assert "can't be read: Input/output error" in line["error"]
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("eval", "no.json", "labelled.jsonl"),
            "there is no calibration 'no.json': moa calibrate makes",
        ),
        (("run", "own.py:nothing", "in.jsonl"), "own.py has no 'nothing'. Known: build\n"),
        (("run", "classifier", "in.jsonl", "--config", "one.toml"), "labels: value should have at"),
        (
            ("compare", "labelled.jsonl", "--designs", "slm,lmm"),
            "--designs: there is no 'lmm'. Did",
        ),
        (("compare", "one.jsonl", "--designs", "slm"), "one.jsonl has rows of the label 'a' alone"),
        (
            ("compare", "labelled.jsonl", "--designs", "slm,llm", "--config", "none.toml"),
            "--designs has llm, and no LLM is configured",
        ),
    ],
)
def test_a_mistake_is_named_as_what_it_is(
    words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("own.py").write_text("import json\nfrom pathlib import Path\ndef build(): ...\n")
    Path("one.toml").write_text('[graphs.classifier]\nlabels = ["a"]\n')
    Path("none.toml").touch()
    Path("in.jsonl").write_text('{"text": "x"}\n')
    Path("labelled.jsonl").write_text('{"text": "x", "label": "a"}\n{"text": "y", "label": "b"}\n')
    Path("one.jsonl").write_text('{"text": "x", "label": "a"}\n')
    assert moa(*words) == 2
    assert said in capsys.readouterr().err


def test_a_guard_of_ones_own_is_found_beside_the_settings_that_name_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "short.py").write_text(
        "from moa import Result, Verdict\n"
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
    assert moa("run", "spam", "--config", "../moa.toml", "--text", "Hello.", "--json") == 0
    (line,) = lines(capsys.readouterr().out)
    assert line["output"]["reason"] == "too long"
