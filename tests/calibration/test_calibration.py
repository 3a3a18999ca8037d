"""Calibration: a scorer is chosen, a guarantee found, and its file refuses what it isn't for."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from decisions.moods import Numbers
from hypothesis import given
from hypothesis import strategies as st

from calibration.altered import Altered
from calibration.made import QUESTION, endpoint, ready, rows
from moa import Classifier, RunContext
from moa.core.errors import CalibrationError, InputError
from moa.core.questions import Answer
from moa.decisions.calibrated import check_models
from moa.decisions.features import LabelFeature, QuestionRecord
from moa.decisions.file import Calibration
from moa.decisions.guarantee import Bound, Guarantee
from moa.decisions.regression import fit_head, folds, split
from moa.endpoints import Embeddings
from moa.evals.measuring import evaluate, recheck
from moa.learning.fit import calibrate
from moa.learning.labelled import Labelled, clean_rows, warn_of_near_copies
from moa.learning.search import measure
from moa.testing import SimulatedEndpoint

pytestmark = pytest.mark.usefixtures("no_encoder")


@pytest.fixture(name="made", scope="module")
def _made(no_encoder: None) -> Calibration:
    return asyncio.run(calibrate(endpoint(), QUESTION, rows(400)))


def classifier(made: Calibration, slm: SimulatedEndpoint | None = None) -> Classifier[str]:
    return Classifier(
        slm or endpoint(), ["a", "b"], task="Which?", none=False, name="label", calibration=made
    )


def context() -> RunContext:
    return RunContext()


def test_what_was_tried_is_listed_and_one_of_it_chosen_with_a_reason(made: Calibration) -> None:
    assert "labels" in [one.name for one in made.candidates]
    assert " + ".join(feature.name for feature in made.features) in made.origin
    assert any("tokenizers" in note for note in made.notes)
    assert made.proof.data.fitted + made.proof.data.held_out == made.proof.data.rows == 400
    assert made.uncertainty is None  # no sign helps


async def test_accepted_decisions_keep_the_promise_on_new_rows(made: Calibration) -> None:
    found = await evaluate(ready(made), rows(1500, seed=7))
    assert made.proof.bound.threshold is not None
    drawn = 3 * (0.05 * 0.95 / found.n) ** 0.5  # 1,500 rows are a sample too
    assert found.risk is not None
    assert found.risk <= 0.05 + drawn
    assert found.coverage == pytest.approx(made.proof.bound.coverage, abs=0.1)
    assert found.accuracy > 0.85


async def test_an_agent_says_what_is_accepted_and_guesses_the_rest(made: Calibration) -> None:
    strict = made.proof.bound.model_copy(update={"threshold": 0.9})
    made = made.model_copy(update={"bound": strict}).with_seal()
    agent = classifier(made)
    sure = (await agent.run("it is 0.999")).output
    unsure = (await agent.run("it is 0.45")).output
    assert (sure.label, sure.accepted) == ("a", True)
    assert (unsure.label, unsure.accepted) == ("b", False)


async def test_ten_labels_accept_nothing_and_say_how_many_it_takes() -> None:
    found = await calibrate(endpoint(), QUESTION, rows(10))
    assert found.proof.bound.threshold is None
    assert found.proof.bound.more_labels
    assert str(found.proof.bound.more_labels) in found.proof.bound.summary
    assert not (await ready(found).answer("0.999", context())).accepted
    measured = await evaluate(ready(found), rows(20, seed=7))
    assert (measured.coverage, measured.risk) == (0.0, None)
    assert found.drift is None


@pytest.mark.parametrize(("n", "held"), [(198, 99), (200, 160)])
async def test_more_is_held_out_where_there_are_enough_rows_to_learn_from(
    n: int, held: int
) -> None:
    assert (await calibrate(endpoint(), QUESTION, rows(n))).proof.data.held_out == held


async def test_no_label_of_a_held_out_row_changes_what_is_learnt(made: Calibration) -> None:
    some = rows(400)
    held = split(clean_rows(some).cases, 0.8)
    assert held.sum() == made.proof.data.held_out
    others = [
        row.model_copy(update={"label": "a" if out else row.label})
        for row, out in zip(some, held.tolist(), strict=True)
    ]
    again = await calibrate(endpoint(), QUESTION, others)
    assert again.accepting == made.accepting
    assert again.features == made.features


async def test_a_scorer_that_learns_nothing_is_tested_on_all_rows() -> None:
    found = await calibrate(endpoint(), QUESTION, rows(400), learn="nothing")
    assert [feature.name for feature in found.features] == ["labels", "turned"]
    assert (found.proof.data.fitted, found.proof.data.held_out, found.proof.data.learn) == (
        0,
        400,
        "nothing",
    )
    turned = [row.model_copy(update={"label": "ab"["ba".index(row.label)]}) for row in rows(400)]
    other = await calibrate(endpoint(), QUESTION, turned, learn="nothing")
    assert other.accepting == found.accepting
    assert other.proof.bound.threshold is None
    measured = await evaluate(ready(found), rows(1500, seed=7))
    assert found.proof.bound.threshold is not None
    assert measured.risk is not None
    assert measured.risk <= 0.05 + 3 * (0.05 * 0.95 / 1500) ** 0.5


async def test_chosen_rows_teach_nothing_where_nothing_is_learnt_and_are_not_counted_as_drawn() -> (
    None
):
    some = [row.model_copy(update={"chosen": place < 380}) for place, row in enumerate(rows(400))]
    found = await calibrate(endpoint(), QUESTION, some, learn="nothing")
    assert (found.proof.data.chosen, found.proof.data.held_out) == (380, 20)
    assert found.proof.bound.threshold is None
    assert found.more_rows is None or found.more_rows > 20


async def test_cross_fitting_uses_each_row_twice_and_says_what_that_costs() -> None:
    found = await calibrate(endpoint(), QUESTION, rows(100), learn="approximate")
    assert (found.proof.data.fitted, found.proof.data.held_out) == (100, 100)
    assert found.accepting == found.full
    assert "without a finite-sample proof" in found.proof.bound.summary
    assert found.proof.bound.labels == 100


async def test_a_high_price_takes_the_quicker_scorer() -> None:
    slow = endpoint()
    slow.latency_s = 0.002
    found = await calibrate(slow, QUESTION, rows(60), latency_penalty=1000.0)
    quickest = min(found.candidates, key=lambda one: one.seconds)
    assert " + ".join(feature.name for feature in found.features) == quickest.name


class Encoder(Numbers):
    """Encodes the number at the end of a text, or if it is `useless` noise, and counts texts."""

    useless = False
    delay_s = 0.0
    read = 0

    async def embed(self, texts: Sequence[str], context: RunContext, /) -> Embeddings:
        self.read += len(texts)
        await asyncio.sleep(self.delay_s)
        words = [f"{text} nothing" if self.useless else text for text in texts]
        return await super().embed(words, context)


async def test_what_is_held_out_is_read_by_what_was_chosen_alone() -> None:
    useless, asked = Encoder(name="useless"), endpoint()
    useless.useless = True
    found = await calibrate(
        asked, QUESTION, rows(400), embedders={"useless": useless}, latency_penalty=0.0
    )
    assert "useless" not in [feature.source for feature in found.features]
    assert (
        found.proof.data.fitted <= useless.read <= found.proof.data.fitted + len(QUESTION.options)
    )
    assert len(asked.states) >= found.proof.data.rows


async def test_nothing_is_tried_beside_what_is_seldom_wrong_unless_time_costs_nothing() -> None:
    some = rows(400, sharp=1000.0)
    found = {
        penalty: await calibrate(
            endpoint(), QUESTION, some, guarantee=Guarantee(0.2), latency_penalty=penalty
        )
        for penalty in (0.02, 0.0)
    }
    assert [one.name for one in found[0.02].candidates] == ["labels"]
    assert any("turned left out" in note for note in found[0.02].notes)
    assert not any("labels after examples left out" in note for note in found[0.0].notes)
    assert found[0.02].proof.bound.threshold is not None
    assert found[0.02].proof.bound.coverage >= found[0.0].proof.bound.coverage


async def test_few_errors_are_not_enough_where_a_label_is_rare() -> None:
    some = [
        row.model_copy(update={"label": "b" if place % 40 == 0 else "a"})
        for place, row in enumerate(rows(400))
    ]
    found = await calibrate(endpoint(), QUESTION, some, guarantee=Guarantee(0.2))
    assert not any("wrong by cross-validation" in note for note in found.notes)


async def test_what_was_read_first_is_read_on_when_a_later_one_takes_all_the_time() -> None:
    class Stuck(Encoder):
        async def embed(self, texts: Sequence[str], context: RunContext, /) -> Embeddings:
            self.delay_s = 0.0 if self.read < 8 else 60.0
            return await super().embed(texts, context)

    both = {"quick": Encoder(name="quick"), "stuck": Stuck(name="stuck")}
    found = await calibrate(endpoint(), QUESTION, rows(200), embedders=both, limit_s=3.0)
    assert any("stuck left out: it got slower" in note for note in found.notes)
    assert "quick" in [feature.source for feature in found.features]
    assert found.proof.data.held_out == 160


async def test_what_cannot_be_worth_its_time_is_left_out_after_a_few_texts() -> None:
    quick, slow = Encoder(name="quick"), Encoder(name="slow")
    slow.delay_s = 0.2
    both = {"quick": quick, "slow": slow}
    found = await calibrate(endpoint(), QUESTION, rows(200), embedders=both, latency_penalty=1000.0)
    assert slow.read < 10
    assert any("slow left out: it takes" in note for note in found.notes)


@pytest.mark.parametrize(
    ("latency_s", "limit_s"),
    [
        pytest.param(0.05, 1.0, id="told by a few texts"),
        pytest.param(30.0, 0.1, id="before a few texts are read"),
    ],
)
async def test_what_takes_too_long_is_left_out_with_a_line(
    latency_s: float, limit_s: float
) -> None:
    slow = endpoint()
    slow.latency_s = latency_s
    with pytest.raises(CalibrationError):
        await calibrate(slow, QUESTION, rows(200), limit_s=limit_s)


def test_a_file_comes_back_as_it_was_written_and_is_refused_once_edited(
    made: Calibration, tmp_path: Path
) -> None:
    file = tmp_path / "c.json"
    made.save(file)
    assert file.stat().st_mode & 0o777 == 0o600  # it holds texts
    assert Calibration.load(file) == made
    edited(file, "bound", "threshold", 0.5)


def edited(file: Path, part: str, name: str, value: float) -> None:
    """Change a figure of a file: it is refused then."""
    written = json.loads(file.read_text())
    written[part][name] = value
    file.write_text(json.dumps(written))
    with pytest.raises(CalibrationError):
        Calibration.load(file)


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"format": 2}'])
def test_another_file_is_no_calibration(content: str, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(content)
    with pytest.raises(CalibrationError):
        Calibration.load(tmp_path / "c.json")


@pytest.mark.parametrize(
    ("labels", "task"),
    [
        pytest.param(["a", "b"], "Which one?", id="prompt"),
        pytest.param(["a", "b", "c"], "Which?", id="new label"),
        pytest.param(["a", "c"], "Which?", id="other label"),
        pytest.param(["b", "a"], "Which?", id="order"),
        pytest.param({"a": "an A", "b": ""}, "Which?", id="description"),
    ],
)
def test_another_question_is_refused_and_the_difference_named(
    made: Calibration, labels: list[str], task: str
) -> None:
    with pytest.raises(CalibrationError):
        Classifier(endpoint(), labels, task=task, none=False, calibration=made)


async def test_another_model_is_refused_by_name(made: Calibration) -> None:
    with pytest.raises(CalibrationError):
        await classifier(made, endpoint("other")).run("0.9")


def test_other_weights_of_the_same_name_are_refused_and_another_version_is_warned_of(
    made: Calibration,
) -> None:
    was = made.models["slm"].model_copy(update={"digest": "a" * 64, "version": "1"})
    mine = made.model_copy(update={"models": {"slm": was}})
    with pytest.raises(CalibrationError):
        check_models(mine, {"slm": was.model_copy(update={"digest": "b" * 64})})
    (warning,) = check_models(mine, {"slm": was.model_copy(update={"version": "2"})})
    assert "--recheck" in warning
    assert check_models(mine, {"slm": was}) == []


async def test_a_recheck_confirms_on_the_same_kind_of_rows_and_withdraws_on_others(
    made: Calibration,
) -> None:
    strict = made.proof.bound.model_copy(update={"threshold": 0.9})
    made = made.model_copy(update={"bound": strict}).with_seal()
    confirmed, _ = await recheck(ready(made), rows(600, seed=3), language=lambda _: "en")
    assert confirmed.proof.bound.threshold == 0.9
    assert confirmed.proof.data.languages == {"en": 1.0}
    assert confirmed.drift is not None
    withdrawn, _ = await recheck(ready(made), rows(600, sharp=0.5, seed=4))
    assert withdrawn.proof.bound.threshold is None
    with pytest.raises(InputError):
        await recheck(ready(made), rows(400))


async def test_a_recheck_leaves_out_rows_that_were_chosen(made: Calibration) -> None:
    drawn = rows(300, seed=3)
    chosen = [row.model_copy(update={"chosen": True}) for row in rows(300, sharp=0.5, seed=4)]
    found = await recheck(ready(made), [*drawn, *chosen])
    alone = await recheck(ready(made), drawn)
    assert found.calibration.bound == alone.calibration.bound
    assert found.calibration.drift == alone.calibration.drift
    assert "300 rows were chosen to be labelled and are left out" in found.notes[0]
    with pytest.raises(InputError):
        await recheck(ready(made), chosen)


def test_rows_that_can_teach_nothing_are_refused_with_a_reason() -> None:
    some = rows(40)
    with pytest.raises(InputError, match="'a'"):
        clean_rows([row.model_copy(update={"label": "a"}) for row in some])
    with pytest.raises(InputError):
        clean_rows([row.model_copy(update={"label": row.text}) for row in some])
    with pytest.raises(InputError):
        clean_rows([Labelled(text=row.label, label=row.text) for row in some])
    with pytest.raises(InputError, match="'b'"):
        clean_rows(some, ["a", "c"])
    with pytest.raises(InputError):
        clean_rows([])


def test_many_labels_are_not_taken_for_texts() -> None:
    draw = random.Random(0)
    many = [Labelled(text=f"text {n}", label=f"intent {draw.randrange(77)}") for n in range(100)]
    assert len({row.label for row in many}) > 50
    assert len(clean_rows(many).rows) == 100
    long = [
        row.model_copy(update={"label": f"{row.label}, which has a very long name"}) for row in many
    ]
    names = sorted({row.label for row in long})
    assert len(clean_rows(long, names).rows) == 100
    with pytest.raises(InputError):
        clean_rows(long)
    with pytest.raises(InputError):
        clean_rows([row.model_copy(update={"label": f"id {n}"}) for n, row in enumerate(many)])


def test_copies_count_once_and_are_told() -> None:
    some = rows(20)
    found = clean_rows(
        [*some, *(row.model_copy(update={"text": row.text.upper()}) for row in some[:5])]
    )
    assert len(found.rows) == 20
    assert found.duplicates == 5
    assert "5 of 25 rows repeat" in found.notes[0]


def test_a_later_line_corrects_the_label_of_an_earlier_one_and_that_is_told() -> None:
    text = "one 0.5"
    first = Labelled(text=text, label="a", case="x", labelled_by="ann")
    later = Labelled(text=text.upper(), label="b", chosen=True, labelled_by="bob")
    found = clean_rows([first, *rows(20), later])
    assert found.rows[0] == first.model_copy(update={"label": "b", "labelled_by": "bob"})
    assert "1 texts stand there with more than one label; the last one counts" in found.notes
    typo = first.model_copy(update={"label": "bb"})
    assert clean_rows([typo, *rows(20), later], ["a", "b"]).counts.keys() == {"a", "b"}


async def test_a_recheck_takes_the_last_label_of_a_text_that_was_drawn(made: Calibration) -> None:
    drawn = rows(300, seed=3)
    other = {"a": "b", "b": "a"}
    wrong = [row.model_copy(update={"label": other[row.label]}) for row in drawn]
    corrections = [row.model_copy(update={"chosen": True}) for row in drawn]
    found = await recheck(ready(made), [*wrong, *corrections])
    assert found.calibration.bound == (await recheck(ready(made), drawn)).calibration.bound
    assert not any("are left out: a guarantee" in note for note in found.notes)


def test_near_copies_without_a_case_are_warned_of() -> None:
    told = "the parcel with my new shoes has not come to the door yet"
    some = [Labelled(text=f"{told}, {told[:n]} {n}!", label="ab"[n % 2]) for n in range(0, 12, 2)]
    others = [
        Labelled(text="please close my account and pay the rest back", label="a"),
        Labelled(text="please close my account and pay nothing any more", label="b"),
    ]
    assert "5 of 8 rows are near-copies" in next(warn_of_near_copies([*others, *some]))
    of_one_case = [row.model_copy(update={"case": "shoes"}) for row in some]
    assert list(warn_of_near_copies([*others, *of_one_case])) == []


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 2)), min_size=5, max_size=80))
def test_texts_of_a_case_stay_together_and_all_parts_fill(pairs: list[tuple[int, int]]) -> None:
    cases = [f"case {case}" for case, _ in pairs]
    labels = np.array([label for _, label in pairs], dtype=np.intp)
    dealt = folds(cases, labels, 3)
    by_case = {
        case: {int(d) for c, d in zip(cases, dealt, strict=True) if c == case} for case in cases
    }
    assert all(len(parts) == 1 for parts in by_case.values())
    assert len(set(dealt.tolist())) == min(3, len(by_case))
    held = split(cases, 0.5)
    out = {case for case, is_held in zip(cases, held, strict=True) if is_held}
    assert len(out) == round(len(by_case) / 2)
    assert not any(case in out for case, is_held in zip(cases, held, strict=True) if not is_held)


def test_a_head_learns_what_is_linear_and_is_honest_where_nothing_is() -> None:
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(300, 20))
    labels = (vectors[:, :3] @ np.array([[2.0, 0, -2], [0, 3, 0], [1, 0, 1]])).argmax(1)
    part = folds([str(i) for i in range(300)], labels, 5)
    learnt = fit_head(vectors, labels, 3, part)
    assert measure(np.exp(learnt.held_out), labels).accuracy > 0.9
    noise = fit_head(draw.normal(size=(300, 20)), labels, 3, part)
    assert measure(np.exp(noise.held_out), labels).ece < 0.15


@pytest.mark.parametrize("n", [30, 300])
def test_the_calibration_error_of_few_decisions_is_told_beside_what_chance_shows(n: int) -> None:
    draw = np.random.default_rng(0)
    found = [
        measure(np.stack([sure, 1 - sure], 1), (draw.random(n) >= sure).astype(np.intp))
        for sure in draw.uniform(0.5, 1.0, (400, n))
    ]
    mean = np.mean([one.ece for one in found])
    assert mean > 0.5 / n**0.5
    assert np.mean([one.ece_by_chance or 0.0 for one in found]) == pytest.approx(mean, rel=0.05)
    blind = measure(np.full((n, 2), [0.9, 0.1]), np.arange(n) % 2)
    assert blind.ece > 3 * (blind.ece_by_chance or 0.0)


async def test_rows_of_one_case_are_held_out_together() -> None:
    some = [row.model_copy(update={"case": str(place // 2)}) for place, row in enumerate(rows(300))]
    found = await calibrate(endpoint(), QUESTION, some, guarantee=Guarantee(0.1, 0.9))
    assert found.proof.data.held_out % 2 == 0
    assert found.proof.bound.labels == found.proof.data.held_out


async def test_a_calibration_keeps_what_new_inputs_are_compared_with() -> None:
    made = await calibrate(endpoint(), QUESTION, rows(400), language=lambda _: "en")
    assert made.drift is not None
    watched = {"length", "language", "label mass", "accepted", "accepted confidence"}
    assert set(made.drift.watches) == watched
    assert made.proof.data.languages == {"en": 1.0}


async def test_a_promise_by_label_is_kept_and_applied_by_label(tmp_path: Path) -> None:
    loose = Guarantee(0.15, 0.9)
    made = await calibrate(endpoint(), QUESTION, rows(500), guarantee=loose, by_label=True)
    assert set(made.bounds) == {"a", "b"}
    found = await evaluate(ready(made), rows(1500, seed=7))
    assert found.risk is not None
    assert found.risk <= 0.15
    only_a = {"a": made.bounds["a"], "b": made.bounds["b"].model_copy(update={"threshold": None})}
    strict = made.model_copy(update={"bounds": only_a}).with_seal()
    strict.save(tmp_path / "c.json")
    kept = ready(Calibration.load(tmp_path / "c.json"))
    assert (await kept.answer("it is 0.999", context())).accepted
    assert not (await kept.answer("it is 0.001", context())).accepted
    there, _ = await recheck(kept, rows(600, seed=3))
    assert there.bounds["b"].threshold is None
    assert there.bounds["a"].threshold == made.bounds["a"].threshold


class Firstly(Altered):
    """Prefers whatever option is shown first, on some texts more than on others."""

    def altered(self, answer: Answer, text: str, examples: int) -> Answer:
        first, p = answer.question.options[0].name, float(text.split()[-1])
        pull = 8 * random.Random(text).random()
        logit = 3 * np.log(p / (1 - p)) + (pull if first == "a" else -pull)
        a = float(1 / (1 + np.exp(-logit)))
        return replace(answer, probabilities=(a, 1 - a) if first == "a" else (1 - a, a))


async def test_both_orders_of_the_options_are_averaged_where_that_helps() -> None:
    biased = Firstly(rule=lambda _: {"label": {"a": 0.5}})
    made = await calibrate(biased, QUESTION, rows(300), latency_penalty=0.0)
    assert [feature.name for feature in made.features][:2] == ["labels", "turned"]
    alone = next(one for one in made.candidates if one.name == "labels")
    both = next(one for one in made.candidates if one.name == "labels + turned")
    assert both.log_loss < alone.log_loss
    answer = await ready(made, biased).answer("0.999", context())
    assert answer.probabilities is not None
    assert answer.probabilities[0] > 0.9


class Massy(Altered):
    """Is right where its labels have much of the probability, whatever its confidence."""

    def altered(self, answer: Answer, text: str, examples: int) -> Answer:
        return replace(answer, label_mass=float(text.split()[0]), source="logprob")


def massy_rows(n: int, *, seed: int = 0) -> list[Labelled]:
    draw = random.Random(seed)
    found: list[Labelled] = []
    for number in range(n):
        mass, p = draw.choice((0.2, 0.9)), draw.choice((0.15, 0.85))
        guess, other = ("a", "b") if p > 0.5 else ("b", "a")
        wrong = draw.random() < (0.4 if mass < 0.5 else 0.002)
        text = f"{mass + number / 1e5:.5f} is the mass of {seed}-{number} {p}"
        found.append(Labelled(text=text, label=other if wrong else guess))
    return found


async def test_a_low_label_mass_is_a_sign_of_doubt_where_that_helps(tmp_path: Path) -> None:
    endpoint = Massy(rule=lambda text: {"label": {"a": float(text.split()[-1])}})
    made = await calibrate(endpoint, QUESTION, massy_rows(500))
    assert made.uncertainty is not None
    assert "label mass" in made.uncertainty.signs
    assert any("label mass" in note for note in made.notes)
    made.save(tmp_path / "c.json")
    kept = ready(Calibration.load(tmp_path / "c.json"), endpoint)
    found = await evaluate(kept, massy_rows(600, seed=3))
    assert found.risk is not None
    assert found.risk <= 0.05
    assert 0.35 < found.coverage < 0.65
    edited(tmp_path / "c.json", "uncertainty", "constant", made.uncertainty.constant + 1.0)


async def test_rows_of_two_cases_hold_nothing_out_and_of_one_are_refused() -> None:
    two = [row.model_copy(update={"case": f"c{n % 2}"}) for n, row in enumerate(rows(200))]
    assert (await calibrate(endpoint(), QUESTION, two)).proof.data.held_out == 0
    with pytest.raises(InputError):
        await calibrate(endpoint(), QUESTION, [row.model_copy(update={"case": "c"}) for row in two])


@pytest.mark.parametrize(("share", "accepted"), [(0.95, True), (0.6, False)])
async def test_a_bound_without_a_fit_holds_for_the_models_own_probabilities(
    share: float, accepted: bool
) -> None:
    small = SimulatedEndpoint(rule=lambda _: {"label": {"a": share}})
    plain = Classifier(small, ["a", "b"], question="label")
    calibration = Calibration(
        made=datetime(2026, 1, 1, tzinfo=UTC),
        question=QuestionRecord.model_validate(plain.questions[0]),
        models={},
        features=(LabelFeature(),),
        bound=Bound(guarantee=Guarantee(0.05, 0.95), threshold=0.9, labels=99, summary="a test"),
        origin="a test",
    )
    bounded = Classifier(small, ["a", "b"], question="label", calibration=calibration)
    answer = (await bounded.run("Hello")).output
    assert (answer.label, answer.accepted) == ("a", accepted)
