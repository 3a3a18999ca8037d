"""Extraction: typed fields from a mail, and only those that the mail states.

    moa run graph.py:graph mails.jsonl
    moa draw graph.py:graph

Patterns find what has a fixed form, a small model chooses the wish, and a large model, if there is
one, finds the rest. A small model is good at choosing, and bad at copying.
"""

from __future__ import annotations

import re
from typing import Literal

from pydantic import BaseModel, Field

from moa import Choice, Classifier, Endpoints, Extractor, Graph, Text
from moa.endpoints import Endpoint
from moa.graphs import BuiltGraph

Wish = Literal["refund", "delivery", "invoice", "change"]
WISHES: dict[Wish, str] = {
    "refund": "The writer wants money back.",
    "delivery": "The writer wants to know where a parcel is, or when it comes.",
    "invoice": "The writer wants an invoice.",
    "change": "The writer wants an order or an address changed.",
}
"""One sentence on each wish. The small model reads these sentences."""
EXAMPLES: list[tuple[str, Wish | None]] = [
    ("I want my money back, please.", "refund"),
    ("We paid 80 EUR too much. Kindly pay it back.", "refund"),
    ("My parcel has not come. Where is it?", "delivery"),
    ("Your driver never rang, and the box is gone.", "delivery"),
    ("Please send me the invoice again.", "invoice"),
    ("Ich brauche noch die Rechnung.", "invoice"),
    ("Send it to my new address instead.", "change"),
    ("I took the wrong size, please make it two.", "change"),
    ("Thank you, all is well now.", None),
    ("Do you have this in green?", None),
]
"""Mails and their wishes, in the languages that people write in; `None`: something else."""
SURE = 0.65
"""Minimum confidence to accept the wish. It guarantees nothing; your own labels can."""

ORDER = re.compile(r"(?:order|Bestellung|commande)\s+(?:no\.?\s*)?(\d{4,})", re.IGNORECASE)
AMOUNT = re.compile(r"(\d[\d.,]*\d)\s*(euros?|EUR|€|USD|GBP)", re.IGNORECASE)
DATE = re.compile(
    r"\b(\d{1,2} (?:January|February|March|April|May|June|July|August|September|October|November"
    r"|December) \d{4})\b"
)


class Details(BaseModel):
    """What a mail says, word for word."""

    order: str | None = Field(default=None, description="the number of the order")
    amount: str | None = Field(default=None, description="the sum of money, with its currency")
    date: str | None = Field(default=None, description="the day that the mail tells of")
    product: str | None = Field(default=None, description="the thing that the mail is about")


class Mail(Details):
    """The details of a mail, and the wish of its writer."""

    wish: str | None = None
    """One of `WISHES`; `None` if the mail wants something else, or the model is unsure."""
    confidence: float = 0
    """Confidence of the wish, from 0 to 1."""

    def __str__(self) -> str:
        details = [f"{name} {value}" for name, value in self if value and name not in _OF_THE_WISH]
        return f"{self.wish or 'something else'} ({', '.join(details) or 'no details'})"


_OF_THE_WISH = ("wish", "confidence")


def by_patterns(mail: Text) -> Details:
    """Find the details that have a fixed form."""
    matches = {
        "order": ORDER.search(mail.text),
        "date": DATE.search(mail.text),
    }
    amount = AMOUNT.search(mail.text)
    return Details(
        **{name: match[1] for name, match in matches.items() if match},
        amount=amount[0] if amount else None,
    )


def put_together(mail: Text, found: Details, read: Details, wish: Choice[Wish | None]) -> Mail:
    """Take each detail from a pattern, else from a model. Leave out what the mail doesn't say."""
    fields = {name: value or getattr(read, name) for name, value in found}
    details = {name: value for name, value in fields.items() if value and value in mail.text}
    confidence = wish.confidence or 0
    return Mail(**details, wish=wish.label if confidence >= SURE else None, confidence=confidence)


def extraction(small: Endpoint, large: Endpoint | None = None) -> BuiltGraph[Text, Mail]:
    """Let patterns, the small model and the large one read a mail in parallel."""
    g = Graph("extraction", Text)
    details = g.add(by_patterns, g.input)
    read = details if large is None else g.add(Extractor(large, Details), g.input)
    classifier = Classifier(small, Wish, describe=WISHES, none=True, examples=EXAMPLES, name="wish")
    return g.build(g.join(put_together, g.input, details, read, g.add(classifier, g.input)))


def graph(endpoints: Endpoints) -> BuiltGraph[Text, Mail]:
    """Build the graph for `moa run graph.py:graph`."""
    return extraction(endpoints.slm, endpoints.llm if endpoints.has_llm else None)
