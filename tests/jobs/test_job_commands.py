"""`moa run --job` and `moa job`."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import os
import sys
from pathlib import Path
from typing import Any, cast

import pytest
from command import moa

from moa import rows
from moa.config.endpoints import Endpoints
from moa.config.loading import load_graph

GRAPH = """
from moa import Graph
from moa.core.errors import InputError


def shout(text: str) -> str:
    if text == "bad":
        raise InputError("it is bad")
    return text.upper()


g = Graph("shout", str)
graph = g.build(g.add(shout, g.input))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "graph.py").write_text(GRAPH)
    (tmp_path / "in.txt").write_text("a\nbad\nc\n")
    return tmp_path


def test_a_job_is_run_looked_at_and_exported_over_nothing_by_accident(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert moa("run", "graph.py:graph", "in.txt", "--job", "nightly") == 1
    assert "Job in nightly: 1 dead, 2 done" in capsys.readouterr().out
    assert moa("job", "status", "nightly", "--json") == 0
    status = json.loads(capsys.readouterr().out)
    assert (status["rows"], status["causes"]) == ({"done": 2, "dead": 1}, {"InputError": 1})
    assert moa("job", "failed", "nightly") == 0
    assert json.loads(capsys.readouterr().out)["error"] == "InputError: it is bad"
    assert moa("job", "export", "nightly", "--out", "done.jsonl") == 0
    lines = [json.loads(line) for line in (folder / "done.jsonl").read_text().splitlines()]
    assert [line.get("output") for line in lines] == ["A", None, "C"]
    (folder / "done.jsonl").write_text("{}\n")
    assert moa("job", "export", "nightly", "--out", "done.jsonl") == 2
    assert (folder / "done.jsonl").read_text() == "{}\n"
    for name in ("done.csv", "done.jsonl.gz"):
        assert moa("job", "export", "nightly", "--out", name) == 0
        assert (folder / name).stat().st_size


def test_rows_that_failed_are_done_by_the_same_command_after_retry(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moa("run", "graph.py:graph", "in.txt", "--job", "nightly")
    (folder / "graph.py").write_text(GRAPH.replace('"bad"', '"worse"'))
    assert moa("job", "retry", "nightly") == 0
    assert "1 rows are due again" in capsys.readouterr().out
    assert moa("run", "graph.py:graph", "in.txt", "--job", "nightly") == 0
    assert "Job in nightly: 3 done" in capsys.readouterr().out


def test_a_job_and_a_file_of_lines_don_t_go_together(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert moa("run", "graph.py:graph", "in.txt", "--job", "nightly", "--out", "x.jsonl") == 2
    assert "by moa job export" in capsys.readouterr().err
    assert not (folder / "nightly").exists()


def test_a_job_with_dead_rows_fails_also_where_nothing_is_left_to_do(folder: Path) -> None:
    for _ in range(2):
        assert moa("run", "graph.py:graph", "in.txt", "--job", "nightly") == 1


def test_a_job_of_the_command_line_is_gone_on_with_from_python(folder: Path) -> None:
    moa("run", "graph.py:graph", "in.txt", "--job", "nightly", "--limit", "1")
    graph = cast("Any", load_graph("graph.py:graph", Endpoints()))
    status = asyncio.run(graph.run_job(rows.read("in.txt"), store="nightly"))
    assert status.rows == {"done": 2, "dead": 1}
    assert moa("run", "graph.py:graph", "in.txt", "--job", "nightly") == 1


def test_a_job_of_another_graph_is_refused_before_a_row_is_run(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moa("run", "graph.py:graph", "in.txt", "--job", "nightly")
    (folder / "graph.py").write_text(GRAPH.replace('"shout"', '"whisper"'))
    assert moa("run", "graph.py:graph", "in.txt", "--job", "nightly") == 2
    assert "was begun with the graph 'shout'" in " ".join(capsys.readouterr().err.split())


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="looks at them in /proc")
def test_a_run_that_is_refused_closes_its_input(folder: Path) -> None:
    moa("run", "graph.py:graph", "in.txt", "--job", "nightly")
    (folder / "graph.py").write_text(GRAPH.replace('"shout"', '"whisper"'))
    gc.disable()
    try:
        moa("run", "graph.py:graph", "in.txt", "--job", "nightly")
        opened = [
            os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")
        ]
    finally:
        gc.enable()
    assert str(folder / "in.txt") not in opened


def test_a_job_is_exported_as_a_table_of_the_rows_that_are_asked_for(folder: Path) -> None:
    moa("run", "graph.py:graph", "in.txt", "--job", "nightly")
    assert moa("job", "export", "nightly", "--out", "done.csv", "--where", "kept") == 0
    assert [row.input for row in rows.read(folder / "done.csv")] == [
        {
            "text": text,
            "id": str(n),
            "output": text.upper(),
            "status": "answered",
            "settled": "true",
            "error": "",
        }
        for n, text in ((1, "a"), (3, "c"))
    ]


def test_a_run_writes_the_table_that_out_names(folder: Path) -> None:
    (folder / "in.csv").write_text("text,stars\na,5\nbad,1\n")
    assert moa("run", "graph.py:graph", "in.csv", "--out", "out.csv", "--where", "failed") == 1
    (row,) = rows.read(folder / "out.csv")
    assert isinstance(row.input, dict)
    assert (row.input["text"], row.input["stars"]) == ("bad", "1")


@pytest.mark.parametrize("out", ["out.jsonl", "out.csv"])
def test_rows_of_a_pipe_are_gone_on_with(
    out: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for given, code in (("id,text\n1,a\n2,bad\n", 1), ("id,text\n1,a\n2,b\n", 0)):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given.encode())))
        resume = ["--resume"] if (folder / out).exists() else []
        assert moa("run", "graph.py:graph", "-", "--out", out, *resume) == code
    assert len(list(rows.read(folder / out))) == 2


@pytest.mark.parametrize("place", [0, 4096], ids=["at its beginning", "behind it"])
def test_of_a_damaged_job_it_is_said_what_to_do(
    place: int, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moa("run", "graph.py:graph", "in.txt", "--job", "nightly")
    file = folder / "nightly" / "job.sqlite"
    data = file.read_bytes()
    file.write_bytes(data[:place] + b"\xff" * (len(data) - place))
    capsys.readouterr()
    assert moa("run", "graph.py:graph", "in.txt", "--job", "nightly") == 2
    assert "bring it back from a copy" in capsys.readouterr().err
