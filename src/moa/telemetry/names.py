"""Names: what spans, their attributes and their events are called, all in one place.

Those of OpenTelemetry are the ones of its conventions for generative AI in the version that
`CONVENTIONS` says; they are still in development, and change. What they have no word for is called
`moa.…`, with one exception: `COST` is what most tools read, though no convention names it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

CONVENTIONS = "0.1.0"
"""Version of `open-telemetry/semantic-conventions-genai`."""
CONVENTIONS_KEY = "moa.conventions"
"""Says that version, as an attribute of the instrumentation's scope."""

KIND = "moa.kind"
"""What a span is about; one of `Kind`."""
Kind = Literal[
    "run", "workflow", "agent", "call", "tool", "decision", "guard", "function", "person"
]
"""`run`: a row of several, or a run that can be resumed; any other begins with its node.
`workflow`: a graph, or a recipe. `function`: one in a graph that is waited for."""
OPERATION = "gen_ai.operation.name"
CHAT, EMBEDDINGS = "chat", "embeddings"
"""Operation of a call. One that decides is a `chat` too: the conventions have no word for it."""
OPERATIONS: Mapping[Kind, str] = {
    "agent": "invoke_agent",
    "workflow": "invoke_workflow",
    "tool": "execute_tool",
}
"""The operation of each other kind that the conventions know. The name of a span starts with it, or
else with the kind."""

AGENT_NAME = "gen_ai.agent.name"
PROVIDER = "gen_ai.provider.name"
REQUEST_MODEL = "gen_ai.request.model"
MAX_TOKENS = "gen_ai.request.max_tokens"
TEMPERATURE = "gen_ai.request.temperature"
STREAM = "gen_ai.request.stream"
OUTPUT_TYPE = "gen_ai.output.type"
RESPONSE_MODEL = "gen_ai.response.model"
FINISH_REASONS = "gen_ai.response.finish_reasons"
FIRST_CHUNK_S = "gen_ai.response.time_to_first_chunk"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
CACHED_TOKENS = "gen_ai.usage.cache_read.input_tokens"
COST = "gen_ai.usage.cost"
"""US dollars. It isn't a name of the conventions; Langfuse and others read it."""
TOOL_NAME = "gen_ai.tool.name"
TOOL_CALL_ID = "gen_ai.tool.call.id"
ADDRESS = "server.address"
PORT = "server.port"
ERROR = "error.type"
HTTP_STATUS = "http.response.status_code"

# Content: only if it is asked for.
INPUT_MESSAGES = "gen_ai.input.messages"
OUTPUT_MESSAGES = "gen_ai.output.messages"
SYSTEM = "gen_ai.system_instructions"
ARGUMENTS = "gen_ai.tool.call.arguments"
RESULT = "gen_ai.tool.call.result"
TEXT = "moa.text"
"""The words of a note, or of an error."""

NODE = "moa.node"
"""Path of the node, such as `support/sentiment`."""
ENDPOINT = "moa.endpoint"
TIER = "moa.tier"
REQUESTS = "moa.requests"
"""Requests that one call took, its retries among them."""
ROW = "moa.row.id"
ENDED = "moa.ended"
"""How a span ended that neither finished nor failed: `cancelled`, or `asks a person`."""
DECISION_QUESTION = "moa.decision.question"
DECISION_LABEL = "moa.decision.label"
DECISION_PROBABILITY = "moa.decision.probability"
DECISION_ACCEPTED = "moa.decision.accepted"
DECISION_BOUND = "moa.decision.bound"
"""The share of accepted decisions that may be wrong, as was guaranteed."""
DECISION_THRESHOLD = "moa.decision.threshold"
DECISION_ESCALATED = "moa.decision.escalated"
GUARD_NAME = "moa.guard.name"
GUARD_POSITION = "moa.guard.position"
"""`before`, `beside` or `after` the node, or of a `tool`."""
GUARD_KEPT = "moa.guard.kept"
GUARD_MASKED = "moa.guard.masked"
"""How many texts were masked."""

# Sums, of all calls below a span.
SUM_REQUESTS = "moa.usage.requests"
SUM_INPUT_TOKENS = "moa.usage.input_tokens"
SUM_OUTPUT_TOKENS = "moa.usage.output_tokens"
SUM_COST = "moa.usage.cost"

NAMED_BY: Mapping[Kind, str] = {
    "agent": AGENT_NAME,
    "workflow": AGENT_NAME,
    "tool": TOOL_NAME,
    "guard": GUARD_NAME,
    "decision": DECISION_QUESTION,
}
"""The attribute that holds the name, by kind."""

OWN_PROVIDER = "moa"
"""Provider of a model in this process, and of one that `moa` runs itself."""
OTHER_PROVIDER = "_OTHER"
PROVIDERS: Mapping[str, str] = {
    "api.anthropic.com": "anthropic",
    "api.cohere.com": "cohere",
    "api.deepseek.com": "deepseek",
    "api.groq.com": "groq",
    "api.mistral.ai": "mistral_ai",
    "api.moonshot.ai": "moonshot_ai",
    "api.openai.com": "openai",
    "api.perplexity.ai": "perplexity",
    "api.x.ai": "x_ai",
    "generativelanguage.googleapis.com": "gcp.gemini",
}
"""By the host that is asked."""
AZURE_HOST, AZURE = ".openai.azure.com", "azure.ai.openai"


def event(kind: str) -> str:
    """Name the event of a note, such as `moa.retried` or `moa.fell_back`."""
    return f"moa.{kind.replace(' ', '_')}"
