"""Calibration: what 512 labels bring, and whether the promise is kept on the rows after them."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from moa import EmbeddedEndpoint
from moa.calibration import Calibration
from moa.calibration.calibrated import Calibrated
from moa.calibration.calibrating import calibrate
from moa.calibration.checking import Evaluation, evaluate
from moa.calibration.labelled import Labelled
from moa.calibration.sources import sources_of
from moa.questions import Option, Question
from report import table, write

SECTION = "calibration"


class Target(NamedTuple):
    """A set, its question, how many rows are labels, and what is to be reached."""

    name: str
    question: str
    labels: int
    accuracy: float
    macro_f1: float | None = None
    coverage: float | None = None


SENTIMENT, INTENT = "What is the sentiment of the text?", "What does the customer want?"
TARGETS = (
    Target("sentiment2_movie", SENTIMENT, 512, 0.84, coverage=0.45),
    Target("sms_spam", "Is this message spam?", 512, 0.97, 0.93, 0.95),
    Target("intent_banking10", INTENT, 512, 0.975, coverage=0.95),
    Target("sentiment3_movie", SENTIMENT, 512, 0.62, 0.58),
    Target("intent_banking77", INTENT, 1001, 0.84, coverage=0.40),
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
)
TEXT = """
## Calibration

`moa calibrate` on the first rows of a set, at 5 % risk and 95 % confidence, on the embedded model;
figures are on the rows after them. Half of the labels are held out for the promise. BANKING77 has
no rows left over: its accuracy is by cross-validation on all, its coverage and risk are on the half
that is held out."""


def run(data: Path, kept: Path, names: list[str]) -> None:
    """Calibrate on each set that isn't in `kept` yet, and write the section."""
    found: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    for target in TARGETS:
        if target.name in names and target.name not in found:
            found[target.name] = asyncio.run(_measured(target, data))
            kept.write_text(json.dumps(found, indent=2))
    rows = [_row(target, found.get(target.name)) for target in TARGETS]
    goals = [goal for target in TARGETS for goal in _goals(target, found.get(target.name))]
    body = "\n\n".join((TEXT, table(HEAD, rows), table(("goal", "measured", "target", ""), goals)))
    write(SECTION, "python benchmarks/trust.py --data DIR --steps calibration", body)


async def _measured(target: Target, data: Path) -> dict[str, Any]:
    lines = (data / target.name / "dev.jsonl").read_text().splitlines()
    rows = [Labelled(text=row["text"], label=row["label"]) for row in map(json.loads, lines)]
    labels = sorted({row.label for row in rows})
    question = Question(
        "label", "choice", target.question, tuple(Option(label, label) for label in labels)
    )
    async with EmbeddedEndpoint() as endpoint:
        made = await calibrate(
            endpoint,
            question,
            rows[: target.labels],
            progress=lambda name, done, total: print(
                f"\r{target.name}: {name} {done}/{total}    ", end="", flush=True
            ),
        )
        made.save(f"{os.environ.get('TMPDIR', '/tmp')}/{target.name}.json")
        print(f"\n{target.name}: {made.chosen}\n{made.bound.summary}")
        calibrated = Calibrated(made, question, sources_of(endpoint))
        rest = rows[target.labels :]
        report = await evaluate(calibrated, rest) if rest else _by_itself(made)
    scorer = " + ".join(member.name for member in made.members)
    return {"scorer": scorer, **report.model_dump()}


def _by_itself(made: Calibration) -> Evaluation:
    bound, reached = made.bound, made.reached
    return Evaluation(
        n=made.data.rows,
        accuracy=reached.accuracy,
        macro_f1=reached.macro_f1,
        ece=reached.ece,
        coverage=bound.coverage,
        risk=bound.errors / bound.accepted if bound.accepted else 0.0,
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
        *(f"{found[key]:.3f}" for key in ("accuracy", "macro_f1", "ece", "coverage", "risk")),
        f"{1000 * found['seconds_per_decision']:.0f}",
        f"{found['tokens_per_decision']:.0f}",
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
        kept = "reached" if found["risk"] <= 0.05 else "**missed**"
        lines.append([f"`{target.name}`, risk", f"{found['risk']:.3f}", "at most 0.05", kept])
    return lines
