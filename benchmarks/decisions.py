"""What the default decision agent reaches: `python benchmarks/decisions.py --data DIR`.

Each set is split: labelled examples are drawn from its first 400 rows, on which the constants of
the method were chosen too, and everything is reported on the 500 rows after them. Beside it stand
the same model writing its label as JSON, and `sparrow-decider`, a decision model of 2 MB.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import random
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import create_model

from moa import Classifier, Extractor, RunContext
from moa.core.errors import MoaError
from moa.decisions.features import LabelFeature
from moa.endpoints import Endpoint, Example
from moa.endpoints.wrappers import Cached
from moa.learning import reader
from report import table, write
from support_reading import Alone

CHOSEN_ON = 400
REPORTED = 500
WRITTEN = 200
DRAWS, LABELS = 5, 32
STEPS = ("no_labels", "written", "labels", "speed")
AT_ONCE = 4


class Task(NamedTuple):
    """A set, the question it answers, and what is to be reached without labels and with 32."""

    question: str
    targets: tuple[float | None, float | None]
    aims: tuple[float | None, float | None]


SENTIMENT = Task("What is the sentiment of the text?", (0.80, 0.82), (0.87, 0.87))
TASKS = {
    "sentiment2_movie": SENTIMENT,
    "sentiment2_tweets": SENTIMENT,
    "sentiment2_amazon": SENTIMENT,
    "sms_spam": Task("Is this message spam?", (None, 0.90), (None, 0.95)),
    "intent_banking10": Task("What does the customer want?", (None, None), (None, None)),
}
Row = dict[str, Any]


class Found(NamedTuple):
    """What a method reached on one set."""

    accuracy: float
    macro_f1: float
    ece: float
    fresh_tokens: float
    """Tokens of a decision that the server had not cached, output included."""


def rows_of(data: Path, name: str) -> list[Row]:
    path = data / name / "dev.jsonl"
    if not path.exists():
        raise SystemExit(f"{path} is not there: give the folder of the sets by --data or $MOA_DATA")
    return [json.loads(line) for line in path.read_text().splitlines()]


def scored(
    rows: Sequence[Row],
    labels: Sequence[str],
    found: Sequence[tuple[str | None, float | None]],
    fresh: float,
) -> Found:
    right = np.array([label == row["label"] for (label, _), row in zip(found, rows, strict=True)])
    f1: list[float] = []
    for label in labels:
        true = sum(row["label"] == label for row in rows)
        said = sum(given == label for given, _ in found)
        both = sum(
            given == label == row["label"] for (given, _), row in zip(found, rows, strict=True)
        )
        f1.append(2 * both / (true + said) if true + said else 0.0)
    sure = np.array([confidence or 0.0 for _, confidence in found])
    bins = np.minimum((sure * 10).astype(int), 9)
    ece = sum(
        abs(sure[bins == b].mean() - right[bins == b].mean()) * (bins == b).mean()
        for b in np.unique(bins)
    )
    known = all(confidence is not None for _, confidence in found)
    return Found(float(right.mean()), float(np.mean(f1)), float(ece) if known else -1.0, fresh)


def views_of(agent: Classifier[Any]) -> int:
    """How often the model reads a text for one decision."""
    read = [feature for made in agent.calibrations.values() for feature in made.features]
    return sum(len(f.prompt_variants) for f in read if isinstance(f, LabelFeature)) or 1


async def decided(
    agent: Classifier[str], rows: Sequence[Row]
) -> tuple[list[tuple[str | None, float | None]], float]:
    """Decide on all rows; also the tokens a decision took that no cache had."""
    found: list[tuple[str | None, float | None]] = [(None, None)] * len(rows)
    context = RunContext(keep_notes=False)
    left = iter(enumerate(rows))

    async def work() -> None:
        for place, row in left:
            answer = (await agent.run(row["text"], context)).output
            found[place] = (answer.label, answer.confidence)

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    total = context.usage.total
    calls = max(1, total.calls)
    fresh = (total.input_tokens - total.cached_input_tokens + total.output_tokens) / calls
    views = views_of(agent)
    return found, fresh * views


async def written(
    endpoint: Endpoint, task: Task, labels: Sequence[str], rows: Sequence[Row]
) -> tuple[Found, float]:
    """The same model writes the label as JSON, held to the schema; and decisions per second."""
    model = create_model("Label", label=(Literal[tuple(labels)], ...))
    agent = Extractor(
        endpoint, model, instructions=f"{task.question} Answer with one of: {', '.join(labels)}."
    )
    found: list[tuple[str | None, float | None]] = []
    start, tokens = time.perf_counter(), 0
    for row in rows:
        try:
            result = await agent.run(row["text"])
            found.append((result.output.model_dump()["label"], None))
            total = result.usage.total
            tokens += total.input_tokens - total.cached_input_tokens + total.output_tokens
        except MoaError:
            found.append((None, None))
    speed = len(rows) / (time.perf_counter() - start)
    return scored(rows, labels, found, tokens / len(rows)), speed


def sparrow(task: Task, labels: Sequence[str], rows: Sequence[Row]) -> tuple[Found, float] | None:
    """`sparrow-decider` zero-shot, and decisions per second; `None` where it isn't installed."""
    try:
        from sparrow_decider import Decider
    except ImportError:
        print("skipped sparrow-decider: not installed (pip install 'mixture-of-agents[bench]')")
        return None
    model = Decider.load()
    question = {
        "q": {"type": "choice", "instructions": task.question, "criteria": dict.fromkeys(labels)}
    }
    found: list[tuple[str | None, float | None]] = []
    start = time.perf_counter()
    for row in rows:
        answer: Any = model.ask(row["text"], question)["q"]
        label = str(answer["choice"])
        found.append((label, float(answer["probabilities"][label])))
    speed = len(rows) / (time.perf_counter() - start)
    return scored(rows, labels, found, 0.0), speed


class Bench:
    """One set, measured a step at a time, so that a run can be stopped and resumed."""

    def __init__(self, data: Path, name: str, slm: Endpoint) -> None:
        rows = rows_of(data, name)
        self.name, self.task, self.slm = name, TASKS[name], slm
        self.chosen_on = rows[:CHOSEN_ON]
        self.rest = rows[CHOSEN_ON : CHOSEN_ON + REPORTED]
        self.labels = sorted({row["label"] for row in rows})
        self.texts = [row["text"] for row in self.rest]
        # The views that draws have in common are read once.
        self.agent = Classifier(
            Cached(slm, size=100_000),
            self.labels,
            task=self.task.question,
            none=False,
            name="label",
        )

    async def without_labels(self, report: dict[str, Any]) -> None:
        fair = await self.agent.adapt(unlabelled=self.texts)
        found, fresh = await decided(fair, self.rest)
        report["n"] = len(self.rest)
        report["no_labels"] = scored(self.rest, self.labels, found, fresh)._asdict()

    async def beside(self, report: dict[str, Any]) -> None:
        rows = self.rest[:WRITTEN]
        alone, report["written_per_s"] = await written(self.slm, self.task, self.labels, rows)
        report["written"] = alone._asdict()
        peer = sparrow(self.task, self.labels, self.rest)
        if peer is not None:
            report["sparrow"], report["sparrow_per_s"] = peer[0]._asdict(), peer[1]

    async def with_labels(self, report: dict[str, Any]) -> None:
        draw = len(report.setdefault("labels", []))
        shown = random.Random(draw).sample(self.chosen_on, LABELS)
        labelled = [Example(row["text"], {"label": row["label"]}) for row in shown]
        fitted = await self.agent.adapt(labelled=labelled, unlabelled=self.texts)
        found, fresh = await decided(fitted, self.rest)
        report["labels"].append(scored(self.rest, self.labels, found, fresh)._asdict())


async def speeds(data: Path, slm: Endpoint) -> dict[str, dict[str, float]]:
    """Decisions per second of the ready agent on film reviews, nothing cached before."""
    rows = rows_of(data, "sentiment2_movie")
    found: dict[str, dict[str, float]] = {}
    agent = Classifier(
        slm, ["negative", "positive"], task=SENTIMENT.question, none=False, name="label"
    )
    texts = [row["text"] for row in rows[CHOSEN_ON : CHOSEN_ON + 64]]
    shown = [Example(r["text"], {"label": r["label"]}) for r in rows[:LABELS]]
    ready = {
        "not fitted": agent,
        "no labels": await agent.adapt(unlabelled=texts),
        "32 labels": await agent.adapt(labelled=shown, unlabelled=texts),
    }
    for name, fitted in ready.items():
        start = time.perf_counter()
        _, fresh = await decided(fitted, rows[CHOSEN_ON + 100 : CHOSEN_ON + 200])
        found[name] = {
            "per_s": 100 / (time.perf_counter() - start),
            "fresh_tokens": fresh,
            "views": views_of(fitted),
        }
    return found


NOT_YET = "not measured yet"


def shown(found: dict[str, float] | None) -> str:
    if found is None:
        return NOT_YET
    ece = "-" if found["ece"] < 0 else f"{found['ece']:.2f}"
    return f"{found['accuracy']:.3f} / {found['macro_f1']:.3f} / {ece}"


def middle(draws: Sequence[dict[str, float]]) -> str:
    if not draws:
        return NOT_YET
    values = {k: median(d[k] for d in draws) for k in ("accuracy", "macro_f1", "ece")}
    low, high = (f(d["accuracy"] for d in draws) for f in (min, max))
    return f"{shown(values)} ({low:.3f} to {high:.3f}, {len(draws)} draws)"


def goals(name: str, found: dict[str, Any]) -> list[list[str]]:
    task = TASKS[name]
    draws = found.get("labels", [])
    reached = (
        found["no_labels"]["accuracy"] if "no_labels" in found else None,
        median(d["accuracy"] for d in draws) if draws else None,
    )
    rows: list[list[str]] = []
    for what, value, target, aim in zip(
        ("no labels", f"{LABELS} labels"), reached, task.targets, task.aims, strict=True
    ):
        if target is None or aim is None:
            continue
        if value is None:
            verdict = NOT_YET
        else:
            verdict = "aim" if value >= aim else "target" if value >= target else ""
            verdict = f"{verdict} reached" if verdict else "**missed**"
        measured = "-" if value is None else f"{value:.3f}"
        rows.append([f"`{name}`, {what}", measured, f"{target}", f"{aim}", verdict])
    return rows


def costs(movie: dict[str, Any], speed: dict[str, dict[str, float]]) -> list[list[str]]:
    ours = [
        (f"{name}: {found['views']:.0f} view(s)", found["per_s"], found["fresh_tokens"])
        for name, found in speed.items()
    ]
    beside = [("writes JSON", movie["written_per_s"], movie["written"]["fresh_tokens"])]
    if "sparrow_per_s" in movie:
        beside.append(("`sparrow-decider`", movie["sparrow_per_s"], 0.0))
    return [[name, f"{per_s:.1f}", f"{tokens:.0f}"] for name, per_s, tokens in ours + beside]


def section(sets: dict[str, Any], speed: dict[str, dict[str, float]] | None) -> str:
    quality = [
        [
            f"`{name}`",
            found.get("n", REPORTED),
            shown(found.get("no_labels")),
            middle(found.get("labels", [])),
            shown(found.get("written")),
            shown(found.get("sparrow")),
        ]
        for name, found in sets.items()
    ]
    reached = [row for name, found in sets.items() for row in goals(name, found)]
    movie = sets["sentiment2_movie"]
    cost = ""
    if speed is not None:
        head = ["film reviews", "decisions/s", "uncached tokens a decision"]
        cost = table(head, costs(movie, speed))
    return f"""## Decisions

`Classifier` on the embedded model, SmolLM2-135M-Instruct Q4_1, without the encoder that stands
beside it by default ([models](#models) has both). Cells are accuracy / macro F1 / expected
calibration error (10 bins). Labelled examples are drawn from the first {CHOSEN_ON} rows of a set,
on which the method's constants were chosen; all figures are on the rows after them. With {LABELS}
labels: medians over random draws, and the range of accuracy. Writing JSON: the same model,
zero-shot, held to the schema while decoding, on the first {WRITTEN} of those rows; it has no
confidence. No words and no examples of any of these tasks are built in.

{table(["set", "n", "no labels", f"{LABELS} labels", "writes JSON", "`sparrow-decider`"], quality)}

{table(["goal, accuracy", "measured", "target", "aim", ""], reached)}

{cost}
"""


async def run(args: argparse.Namespace) -> None:
    reader._LEAST_S = math.inf  # on a slow machine readings were left out
    kept = Path(args.resume) if args.resume else None
    done: dict[str, Any] = json.loads(kept.read_text()) if kept and kept.exists() else {}
    sets: dict[str, Any] = done.setdefault("sets", {})

    def keep(name: str, step: str) -> None:
        print(f"{name}, {step}", flush=True)
        if kept:
            kept.write_text(json.dumps(done))

    async with Alone() as slm:  # of the encoder there is benchmarks/encoder.py
        benches = {name: Bench(Path(args.data), name, slm) for name in args.sets}
        for key in args.steps:
            for name, bench in benches.items():
                report = sets.setdefault(name, {})
                if key in ("no_labels", "written") and key not in report:
                    await (bench.without_labels if key == "no_labels" else bench.beside)(report)
                    keep(name, f"{key}: {report[key]}")
                while key == "labels" and len(report.get("labels", [])) < args.draws:
                    await bench.with_labels(report)
                    keep(name, f"draw of labels: {report['labels'][-1]}")
        if "speed" in args.steps and "speed" not in done:
            done["speed"] = await speeds(Path(args.data), slm)
            keep("speed", str(done["speed"]))
    body = section({name: sets.get(name, {}) for name in TASKS}, done.get("speed"))
    print(body)
    if not args.no_docs:
        write("decisions", "python benchmarks/decisions.py --data DIR", body)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=os.environ.get("MOA_DATA"), help="folder of the sets")
    parser.add_argument("--sets", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--steps", nargs="*", default=list(STEPS), choices=STEPS)
    parser.add_argument("--draws", type=int, default=DRAWS, help="draws of labels a set")
    parser.add_argument("--resume", help="file that keeps finished sets, and is read again")
    parser.add_argument("--no-docs", action="store_true", help="leave docs/benchmarks.md alone")
    args = parser.parse_args()
    if not args.data:
        raise SystemExit("give the folder of the sets by --data DIR or $MOA_DATA")
    asyncio.run(run(args))


if __name__ == "__main__":
    main()
