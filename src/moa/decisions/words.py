"""Words: what a question says of itself, before any model reads it."""

from __future__ import annotations

import re

from moa.core.questions import NONE_OF_THESE, Question

_IS = re.compile(r"^is (?:this|the) (?:text|message|review|e-?mail|post|comment) (.*?)\??$", re.I)


def criterion_of(question: Question) -> str | None:
    """Return the criterion of a yes-or-no question; `None` if it has another form."""
    if question.kind != "predicate":
        return None
    match = _IS.match(question.text.strip())
    return question.options[0].description or (match[1] if match else None)


def is_about_whole_text(question: Question) -> bool:
    """Return True if a yes-or-no question is about the text as a whole, like a filter's."""
    return question.kind == "predicate" and _IS.match(question.text.strip()) is not None


def has_words(question: Question) -> bool:
    """Return True if a question can be read by its words: a choice, or one with a criterion."""
    return question.kind == "choice" or criterion_of(question) is not None


def label_names(question: Question) -> list[str]:
    """Return the names of the options that are labels."""
    return [option.name for option in question.options if option.name != NONE_OF_THESE]


def label_meanings(question: Question) -> list[str]:
    """Return the meaning of each label of a question in words."""
    return [
        option.description or option.name.replace("_", " ")
        for option in question.options
        if option.name != NONE_OF_THESE
    ]
