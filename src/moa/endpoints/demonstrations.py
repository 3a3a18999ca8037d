"""Demonstrations: what shows a small model how a question about a text is answered by a label.

They are of eight unrelated tasks, so that they teach the form and favour no label. On
SmolLM2-135M they rank the sentiment of texts better than a few labelled examples of the very task
do, and far better than a prompt that lists the options.
"""

from __future__ import annotations

from typing import NamedTuple


class Demonstration(NamedTuple):
    """A question, a text, and the label that answers it."""

    question: str
    text: str
    label: str


DEMONSTRATIONS = (
    Demonstration(
        "Which language is the text written in?",
        "Je voudrais une table pour deux personnes.",
        "French",
    ),
    Demonstration(
        "What is the text about?", "The striker scored twice before half time.", "sports"
    ),
    Demonstration("Is this a question or a statement?", "Where did you put the keys", "question"),
    Demonstration(
        "What does the customer want?",
        "My parcel was due on Monday and it is still not here.",
        "track order",
    ),
    Demonstration("Is the text formal or informal?", "hey u coming 2nite or what", "informal"),
    Demonstration(
        "Which season does the text describe?",
        "Snow lay on the roofs and the pond was frozen.",
        "winter",
    ),
    Demonstration(
        "Is the claim about the past or the future?",
        "The bridge will open to traffic in two years.",
        "future",
    ),
    Demonstration(
        "Who is speaking?",
        "Please take this twice a day after meals and come back in a week.",
        "doctor",
    ),
)
