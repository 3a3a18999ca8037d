"""Measures questions about business texts: yes or no, a choice, a level.

Every text goes through one `Decider` that is made of its questions. Beside it the same model is
asked all of them in one chat prompt, to be answered as JSON. Constants and wording are chosen on
`questions_trade.jsonl`, and reported on `questions_services.jsonl`.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import BaseModel, create_model

from kept import Kept
from moa import Choice, Decider, EmbeddedEndpoint, Predicate, Score, choice, predicate, score
from moa.core.context import RunContext
from moa.core.errors import MoaError
from moa.core.questions import Answer, Question, answers_in
from moa.core.usage import NOTHING
from moa.endpoints import Completion, Decision, Example, Prompt
from moa.endpoints.rehearsal import rehearse
from moa.endpoints.wrappers import Wrapping
from moa.local.embedded import EngineSettings
from report import table, write

DATA = Path(__file__).parent / "data"
HALVES = {"trade": "questions_trade.jsonl", "services": "questions_services.jsonl"}
WINDOW = 4096
KINDS = ("predicate", "choice", "score")
TRICKS = ("number", "negation", "two facts", "plain")
_TRICK = re.compile(r"\bq(\d+)\s+\[?(number|negation|two facts|unknown)\b")
UNKNOWN = "moa, unknown=True"
WAYS = ("moa", "model alone", "one chat prompt", UNKNOWN)
Row = dict[str, Any]

TEXT = """
What questions about business texts are answered by: {questions} questions about {texts} texts
(leases, complaints, invoices, minutes …) in nine languages. Each text goes through one `Decider`
of its questions. *Model alone*: without the encoder that stands beside models in this process.
*One chat prompt*: the same model is asked all questions of a text at once, at temperature 0, and
its JSON is held to a schema. *Constant*: always the more frequent of yes and no; of options, one
at random. *Doubtful* is a share of the yes-or-no answers; beside it how many of the others are
right. Seconds and prompt tokens that no cache held are those of one question, one engine thread
on a machine with other work. A share of {predicates} yes-or-no questions is good to ±
{error:.2f}. Wording and constants were chosen on another half.

{rows}

Yes-or-no questions by what is hard about them:

{tricks}
"""
UNTOLD = """
With `unknown=True`: the share said to be unknown of the {untold} yes-or-no questions that the
text doesn't answer, and of those that it does:

{unknown}
"""


@dataclass(frozen=True, slots=True)
class Asked:
    """A question of the file, and what is hard about it."""

    name: str
    kind: str
    text: str
    options: tuple[str, ...]
    answer: object
    """A bool, an option, a level; `None` where the text doesn't tell."""
    trick: str


def questions_of(row: Row) -> list[Asked]:
    """Read the questions of a line, named `q1`, `q2` …"""
    tricks = {f"q{number}": trick for number, trick in _TRICK.findall(row["notes"])}
    return [
        Asked(
            name := f"q{place}",
            one["kind"],
            one["question"],
            tuple(one.get("options") or one.get("levels") or ("yes", "no")),
            one["answer"],
            tricks.get(name, "plain"),
        )
        for place, one in enumerate(row["questions"], start=1)
        if one is not None
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


class Remembering(Wrapping):
    """Keeps what a model answers to a prompt, and what that took, so that nothing is asked twice.

    Args:
        endpoint: Who is asked.
        kept: Holds the answers.
    """

    def __init__(self, endpoint: EmbeddedEndpoint, kept: Kept) -> None:
        super().__init__(endpoint)
        self.kept = kept
        self.spent: Counter[str] = Counter()
        """Seconds and tokens of what was taken or asked since it was emptied."""

    async def decide(
        self,
        text: str,
        questions: Sequence[Question],
        context: RunContext,
        /,
        *,
        examples: Sequence[Example] = (),
    ) -> Decision:
        """Ask those questions together whose answers aren't kept."""
        keys = [await self._key_of(text, q, examples) for q in questions]
        left = {
            key: question
            for key, question in zip(keys, questions, strict=True)
            if key not in self.kept.found
        }
        if left:
            begun = time.perf_counter()
            asked = tuple(left.values())
            made = await self.endpoint.decide(text, asked, context, examples=examples)
            seconds = (time.perf_counter() - begun) / len(left)
            new = made.amount.input_tokens - made.amount.cached_input_tokens
            for key, answer in zip(left, made.answers, strict=True):
                found = {"p": answer.probabilities, "mass": answer.label_mass}
                self.kept.keep(key, found | {"seconds": seconds, "new": new / len(left)})
        answers: list[Answer] = []
        for key, question in zip(keys, questions, strict=True):
            found = self.kept.found[key]
            self.spent += Counter({"seconds": found["seconds"], "new": found["new"]})
            answers.append(
                Answer(
                    question=question,
                    probabilities=tuple(found["p"]),
                    label_mass=found["mass"],
                    source="logprob",
                )
            )
        return Decision(
            answers=tuple(answers), endpoint=self.name, model=self.model, amount=NOTHING
        )

    async def _key_of(self, text: str, question: Question, examples: Sequence[Example]) -> str:
        sent = await rehearse(
            lambda context: self.endpoint.decide(text, [question], context, examples=examples)
        )
        return _key(self.model, repr([(one.messages, one.labels) for one in sent]))

    async def complete(self, prompt: Prompt, context: RunContext, /) -> Completion:
        """Write, unless the text is kept."""
        key = _key(self.model, repr(prompt))
        if key not in self.kept.found:
            begun = time.perf_counter()
            made = await self.endpoint.complete(prompt, context)
            amount = made.amount
            self.kept.keep(
                key,
                {
                    "text": made.text,
                    "seconds": time.perf_counter() - begun,
                    "new": amount.input_tokens - amount.cached_input_tokens,
                },
            )
        found = self.kept.found[key]
        self.spent += Counter({"seconds": found["seconds"], "new": found["new"]})
        return Completion(
            text=found["text"],
            endpoint=self.name,
            model=self.model,
            amount=NOTHING,
            finish_reason="stop",
        )


def _key(model: str, sent: str) -> str:
    return f"{model} {hashlib.sha256(sent.encode()).hexdigest()[:32]}"


async def by_decider(row: Row, model: Remembering, way: str) -> Row:
    """Answer the questions of a text: by name, the value, and what was said of it."""
    asked = questions_of(row)
    agent = Decider(model, model_of(asked, unknown=way == UNKNOWN))
    if way == "model alone":
        agent = agent.alone()
    context = RunContext()
    begun, model.spent = time.perf_counter(), Counter()
    made = await agent.answer(row["text"], context)
    took = time.perf_counter() - begun
    typed = answers_in(made)
    return {
        "answers": {name: _value(one) for name, one in typed.items()},
        "said": {
            name: {
                "p": one.probabilities,
                "mass": one.label_mass,
                "doubtful": one.doubtful,
            }
            for name, one in typed.items()
        },
        "notes": [note.text for note in context.trace],
        "seconds": max(took, model.spent["seconds"]),
        "new": model.spent["new"],
    }


def _value(answer: Predicate[bool | None] | Choice[Any] | Score) -> object:
    if isinstance(answer, Predicate):
        return answer.value
    return answer.label if isinstance(answer, Choice) else answer.level


async def by_chat(row: Row, model: Remembering) -> Row:
    """Ask for all answers at once, as JSON."""
    asked = questions_of(row)
    lines = [f"{one.name}: {one.text} One of: {', '.join(one.options)}" for one in asked]
    schema = {
        "type": "object",
        "properties": {one.name: {"enum": list(one.options)} for one in asked},
        "required": [one.name for one in asked],
        "additionalProperties": False,
    }
    prompt = Prompt.of(
        "\n".join(["Text:", row["text"], "", "Questions:", *lines]),
        system="Answer the questions about the text with a JSON object, by the questions' names.",
        json_schema=schema,
        max_tokens=300,
        temperature=0.0,
    )
    model.spent = Counter()
    try:
        said: dict[str, str] = json.loads((await model.complete(prompt, RunContext())).text)
    except (MoaError, ValueError) as error:
        print(f"{row['id']}: {error}")
        said = {}
    kinds = {one.name: one.kind for one in asked}
    answers = {k: v == "yes" if kinds.get(k) == "predicate" else v for k, v in said.items()}
    return {"answers": answers, "said": {}, "notes": [], **model.spent}


async def measured(rows: Sequence[Row], model: Remembering, way: str) -> list[Row]:
    """Answer all texts in one way."""
    found: list[Row] = []
    for row in rows:
        if way == "one chat prompt":
            found.append(await by_chat(row, model))
        else:
            found.append(await by_decider(row, model, way))
        print(".", end="", flush=True)
    print()
    return found


Right = Callable[[Asked], bool]


def pairs(
    rows: Sequence[Row], found: Sequence[Row], which: Right, *, sure: bool = False
) -> list[tuple[Asked, object]]:
    """Put what was answered beside those questions; with `sure`, what isn't doubtful alone."""
    return [
        (one, made["answers"].get(one.name))
        for row, made in zip(rows, found, strict=True)
        for one in questions_of(row)
        if which(one) and not (sure and made["said"].get(one.name, {}).get("doubtful"))
    ]


def share(answered: Iterable[tuple[Asked, object]]) -> float | None:
    """Share of the answers that are right, of questions that the text tells the answer of."""
    right = [said == one.answer for one, said in answered if one.answer is not None]
    return fmean(right) if right else None


def unknowns(rows: Sequence[Row], found: Sequence[Row]) -> list[str]:
    """Share of the untold and of the told that were said to be unknown; right of those answered."""
    answered = pairs(rows, found, of_kind("predicate"))
    untold = [said is None for one, said in answered if one.answer is None]
    told = [said is None for one, said in answered if one.answer is not None]
    right = share((one, said) for one, said in answered if said is not None)
    return list(map(_written, (fmean(untold), fmean(told), right)))


def of_kind(kind: str) -> Right:
    """Questions of a kind."""
    return lambda one: one.kind == kind


def of_trick(trick: str) -> Right:
    """Yes-or-no questions with a trick."""
    return lambda one: one.kind == "predicate" and one.trick == trick


def _written(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}".removeprefix("0")


def _constant(rows: Iterable[Row]) -> list[str]:
    asked = [one for row in rows for one in questions_of(row) if one.answer is not None]
    said = Counter(one.answer for one in asked if one.kind == "predicate")
    guessed = {
        kind: fmean(1 / len(one.options) for one in asked if one.kind == kind)
        for kind in ("choice", "score")
    }
    most = max(said.values()) / sum(said.values())
    return list(map(_written, (most, guessed["choice"], guessed["score"])))


def report(rows: Sequence[Row], found: Mapping[str, Mapping[str, Sequence[Row]]]) -> str:
    """Write the tables: by model and way, what was found of each text."""
    asked = [one for row in rows for one in questions_of(row)]
    lines: list[list[str]] = [["constant", *_constant(rows), "", "", "", ""]]
    tricks: list[list[str]] = []
    unknown: list[list[str]] = []
    for model, ways in found.items():
        for way, made in ways.items():
            name = f"{model}, {way}"
            if way == UNKNOWN:
                unknown.append([name, *unknowns(rows, made)])
                continue
            yes_or_no = pairs(rows, made, of_kind("predicate"))
            sure = pairs(rows, made, of_kind("predicate"), sure=True)
            lines.append(
                [
                    name,
                    *(_written(share(pairs(rows, made, of_kind(k)))) for k in KINDS),
                    _written(1 - len(sure) / len(yes_or_no)),
                    _written(share(sure)),
                    f"{sum(one['seconds'] for one in made) / len(asked):.1f}",
                    f"{sum(one['new'] for one in made) / len(asked):.0f}",
                ]
            )
            by_trick = [_written(share(pairs(rows, made, of_trick(t)))) for t in TRICKS]
            tricks.append([name, *by_trick])
    predicates = [one for one in asked if one.kind == "predicate" and one.answer is not None]
    head = ["", "yes or no", "choice", "score", "doubtful", "right where not", "s", "new tokens"]
    counts = Counter(one.trick for one in predicates)
    return TEXT.format(
        questions=len(asked),
        texts=len(rows),
        predicates=len(predicates),
        error=0.5 / len(predicates) ** 0.5,
        rows=table(head, lines),
        tricks=table(["", *(f"{trick} ({counts[trick]})" for trick in TRICKS)], tricks),
    ) + (_unknown(asked, unknown) if unknown else "")


def _unknown(asked: Sequence[Asked], lines: Sequence[Sequence[str]]) -> str:
    head = ["", "untold", "told", "right of those answered"]
    untold = len([one for one in asked if one.answer is None])
    return UNTOLD.format(untold=untold, unknown=table(head, lines))


def opened(file: Path | None, kept: Kept) -> Remembering:
    """Run a model on one thread, since others work on this machine too."""
    settings = EngineSettings(context_window=WINDOW, threads=1, slots=1)
    return Remembering(EmbeddedEndpoint(model_path=file, settings=settings, timeout_s=1800), kept)


async def run(args: argparse.Namespace) -> None:
    kept = Kept(args.resume)
    lines = (DATA / HALVES[args.half]).read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines][: args.texts]
    for row in rows:
        row["questions"] = [one if one["kind"] in args.kinds else None for one in row["questions"]]
    found: dict[str, dict[str, list[Row]]] = {}
    for file in args.models or [None]:
        model = opened(None if file in (None, "built-in") else Path(file), kept)
        try:
            found[model.model] = {way: await measured(rows, model, way) for way in args.ways}
        finally:
            await model.close()
        print(report(rows, found), flush=True)
    if args.details:
        args.details.write_text(json.dumps(found))
    if args.half == "services" and not args.no_docs:
        some = f" --texts {args.texts}" if args.texts else ""
        write(
            "questions",
            f"python benchmarks/questions.py --models FILE...{some}",
            report(rows, found),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="*", default=[], help='GGUF files, or "built-in"')
    parser.add_argument("--half", choices=HALVES, default="services")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--texts", type=int, help="fewer, the first ones")
    parser.add_argument("--resume", type=Path, help="file that keeps answers, and is read again")
    parser.add_argument("--details", type=Path, help="every answer is written here, as JSON")
    parser.add_argument("--no-docs", action="store_true", help="leave docs/benchmarks.md alone")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
