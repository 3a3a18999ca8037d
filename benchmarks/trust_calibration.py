"""Calibration: what 512 labels bring, and whether the promise is kept on the rows after them."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kept import Kept
from moa import EmbeddedEndpoint
from moa.core.questions import Option, Question
from moa.decisions.calibrated import CalibratedDecider
from moa.decisions.features import sources_of
from moa.decisions.file import Calibration, Candidate
from moa.evals.measuring import Evaluation, evaluate
from moa.learning.fit import calibrate
from moa.learning.labelled import Labelled
from report import table, write
from saying import Said

SECTION = "calibration"


class Target(NamedTuple):
    """A set, its question, how many rows are labels, and what is to be reached."""

    name: str
    question: str
    labels: int
    accuracy: float
    macro_f1: float | None = None
    coverage: float | None = None
    minutes: float = 10
    """That calibrating may take on two quiet cores."""


SENTIMENT, INTENT = "What is the sentiment of the text?", "What does the customer want?"
TARGETS = (
    Target("sentiment2_movie", SENTIMENT, 512, 0.84, coverage=0.45),
    Target("sms_spam", "Is this message spam?", 512, 0.97, 0.93, 0.95),
    Target("intent_banking10", INTENT, 512, 0.975, coverage=0.95),
    Target("sentiment3_movie", SENTIMENT, 512, 0.62, 0.58),
    Target("intent_banking77", INTENT, 1001, 0.84, coverage=0.40, minutes=20),
)
HEAD = (
    "set",
    "labels",
    "scorer",
    "n",
    "accuracy",
    "macro F1",
    "ECE",
    "coverage",
    "wrong of the accepted",
    "ms a decision",
    "tokens",
    "minutes to calibrate",
)
TEXT = """
## Calibration

`moa learn` on the first rows of a set, at 5 % risk and 95 % confidence, on the embedded model;
figures are on the rows after them. A half of the labels, or eight in ten from 100 a label on,
is held out for the promise. BANKING77 has
no rows left over: its accuracy is by cross-validation on all, its coverage and risk are on the half
that is held out."""


def run(data: Path, kept: Kept, names: Sequence[str], *, few: int | None = None) -> None:
    """Calibrate on each set whose figures aren't in `kept` yet, and write the section.

    Args:
        data: Folder of the sets.
        kept: What was found before.
        names: Of the sets to measure.
        few: A trial on so many labels and so many further rows, without a limit of time, that
            prints the section and writes no page.
    """
    wanted = [target for target in TARGETS if target.name in names]
    if few is not None:
        wanted = [target._replace(labels=few) for target in wanted]
    for target in wanted:
        if (name := _figures(target)) not in kept.found:
            kept.keep(name, asyncio.run(_measured(target, data, kept, few)))
    shown = TARGETS if few is None else wanted
    found = [(target, kept.found.get(_figures(target))) for target in shown]
    rows = [_row(target, figures) for target, figures in found]
    goals = [goal for target, figures in found for goal in _goals(target, figures)]
    body = "\n\n".join((TEXT, table(HEAD, rows), table(("goal", "measured", "target", ""), goals)))
    if few is not None:
        print(body)
        return
    write(SECTION, "python benchmarks/trust.py --data DIR --steps calibration", body)


def _figures(target: Target) -> str:
    return f"{SECTION}: {target.name}, {target.labels} labels"


async def _measured(target: Target, data: Path, kept: Kept, few: int | None) -> dict[str, Any]:
    rows = _rows(target, data)
    labels = sorted({row.label for row in rows})
    options = tuple(Option(label, label) for label in labels)
    question = Question("label", "choice", target.question, options)
    calibrated_as = f"{_figures(target)}: the file"
    async with EmbeddedEndpoint() as endpoint:
        if calibrated_as not in kept.found:
            started = time.perf_counter()
            made = await calibrate(
                endpoint,
                question,
                rows[: target.labels],
                limit_s=None if few is None else math.inf,
                progress=Said(target.name),
            )
            minutes = (time.perf_counter() - started) / 60
            file = made.model_dump(mode="json")
            kept.keep(calibrated_as, {"minutes": minutes, "file": file})
        before = kept.found[calibrated_as]
        made = Calibration.model_validate(before["file"])
        for line in (*(_tried(one) for one in made.candidates), *made.notes, made.origin):
            print(f"{target.name}: {line}")
        print(f"{target.name}: {made.proof.bound.summary}", flush=True)
        rest = rows[target.labels :][:few]
        report = (
            await evaluate(
                CalibratedDecider(made, question, sources_of(endpoint)),
                rest,
                progress=Said(target.name),
            )
            if rest
            else _by_itself(made)
        )
    scorer = " + ".join(feature.name for feature in made.features)
    return {"scorer": scorer, "minutes": before["minutes"], **report.model_dump()}


def _rows(target: Target, data: Path) -> list[Labelled]:
    lines = (data / target.name / "dev.jsonl").read_text(encoding="utf-8").splitlines()
    return [Labelled(text=row["text"], label=row["label"]) for row in map(json.loads, lines)]


def _tried(one: Candidate) -> str:
    return (
        f"{one.name}: accuracy {one.accuracy:.3f}, macro F1 {one.macro_f1:.3f}, ECE {one.ece:.3f}, "
        f"acceptable {one.coverage:.3f}, "
        f"{1000 * one.seconds:.0f} ms, {one.tokens:.0f} tokens"
    )


def _by_itself(made: Calibration) -> Evaluation:
    bound, data, reached = made.proof
    return Evaluation(
        n=data.rows,
        accuracy=reached.accuracy,
        macro_f1=reached.macro_f1,
        ece=reached.ece,
        ece_by_chance=reached.ece_by_chance or 0.0,
        coverage=bound.coverage,
        risk=bound.errors / bound.accepted if bound.accepted else None,
        tokens_per_decision=reached.tokens,
        seconds_per_decision=reached.seconds,
    )


def _row(target: Target, found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return [f"`{target.name}`", str(target.labels), *["not measured yet"] * (len(HEAD) - 2)]
    return [
        f"`{target.name}`",
        str(target.labels),
        found["scorer"],
        str(found["n"]),
        *(f"{found[key]:.3f}" for key in ("accuracy", "macro_f1", "ece", "coverage")),
        "-" if found["risk"] is None else f"{found['risk']:.3f}",
        f"{1000 * found['seconds_per_decision']:.0f}",
        f"{found['tokens_per_decision']:.0f}",
        f"{found['minutes']:.1f}",
    ]


def _goals(target: Target, found: dict[str, Any] | None) -> list[list[str]]:
    goals: list[tuple[str, float | None]] = [
        ("accuracy", target.accuracy),
        ("macro_f1", target.macro_f1),
        ("coverage", target.coverage),
    ]
    lines: list[list[str]] = []
    for key, least in goals:
        if least is None:
            continue
        name = f"`{target.name}`, {key.replace('_', ' ')}"
        if found is None:
            lines.append([name, "-", f"at least {least}", "not measured yet"])
            continue
        verdict = "reached" if found[key] >= least else "**missed**"
        lines.append([name, f"{found[key]:.3f}", f"at least {least}", verdict])
    if found is not None:
        if (risk := found["risk"]) is None:
            seen, kept = "-", "nothing is accepted"
        else:
            seen, kept = f"{risk:.3f}", "reached" if risk <= 0.05 else "**missed**"
        lines.append([f"`{target.name}`, risk", seen, "at most 0.05", kept])
        in_time = "reached" if found["minutes"] <= target.minutes else "**missed**"
        limit = f"at most {target.minutes:g}"
        lines.append([f"`{target.name}`, minutes", f"{found['minutes']:.1f}", limit, in_time])
    return lines
