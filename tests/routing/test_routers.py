"""Routers are fitted on recorded answers, are one file, and refuse what they weren't made for."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moa.core.errors import ConfigError, InputError
from moa.routing.evaluation import recovery
from moa.routing.fitting import Truth, candidates, fit_router, threshold_for
from moa.routing.recorded import Case, RecordedRequest, Request, describe
from moa.routing.router import Router, Trees
from moa.rows import read_models
from routing import rows


def recorded(n: int, *, seed: int = 0, replied: bool = False) -> list[RecordedRequest]:
    made = rows(n, seed=seed, replied=replied)
    return [RecordedRequest.model_validate(row) for row in made]


def apgr(router: Router, fresh: Sequence[RecordedRequest]) -> float:
    weak, strong = [r.weak_correct for r in fresh], [r.strong_correct for r in fresh]
    found = recovery(router.gains([r.case for r in fresh]), weak, strong).apgr
    assert found is not None
    return found


def truth_of(found: Sequence[RecordedRequest]) -> Truth:
    weak, strong = [r.weak_correct for r in found], [r.strong_correct for r in found]
    return Truth(np.array(weak, dtype=float), np.array(strong, dtype=float))


@pytest.fixture(scope="module")
def router() -> Router:
    return fit_router(recorded(90))


@pytest.fixture(scope="module")
def cascade() -> Router:
    return fit_router(recorded(90, replied=True))


def test_a_router_is_better_than_chance_on_fresh_rows(router: Router) -> None:
    assert router.kind == "router"
    assert apgr(router, recorded(300, seed=1)) > 0.7


def test_a_cascade_sees_more_than_a_router(router: Router, cascade: Router) -> None:
    assert cascade.kind == "cascade"
    fresh = recorded(300, seed=1, replied=True)
    assert apgr(cascade, fresh) > apgr(router, fresh) + 0.05


def test_the_file_gives_the_same_scores_without_the_library_that_fitted_it(
    cascade: Router, tmp_path: Path
) -> None:
    cascade.save(tmp_path / "router.json")
    fresh = rows(20, seed=2, replied=True)
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, fresh)))
    script = """
import json, sys
sys.modules["sklearn"] = sys.modules["scipy"] = None
from moa.routing.router import Router
from moa.routing.recorded import Request
cases = [Request.model_validate_json(line).case for line in open("rows.jsonl")]
print(json.dumps(Router.load("router.json").gains(cases).tolist()))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    expected = cascade.gains([Request.model_validate(row).case for row in fresh])
    assert np.allclose(json.loads(done.stdout), expected, atol=0, rtol=0)


@pytest.mark.parametrize("name", ["prompt grams", "doubt"])
def test_a_part_learns_where_the_strong_model_gains(name: str) -> None:
    train, fresh = recorded(100, replied=True), recorded(40, seed=3, replied=True)
    table = describe([row.case for row in train])
    part = candidates(table, [])[name](table, truth_of(train))
    told = part.predict(describe([row.case for row in fresh]))
    truth = np.array([row.gain for row in fresh])
    assert np.corrcoef(told, truth)[0, 1] > 0.4


def test_trees_agree_with_scikit_learn_to_the_digits_kept() -> None:
    from sklearn import ensemble

    from moa.routing import fitting

    train = recorded(100)
    table = describe([row.case for row in train])
    part = candidates(table, [])["trees"](table, truth_of(train))
    assert isinstance(part, Trees)
    settings = dict(fitting._TREES)  # pyright: ignore[reportPrivateUsage]
    estimator: Any = ensemble.GradientBoostingRegressor
    groves = [
        estimator(**settings, random_state=seed)
        .fit(table.values, truth_of(train).gains)
        .predict(table.values)
        for seed in (0, 1)
    ]
    assert np.allclose(part.predict(table), np.mean(groves, axis=0), atol=1e-5)


def test_a_field_groups_rows_and_may_be_missing(router: Router) -> None:
    assert "groups of subject" in [candidate.name for candidate in router.candidates]
    train = recorded(60)
    table = describe([row.case for row in train])
    part = candidates(table, ["subject"])["groups of subject"](table, truth_of(train))
    known = [Case("", fields={"subject": subject}) for subject in ("shop", "sums")]
    shop, sums, other = part.predict(describe([*known, Case("")])).tolist()
    assert shop > other > sums


def test_numbers_that_rows_bring_are_learnt_from_and_asked_for() -> None:
    made = rows(100)
    for row in made:
        row |= {"features": {"steps": float(row["subject"] == "shop")}, "subject": ""}
        row |= {"prompt": f"Hm {row['id']}."}
    router = fit_router([RecordedRequest.model_validate(row) for row in made])
    assert router.features == ("steps",)
    easy, hard = (Case("Hm q3.", features={"steps": steps}) for steps in (0.0, 1.0))
    assert router.gains([hard])[0] > router.gains([easy])[0] + 0.2
    with pytest.raises(InputError, match="'steps'"):
        router.gains([easy, Case("Hm q3.")])


def test_the_file_says_what_was_chosen_and_why(router: Router) -> None:
    assert router.origin.rows == 90
    assert "by cross-validation" in router.origin.why
    assert sum(candidate.weight for candidate in router.candidates) == pytest.approx(1)
    assert router.target.startswith("80% of the quality gap recovered")


def drawn(chance: np.random.Generator, n: int) -> tuple[np.ndarray[Any, Any], Truth]:
    """Scores of rows, and whether the models are right: the strong one gains at high ones."""
    scores = chance.random(n)
    weak = chance.random(n) < 0.9 - 0.7 * scores
    strong = chance.random(n) < 0.9
    return scores, Truth(weak.astype(float), strong.astype(float))


def test_a_share_of_requests_goes_to_the_strong_model() -> None:
    scores, truth = drawn(np.random.default_rng(1), 200)
    for share in (0, 0.25, 0.5, 1):
        threshold, told = threshold_for(scores, truth, share=share)
        assert (scores >= threshold).mean() == share
        assert told.startswith(f"{share:.0%} of requests")


def test_a_higher_quality_takes_no_fewer_strong_calls() -> None:
    rows = drawn(np.random.default_rng(1), 200)
    found = [threshold_for(*rows, quality=part / 10)[0] for part in range(11)]
    assert found == sorted(found, reverse=True)
    assert (rows[0] >= found[0]).sum() == 0


@pytest.mark.parametrize("wanted", [-0.1, 1.1, 30])
@pytest.mark.parametrize("name", ["share", "quality"])
def test_a_share_and_a_quality_are_from_0_to_1_and_not_both(name: str, wanted: float) -> None:
    with pytest.raises(ConfigError):
        threshold_for(*drawn(np.random.default_rng(1), 20), **{name: wanted})
    with pytest.raises(ConfigError):
        fit_router([], share=0.5, quality=0.5)


def test_a_part_of_the_gap_is_recovered_in_nearly_all_runs() -> None:
    """The lowest share that seems to recover it does so by luck, in about half of them."""
    chance = np.random.default_rng(3)
    fresh_scores, fresh = drawn(chance, 20_000)
    recovers: list[bool] = []
    shares: list[float] = []
    for _ in range(100):
        threshold, _ = threshold_for(*drawn(chance, 300), quality=0.8)
        takes = fresh_scores >= threshold
        recovers.append(fresh.gains[takes].sum() >= 0.8 * fresh.gains.sum())
        shares.append(float(takes.mean()))
    assert np.mean(recovers) >= 0.9
    assert np.mean(shares) < 0.75  # what recovers 0.8 is 0.56; by chance it would take 0.8


def test_a_threshold_may_be_the_gain_that_pays(router: Router) -> None:
    assert router.at_threshold(2).route("Add 1 and 2.") == "weak"
    assert router.at_threshold(-2).route("Add 1 and 2.") == "strong"


async def test_a_router_is_a_node(router: Router, cascade: Router) -> None:
    result = await router.at_threshold(-2).run("Add 1 and 2.")
    assert result.output == "strong"
    assert result.trace[0].kind == "escalated"
    assert (await cascade.at_threshold(2).run(Case("Add 1 and 2.", "3"))).output == "weak"


def test_a_cascade_refuses_a_request_without_a_reply(cascade: Router) -> None:
    with pytest.raises(InputError, match="weak_response"):
        cascade.route("Add 1 and 2.")


def test_duplicated_rows_count_once() -> None:
    unique = recorded(50)
    fitted = fit_router([*unique, *unique[:20]])
    assert (fitted.origin.rows, fitted.origin.left_out) == (50, 20)


def changed(**values: object) -> list[RecordedRequest]:
    return [RecordedRequest.model_validate({**row, **values}) for row in rows(60)]


def swapped() -> list[RecordedRequest]:
    names = {"weak_correct": "strong_correct", "strong_correct": "weak_correct"}
    return [
        RecordedRequest.model_validate({names.get(n, n): v for n, v in r.items()}) for r in rows(80)
    ]


@pytest.mark.parametrize(
    "found",
    [
        pytest.param(recorded(10), id="ten rows"),
        pytest.param(swapped(), id="swapped columns"),
        pytest.param(recorded(1) * 100, id="one row, often"),
        pytest.param(changed(strong_correct=False), id="strong never right"),
        pytest.param(changed(weak_correct=1, strong_correct=1), id="both right"),
        pytest.param(changed(weak_correct=0, strong_correct=1), id="one class"),
        pytest.param([*recorded(40), *recorded(40, seed=1, replied=True)], id="some replies"),
    ],
)
def test_rows_that_teach_nothing_are_refused(found: list[RecordedRequest]) -> None:
    with pytest.raises(InputError):
        fit_router(found)


def test_prompts_that_tell_nothing_are_refused_in_nearly_all_runs() -> None:
    chance = random.Random(1)
    refused: list[str] = []
    for _ in range(12):
        told = [
            RecordedRequest(
                prompt=" ".join(chance.choices("abcdefghijkl", k=chance.randint(3, 9))),
                weak_correct=chance.random() < 0.4,
                strong_correct=chance.random() < 0.8,
            )
            for _ in range(60)
        ]
        try:
            fit_router(told)
        except InputError as error:
            refused.append(str(error))
    assert len(refused) >= 11
    assert refused[0].startswith("nothing in the prompts of 60 rows is shown to tell where")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prompt": None}, "prompt: Input should be a valid string"),
        ({"prompt": 3}, "prompt: Input should be a valid string"),
        ({"weak_correct": "perhaps"}, "weak_correct: Input should be a valid boolean"),
        ({"weak_correct": 0.5}, "weak_correct: Input should be a valid boolean"),
        ({"strong_correct": None}, "strong_correct: Input should be a valid boolean"),
        (..., "it takes 'strong_correct'. The row has 'prompt', 'weak_correct'"),
    ],
)
def test_a_row_with_a_fault_is_named(change: Any, said: str, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    wrong = {"prompt": "…", "weak_correct": 1} if change is ... else {**rows(1)[0], **change}
    log.write_text("\n".join(map(json.dumps, [*rows(6), wrong])))
    with pytest.raises(ConfigError, match=f"log.jsonl, line 7: {said}"):
        list(read_models(log, RecordedRequest))


@pytest.mark.parametrize("value", [True, 1, 1.0, "true", "True", "1"])
def test_true_is_written_in_several_ways(value: object) -> None:
    assert (
        RecordedRequest.model_validate({**rows(1)[0], "weak_correct": value}).weak_correct is True
    )


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"format": "moa-router-2"}', "nonsense"])
def test_a_file_that_is_no_router_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ConfigError):
        Router.load(tmp_path / "x.json")
    with pytest.raises(ConfigError, match="moa route fit"):
        Router.load(tmp_path / "none.json")


@pytest.mark.parametrize(
    "part",
    [
        {"kind": "trees", "names": ["words"], "rate": 1, "constant": 0, "trees": [
            {"features": [0], "thresholds": [0], "left": [0], "right": [0], "values": [0]}
        ]},
        {"kind": "trees", "names": ["from a later version"], "rate": 1, "constant": 0,
          "trees": []},
    ],
    ids=["a tree without an end", "an unknown feature"],
)  # fmt: skip
def test_a_file_that_was_tampered_with_is_refused(
    part: dict[str, object], router: Router, tmp_path: Path
) -> None:
    file = tmp_path / "x.json"
    router.save(file)
    written = json.loads(file.read_text())
    written["parts"] = [{"name": "x", "weight": 1, "part": part}]
    file.write_text(json.dumps(written))
    with pytest.raises(ConfigError):
        Router.load(file)


def test_the_order_of_rows_is_kept(router: Router) -> None:
    cases = [row.case for row in recorded(30, seed=5)]
    mixed = random.Random(0).sample(range(30), 30)
    assert router.gains([cases[i] for i in mixed]).tolist() == router.gains(cases)[mixed].tolist()


def test_odd_texts_get_a_score(router: Router, cascade: Router) -> None:
    odd = ["", " ", "💥" * 5000, "1/0 = 3%", "\x00", "9" * 400, "(" * 3000, "= 2 <<"]
    assert np.isfinite(router.gains([Case(text) for text in odd])).all()
    assert np.isfinite(cascade.gains([Case("Add 1.", text) for text in odd])).all()


def test_a_router_looks_at_no_reply(router: Router) -> None:
    case = Case("What is 2 + 3?")
    with_reply = Case("What is 2 + 3?", reply="2 + 3 = 6 The answer is 6")
    assert router.gains([with_reply, case]).tolist() == router.gains([case, case]).tolist()
