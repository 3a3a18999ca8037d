"""moa route fit, score and eval, as a user types them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from command import kept, moa, told, written
from routing import rows


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a router's file and a cascade's."""
    folder = tmp_path_factory.mktemp("route")
    for name, replied in (("router", False), ("cascade", True)):
        data = written(folder / f"{name}.jsonl", rows(60, replied=replied))
        assert moa("route", "fit", data, "--out", folder / f"{name}.json") == 0
    return folder


def without(found: Sequence[dict[str, object]], *names: str) -> list[dict[str, object]]:
    return [{k: v for k, v in row.items() if k not in names} for row in found]


def test_the_file_says_which_it_is(made: Path) -> None:
    assert json.loads((made / "router.json").read_text())["kind"] == "router"
    assert json.loads((made / "cascade.json").read_text())["kind"] == "cascade"


def test_scores_come_in_order_without_the_truth(made: Path) -> None:
    found = without(rows(25, seed=1), "weak_correct", "strong_correct")
    del found[3]["id"]
    source, out = written("rows.jsonl", found), Path("scores.jsonl")
    assert moa("route", "score", made / "router.json", source, "--out", out) == 0
    scores = kept(out, ordered=True)
    assert [line["id"] for line in scores] == [row.get("id", 4) for row in found]
    by_subject: dict[object, list[float]] = {"shop": [], "sums": []}
    for line, row in zip(scores, found, strict=True):
        by_subject[row["subject"]].append(line["score"])
    assert min(by_subject["shop"]) > max(by_subject["sums"])
    assert {line["model"] for line in scores} == {"weak", "strong"}


def test_a_report_has_the_figures_and_the_curve(made: Path) -> None:
    data = written("d.jsonl", rows(80, seed=2, replied=True))
    plot = Path("curve.png")
    words = ("route", "eval", made / "cascade.json", data, "--json")
    said = told(*words, "--report", Path("r.json"), "--plot", plot)
    report = json.loads(Path("r.json").read_text())
    assert json.loads(said.out) == report
    assert report["n"] == 80
    assert 0.6 < report["apgr"] <= report["oracle"]["apgr"]
    assert 0 <= report["cpt50"] <= report["cpt80"] <= 1
    assert report["curve"][0] == [0, pytest.approx(report["weak_quality"])]
    assert report["curve"][-1] == [1, pytest.approx(report["strong_quality"])]
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_a_cascade_refuses_rows_without_replies(made: Path) -> None:
    data = written("d.jsonl", rows(3))
    out = Path("s.jsonl")
    err = told("route", "score", made / "cascade.json", data, "--out", out, leaves=2).err
    assert "request 1" in err
    assert not out.exists()


def test_a_router_takes_rows_with_replies_and_without_its_fields(made: Path) -> None:
    data = written("d.jsonl", without(rows(3, replied=True), "subject"))
    words = ("route", "score", made / "router.json", data, "--out", Path("s.jsonl"))
    assert moa(*words) == 0
    assert moa(*words) == 2
    said = told(*words, "--resume")
    assert len(Path("s.jsonl").read_text().splitlines()) == 3
    assert "3 rows scored" in said.err


@pytest.mark.parametrize("text", ["", '{"prompt": "a"', '{"text": "a"}'])
def test_rows_with_a_fault_stop_the_scoring(text: str, made: Path) -> None:
    Path("d.jsonl").write_text(text)
    out = Path("s.jsonl")
    words = ("route", "score", made / "router.json", "d.jsonl", "--out", out)
    told(*words, leaves=2)
    assert not out.exists()


@pytest.mark.parametrize(
    "words",
    [
        "fit d.jsonl --out r.json",
        "fit d.jsonl --out r.json --share 0.3 --quality 0.9",
        "score d.jsonl d.jsonl --out s.jsonl",
        "eval r.json d.jsonl --report r.json --plot x.doc",
    ],
)
def test_what_can_t_be_done_is_said_and_leaves_no_file(words: str) -> None:
    written("d.jsonl", rows(10))
    told("route", *words.split(), leaves=2)
    assert list(Path().iterdir()) == [Path("d.jsonl")]


def test_where_the_strong_model_is_no_better_the_figures_are_null(made: Path) -> None:
    same = [{**row, "strong_correct": row["weak_correct"]} for row in rows(20)]
    data = written("d.jsonl", same)
    assert moa("route", "eval", made / "router.json", data, "--report", Path("r.json")) == 0
    report = json.loads(Path("r.json").read_text())
    assert (report["apgr"], report["cpt50"], report["cpt80"]) == (None, None, None)
    assert "Not shown to pay" in report["verdict"]
