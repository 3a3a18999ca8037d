"""What there is to run can be found out, and which version this is."""

from __future__ import annotations

import json
from importlib.metadata import version

import pytest
from command import moa

from moa.graphs.loading import READY


def test_every_ready_graph_is_listed_with_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert moa("graphs") == 0
    shown = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.split()}
    assert shown.keys() >= READY.keys()
    assert "Answers from your documents, with citations" in shown["rag"]
    assert moa("graphs", "--json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["name"] for line in lines] == sorted(READY)
    cascade = next(line for line in lines if line["name"] == "cascade")
    assert {"calibration", "audit", "drift"} <= {*cascade["settings"]}


@pytest.mark.parametrize("words", [("run", "--help"), ("draw", "--help"), ("draw", "oops")])
def test_whoever_needs_a_name_is_told_of_the_list(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    moa(*words)
    told = capsys.readouterr()
    assert "moa graphs lists" in " ".join((told.out + told.err).split())


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert moa("--version") == 0
    assert capsys.readouterr().out == f"moa {version('mixture-of-agents')}\n"


def test_graphs_says_what_each_was_measured_to_be_worth(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert moa("graphs", "--json") == 0
    found = {line["name"]: line for line in map(json.loads, capsys.readouterr().out.splitlines())}
    worth = found["mixture"]["measured"]
    assert worth["items"] >= 12
    assert 0 < worth["plain"] < 1
    assert "measured" not in found["pii"]
