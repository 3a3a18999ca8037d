"""Every ready graph that writes, beside one good call: `python benchmarks/recipes.py --model FILE`.

With `--long` those that write long or ask often, which are a section of their own.

Each graph and a plain call to the same model answer the same items. Prompts are chosen on one half
of the items and reported on the other. Every answer is kept as soon as it is there, so that a run
can be stopped and gone on with by the same command; after a change of a graph take another
`--json`, and the same `--plain` and `--samples`. With `--items` it prints, and writes
no page; `--page` writes the page of all that is kept.

`--check` asks each graph once, about small items of its own, and fails where one gives no answer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import recipes_answers
import recipes_documents
import recipes_texts
from kept import Kept
from moa import MoaError, RunContext
from moa.config.loading import READY
from moa.core._async import map_async
from moa.core.errors import ConfigError
from moa.evals.comparison import MARGIN, pays
from moa.evals.metrics import Interval, difference
from recipes_shared import (
    HALVES,
    Answer,
    Item,
    Models,
    Plain,
    Recipe,
    Run,
    half_of,
    one_item,
    spent,
)
from report import table, write

RECIPES = {
    one.name: one
    for module in (recipes_documents, recipes_texts, recipes_answers)
    for one in module.RECIPES
}
ITEMS = 24
"""Of a half, unless it is said otherwise; half of what has 24 items in all is 12."""
TIMEOUT_S = 7200.0
"""Seconds that an item may take."""
OUTPUT_WEIGHT = 4
"""How many tokens that are read cost what one costs that is written, about, where both have a
price."""
WAYS = ("plain", "graph")
VERDICTS = {True: "**pays**", False: "doesn't pay", None: "can't be told"}
MEASURED = Path(__file__).parent.parent / "src/moa/config/measured.json"
CHECK = Path(__file__).parent / "data" / "check"
"""Small sets in the form of those that are measured on."""
LONG = (
    "research",
    "chat",
    "summarize_long",
    "brainstorm",
    "solve",
    "self_consistency",
    "best_of_n",
    "debate",
    "refine",
    "mixture",
    "self_mixture",
    "choose_best",
)
SHORT = tuple(name for name in RECIPES if name not in LONG)
UNCHECKED = (
    "summarize_long",
    "cascade",
    "routed",
    "self_consistency",
    "best_of_n",
    "self_mixture",
)
"""They take more items than a check has, or ask what `solve` asks several times."""
TEXT = """
## Recipes

Every ready graph that writes, beside one call to the same model at temperature 0 with a prompt made
for the task, on the same items; those that write long or ask often are [below](#long-recipes). The
graphs run as `moa run` builds them, with one model for all their parts, but for `Extractor`,
`choose_best`, `code`, `cascade` and `routed`, which are built in Python: `choose_best` has the
model under two prompts, and `cascade` and `routed` have the built-in model first. Samples of one
prompt are shared between the graphs that draw them.
{half}

An answer that failed counts as 0. The difference is the graph's score less that of the plain call,
with the interval that holds it at 95 % (each for itself; of so many, one may be off). A graph
**pays** where it is shown to be better, or where it takes less and is shown to be less than
{margin} worse; it **doesn't pay** where it takes more and is not shown to be better; else it
**can't be told** from these items. `moa compare` rules by the same function. What it takes are the
tokens of the model, where one that is written counts as {weight} that are read. Seconds
are for an item, beside the other items that were asked at the same time and whatever else ran on
the machine. What an agent finds out once about its
model, before its first decision, is not counted.

{results}
{left_out}
What else is graded; no verdict rests on it:

{further}

`rag` searches {found} passages of XQuAD; a third of the questions is about passages that are not
among them. The plain call reads the passages that the graph's own search finds. Functions, forms
and the catalogue are in `benchmarks/data`; the other items are of the sets XQuAD, SciTLDR and
BANKING77.
"""
TEXT_LONG = """
## Long recipes

The ready graphs that write long or ask often, measured as the [others](#recipes). {half}
An item takes minutes on a processor: where they are few, only a large lead is shown to be one.

{results}
{left_out}
What else is graded; no verdict rests on it:

{further}

`research` searches the passages that `rag` does. In `chat` both read {read} tokens of a talk at
most, the plain one its last messages, with a call a turn. `summarize_long` has documents of
{joined} abstracts, of which the plain call reads what fits its window; neighbouring ones share
abstracts. Topics and talks are in `benchmarks/data`; the other items are of the sets XQuAD, SciTLDR
and GSM8K.
"""


async def asked(run: Run, item: Item) -> Answer:
    """Ask a graph; what it fails with is its answer, unless it is set up wrong."""
    context, begun = RunContext(timeout_s=TIMEOUT_S, keep_notes=False), time.perf_counter()
    with one_item() as saved:
        try:
            answer = await run(item, context)
        except ConfigError:
            raise
        except MoaError as error:
            answer = failed(error)
    return {**answer, **spent(context, time.perf_counter() - begun + sum(saved))}


def failed(error: MoaError) -> Answer:
    return {"error": f"{type(error).__name__}: {error}"}


async def plainly(recipe: Recipe, models: Models, item: Item, kept: Kept) -> Answer:
    """Make the plain call of an item, or take what is kept of it."""
    ask = Plain(models.llm, kept)
    with one_item():
        try:
            answer = await recipe.plain(models, item, ask)
        except ConfigError:
            raise
        except MoaError as error:
            answer = failed(error)
    return {**answer, **ask.spent}


def key_of(model: str, recipe: str, way: str, item: Item) -> str:
    return f"{model}|{recipe}|{way}|{item['id']}"


async def measured(
    recipe: Recipe,
    models: Models,
    items: Sequence[Item],
    plain: Kept,
    warm: Item | None = None,
    *,
    concurrency: int = 1,
) -> None:
    """Ask both ways about each item that isn't kept yet; about `warm` first, without a record."""
    kept, model, said = models.kept, models.llm.model, f"{models.llm.model}: {recipe.name}"

    async def one_plain(item: Item) -> None:
        key = key_of(model, recipe.name, "plain", item)
        if key not in kept.found:
            kept.keep(key, await plainly(recipe, models, item, plain))

    left = [i for i in items if key_of(model, recipe.name, "graph", i) not in kept.found]
    run = await recipe.graph(models) if left else None
    if run is not None and warm is not None:
        await asked(run, warm)

    async def one_graph(item: Item) -> None:
        assert run is not None, "something is left"
        answer = await asked(run, item)
        kept.keep(key_of(model, recipe.name, "graph", item), answer)
        seconds = f"{answer['seconds']:.0f} s"
        print(f"{said}, {item['id']}: {answer.get('error', seconds)}", flush=True)

    await map_async(one_plain, items, max_concurrency=concurrency)
    await map_async(one_graph, left, max_concurrency=concurrency)


def scored(recipe: Recipe, item: Item, answer: Answer) -> Mapping[str, float]:
    return {recipe.measures[0]: 0.0} if "error" in answer else recipe.grade(item, answer)


def _answered(items: Sequence[Item], recipe: str, model: str, kept: Kept) -> list[Item]:
    """The first items, as far as both ways have answered them."""
    there = [all(key_of(model, recipe, way, i) in kept.found for way in WAYS) for i in items]
    return list(items[: there.index(False) if False in there else None])


class Found:
    """What both ways made of the items of a recipe."""

    def __init__(self, recipe: Recipe, model: str, items: Sequence[Item], kept: Kept) -> None:
        self.recipe, self.model, self.items = recipe, model, items
        self.answers: dict[str, list[Answer]] = {
            way: [kept.found.get(key_of(model, recipe.name, way, item), {}) for item in items]
            for way in WAYS
        }
        self.whole = all(map(all, self.answers.values()))
        self.scores = {
            way: [scored(recipe, i, a) for i, a in zip(items, answers, strict=True)]
            for way, answers in self.answers.items()
            if self.whole
        }

    def mean(self, way: str, measure: str) -> float | None:
        found = [one[measure] for one in self.scores[way] if measure in one]
        return fmean(found) if found else None

    def took(self, way: str, name: str) -> float:
        return fmean(answer.get(name, 0) for answer in self.answers[way])

    def cost(self, way: str) -> float:
        return self.took(way, "input") + OUTPUT_WEIGHT * self.took(way, "output")

    @property
    def lead(self) -> Interval:
        measure = self.recipe.measures[0]
        plain, graph = ([one[measure] for one in self.scores[way]] for way in WAYS)
        return difference(graph, plain)

    def row(self) -> list[str]:
        def both(name: str, form: str) -> str:
            return " → ".join(f"{self.took(way, name):{form}}" for way in WAYS)

        measure, lead = self.recipe.measures[0], self.lead
        means = [self.mean(way, measure) or 0.0 for way in WAYS]
        failures = [sum("error" in one for one in self.answers[way]) for way in WAYS]
        return [
            f"`{self.recipe.name}`: {measure}",
            str(len(self.items)),
            *(f"{mean:.3f}" for mean in means),
            f"{lead.value:+.3f} ({lead.low:+.3f} to {lead.high:+.3f})",
            both("calls", ".1f"),
            both("input", ".0f"),
            both("output", ".0f"),
            both("seconds", ".1f"),
            " → ".join(map(str, failures)),
            self.verdict,
        ]

    @property
    def verdict(self) -> str:
        """Rule as `moa compare` does."""
        plain = self.cost("plain")
        return VERDICTS[pays(self.lead, self.cost("graph") / plain if plain else None)]

    def further(self) -> list[list[str]]:
        return [
            [f"`{self.recipe.name}`: {name}", *(_shown(self.mean(way, name)) for way in WAYS)]
            for name in self.recipe.measures[1:]
        ]


def _shown(mean: float | None) -> str:
    return "-" if mean is None else f"{mean:.3f}"


HEAD = (
    "recipe: measure",
    "n",
    *WAYS,
    "difference",
    "calls",
    "tokens read",
    "tokens written",
    "s",
    "failed",
    "",
)
HALF = {
    "chosen": "**These are the items that prompts are chosen on, so the figures are too good.**",
    "reported": "No prompt was chosen on these items: they are the other half of each set.",
}


def left_out_of(found: Mapping[str, Sequence[Found]], kept: Kept, names: Sequence[str]) -> str:
    """Say what is not in the tables, and why, where that is known."""
    said: list[str] = []
    for model, several in found.items():
        for name in {*names} - {one.recipe.name for one in several}:
            why = kept.found.get(f"{model}|{name}|refused", "too few items were asked")
            said.append(f"- `{name}` with {model}: {why}")
    return "\nNot in the tables:\n\n" + "\n".join(sorted(said)) + "\n" if said else ""


def body_of(
    found: Mapping[str, Sequence[Found]], kept: Kept, names: Sequence[str], *, half: str, long: bool
) -> str:
    results = "\n\n".join(
        f"With {model}:\n\n{table(HEAD, [one.row() for one in several])}"
        for model, several in found.items()
    )
    further = "\n\n".join(
        f"With {model}:\n\n" + table(("", *WAYS), [row for one in several for row in one.further()])
        for model, several in found.items()
    )
    return (TEXT_LONG if long else TEXT).format(
        half=HALF[half],
        margin=MARGIN,
        weight=OUTPUT_WEIGHT,
        results=results,
        left_out=left_out_of(found, kept, names),
        further=further,
        found=120 - recipes_documents.HELD_OUT,
        read=recipes_texts.READ + recipes_texts.SUMMED,
        joined=recipes_texts.JOINED,
    )


def keep_measured(found: Sequence[Found], names: Sequence[str]) -> None:
    """Write what `moa graphs` says of these graphs; nothing of those that can't be measured."""
    before = json.loads(MEASURED.read_text(encoding="utf-8"))
    kept = {name: one for name, one in before.items() if name not in names} | {
        one.recipe.name: {
            "model": one.model,
            "measure": one.recipe.measures[0],
            "items": len(one.items),
            "plain": round(one.mean("plain", one.recipe.measures[0]) or 0.0, 3),
            "graph": round(one.mean("graph", one.recipe.measures[0]) or 0.0, 3),
            "calls": round(one.took("graph", "calls"), 2),
            "verdict": one.verdict,
        }
        for one in found
        if one.recipe.name in READY
    }
    MEASURED.write_text(f"{json.dumps(kept, indent=2)}\n", encoding="utf-8")


def texts_of(found: Sequence[Found]) -> str:
    """The texts that people are to read: what was asked, and what came in both ways."""
    parts: list[str] = []
    for one in found:
        for place, item in enumerate(one.items if one.recipe.read else ()):
            parts.append(f"# {one.recipe.name}, {item['id']}")
            for way in WAYS:
                answer: Any = one.answers[way][place]
                parts.append(f"## {way}\n\n{answer.get('text', answer.get('error'))}")
    return "\n\n".join(parts) + "\n"


async def check(model: str) -> int:
    """Ask each graph about one item, without the plain call; give how many gave no answer."""
    failures = 0
    async with Models(model, CHECK, Kept(None), Kept(None)) as models:
        for name, recipe in RECIPES.items():
            if name in UNCHECKED:
                continue
            item, begun = recipe.items(CHECK)[0], time.perf_counter()
            answer = await asked(await recipe.graph(models), item)
            text, seconds = answer.get("text", ""), time.perf_counter() - begun
            failed = "error" in answer or not text.strip()
            failures += failed
            said = answer.get("error", "no text") if failed else repr(text[:60])
            print(f"{'FAILED' if failed else 'ok'} {name}, {seconds:.0f} s: {said}", flush=True)
    return failures


async def run(args: argparse.Namespace, kept: Kept, names: Sequence[str]) -> dict[str, list[Found]]:
    plain, samples = Kept(args.plain), Kept(args.samples)
    found: dict[str, list[Found]] = {}
    every = {name: RECIPES[name].items(args.data) for name in names}
    items = {name: half_of(every[name], args.half, args.items or ITEMS) for name in names}
    (other,) = set(HALVES) - {args.half}
    for served in args.model:
        async with Models(served, args.data, kept, samples, slots=args.concurrency) as models:
            for name in () if args.page else names:
                warm = half_of(every[name], other, 1)[0] if RECIPES[name].warms else None
                try:
                    await measured(
                        RECIPES[name],
                        models,
                        items[name],
                        plain,
                        warm,
                        concurrency=args.concurrency,
                    )
                except MoaError as error:
                    kept.keep(f"{models.llm.model}|{name}|refused", str(error))
                    print(f"{models.llm.model}: {name} can't be measured: {error}")
            model = models.llm.model
        several = [
            Found(RECIPES[name], model, _answered(items[name], name, model, kept), kept)
            for name in names
        ]
        found[model] = [one for one in several if len(one.items) >= args.fewest and one.whole]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("MOA_DATA"))
    parser.add_argument(
        "--model", nargs="+", required=True, help="GGUF files, or NAME@URL of what vLLM serves"
    )
    parser.add_argument(
        "--concurrency", type=int, default=1, help="items at a time; for files a power of two"
    )
    parser.add_argument("--recipes", nargs="+", choices=RECIPES)
    parser.add_argument("--long", action="store_true", help="those that write long or ask often")
    parser.add_argument("--half", choices=HALVES, default="reported")
    parser.add_argument(
        "--items", type=int, help=f"of each recipe; {ITEMS}, and a page, without it"
    )
    parser.add_argument(
        "--fewest", type=int, default=1, help="items answered, of what stands in the table"
    )
    parser.add_argument("--json", type=Path, help="keeps each answer, and is read again")
    parser.add_argument("--plain", type=Path, help="keeps the plain calls, for any --json")
    parser.add_argument("--samples", type=Path, help="keeps what the model wrote, for any --json")
    parser.add_argument("--texts", type=Path, help="is given the texts that people are to read")
    parser.add_argument("--page", action="store_true", help="of what is kept; asks nothing")
    parser.add_argument("--check", action="store_true", help="that every graph answers; no page")
    args = parser.parse_args()
    if args.check:
        raise SystemExit(min(1, sum(asyncio.run(check(model)) for model in args.model)))
    if args.data is None:
        parser.error("give the folder of the data sets, by --data or $MOA_DATA")
    args.data = Path(args.data)
    kept, names = Kept(args.json), args.recipes or (LONG if args.long else SHORT)
    try:
        found = asyncio.run(run(args, kept, names))
    except KeyboardInterrupt:
        where = f"what was answered is in {args.json}" if args.json else "nothing was kept"
        raise SystemExit(f"stopped; {where}, and the same command goes on") from None
    body = body_of(found, kept, names, half=args.half, long=args.long)
    print(body)
    if args.texts:
        args.texts.write_text(texts_of([one for several in found.values() for one in several]))
    if (args.page or args.items is None) and args.half == "reported" and args.recipes is None:
        served = any("@" in model for model in args.model)
        words = ["--model", "NAME@URL" if served else "FILE", f"--concurrency {args.concurrency}"]
        command = ["python benchmarks/recipes.py --data DIR", *words, *["--long"] * args.long]
        write("long recipes" if args.long else "recipes", " ".join(command), body)
        keep_measured(list(found.values())[-1], names)  # of the last model, which is the better one


if __name__ == "__main__":
    main()
