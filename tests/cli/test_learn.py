"""`moa learn`, `moa eval`, `moa decide --calibration`: what they write, and what they say."""

from __future__ import annotations

import inspect
import json
import random
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from command import Told, kept, moa, told, written
from piped import type_after_an_answer

from moa.cli import learn as command_of
from moa.cli import screen
from moa.config.endpoints import Endpoints
from moa.config.loading import endpoint_names, load_graph
from moa.decisions.file import Calibration
from moa.decisions.guarantee import Guarantee, min_rows, percent
from moa.learning.fit import calibrate
from moa.local.embedded import EmbeddedEndpoint
from moa.local.encoders import JointEncoder, SentenceEncoder
from moa.testing import SimulatedEndpoint

LARGE = '[endpoints.large]\ntier = "llm"\nmodel = "m"\nbase_url = "http://127.0.0.1:9/v1"\n'
TASK = ("--task", "Is this message spam?")
Row = dict[str, Any]
GERMAN = (
    "Guten Morgen, wir sehen uns heute Nachmittag am Bahnhof",
    "Bitte schicken Sie mir die Unterlagen bis nächsten Freitag zu",
    "Herzlichen Glückwunsch, Sie haben eine Reise nach Italien gewonnen",
)
ENGLISH = (
    "Good morning, we will meet at the station this afternoon",
    "Please send me the papers before the end of next week",
    "Congratulations, you have won a journey to the south of Italy",
)


def endpoint(model: str = "m-1") -> SimulatedEndpoint:
    """The last word of a text is the probability that it is spam."""
    return SimulatedEndpoint(
        model=model, rule=lambda text: {"label": {"spam": _last(text)} if _last(text) else {}}
    )


def _last(text: str) -> float:
    word = text.split()[-1]
    return float(word) if word.startswith("0.") else 0.0


def rows(n: int, *, seed: int = 0, noise: float = 0.1, words: Sequence[str] = ENGLISH) -> list[Row]:
    draw = random.Random(seed)
    found: list[Row] = []
    for number in range(n):
        p = draw.random()
        label = "spam" if draw.gauss(p, noise) > 0.5 else "ham"
        text = f"{words[number % len(words)]}, number {number + 1000 * seed} {p:.4f}"
        found.append({"id": f"r{number}", "text": text, "label": label})
    return found


@pytest.fixture(autouse=True)
def small(no_encoders: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Endpoints, "slm", endpoint())


def calibrated(
    found: Sequence[Row], *words: str, task: Sequence[str] = TASK, leaves: int = 0
) -> Told:
    """Calibrate on rows, into `c.json`."""
    source = written("a.jsonl", found)
    return told("learn", source, *task, *words, "--out", "c.json", leaves=leaves)


def calibration(name: str = "c.json") -> Calibration:
    return Calibration.load(name)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("made")


@pytest.fixture
def made(shelf: Path) -> str:
    """A calibration on 300 rows, made once; each test has a copy of it, and of its rows."""
    if not any(shelf.iterdir()):
        calibrated(rows(300))
        shutil.copytree(".", shelf, dirs_exist_ok=True)
    shutil.copytree(shelf, ".", dirs_exist_ok=True)
    return "c.json"


def test_a_second_costs_as_much_by_default_as_in_python() -> None:
    defaults = [
        inspect.signature(function).parameters["latency_penalty"].default
        for function in (command_of.learn, calibrate)
    ]
    assert defaults[0] == defaults[1]


def test_each_decision_says_whether_it_is_accepted(made: str) -> None:
    written("new.jsonl", [{"id": "x", "text": "hello 0.999"}, {"id": "y", "text": "hello 0.5"}])
    assert moa("decide", "new.jsonl", "--calibration", made, "--out", "out.jsonl") == 0
    sure, unsure = kept()
    assert (sure["id"], sure["label"], sure["accepted"]) == ("x", "spam", True)
    assert unsure["label"] in ("ham", "spam")
    assert sum(sure["scores"].values()) == pytest.approx(1.0)
    assert sure["confidence"] > unsure["confidence"]


def test_what_is_accepted_has_a_column_and_is_counted_with_its_promise(made: str) -> None:
    texts = [{"text": text} for text in ("hello 0.999", "hello 0.5", "hello 0.9985")]
    said = told("decide", written("new.jsonl", texts), "--calibration", made)
    heading, *shown = (line.split() for line in said.out.splitlines() if line.strip())
    assert "accepted" in heading
    column = heading.index("accepted")
    cells = [line[column] for line in shown if line[0] in ("1", "2", "3")]
    assert cells == ["yes", "no", "yes"]
    assert "2 of 3, at most 5 % wrong, with 95 % confidence" in said.words
    lines = told("decide", "new.jsonl", "--calibration", made, "--json")
    assert [line["accepted"] for line in lines.lines].count(True) == 2
    assert "2 of 3, at most 5 % wrong" in lines.err


def test_eval_writes_and_prints_the_figures_of_other_rows(made: str) -> None:
    written("b.jsonl", rows(200, seed=1))
    said = told("eval", made, "b.jsonl", "--json", "--report", "r.json")
    found = json.loads(Path("r.json").read_text())
    assert json.loads(said.out) == found
    keys = ("accuracy", "macro_f1", "ece", "ece_by_chance", "coverage", "risk")
    assert set(found) == {"n", *keys, "tokens_per_decision", "seconds_per_decision"}
    assert found["n"] == 200
    assert all(0 <= found[key] <= 1 for key in keys)
    assert found["accuracy"] > 0.8


def test_eval_warns_where_the_rows_are_those_it_was_made_from(made: str) -> None:
    assert "made from these rows" in told("eval", made, "a.jsonl").err


def test_rows_that_were_chosen_are_told_of(made: str) -> None:
    some = rows(300, seed=2, noise=0.05)
    written("b.jsonl", [*some, *({**row, "chosen": True} for row in rows(20, seed=5))])
    said = told("eval", made, "b.jsonl").words
    assert "20 of 320 rows were chosen to be labelled" in said
    said = told("learn", "--recheck", made, "b.jsonl").words
    assert "20 rows were chosen to be labelled and are" in said


def test_a_recheck_confirms_here_and_withdraws_where_it_is_not_kept(made: str) -> None:
    here = written("b.jsonl", rows(300, seed=2, noise=0.05))
    assert "confirmed" in told("learn", "--recheck", made, here, "--out", "there.json").out
    wrong = [{**row, "label": "spam" if i % 3 else "ham"} for i, row in enumerate(rows(300))]
    words = ("--recheck", "there.json", written("c.jsonl", wrong), "--out", "gone.json")
    assert "withdrawn" in told("learn", *words, leaves=1).out
    assert calibration("gone.json").proof.bound.threshold is None


def test_a_recheck_refuses_what_the_calibration_brings_along() -> None:
    words = ("--recheck", "c.json", "--risk", "0.05", "--per-class", "--minutes", "3")
    said = calibrated(rows(3), *words, task=(), leaves=2).words
    assert "--risk" in said


def test_a_promise_by_class_is_told_by_class() -> None:
    out = calibrated(rows(400), "--per-class", "--risk", "0.15", "--confidence", "0.9").out
    assert "ham: accepts" in out
    assert "spam: accepts" in out
    assert set(calibration().bounds) == {"ham", "spam"}


def test_calibrating_again_on_more_rows_is_a_further_look() -> None:
    for n, look in ((300, 1), (400, 2), (500, 3)):
        calibrated(rows(n))
        assert calibration().proof.bound.guarantee.look == look
    calibrated(rows(500), task=("--task", "Is this junk?"))
    assert calibration().proof.bound.guarantee.look == 1


def test_a_model_that_need_not_learn_is_tested_on_all_rows_and_looser_promises_are_shown() -> None:
    out = calibrated(rows(100), "--learn", "nothing").words
    assert "fitted to 0 rows; of the 100 held out" in out
    made = calibration()
    assert made.proof.bound.threshold is None
    assert f"label about {made.more_rows} more rows" in out
    assert "instead, at most 5 % wrong, with 90 % confidence: would accept" in out
    Path("c.json").unlink()  # else it would be a second look
    calibrated(rows(100), "--learn", "nothing", "--risk", "0.07")
    accepted = percent(calibration().proof.bound.coverage)
    assert f"instead, at most 7 % wrong, with 95 % confidence: would accept {accepted}" in out
    calibrated(rows(100), "--learn", "some", leaves=2)


def test_the_rows_said_to_be_missing_are_about_enough() -> None:
    calibrated(rows(130))
    more = calibration().more_rows
    assert more is not None
    calibrated(rows(130 + more))
    made = calibration()
    assert made.proof.bound.threshold is not None
    assert made.more_rows is None


def test_ten_labels_promise_nothing_and_say_how_many_it_takes() -> None:
    out = calibrated(rows(10)).words
    assert "guarantee: none; expected:" in out
    assert f"at least {min_rows(Guarantee(look=1))} rows" in out
    written("new.jsonl", [{"text": "hello 0.999"}])
    assert moa("decide", "new.jsonl", "--calibration", "c.json", "--out", "out.jsonl") == 0
    assert ["accepted" in row for row in kept()] == [False]
    said = told("eval", "c.json", written("b.jsonl", rows(20, seed=1)), "--report", "r.json")
    assert json.loads(Path("r.json").read_text())["risk"] is None
    assert "accepted 0.0%; " in said.out


def test_nothing_is_expected_of_labels_that_were_all_chosen() -> None:
    out = calibrated([{**row, "chosen": True} for row in rows(40)]).words
    assert "guarantee: none; nothing can be expected: all labelled rows were chosen" in out
    assert "expected: 1" not in out
    assert calibration().expected_accuracy is None


def test_a_look_is_counted_though_fewer_rows_come_after_it() -> None:
    calibrated(rows(200))
    calibrated(rows(60))
    assert calibration().proof.bound.guarantee.look == 2


def test_too_few_labels_are_told_before_a_model_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = endpoint()
    seen: list[int] = []
    warn = screen.warn

    def heard(warnings: Iterable[str]) -> None:
        seen.append(len(asked.states))
        warn(warnings)

    monkeypatch.setattr(Endpoints, "slm", asked)
    monkeypatch.setattr(screen, "warn", heard)
    needed = min_rows(Guarantee(look=1))
    said = calibrated(rows(50)).words
    assert seen == [0]
    assert f"at least {needed}" in said
    assert str(min_rows(Guarantee(0.1, look=1))) in said
    Path("c.json").unlink()  # which counts looks, and each takes more
    assert "too few" not in calibrated(rows(needed)).err


def test_copies_are_told_and_count_once() -> None:
    assert "150 of 300 rows repeat the text of another" in calibrated(rows(150) * 2).out
    assert calibration().proof.data.rows == 150


ROWS = rows(300)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        pytest.param([{**row, "label": "ham"} for row in ROWS], (), id="one class"),
        pytest.param([{**row, "label": ""} for row in ROWS], (), id="no label"),
        pytest.param(
            [{"text": row["label"], "label": row["text"]} for row in ROWS], (), id="wrong column"
        ),
        pytest.param([{**row, "label": row["text"]} for row in ROWS], (), id="texts for labels"),
        pytest.param(ROWS, ("--labels", "ham,phishing"), id="not named"),
    ],
)
def test_rows_that_can_teach_nothing_are_refused(found: list[Row], words: Sequence[str]) -> None:
    calibrated(found, *words, leaves=2)
    assert not Path("c.json").exists()


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(("--task", "Is it junk?"), id="edited prompt"),
        pytest.param(("--labels", "ham,spam,news"), id="new"),
        pytest.param(("--labels", "ham,news"), id="other"),
    ],
)
def test_another_question_is_refused_with_the_difference(made: str, words: Sequence[str]) -> None:
    written("new.jsonl", [{"text": "hello 0.9"}])
    told("decide", "new.jsonl", "--calibration", made, *words, leaves=2)


def test_another_model_is_refused_by_its_name(made: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Endpoints, "slm", endpoint("m-2"))
    written("new.jsonl", rows(3, seed=4))
    for words in (("decide", "new.jsonl", "--calibration", made), ("eval", made, "new.jsonl")):
        told(*words, leaves=2)


def test_input_in_another_language_is_warned_of(made: str) -> None:
    written("new.jsonl", rows(12, seed=4, words=GERMAN))
    for words in (("decide", "new.jsonl", "--calibration", made), ("eval", made, "new.jsonl")):
        assert "the input is in de" in told(*words).words


@pytest.mark.parametrize("n", [12, 40])
def test_texts_of_a_pipe_are_decided_as_they_come_and_their_language_is_heard(
    n: int, made: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [row["text"] for row in rows(n, seed=4, words=GERMAN)]
    in_time = type_after_an_answer(monkeypatch, *texts)
    said = told("decide", "-", "--calibration", made, "--out", "out.jsonl")
    assert in_time == [True]
    assert len(kept()) == n
    assert said.words.count("the input is in de") == 1


@pytest.mark.skipif(SentenceEncoder.missing() is not None, reason="the encoder is not installed")
def test_what_reads_sentences_alone_does_not_ask_the_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    asked = SimulatedEndpoint(rule=lambda _: {"label": {"ham": 0.5, "spam": 0.5}})
    monkeypatch.setattr(Endpoints, "slm", asked)
    prizes = ("You have won a prize, call now", "Free entry to win cash, text today")
    plain = ("I will be home at six for dinner", "Shall we walk the dog in the park")
    found = [
        {"text": f"{text} {n}", "label": label}
        for n in range(32)
        for label, texts in (("spam", prizes), ("ham", plain))
        for text in texts
    ]
    assert moa("learn", written("a.jsonl", found), *TASK, "--out", "c.json") == 0
    assert [member.name for member in calibration().features] == ["sentences"]
    asked.states.clear()
    written("new.jsonl", [{"text": "Win cash, call now"}, {"text": "The dog is at home"}])
    assert moa("decide", "new.jsonl", "--calibration", "c.json", "--out", "out.jsonl") == 0
    assert [row["label"] for row in kept()] == ["spam", "ham"]
    assert asked.states == []
    assert asked.prompts == []
    table = '[graphs.{}]\ncalibration = "c.json"\n'
    tables = table.format("slm") + table.format("cascade") + LARGE
    Path("moa.toml").write_text(f'{tables}\n[graphs.filter]\ncriterion = "spam"\n')
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    words = {"embedded"} if JointEncoder.missing() else set[str]()
    for name, names in (("slm", set[str]()), ("cascade", {"large"}), ("filter", words)):
        assert endpoint_names(load_graph(name, Endpoints())) == names

    async def complete(*_: object) -> None:
        raise AssertionError("the engine was started")

    monkeypatch.setattr(EmbeddedEndpoint, "complete", complete)
    assert moa("run", "slm", "new.jsonl", "--out", "out.jsonl", "--overwrite") == 0
    assert [row["output"]["label"] for row in kept()] == ["spam", "ham"]


@pytest.mark.embedded
@pytest.mark.timeout(600)
def test_the_embedded_model_is_calibrated_and_decides(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    glad, sad = ("I love it", "Wonderful service", "Great film"), ("I hate it", "Awful", "So dull")
    found = [
        {"text": f"{text}, visit number {n}.", "label": label}
        for n in range(4)
        for label, texts in (("good", glad), ("bad", sad))
        for text in texts
    ]
    written("a.jsonl", found)
    words = ("--task", "How does the writer feel?", "--minutes", "8", "--out", "c.json")
    assert moa("learn", "a.jsonl", *words, "--latency-penalty", "0") == 0
    names = {one.name for one in calibration().candidates}
    assert {"hidden states", "labels", "labels after examples", "labels after sure texts"} <= names
    assert moa("decide", "a.jsonl", "--calibration", "c.json", "--out", "out.jsonl") == 0
    right = [row["label"] == given["label"] for row, given in zip(kept(), found, strict=True)]
    assert sum(right) >= 20
    assert moa("eval", "c.json", "a.jsonl", "--report", "r.json") == 0
    assert json.loads(Path("r.json").read_text())["n"] == 24
