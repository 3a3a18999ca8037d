"""Golden: the same rows give the same decisions, probabilities, thresholds and words as recorded.

`MOA_RECORD_GOLDEN=1 pytest tests/calibration/test_golden.py` records them anew.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from decisions.moods import MOOD, Numbers, classifier, numbers

from calibration.altered import Altered
from moa import RunContext
from moa.core.questions import Answer
from moa.decisions.acceptance import GradedReply
from moa.decisions.calibrated import CalibratedDecider
from moa.decisions.file import Calibration
from moa.decisions.guarantee import Guarantee, Learn
from moa.endpoints import Example
from moa.guards.verifiers import Length, Signs
from moa.learning.adapt import adapt
from moa.learning.fit import calibrate
from moa.learning.labelled import Labelled
from moa.testing import SimulatedEndpoint

FOLDER = Path(__file__).parent.parent / "golden"
LABEL = replace(MOOD, name="label")


class Biased(Altered):
    """Reads how good a text is from the number that it ends in, and leans to good."""

    def altered(self, answer: Answer, text: str, examples: int) -> Answer:
        mass = 0.3 + 0.6 * random.Random(f"mass {text}").random()
        pull = (4 - 3 * mass) * random.Random(f"{text} {examples}").gauss(0, 1)
        bad, good = answer.probabilities or (0.5, 0.5)
        odds = good / bad * 2.718281828**pull
        p = odds / (1 + odds)
        return replace(answer, probabilities=(1 - p, p), label_mass=mass, source="logprob")


def biased(bias: float) -> Biased:
    def rule(text: str) -> Mapping[str, Mapping[str, float]]:
        last = text.split()[-1]
        number = float(last) if last.lstrip("-").replace(".", "").isdigit() else len(text) % 5 - 2
        p = 1 / (1 + 2.718281828 ** -(number + bias))
        return {"mood": {"good": p}, "label": {"good": p}}

    return Biased(rule=rule, name="biased", model="m-1")


def labelled(n: int, seed: int, *, noise: float = 0.8) -> list[tuple[str, str]]:
    draw = random.Random(seed)
    found: list[tuple[str, str]] = []
    for place in range(n):
        label = draw.choice(["bad", "good", "good"])
        number = draw.gauss(1.6 if label == "good" else -1.6, noise)
        found.append((f"{seed} and {place} make {number:.3f}", label))
    return found


def rows(n: int, seed: int) -> list[Labelled]:
    return [Labelled(text=text, label=label) for text, label in labelled(n, seed, noise=1.5)]


def check(name: str, found: object) -> None:
    """Compare with what was recorded: floats to a thousandth, all else as it is."""
    file = FOLDER / "decisions.json"
    found = json.loads(json.dumps(found), parse_float=lambda number: round(float(number), 6))
    known: dict[str, object] = json.loads(file.read_text()) if file.exists() else {}
    if os.environ.get("MOA_RECORD_GOLDEN"):
        known[name] = found
        lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in sorted(known.items())]
        file.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    assert_same(found, known[name], name)


def assert_same(found: Any, known: Any, where: str) -> None:
    if isinstance(known, float):
        near = 1e-2 if where.endswith(" ece") else 1e-3  # a case may cross the edge of a bin
        assert found == pytest.approx(known, abs=near), where
    elif isinstance(known, dict | list):
        assert len(found) == len(cast("list[Any]", known)), where
        for key in cast("Any", known if isinstance(known, dict) else range(len(found))):
            assert_same(found[key], known[key], f"{where} {key}")
    else:
        assert found == known, where


@pytest.mark.parametrize("case", ["unlabelled", "labelled", "few"])
async def test_an_adaptation_is_the_one_recorded(case: str) -> None:
    endpoint = biased(2.0)
    shown = [Example(text, {"mood": label}) for text, label in labelled(30, 1)]
    made = await adapt(
        endpoint,
        [MOOD],
        labelled=shown if case == "labelled" else shown[:4] if case == "few" else (),
        unlabelled=[text for text, _ in labelled(40, 2)],
    )
    fit = made["mood"].full
    assert fit is not None
    check(
        f"adapt {case}",
        {
            "features": [feature.name for feature in made["mood"].features],
            "bias": fit.bias,
            "weights": fit.weights,
            "answers": await answers(endpoint, made),
        },
    )


async def answers(
    endpoint: SimulatedEndpoint, made: Mapping[str, Calibration]
) -> list[list[float]]:
    agent = classifier(endpoint).calibrated(made)
    found = [(await agent.run(text)).output for text, _ in labelled(8, 3)]
    return [list((one.probabilities or {}).values()) for one in found]


@pytest.mark.parametrize("n", [0, 60])
async def test_heads_beside_a_model_decide_as_recorded(n: int) -> None:
    encoder, endpoint = numbers(), biased(2.0)
    made = await adapt(
        endpoint,
        [MOOD],
        labelled=[Example(text, {"mood": label}) for text, label in labelled(n, 1, noise=1.5)],
        unlabelled=[text for text, _ in labelled(40, 2)],
        encoder=encoder,
    )
    beside = biased(2.0)
    beside.encoder = encoder
    found = {"origin": made["mood"].origin, "answers": await answers(beside, made)}
    check(f"heads of {n} labels", found)


@pytest.mark.usefixtures("no_encoder")
@pytest.mark.parametrize("case", ["split", "labels", "by label", "nothing", "approximate"])
async def test_a_calibration_is_the_one_recorded(case: str) -> None:
    made = await calibrate(
        biased(1.0),
        LABEL,
        rows(300, 5),
        guarantee=Guarantee(0.1, 0.9),
        by_label=case == "by label",
        learn=cast("Learn", case) if case in ("nothing", "approximate") else "split",
        latency_penalty=0.0,
        embedders=embedders() if case != "labels" else {},
    )
    check(f"calibrate {case}", await _written(made))


@pytest.mark.parametrize("case", ["labels", "by label"])
async def test_a_file_of_before_is_read_and_decides_as_it_did(case: str) -> None:
    made = Calibration.load(FOLDER / f"calibration {case}.json")
    check(f"calibrate {case}", await _written(made))


def embedders() -> dict[str, Numbers]:
    return {"sentences": Numbers(name="vectors", model="v-1")}


async def _written(made: Calibration) -> dict[str, Any]:
    ready = CalibratedDecider(made, LABEL, {"slm": biased(1.0), **embedders()})
    found = [await ready.answer(text, RunContext()) for text, _ in labelled(12, 6)]
    written = made.model_dump(mode="json")
    return {
        "features": [feature["name"] for feature in written["features"]],
        "bound": written["bound"],
        "bounds": written["bounds"],
        "uncertainty": written["uncertainty"],
        "candidates": [
            {name: one[name] for name in ("name", "accuracy", "macro_f1", "ece", "log_loss")}
            for one in written["candidates"]
        ],
        "reached": {n: v for n, v in written["reached"].items() if n not in ("seconds", "tokens")},
        "answers": [(one.accepted, one.label_mass, one.probabilities) for one in found],
    }


async def test_a_fitted_policy_is_the_one_recorded() -> None:
    draw = random.Random(4)
    graded: list[GradedReply] = []
    for place in range(160):
        good = draw.random() < 0.6
        words = max(1, round(draw.gauss(30 if good else 12, 8)))
        reply = f"3 * {place} = {3 * place + (0 if good else draw.choice([0, 1]))}" + " so" * words
        graded.append(GradedReply(request=f"What is 3 times {place}?", reply=reply, good=good))
    made = await (Length(least=20) & Signs()).fit(graded, Guarantee(0.1, 0.9))
    judged = [await made.judge(one.request, one.reply, RunContext()) for one in graded[:12]]
    bound = made.bound.model_dump(mode="json")
    check("acceptance", {"bound": bound, "judged": [(one.score, one.accepted) for one in judged]})
