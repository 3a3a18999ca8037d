"""An endpoint that decides, what it is asked, and what it answers."""

from __future__ import annotations

from typing import Any

from moa.core.context import RunContext
from moa.core.questions import NONE_OF_THESE, Option, Question
from moa.endpoints import Decision
from moa.endpoints.openai import OpenAIEndpoint

from .conftest import Answer

YES_NO = (Option("yes", True, "they want money"), Option("no", False))
REFUND = Question("refund", "predicate", "Money back?", YES_NO)
TOPIC = Question(
    "topic",
    "choice",
    "About what?",
    (Option("card", "card", "a bank card"), Option("app", "app"), Option(NONE_OF_THESE, None)),
)
URGENCY = Question(
    "urgency", "score", "How urgent?", tuple(Option(n, i) for i, n in enumerate(["low", "high"]))
)
ALL = (REFUND, TOPIC, URGENCY)
ANSWERS = {
    "refund": {"type": "noul", "noul": 0.9},
    "topic": {
        "type": "choice",
        "choice": "app",
        "probabilities": {"app": 0.66, NONE_OF_THESE: 0.0, "card": 0.33},
        "confidence": 0.1,
    },
    "urgency": {"type": "score", "score": 0.2, "probabilities": {"1": 0.2, "0": 0.8}},
}
USAGE = {"input_tokens": 101, "output_tokens": 3}


def reply(answers: object = ANSWERS, **more: Any) -> Answer:
    body = {"model": "clef-1", "answers": answers, "usage": USAGE, **more}
    return Answer(json=body)


def endpoint(**settings: Any) -> OpenAIEndpoint:
    settings = {"base_url": "http://model.test/v1", "decides": "systemone", **settings}
    return OpenAIEndpoint("decider", model="m", tier="slm", **settings)


async def decided(endpoint: OpenAIEndpoint, *questions: Question) -> Decision:
    return await endpoint.decide("I lost my card", questions, RunContext())
