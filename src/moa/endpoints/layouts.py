"""Layouts: prompts that ask a model for a label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from moa.core.questions import Layout, Question
from moa.endpoints import Example

MOST_AT_ONCE = 128
"""Maximum tokens of one `logprob_token_ids` in vLLM."""
_FEW = 3
"""Maximum number of options without descriptions for which the demonstrations alone work better."""


@dataclass(frozen=True, slots=True)
class LabelPrompt:
    """A prompt that ends before the label, and the labels as continuations."""

    text: str
    labels: tuple[str, ...]
    """Continuations. A label that is the start of another also has an end, such as a line break."""
    layout: Layout = "completion"
    """`completion` to continue `text`; `chat` to send it as the user's last turn."""
    earlier_turns: tuple[str, ...] = ()
    """Earlier turns of a chat: user and assistant alternate."""

    @property
    def spellings(self) -> list[tuple[str, ...]]:
        """Spellings of each label, first the one in `labels`, up to the limit of one request.

        In a chat, the other spelling swaps the case of the first letter: asked for "yes", a model
        mostly starts with "Yes". After demonstrations, it copies their spelling.
        """
        swaps_case = self.layout == "chat" and 2 * len(self.labels) <= MOST_AT_ONCE
        groups = ((label, _other_case(label)) if swaps_case else (label,) for label in self.labels)
        return [tuple(dict.fromkeys(group)) for group in groups]

    @property
    def form(self) -> str:
        """Text and further spellings: a calibration fit holds for this form only."""
        extra_spellings = [spelling for _, *extra in self.spellings for spelling in extra]
        return "\n".join([self.text, *map(repr, extra_spellings)])


def _other_case(label: str) -> str:
    """Swap the case of a label's first letter."""
    word = label.lstrip(" ")
    return label.removesuffix(word) + word[:1].swapcase() + word[1:]


def label_prompt(
    question: Question, text: str, examples: Sequence[Example], *, layout: Layout = "completion"
) -> LabelPrompt:
    """Build the prompt of a question about a text, in one of two layouts.

    The smallest models work well with a completion after demonstrations, and hardly beat chance
    with a chat. The constant part of a completion comes first, so that the server caches it. For
    models that follow instructions, a chat turn works better with most questions. There the text
    comes first, so that it is cached for the next question, and the labels are near the answer.
    Levels are numbered in a chat, since their names alone don't show the order. Examples of the
    question replace the demonstrations.
    """
    words = label_words(question)
    is_numbered = layout == "chat" and question.kind == "score"
    answers = tuple(map(str, range(len(words)))) if is_numbered else words
    by_name = {option.name: word for word, option in zip(answers, question.options, strict=True)}
    labels = [(example.text, example.labels.get(question.name)) for example in examples]
    pairs = [(text, by_name[name]) for text, name in labels if name in by_name]
    if layout == "chat":
        instruction = _levels(question, words) if is_numbered else _labels(question, words)
        earlier_turns = [turn for text, word in pairs for turn in (_turn(text, instruction), word)]
        turn = _turn(text, instruction)
        return LabelPrompt(
            turn, tuple(f"{word}\n" for word in answers), "chat", tuple(earlier_turns)
        )
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


def _turn(text: str, instruction: str) -> str:
    return f"Text: {one_line(text)}\n\n{instruction}"


def _levels(question: Question, words: Sequence[str]) -> str:
    meanings = [option.description for option in question.options]
    lines = [
        f"{level}: {word} ({one_line(meaning)})" if meaning else f"{level}: {word}"
        for level, (word, meaning) in enumerate(zip(words, meanings, strict=True))
    ]
    return "\n".join([one_line(question.text), *lines, "Answer with the number."])


def _labels(question: Question, words: Sequence[str]) -> str:
    is_described = any(option.description for option in question.options)
    if question.kind == "predicate" and not is_described:
        instruction = f"Answer {words[0]} or {words[1]}."
    elif is_described:
        lines = [
            f"- {word}: {one_line(option.description)}" if option.description else f"- {word}"
            for word, option in zip(words, question.options, strict=True)
        ]
        instruction = "\n".join(["Answer with one of these labels:", *lines])
    else:
        instruction = f"Answer with one of: {', '.join(words)}."
    return f"{one_line(question.text)} {instruction}"


def _block(task: str, text: str, label: str) -> str:
    return f"Task: {task}\nText: {one_line(text)}\nLabel: {label}"


def label_words(question: Question) -> tuple[str, ...]:
    """Return readable names of the options: `change_pin` becomes `change pin`."""
    words = tuple(one_line(option.name.replace("_", " ")) for option in question.options)
    if len(set(words)) < len(words):
        return tuple(one_line(option.name) for option in question.options)
    return words


def one_line(text: str) -> str:
    """Put a text on one line, so that it can't add lines to its prompt."""
    return " ".join(text.split())


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
