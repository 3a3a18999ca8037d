"""Recipes that write texts: of a text, in a talk, for a task, from a catalogue."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from moa import RunContext
from moa.chat.messages import UserMessage
from moa.chat.routing import PERSONA
from moa.config.loading import load_graph
from moa.core.messages import Message
from moa.core.numbers import find_numbers
from moa.documents.sentences import Length, sentences
from moa.documents.summarize import Original
from moa.endpoints import Prompt
from moa.endpoints.tokens import tokens_of
from moa.evals.metrics import rouge_l
from moa.recipes.recommend import Interests
from moa.recipes.write import Assignment
from recipes_shared import (
    Answer,
    Item,
    Models,
    Plain,
    Recipe,
    Run,
    Scores,
    distinct,
    holds,
    listed,
    own,
    rows_of,
    unrepeated,
)

_ONE_LINE = (
    "Summarize the abstract of a paper in one sentence of about 20 words: what the paper does and "
    "what is new about it. Write the sentence alone."
)
_SHORT = (
    "The text is made of abstracts of several papers. Summarize it in at most {count} sentences "
    "that cover as many of the papers as they can: what each does and finds. Write them alone."
)
_BUSINESS = (
    "Summarize the text in {length}, in the language of the text: what it decides, orders or asks "
    "for, with the most important figures, dates and names. Write the summary alone."
)
_ARTICLE = (
    "Write a text of about {words} words for the task, in Markdown: a title, then two or three "
    "sections, each with a heading that begins with ##. Be concrete, and say nothing twice."
)
_IDEAS = (
    "Give {count} different ideas for the request, as a numbered list of {count} lines, each idea "
    "in one sentence. Take different points of view, and repeat none."
)
_SHOP = (
    "You advise customers of a shop. From the catalogue, choose the three items that suit the "
    "wish best, and none that the customer has already. Answer with three lines, the best first: "
    "on each the id of an item, a colon, and one sentence that says why it suits, such as "
    "'tea-2: It keeps tea warm at the desk.'\n\n"
)
_NAMED = re.compile(r"^(?:\W|\d+[.)]|id\b)*([a-z]+-\d+)\W*(.*)", re.MULTILINE)
"""An item at the beginning of a line, and what is said of it."""
WORDS, IDEAS, SHOWN, SENTENCES = 200, 25, 3, 8
BUSINESS_SENTENCES = 4
"""Of a text of 300 words, asked of both."""
JOINED, APART = 26, 8
"""Abstracts in a long document, about 5,500 tokens, and how far the next document starts."""
_WINDOW, _ROOM = 4096, 700
"""Tokens that the embedded model reads and writes at once; those for prompt and summary."""
READ = 500
"""Tokens of a talk that the chat reads word for word."""
SUMMED, REPLY = 128, 128
ASKED_AT = (3, 6, 12)
_BETWEEN = (
    "Thanks. By the way, why is the sky blue? Two sentences will do.",
    "What is the difference between weather and climate? Please explain it with one example.",
    "I had pasta for lunch and now I am tired. Why is that?",
    "Name three good reasons to read a book in the evening instead of watching television.",
    "How does a refrigerator keep things cold? Explain it as if I were ten years old.",
    "What would you cook with potatoes, onions and eggs when there is nothing else at home?",
    "Why do leaves change their colour in autumn, and why do not all of them do it?",
    "Tell me something about the history of the postage stamp that few people know.",
    "How can I fall asleep more easily when I have worked until late?",
)


def _abstracts(data: Path) -> list[Item]:
    return rows_of(data / "summarise_scitldr" / "dev.jsonl")


def _long(data: Path) -> list[Item]:
    """Documents of many abstracts each; neighbours share some."""
    rows = _abstracts(data)
    starts = range(0, len(rows) - JOINED + 1, APART)
    return [
        {
            "id": f"long-{start}",
            "source": "\n\n".join(f"{r['title']}. {r['source']}" for r in rows[start:][:JOINED]),
            "summaries": [" ".join(r["summaries"][0] for r in rows[start:][:JOINED])],
        }
        for start in starts
    ]


def _business(data: Path) -> list[Item]:
    """Business texts of about 300 words; those to choose on are of another writer."""
    del data
    folder = Path(__file__).parent / "data"
    texts = {
        row["id"]: row["text"]
        for name in ("trade", "services")
        for row in rows_of(folder / f"questions_{name}.jsonl")
    }
    return [{**row, "source": texts[row["id"]]} for row in own("facts")]


def _summarize(count: int) -> Any:
    async def graph(models: Models) -> Run:
        node = load_graph("summarize", models, options={"sentences": count})

        async def run(item: Item, context: RunContext) -> Answer:
            original = Original(text=item["source"], title=item.get("title"))
            return {"text": (await node.run(original, context)).output.text}

        return run

    return graph


async def _one_line(models: Models, item: Item, ask: Plain) -> Answer:
    del models
    user = f"Title: {item['title']}\n\n{item['source']}"
    return {"text": await ask(Prompt.of(user, system=_ONE_LINE, max_tokens=128, temperature=0.0))}


async def _first_part(models: Models, item: Item, ask: Plain) -> Answer:
    """One call with as much of the text as the model's window holds, from its beginning."""
    text = await _cut(models, item["source"], _WINDOW - _ROOM)
    system = _SHORT.format(count=SENTENCES)
    return {"text": await ask(Prompt.of(text, system=system, max_tokens=512, temperature=0.0))}


async def _decisions(models: Models, item: Item, ask: Plain) -> Answer:
    del models
    system = _BUSINESS.format(length=Length(sentences=BUSINESS_SENTENCES))
    prompt = Prompt.of(item["source"], system=system, max_tokens=384, temperature=0.0)
    return {"text": await ask(prompt)}


def facts_kept(item: Item, answer: Answer) -> Scores:
    """Share of the facts that a summary keeps within its length, and of its figures of the text."""
    length = Length(sentences=BUSINESS_SENTENCES)
    text = length.shorten(answer["text"])
    figures, known = find_numbers(text), {*find_numbers(item["source"])}
    return {
        "facts kept": fmean(float(holds(text, each)) for each in item["facts"]),
        "figures of the text": fmean(f in known for f in figures) if figures else 1.0,
        "as short as asked": float(not length.too_long(answer["text"])),
    }


async def _cut(models: Models, text: str, most: int) -> str:
    kept, left = list[str](), most
    for _, sentence in sentences(text):
        left -= await tokens_of(models.large, sentence, RunContext()) + 1
        if left < 0:
            break
        kept.append(sentence)
    return " ".join(kept)


def _likeness(item: Item, answer: Answer) -> Scores:
    return {"ROUGE-L": max(rouge_l(answer["text"], one) for one in item["summaries"])}


def _likeness_cut(item: Item, answer: Answer) -> Scores:
    """Compare what stands within the length that was asked for."""
    return _likeness(item, {"text": Length(sentences=SENTENCES).shorten(answer["text"])})


async def _write(models: Models) -> Run:
    node = load_graph("write", models, options={"words": WORDS})

    async def run(item: Item, context: RunContext) -> Answer:
        task = Assignment(text=_task(item))
        return {"text": (await node.run(task, context)).output.text}

    return run


def _task(item: Item) -> str:
    return f"Write {item['write']}. It speaks of: {', '.join(item['must'])}."


async def _article(models: Models, item: Item, ask: Plain) -> Answer:
    del models
    system = _ARTICLE.format(words=WORDS)
    return {"text": await ask(Prompt.of(_task(item), system=system, max_tokens=700, temperature=0))}


def article_form(item: Item, answer: Answer) -> Scores:
    text = answer["text"]
    headings = sum(line.startswith("#") for line in text.splitlines())
    body = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    found = {
        "as long as asked": float(Length(words=WORDS).fault(body) is None),
        "has sections": float(headings >= 3),
        "nothing twice": unrepeated(body),
        "says what it must": fmean(float(holds(body, [word])) for word in item["must"]),
    }
    return {"form": fmean(found.values()), **found}


async def _brainstorm(models: Models) -> Run:
    node = load_graph("brainstorm", models)

    async def run(item: Item, context: RunContext) -> Answer:
        return {"text": (await node.run(item["brainstorm"], context)).output.text}

    return run


async def _many_ideas(models: Models, item: Item, ask: Plain) -> Answer:
    del models
    system = _IDEAS.format(count=IDEAS)
    prompt = Prompt.of(item["brainstorm"], system=system, max_tokens=1024, temperature=0.0)
    return {"text": await ask(prompt)}


def ideas_apart(item: Item, answer: Answer) -> Scores:
    del item
    ideas = listed(answer["text"])
    apart = distinct(ideas)
    return {
        "different ideas of 25": min(1.0, len(apart) / IDEAS),
        "nothing twice": len(apart) / len(ideas) if ideas else 0.0,
    }


async def _recommend(models: Models) -> Run:
    file = Path(__file__).parent / "data" / "recipes_catalogue.jsonl"
    node = load_graph("recommend", models, options={"catalogue": file, "shown": SHOWN})

    async def run(item: Item, context: RunContext) -> Answer:
        wish = Interests(text=item["text"], history=tuple(item["history"]))
        found = (await node.run(wish, context)).output
        lines = [f"{one.item.id}: {one.reason}" for one in found.items]
        return {"text": "\n".join(lines)}

    return run


async def _advised(models: Models, item: Item, ask: Plain) -> Answer:
    del models
    catalogue = "\n".join(f"{row['id']}: {row['title']}. {row['text']}" for row in own("catalogue"))
    had = f"\nThe customer has already: {', '.join(item['history'])}" if item["history"] else ""
    user = f"Wish: {item['text']}{had}"
    system = f"{_SHOP}Catalogue:\n{catalogue}"
    return {"text": await ask(Prompt.of(user, system=system, max_tokens=256, temperature=0.0))}


def advice(item: Item, answer: Answer) -> Scores:
    """Grade the first items that are named, each on a line of its own."""
    known = {row["id"] for row in own("catalogue")}
    given = _NAMED.findall(answer["text"])[:SHOWN]
    ids = [name for name, _ in given]
    count = max(1, len(ids))
    wanted = min(SHOWN, len(item["gold"]))
    return {
        "suits": len(set(ids) & set(item["gold"])) / wanted,
        "in the catalogue, and new": sum(
            name in known and name not in item["history"] for name in ids
        )
        / count,
        "nothing twice": len(set(ids)) / count if ids else 0.0,
        "with a reason": sum(len(why.split()) >= 3 for _, why in given) / count,
    }


def turns_of(item: Item, place: int) -> list[str]:
    """What the user says: tells the facts, speaks of other things, and asks at three turns.

    Args:
        item: A talk.
        place: Where in the list of other things it begins.
    """
    questions = [str(ask["question"]) for ask in item["asks"]]
    asks: dict[int, str] = dict(zip(ASKED_AT, questions, strict=True))
    other = iter(_BETWEEN[place % len(_BETWEEN) :] + _BETWEEN)
    later = [asks.get(turn) or next(other) for turn in range(2, ASKED_AT[-1] + 1)]
    return [item["opening"], *later]


def _talks(data: Path) -> list[Item]:
    del data
    return [{**row, "turns": turns_of(row, n)} for n, row in enumerate(own("talks"))]


async def _chat(models: Models) -> Run:
    given = {
        "store": ":memory:",
        "slm": "large",  # one model: there is nobody else to take the small talk
        "history_tokens": READ,
        "summary_tokens": SUMMED,
        "reply_tokens": REPLY,
    }
    node = load_graph("chat", models, options=given)

    async def run(item: Item, context: RunContext) -> Answer:
        replies: list[str] = []
        for text in item["turns"]:
            said = UserMessage(text=text, thread=item["id"])
            replies.append((await node.run(said, context)).output.text)
        return _talked(item, replies)

    return run


def _talked(item: Item, replies: Sequence[str]) -> Answer:
    lines = [f"- {said}\n  {reply}" for said, reply in zip(item["turns"], replies, strict=True)]
    return {"text": "\n".join(lines), "replies": list(replies)}


async def _last_turns(models: Models, item: Item, ask: Plain) -> Answer:
    """A call a turn, with the last messages that fit what the chat reads and sums up."""
    said: list[Message] = []
    replies: list[str] = []
    for text in item["turns"]:
        said.append(Message("user", text))
        recent = await _recent(models, said)
        prompt = Prompt(
            messages=(Message("system", PERSONA), *recent), max_tokens=REPLY, temperature=0.0
        )
        replies.append(await ask(prompt))
        said.append(Message("assistant", replies[-1]))
    return _talked(item, replies)


async def _recent(models: Models, said: Sequence[Message]) -> list[Message]:
    kept, left = list[Message](), READ + SUMMED
    for message in reversed(said):
        left -= await tokens_of(models.large, message.content, RunContext()) + 4
        if left < 0 and kept:
            break
        kept.append(message)
    return kept[::-1]


def remembered(item: Item, answer: Answer) -> Scores:
    found = {
        f"after {turn} turns": float(holds(answer["replies"][turn - 1], ask["gold"]))
        for turn, ask in zip(ASKED_AT, item["asks"], strict=True)
    }
    return {"remembered": fmean(found.values()), **found}


RECIPES = (
    Recipe(
        name="summarize",
        measures=("ROUGE-L",),
        items=_abstracts,
        graph=_summarize(1),
        plain=_one_line,
        grade=_likeness,
    ),
    Recipe(
        name="summarize_business",
        measures=("facts kept", "figures of the text", "as short as asked"),
        items=_business,
        graph=_summarize(BUSINESS_SENTENCES),
        plain=_decisions,
        grade=facts_kept,
        read=True,
    ),
    Recipe(
        name="summarize_long",
        measures=("ROUGE-L",),
        items=_long,
        graph=_summarize(SENTENCES),
        plain=_first_part,
        grade=_likeness_cut,
    ),
    Recipe(
        name="chat",
        measures=("remembered", *(f"after {turn} turns" for turn in ASKED_AT)),
        items=_talks,
        graph=_chat,
        plain=_last_turns,
        grade=remembered,
        read=True,
    ),
    Recipe(
        name="write",
        measures=(
            "form",
            "as long as asked",
            "has sections",
            "nothing twice",
            "says what it must",
        ),
        items=lambda _: own("topics"),
        graph=_write,
        plain=_article,
        grade=article_form,
        read=True,
    ),
    Recipe(
        name="brainstorm",
        measures=("different ideas of 25", "nothing twice"),
        items=lambda _: own("topics"),
        graph=_brainstorm,
        plain=_many_ideas,
        grade=ideas_apart,
        warms=True,
        read=True,
    ),
    Recipe(
        name="recommend",
        measures=("suits", "in the catalogue, and new", "nothing twice", "with a reason"),
        items=lambda _: own("wishes"),
        graph=_recommend,
        plain=_advised,
        grade=advice,
        warms=True,
        read=True,
    ),
)
