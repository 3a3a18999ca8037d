"""Recipes whose answers are right or wrong: word problems, programs, fields, decisions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from labels import label_of
from moa import Agent, Classifier, Extractor
from moa.config.loading import load_graph
from moa.config.tables import EMBEDDED
from moa.core._async import map_async
from moa.core.context import RunContext
from moa.core.node import Node
from moa.endpoints import Prompt
from moa.evals.metrics import numeric_match
from moa.graphs.cascade import Cascade
from moa.graphs.mixing.answer_extraction import last_number
from moa.recipes.choose_best import ChooseBest
from moa.recipes.code import Code
from moa.routing.fitting import fit_router
from moa.routing.recorded import RecordedRequest
from moa.routing.routed import Routed
from recipes_shared import (
    Answer,
    Item,
    Models,
    Plain,
    Recipe,
    Run,
    Scores,
    Subprocess,
    json_in,
    own,
    passes,
    rows_of,
    same,
)

_STEPS = "Think step by step, end with 'Answer: N', where N is the number alone."
_EQUATION = (
    "Write down what is known, then one equation after another until the question is answered. "
    "End with 'Answer: N', where N is the number alone."
)
_PROGRAM = (
    "You are a careful Python programmer. Write the function that is asked for, with the name and "
    "the arguments that are given. Think of the edge cases that are named. Answer with one fenced "
    "block of Python that holds the function and what it imports, and nothing else."
)
_FIELDS = (
    "Read the fields out of the text. Copy what the text says; a field that the text does not give "
    "is null. Answer with one JSON object of exactly these fields, and nothing else:\n"
)
_LABEL = "Which of these is the customer's message about?\n{labels}\nAnswer with the label alone."
FIT_ON = 400
"""Rows that a router is fitted on; none of them is an item."""
AT_ONCE = 8
"""Rows that are decided at a time for that."""
SURE = 0.8
"""Confidence from which on the cascade accepts what the built-in model decides. It promises
nothing, as it was fitted to nothing."""


class Order(BaseModel):
    customer: str = Field(description="full name of who orders")
    product: str = Field(description="what is ordered, without the number")
    quantity: int
    total: float | None = Field(description="price of all of it, as a number")
    delivery: str | None = Field(description="day by which it is wanted, as YYYY-MM-DD")


class Event(BaseModel):
    title: str = Field(description="name of the event")
    date: str = Field(description="day on which it takes place, as YYYY-MM-DD")
    time: str | None = Field(description="when it begins, as HH:MM")
    place: str | None


class Contact(BaseModel):
    name: str = Field(description="full name of the person, without a title")
    company: str | None
    email: str | None
    phone: str | None


FORMS: Mapping[str, type[BaseModel]] = {"order": Order, "event": Event, "contact": Contact}


def reads(node: Node[Any, Any], field: str) -> Run:
    """Ask a node with a field of the item, and keep the text of what it gives."""

    async def run(item: Item, context: RunContext) -> Answer:
        return {"text": (await node.run(item[field], context)).output.text}

    return run


def ready(name: str, field: str, **given: object) -> Callable[[Models], Any]:
    """Build a ready graph as `moa run` does, with these settings."""

    async def graph(models: Models) -> Run:
        return reads(load_graph(name, models, options=given), field)

    return graph


def _problems(data: Path) -> Sequence[Item]:
    return rows_of(data / "reasoning_gsm8k" / "dev.jsonl")


async def _worked_out(models: Models, item: Item, ask: Plain) -> Answer:
    del models
    prompt = Prompt.of(item["question"], system=_STEPS, max_tokens=512, temperature=0.0)
    return {"text": await ask(prompt)}


def _right_number(item: Item, answer: Answer) -> Scores:
    return {"right": numeric_match(answer["text"], item["answer"])}


def _problem(name: str, graph: Callable[[Models], Any]) -> Recipe:
    return Recipe(
        name=name,
        measures=("right",),
        items=_problems,
        graph=graph,
        plain=_worked_out,
        grade=_right_number,
        warms=name == "solve",
    )


async def _two_prompts(models: Models) -> Run:
    """The model under two prompts, since `choose_best` has the large one alone here."""
    writers = [
        Agent(models.llm, say, name=name, temperature=0.7)
        for name, say in (("steps", _STEPS), ("equations", _EQUATION))
    ]
    return reads(ChooseBest(nodes=writers, key=last_number), "question")


async def _code(models: Models) -> Run:
    return reads(Code(writer=models.llm, max_tokens=1024), "task")


async def _program(models: Models, item: Item, ask: Plain) -> Answer:
    del models
    prompt = Prompt.of(item["task"], system=_PROGRAM, max_tokens=1024, temperature=0.0)
    return {"text": await ask(prompt)}


def _passed(item: Item, answer: Answer) -> Scores:
    return {"pass@1": float(passes(answer["text"], item["tests"], Subprocess()))}


async def _extractor(models: Models) -> Run:
    agents = {kind: Extractor(models.llm, form) for kind, form in FORMS.items()}

    async def run(item: Item, context: RunContext) -> Answer:
        found = await agents[item["kind"]].run(item["text"], context)
        return {"text": found.output.model_dump_json()}

    return run


async def _fields(models: Models, item: Item, ask: Plain) -> Answer:
    del models
    schema: dict[str, Any] = FORMS[item["kind"]].model_json_schema()["properties"]
    lines = [
        f'"{name}": {"/".join(_types(one))}, {one.get("description", name)}'
        for name, one in schema.items()
    ]
    system = _FIELDS + "\n".join(lines)
    prompt = Prompt.of(item["text"], system=system, max_tokens=256, temperature=0.0)
    return {"text": await ask(prompt)}


def _types(schema: Mapping[str, Any]) -> list[str]:
    return [one["type"] for one in schema.get("anyOf", [schema])]


def fields_right(item: Item, answer: Answer) -> Scores:
    """Share of the fields that are right, and whether the reply is of the form."""
    gold: dict[str, Any] = item["gold"]
    try:
        found = FORMS[item["kind"]].model_validate(json_in(answer["text"]))
    except ValidationError:
        return {"right by field": 0.0, "valid": 0.0}
    right = [same(getattr(found, name), value) for name, value in gold.items()]
    return {"right by field": sum(right) / len(right), "valid": 1.0}


def _messages(data: Path) -> list[Item]:
    return rows_of(data / "intent_banking10" / "dev.jsonl")


def _labels(models: Models) -> list[str]:
    return sorted({row["label"] for row in _messages(models.data)})


async def _classifiers(models: Models) -> tuple[Classifier[str], Classifier[str]]:
    """The two that decide. Each is asked once, so that finding its bias is in no item's cost."""
    task = "What is the customer's message about?"
    small, large = (
        Classifier(endpoint, _labels(models), task=task, none=False, name=name)
        for name, endpoint in (("built-in", models.named(EMBEDDED)), ("model", models.llm))
    )
    for one in (small, large):
        await one.run("Hello")
    return small, large


def _decides(node: Node[Any, Any]) -> Run:
    async def run(item: Item, context: RunContext) -> Answer:
        return {"text": str((await node.run(item["text"], context)).output.label)}

    return run


async def _cascade(models: Models) -> Run:
    small, large = await _classifiers(models)
    return _decides(Cascade(small=small, large=large, confidence=SURE))


async def _routed(models: Models) -> Run:
    """Fit a router on rows that both have decided.

    Raises:
        InputError: the rows don't tell where the model gains; then nothing is routed.
    """
    small, large = await _classifiers(models)

    async def recorded(row: Item) -> RecordedRequest:
        key = f"{models.llm.model}|fitted on|{row['id']}"
        if key not in models.kept.found:
            answers = [(await one.run(row["text"])).output.label for one in (small, large)]
            models.kept.keep(key, [answer == row["label"] for answer in answers])
        weak, strong = models.kept.found[key]
        return RecordedRequest(prompt=row["text"], weak_correct=weak, strong_correct=strong)

    rows = await map_async(recorded, _messages(models.data)[-FIT_ON:], max_concurrency=AT_ONCE)
    return _decides(Routed(models=[small, large], router=fit_router(rows)))


async def _label(models: Models, item: Item, ask: Plain) -> Answer:
    labels = _labels(models)
    system = _LABEL.format(labels="\n".join(labels))
    said = await ask(Prompt.of(item["text"], system=system, max_tokens=24, temperature=0.0))
    return {"text": label_of(labels)(said) or ""}


def _right_label(item: Item, answer: Answer) -> Scores:
    asked = float(answer.get("large", 0) > 0)
    return {"right": float(answer["text"] == item["label"]), "asks the model": asked}


def _decision(name: str, graph: Callable[[Models], Any]) -> Recipe:
    return Recipe(
        name=name,
        measures=("right", "asks the model"),
        items=lambda data: _messages(data)[:-FIT_ON],
        graph=graph,
        plain=_label,
        grade=_right_label,
    )


RECIPES = (
    _problem("solve", ready("solve", "question", max_tokens=512)),
    _problem(
        "self_consistency", ready("self_consistency", "question", node="large", key="last_number")
    ),
    _problem("best_of_n", ready("best_of_n", "question", node="large", key="last_number")),
    _problem("debate", ready("debate", "question", key="last_number")),
    _problem("refine", ready("refine", "question")),
    _problem(
        "mixture",
        ready("mixture", "question", proposers=["large"] * 3, temperature=0.7, max_tokens=512),
    ),
    _problem("self_mixture", ready("self_mixture", "question", max_tokens=512)),
    _problem("choose_best", _two_prompts),
    Recipe(
        name="code",
        measures=("pass@1",),
        items=lambda _: own("code"),
        graph=_code,
        plain=_program,
        grade=_passed,
    ),
    Recipe(
        name="Extractor",
        measures=("right by field", "valid"),
        items=lambda _: own("extract"),
        graph=_extractor,
        plain=_fields,
        grade=fields_right,
    ),
    _decision("cascade", _cascade),
    _decision("routed", _routed),
)
