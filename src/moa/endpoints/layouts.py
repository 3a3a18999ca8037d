"""Layouts: the prompt that a model continues by a label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from moa.core._text import one_line
from moa.core.questions import Question
from moa.endpoints import Example

_FEW = 3
"""Maximum number of options without descriptions for which the demonstrations alone work better."""


@dataclass(frozen=True, slots=True)
class LabelPrompt:
    """A prompt that ends before the label, and the labels as continuations."""

    text: str
    labels: tuple[str, ...]
    """Continuations. A label that is the start of another also has an end, such as a line break."""


def label_prompt(question: Question, text: str, examples: Sequence[Example]) -> LabelPrompt:
    """Build the prompt of a question about a text: a completion after demonstrations.

    Base models and the smallest work well with it, and hardly beat chance in a chat. The constant
    part comes first, so that the server caches it. Examples of the question replace the
    demonstrations.
    """
    words = label_words(question)
    by_name = {option.name: word for word, option in zip(words, question.options, strict=True)}
    labels = [(example.text, example.labels.get(question.name)) for example in examples]
    pairs = [(text, by_name[name]) for text, name in labels if name in by_name]
    task = one_line(question.text)
    blocks = [] if pairs else [_block(*demonstration) for demonstration in DEMONSTRATIONS]
    if not pairs and (len(words) > _FEW or any(o.description for o in question.options)):
        pairs = [
            (option.description or word, word)
            for word, option in zip(words, question.options, strict=True)
        ]
    blocks += [_block(task, text, word) for text, word in pairs]
    blocks.append(f"Task: {task}\nText: {one_line(text)}\nLabel:")
    return LabelPrompt("\n\n".join(blocks), tuple(f" {word}\n\n" for word in words))


def _block(task: str, text: str, label: str) -> str:
    return f"Task: {task}\nText: {one_line(text)}\nLabel: {label}"


def label_words(question: Question) -> tuple[str, ...]:
    """Return readable names of the options: `change_pin` becomes `change pin`."""
    words = tuple(one_line(option.name.replace("_", " ")) for option in question.options)
    if len(set(words)) < len(words):
        return tuple(one_line(option.name) for option in question.options)
    return words


DEMONSTRATIONS = (
    (
        "Which language is the text written in?",
        "Je voudrais une table pour deux personnes.",
        "French",
    ),
    ("What is the text about?", "The striker scored twice before half time.", "sports"),
    ("Is this a question or a statement?", "Where did you put the keys", "question"),
    (
        "What does the customer want?",
        "My parcel was due on Monday and it is still not here.",
        "track order",
    ),
    ("Is the text formal or informal?", "hey u coming 2nite or what", "informal"),
    (
        "Which season does the text describe?",
        "Snow lay on the roofs and the pond was frozen.",
        "winter",
    ),
    (
        "Is the claim about the past or the future?",
        "The bridge will open to traffic in two years.",
        "future",
    ),
    (
        "Who is speaking?",
        "Please take this twice a day after meals and come back in a week.",
        "doctor",
    ),
)
"""Questions, texts and labels of eight unrelated tasks, which teach the format and favour no label.
On SmolLM2-135M they rank the sentiment of texts better than a few labelled examples of that very
task, and far better than a prompt that lists the options."""
