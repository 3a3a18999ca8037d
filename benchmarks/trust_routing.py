"""Routing: what a router and a cascade recover on rows that took no part in fitting them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from math import log1p
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any, NamedTuple

import numpy as np

from kept import Kept
from moa.core.errors import InputError
from moa.core.numbers import NUMBER
from moa.decisions.regression import folds
from moa.routing.evaluation import RANDOM, Figures, evaluate_routing
from moa.routing.fitting import fit_router
from moa.routing.recorded import RecordedRequest, prompt_features
from report import table, write

SECTION = "routing"
_CALCULATOR = re.compile(r"<<([^<>]{1,200})>>")
_UNFINISHED = re.compile(r"<<[^<>]*$")
_OPTION = re.compile(r"\n(?=\(?[A-J][.)] )")
_CLOSING = re.compile(r"\n\s*Answer:?\s*$", re.IGNORECASE)
_JUDGED = re.compile(r"(?:true|false|wrong|not wrong|yes|no)\b", re.IGNORECASE)
_NUMERIC = re.compile(r"[-$\d.,/%^*() ]*\d[-$\d.,/%^*() ]*\w{0,8}\.?")
_ALL = re.compile(r"\b(?:all|none) of\b|\bboth\b|\bneither\b", re.IGNORECASE)
_WORDING = {
    "negated": re.compile(r"\b(?:not|except|least|false|incorrect)\b", re.IGNORECASE),
    "statements": re.compile(r"\bstatements?\b", re.IGNORECASE),
    "following": re.compile(r"\bfollowing\b", re.IGNORECASE),
    "which": re.compile(r"\bwhich\b", re.IGNORECASE),
}
DEALS, PARTS = 2, 5


class Target(NamedTuple):
    """A set, what is looked at, and the APGR to be reached."""

    name: str
    data: str
    replies: bool
    fields: bool
    published: float
    """The best router's APGR in RouteLLM's paper."""
    least: float | None = None
    aim: float | None = None

    @property
    def options(self) -> bool:
        """Whether its questions have options to choose from."""
        return self.data == "routing_mmlu"


TARGETS = (
    Target("GSM8K, cascade", "routing_gsm8k", True, False, 0.622, 0.80, 0.85),
    Target("GSM8K, prompt alone", "routing_gsm8k", False, False, 0.622),
    Target("MMLU, prompt and subject", "routing_mmlu", False, True, 0.603, 0.61, 0.65),
    Target("MMLU, prompt alone", "routing_mmlu", False, False, 0.603),
)
HEAD = (
    "set",
    "n",
    "weak, strong",
    "APGR",
    "95 % interval",
    "CPT(50%)",
    "CPT(80%)",
    "RouteLLM's best APGR",
    "oracle",
)
TEXT = f"""
## Routing

`moa route fit` on RouteLLM's recorded answers of Mixtral 8x7B (weak) and GPT-4 (strong): each row
is scored by a router fitted on the other four fifths of the rows, everything in it chosen there
({DEALS} deals of {PARTS} parts, means; the interval is of the first deal, by bootstrap over rows).
APGR is the area under the part of the quality gap recovered over the share of strong calls, CPT(x)
the share of strong calls that recovers x: by chance .500, 50 % and 80 %. RouteLLM's figures are the
best of its routers on the whole sets (Ong et al. 2024, arXiv 2406.18665; none was fitted on these
sets, and the area is taken as the mean over ten shares). The oracle knows both answers; above 1 it
also knows where the weak model alone is right. A cascade pays for the weak model's answer first.
Replies in the form of GSM8K (`<<3*4=12>>`, `####`) are first written in plain words, and
rows of MMLU bring the form of their options and their wording as `features`. The features were made
while looking at the GSM8K rows, so on fresh rows expect a little less. Where
`moa route fit` refuses a part, its rows are ranked alike and answered by the weak model."""


def run(data: Path, kept: Kept) -> None:
    """Measure each target that isn't in `kept` yet, and write the section."""
    for target in TARGETS:
        name = f"{SECTION}: {target.name}"
        deals: list[Any] = kept.found.get(name, [])
        while len(deals) < DEALS:
            deals.append(_measured(target, data, len(deals)))
            kept.keep(name, deals)
            print(f"{target.name}: {deals[-1]}", flush=True)
    measured = [kept.found[f"{SECTION}: {target.name}"] for target in TARGETS]
    rows = [_row(target, deals) for target, deals in zip(TARGETS, measured, strict=True)]
    kinds = [_thresholds(target, deals) for target, deals in zip(TARGETS, measured, strict=True)]
    goals = [
        _goal(target, deals)
        for target, deals in zip(TARGETS, measured, strict=True)
        if target.least is not None
    ]
    chosen = ("set", "chosen for 80 % of the gap: strong calls", "gap recovered", "most weight")
    body = "\n\n".join(
        (
            TEXT,
            table(HEAD, rows),
            table(chosen, kinds),
            table(("goal, APGR", "measured", "target", "aim", ""), goals),
        )
    )
    write(SECTION, "python benchmarks/trust.py --data DIR --steps routing", body)


def _measured(target: Target, data: Path, deal: int) -> dict[str, Any]:
    rows = _rows(target, data)
    weak, strong = [r.weak_correct for r in rows], [r.strong_correct for r in rows]
    gains = np.array([row.gain + 1 for row in rows])
    dealt = folds([row.case.prompt for row in rows], gains, PARTS, seed=1000 + deal)
    scores, chosen = np.zeros(len(rows)), np.zeros(len(rows), dtype=bool)
    weights: dict[str, float] = {}
    for part in range(PARTS):
        out = np.flatnonzero(dealt == part)
        inside = [row for row, held in zip(rows, dealt == part, strict=True) if not held]
        try:
            router = fit_router(inside)
        except InputError:  # refused: all rows of the part are alike, and go to the weak model
            scores[out] = np.mean([row.gain for row in inside])
            continue
        scores[out] = router.gains([rows[place].case for place in out])
        chosen[out] = scores[out] >= router.threshold
        for candidate in router.candidates:
            weights[candidate.name] = weights.get(candidate.name, 0) + candidate.weight / PARTS
    report = evaluate_routing(scores, weak, strong)
    quality = np.where(chosen, strong, weak).mean()
    gap = report.strong_quality - report.weak_quality
    return {
        "n": report.n,
        "weak": report.weak_quality,
        "strong": report.strong_quality,
        **report.model_dump(include=set(Figures.model_fields)),
        "interval": report.apgr_interval,
        "oracle": report.oracle.apgr,
        "chosen_share": float(chosen.mean()),
        "chosen_recovered": float((quality - report.weak_quality) / gap),
        "weights": weights,
    }


def _rows(target: Target, data: Path) -> list[RecordedRequest]:
    path = data / target.data / "dev.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    looked_at = {"prompt", "weak_correct", "strong_correct"}
    looked_at |= {"weak_response"} if target.replies else set()
    looked_at |= {"subject"} if target.fields else set()
    rows = [{k: v for k, v in json.loads(line).items() if k in looked_at} for line in lines]
    for row in rows:
        if target.replies:
            row["weak_response"] = in_plain_words(row["weak_response"])
        if target.options:
            row["features"] = form_of(row["prompt"])
    return [RecordedRequest.model_validate(row) for row in rows]


def in_plain_words(reply: str) -> str:
    """Write a reply in the form of GSM8K as people do.

    The sums of its calculator, `<<3*4=12>>`, open their line, and `####` is "The answer is".
    """
    lines = reply.replace("####", "The answer is").split("\n")
    return "\n".join(map(_without_calculator, lines))


def _without_calculator(line: str) -> str:
    sums = "".join(f"{one}; " for one in _CALCULATOR.findall(line))
    return sums + _UNFINISHED.sub(" ", _CALCULATOR.sub("", line))


def form_of(prompt: str) -> dict[str, float]:
    """Describe a question of MMLU by its form: its options, and how it is worded before them."""
    stem, *parts = _OPTION.split(_CLOSING.sub("", prompt))
    options, shown = [part[3:].strip() for part in parts], prompt_features(stem)
    sizes = [len(option) for option in options] or [0]
    return {
        **{name: shown[name] for name in ("sentences", "lines", "questions", "capitals")},
        "stem characters": shown["characters"],
        "stem figures": shown["figures"],
        "blank": float("__" in stem),
        "options": float(len(options)),
        "options characters": log1p(sum(sizes)),
        "longest option": float(max(sizes)),
        "options words": fmean(len(option.split()) for option in options) if options else 0.0,
        "options spread": pstdev(sizes),
        "options with figures": float(sum(bool(NUMBER.search(option)) for option in options)),
        "numeric options": float(sum(bool(_NUMERIC.fullmatch(option)) for option in options)),
        "judged options": float(sum(bool(_JUDGED.match(option)) for option in options)),
        "all or none": float(bool(_ALL.search(prompt))),
        **{name: float(bool(found.search(stem))) for name, found in _WORDING.items()},
    }


def _mean(deals: Sequence[dict[str, Any]], name: str) -> float:
    return float(np.mean([deal[name] for deal in deals]))


def _row(target: Target, deals: Sequence[dict[str, Any]]) -> list[str]:
    first = deals[0]
    low, high = first["interval"]
    return [
        target.name,
        str(first["n"]),
        f"{first['weak']:.3f}, {first['strong']:.3f}",
        f"{_mean(deals, 'apgr'):.3f}",
        f"{low:.3f} to {high:.3f}",
        f"{_mean(deals, 'cpt50'):.1%}",
        f"{_mean(deals, 'cpt80'):.1%}",
        f"{target.published:.3f}",
        f"{first['oracle']:.3f}",
    ]


def _thresholds(target: Target, deals: Sequence[dict[str, Any]]) -> list[str]:
    weights = deals[0]["weights"]
    best = max(weights, key=lambda name: weights[name])
    return [
        target.name,
        f"{_mean(deals, 'chosen_share'):.1%}",
        f"{_mean(deals, 'chosen_recovered'):.1%}",
        f"{best} ({weights[best]:.2f})",
    ]


def _goal(target: Target, deals: Sequence[dict[str, Any]]) -> list[str]:
    apgr = _mean(deals, "apgr")
    least, aim = target.least or RANDOM.apgr or 0.0, target.aim or 1.0
    said = "aim reached" if apgr >= aim else "target reached" if apgr >= least else "**missed**"
    return [target.name, f"{apgr:.3f}", f"{least:.2f}", f"{aim:.2f}", said]
