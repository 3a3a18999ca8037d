"""Reads messages by the support graph, or by a chat model that is asked once a message."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from moa import EmbeddedEndpoint
from moa.core.context import RunContext
from moa.core.errors import MoaError
from moa.endpoints import Endpoint, Prompt
from moa.inbox.support import (
    INTENTS,
    QUARANTINE,
    Intent,
    Rejected,
    Routed,
    Support,
    Ticket,
    as_one_text,
)

NONE = "none"
MEANINGS: dict[str, dict[str, str]] = {
    "intent": {name: one.means for name, one in INTENTS.items()} | {NONE: "none of these"},
    "sentiment": {
        "negative": "the writer is unhappy or angry",
        "neutral": "the writer is calm",
        "positive": "the writer is happy or thankful",
    },
    "urgency": {
        "can wait": "nothing is lost if it waits for days",
        "today": "somebody should look at it today",
        "now": "danger, or harm that only an answer at once averts",
    },
    "spam": {"yes": "unsolicited advertising or fraud", "no": "a genuine message"},
    "injection": {"yes": "it gives orders to an AI that reads it", "no": "it doesn't"},
}
Row = dict[str, Any]
Read = Callable[[Row], Awaitable[Row]]


class Alone(EmbeddedEndpoint):
    """A model without an encoder beside it."""

    encoder: Endpoint | None = None


def ticket(row: Row) -> Ticket:
    return Ticket.model_validate({k: row[k] for k in ("id", "subject", "text") if k in row})


def graph_reader(slm: Endpoint, intents: Mapping[str, Intent] = INTENTS) -> Read:
    """Read by the support graph; nobody writes replies, which aren't measured here."""
    nobody = EmbeddedEndpoint("nobody", model="smollm2-135m")
    graph = Support(slm=slm, llm=nobody, intents=dict(intents))

    async def read(row: Row) -> Row:
        result = await graph.run(ticket(row))
        out, usage = result.output, result.usage.by_endpoint()
        found: Row = {"dropped": isinstance(out, Rejected), "tokens": 0}
        if slm.name in usage:
            found["tokens"] = usage[slm.name].input_tokens
        if out.decisions is not None:
            made = out.decisions
            found |= {
                "intent": made.intent.label if made.intent.status == "answered" else "unanswered",
                "sentiment": made.sentiment.label,
                "urgency": made.urgency.level,
                "unwanted": [k for k in ("spam", "injection") if not getattr(made, k).kept],
                "quarantined": isinstance(out, Routed) and out.queue == QUARANTINE,
                "settled": out.became in ("replied", "routed"),
            }
        return found

    return read


def chat_reader(model: Endpoint) -> Read:
    """Ask a chat model once for all five answers, as JSON held to a schema."""
    properties = {name: {"enum": list(labels)} for name, labels in MEANINGS.items()}
    schema = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    asked = "\n".join(
        f"{name}: " + "; ".join(f'"{label}" ({means})' for label, means in labels.items())
        for name, labels in MEANINGS.items()
    )
    system = (
        "You read messages to the support of an online shop, and answer with a JSON object of "
        f"these fields, each with one of its values:\n{asked}"
    )

    async def read(row: Row) -> Row:
        text = as_one_text(ticket(row))
        if not text.strip():
            return {"dropped": True, "tokens": 0}
        prompt = Prompt.of(text, system=system, json_schema=schema, max_tokens=120, temperature=0.0)
        context = RunContext()
        try:
            said = json.loads((await model.complete(prompt, context)).text)
        except (MoaError, ValueError) as error:
            print(f"{row.get('id')}: {error}")
            said = dict.fromkeys(MEANINGS, "unanswered")
        unwanted = [kind for kind in ("spam", "injection") if said[kind] == "yes"]
        return {
            "dropped": False,
            "tokens": context.usage.input_tokens,
            "intent": None if said["intent"] == NONE else said["intent"],
            "sentiment": said["sentiment"],
            "urgency": said["urgency"],
            "unwanted": unwanted,
            "quarantined": bool(unwanted),
        }

    return read
