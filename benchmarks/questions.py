"""Questions about business texts: yes or no, a choice, a level: `python benchmarks/questions.py`.

A `Decider` asks all questions of a text. Beside it the same model is asked by one plain call, by a
prompt that somebody else wrote.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

from pydantic import BaseModel, create_model

import plain_call
from kept import Kept
from moa import Choice, Decider, EmbeddedEndpoint, Predicate, Score, choice, predicate, score
from moa.core.context import RunContext
from moa.core.questions import answers_in
from moa.endpoints import Message, Prompt
from moa.local.embedded import EngineSettings
from report import table, write

DATA = Path(__file__).parent / "data"
SETS = ("crafts", "offices", "households", "commerce")
KINDS = {"predicate": "yes or no", "choice": "choice", "score": "score"}
MOA, PLAIN, UNKNOWN = "moa", "plain call", "moa, unknown=True"
BUILT_IN = "built-in"
BINS = 10
MOST_TOKENS = 600
Row = dict[str, Any]

TEXT = """
## Questions about business texts

{questions} questions about {texts} business texts (letters, invoices, minutes, chats), in four sets
by four writers: numbers, dates, negations, two facts, near misses. *Moa*: a `Decider` with all
questions of a text. *Plain call*: the same model is asked all of them by a prompt that somebody
else wrote, at temperature 0, its JSON held to a schema. Shares right of the questions whose answer
the text tells; how a model is asked was chosen on two other sets. *Chance* is an option at random,
or the more frequent of yes and no.

{right}

By kind:

{kinds}

*Difference* is that of all paired questions, with its 95 % limits, by text. *AUC*: how well the
confidence tells right from wrong. *ECE*: expected calibration error. *Doubtful*: the share of
doubtful answers; beside it the share right of the others. Tokens, calls and seconds are of a text,
seconds on a machine with other work.

{trust}

{unknown}
"""
UNTOLD = """With `unknown=True`, yes-or-no questions of the texts that leave at least one open: the
share said to be unknown of the {untold} that are, and of those that aren't.

{rows}
"""


@dataclass(frozen=True, slots=True)
class Asked:
    """A question of a file; its answer is `None` where the text doesn't tell."""

    name: str
    kind: str
    text: str
    options: tuple[str, ...]
    answer: object


class One(NamedTuple):
    """What was answered to a question."""

    asked: Asked
    said: object
    confidence: float | None
    doubtful: bool

    @property
    def is_right(self) -> bool:
        return self.said == self.asked.answer


def rows_of(name: str) -> list[Row]:
    """Read a set."""
    lines = (DATA / f"questions_{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def questions_of(row: Row) -> list[Asked]:
    """Read the questions of a line, named `q1`, `q2` …"""
    return [
        Asked(
            f"q{place}",
            one["kind"],
            one["question"],
            tuple(one.get("options") or one.get("levels") or ("yes", "no")),
            one["answer"],
        )
        for place, one in enumerate(row["questions"], start=1)
    ]


def model_of(asked: Sequence[Asked], *, unknown: bool = False) -> type[BaseModel]:
    """Write them as a user does; `unknown` lets yes-or-no questions be unknown."""
    fields: dict[str, Any] = {}
    for one in asked:
        match one.kind:
            case "predicate":
                kind = Predicate[bool | None] if unknown else Predicate
                fields[one.name] = (kind, predicate(one.text, unknown=unknown))
            case "choice":
                fields[one.name] = (Choice[str], choice(one.text, labels=one.options))
            case _:
                fields[one.name] = (Score, score(one.text, levels=one.options))
    return create_model("Asked", **fields)


async def by_decider(row: Row, model: EmbeddedEndpoint, *, unknown: bool = False) -> Row:
    """Answer the questions of a text: by name, the value, its confidence, and whether in doubt."""
    agent = Decider(model, model_of(questions_of(row), unknown=unknown))
    context = RunContext()
    typed = answers_in(await agent.answer(row["text"], context))
    said = {
        name: [_value(one), None if one.confidence is None else one.confidence, one.doubtful]
        for name, one in typed.items()
    }
    return {"said": said, **_spent(context)}


def _value(answer: Predicate[bool | None] | Choice[Any] | Score) -> object:
    if isinstance(answer, Predicate):
        return answer.value
    return answer.label if isinstance(answer, Choice) else answer.level


async def by_plain_call(row: Row, model: EmbeddedEndpoint) -> Row:
    """Ask for all answers at once, by the other prompt."""
    asked: list[plain_call.Question] = [
        (one.name, one.kind, one.text, list(one.options)) for one in questions_of(row)
    ]
    messages, schema = plain_call.plain_request(row["text"], asked)
    sent = tuple(Message(**message) for message in messages)
    prompt = Prompt(messages=sent, json_schema=schema, max_tokens=MOST_TOKENS, temperature=0.0)
    context = RunContext()
    said = plain_call.read_answers((await model.complete(prompt, context)).text, asked)
    return {"said": {name: [v, None, False] for name, v in said.items()}, **_spent(context)}


def _spent(context: RunContext) -> Row:
    total = context.usage.total
    return {"tokens": total.tokens, "calls": context.usage.calls}


def leaves_open(row: Row) -> bool:
    """Return True if a yes-or-no question of the text has no answer in it."""
    return any(one.answer is None and one.kind == "predicate" for one in questions_of(row))


async def run(args: argparse.Namespace) -> Mapping[str, Any]:
    """Ask all models in all ways; keep what was found."""
    kept = Kept(args.json)
    for file in args.models:
        path = None if file == BUILT_IN else Path(file)
        settings = EngineSettings(context_window=4096, slots=1)
        name = BUILT_IN if path is None else path.stem
        async with EmbeddedEndpoint(model_path=path, settings=settings, timeout_s=1800) as model:
            for way, of in ((way, of) for way in args.ways for of in SETS):
                for row in rows_of(of):
                    key = f"{name} | {way} | {of} | {row['id']}"
                    if key in kept.found or (way == UNKNOWN and not leaves_open(row)):
                        continue
                    begun = time.perf_counter()
                    if way == PLAIN:
                        made = await by_plain_call(row, model)
                    else:
                        made = await by_decider(row, model, unknown=way == UNKNOWN)
                    kept.keep(key, made | {"seconds": time.perf_counter() - begun})
                print(f"{name}, {way}, {of}", flush=True)
    return kept.found


class Found:
    """What was found, by model, way and set."""

    def __init__(self, found: Mapping[str, Any]) -> None:
        self._made: dict[tuple[str, str, str], list[tuple[Row, Row]]] = {}
        rows = {(of, row["id"]): row for of in SETS for row in rows_of(of)}
        for key, made in found.items():
            name, way, of, place = key.split(" | ")
            self._made.setdefault((name, way, of), []).append((rows[of, place], made))
        self.models = list(dict.fromkeys(name for name, _, _ in self._made))

    def has(self, name: str, way: str) -> bool:
        """Return True if all sets were asked in this way."""
        return all((name, way, of) in self._made for of in SETS)

    def texts(self, name: str, way: str, *sets: str) -> Iterator[tuple[list[One], Row]]:
        """Return the answers of each text in these sets, with what it took."""
        for row, made in chain.from_iterable(self._made.get((name, way, of), ()) for of in sets):
            answers = [
                One(asked, *made["said"].get(asked.name, (None, None, False)))
                for asked in questions_of(row)
            ]
            yield answers, made

    def told(self, name: str, way: str, *sets: str) -> list[One]:
        """Return the answers to questions that the texts tell the answer of."""
        texts = self.texts(name, way, *sets)
        return [one for answers, _ in texts for one in answers if one.asked.answer is not None]


def report(found: Found) -> str:
    """Write the section."""
    asked = [one for of in SETS for row in rows_of(of) for one in questions_of(row)]
    ways = [(n, w) for n in found.models for w in (MOA, PLAIN) if found.has(n, w)]
    right = [["chance", *(_written(chance(rows_asked(of))) for of in SETS)]]
    right += [
        [f"{n}, {w}", *(_written(share(found.told(n, w, of))) for of in SETS)] for n, w in ways
    ]
    kinds = [
        [
            f"{n}, {w}",
            *(
                _written(share(found.told(n, w, *SETS), lambda o, k=k: o.asked.kind == k))
                for k in KINDS
            ),
        ]
        for n, w in ways
    ]
    counts = [
        sum(o.kind == k and o.answer is not None for of in SETS for o in rows_asked(of))
        for k in KINDS
    ]
    head = ["", *(f"{title} ({n})" for title, n in zip(KINDS.values(), counts, strict=True))]
    trust_head = [
        "",
        "difference",
        "AUC",
        "ECE",
        "doubtful",
        "right where not",
        "tokens",
        "calls",
        "s",
    ]
    return TEXT.format(
        questions=len(asked),
        texts=sum(len(rows_of(of)) for of in SETS),
        right=table(["", *SETS], right),
        kinds=table(head, kinds),
        trust=table(trust_head, [_trust(found, n, w, SETS) for n, w in ways]),
        unknown=_unknown(found),
    )


def rows_asked(of: str) -> list[Asked]:
    """Return all questions of a set."""
    return [one for row in rows_of(of) for one in questions_of(row)]


def chance(asked: Sequence[Asked]) -> float:
    """Share right by guessing."""
    told = [one for one in asked if one.answer is not None]
    yes = fmean(bool(one.answer) for one in told if one.kind == "predicate")
    guess = max(yes, 1 - yes)
    return fmean(guess if one.kind == "predicate" else 1 / len(one.options) for one in told)


def share(answers: Sequence[One], which: Callable[[One], bool] = lambda _: True) -> float | None:
    """Share right of some answers."""
    right = [one.is_right for one in answers if which(one)]
    return fmean(right) if right else None


def difference(found: Found, name: str, sets: Sequence[str]) -> tuple[float, float, float]:
    """Mean difference of the share right from the plain call's, with its 95 % limits, by text."""
    ours, plain = ([a for a, _ in found.texts(name, way, *sets)] for way in (MOA, PLAIN))
    by_text = [
        sum(
            o.is_right - p.is_right for o, p in zip(a, b, strict=True) if o.asked.answer is not None
        )
        for a, b in zip(ours, plain, strict=True)
    ]
    n = len(found.told(name, MOA, *sets))
    mean, error = sum(by_text) / n, stdev(by_text) * math.sqrt(len(by_text)) / n
    return mean, mean - 1.96 * error, mean + 1.96 * error


def auc(answers: Sequence[One]) -> float | None:
    """Chance that a right answer is surer than a wrong one."""
    sure = [one for one in answers if one.confidence is not None]
    right = [one.confidence or 0.0 for one in sure if one.is_right]
    wrong = [one.confidence or 0.0 for one in sure if not one.is_right]
    if not right or not wrong:
        return None
    return fmean((r > w) + (r == w) / 2 for r in right for w in wrong)


def ece(answers: Sequence[One]) -> float | None:
    """Expected calibration error, in bins of equal width."""
    sure = [(one.confidence, one.is_right) for one in answers if one.confidence is not None]
    bins: dict[int, list[tuple[float, bool]]] = {}
    for confidence, is_right in sure:
        bins.setdefault(min(int(confidence * BINS), BINS - 1), []).append((confidence, is_right))
    gaps = (abs(sum(c - r for c, r in each)) for each in bins.values())
    return sum(gaps) / len(sure) if sure else None


def _trust(found: Found, name: str, way: str, sets: Sequence[str]) -> list[str]:
    told, made = found.told(name, way, *sets), [m for _, m in found.texts(name, way, *sets)]
    gap = ""
    if way == MOA and found.has(name, PLAIN):
        mean, low, high = difference(found, name, sets)
        gap = f"{mean:+.3f} ({low:+.3f} to {high:+.3f})"
    return [
        f"{name}, {way}",
        gap,
        _written(auc(told)),
        _written(ece(told)),
        _written(fmean(one.doubtful for one in told)) if way == MOA else "",
        _written(share(told, lambda one: not one.doubtful)) if way == MOA else "",
        f"{fmean(one['tokens'] for one in made):.0f}",
        f"{fmean(one['calls'] for one in made):.1f}",
        f"{fmean(one['seconds'] for one in made):.1f}",
    ]


def _unknown(found: Found) -> str:
    rows: list[list[str]] = []
    untold: list[One] = []
    for name in found.models:
        answers = [
            one
            for texts, _ in found.texts(name, UNKNOWN, *SETS)
            for one in texts
            if one.asked.kind == "predicate"
        ]
        if answers:
            untold = [one for one in answers if one.asked.answer is None]
            told = [one for one in answers if one.asked.answer is not None]
            shares = (fmean(one.said is None for one in each) for each in (untold, told))
            rows.append([name, *map(_written, shares)])
    return UNTOLD.format(untold=len(untold), rows=table(["", "open", "told"], rows)) if rows else ""


def _written(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}".removeprefix("0")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="*", default=[BUILT_IN], help='GGUF files, or "built-in"')
    ways = (MOA, PLAIN, UNKNOWN)
    parser.add_argument("--ways", nargs="+", choices=ways, default=list(ways))
    parser.add_argument("--json", type=Path, help="keeps what was measured, and is read again")
    parser.add_argument("--no-docs", action="store_true", help="leave docs/benchmarks.md alone")
    args = parser.parse_args()
    body = report(Found(asyncio.run(run(args))))
    print(body)
    if not args.no_docs:
        write("questions", "python benchmarks/questions.py --models built-in FILE...", body)


if __name__ == "__main__":
    main()
