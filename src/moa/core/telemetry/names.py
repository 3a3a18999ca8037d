"""Names of spans, their attributes and their events, all in one place.

OpenTelemetry's names are those of its conventions for generative AI, version `CONVENTIONS`. They
are still in development, and change. Names that the conventions lack begin with `moa.`, except
for `COST`, which most tools read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

CONVENTIONS = "0.1.0"
"""Version of `open-telemetry/semantic-conventions-genai`."""
CONVENTIONS_KEY = "moa.conventions"
"""Attribute of the instrumentation scope that holds this version."""

KIND = "moa.kind"
"""Kind of a span; one of `Kind`."""
Kind = Literal[
    "run", "workflow", "agent", "call", "tool", "decision", "guard", "function", "person"
]
"""`run`: a row of several, or a resumable run; any other trace begins with its node.
`workflow`: a graph or a recipe. `function`: an async function in a graph."""
OPERATION = "gen_ai.operation.name"
CHAT, EMBEDDINGS = "chat", "embeddings"
"""Operations of calls. A decision is a `chat` too: the conventions have no word for it."""
OPERATIONS: Mapping[Kind, str] = {
    "agent": "invoke_agent",
    "workflow": "invoke_workflow",
    "tool": "execute_tool",
}
"""Operation of each other kind in the conventions. A span's name starts with it, else with the
kind."""

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
"""US dollars. The name isn't in the conventions, but Langfuse and others read it."""
TOOL_NAME = "gen_ai.tool.name"
TOOL_CALL_ID = "gen_ai.tool.call.id"
ADDRESS = "server.address"
PORT = "server.port"
ERROR = "error.type"
HTTP_STATUS = "http.response.status_code"

# Content: only on request.
INPUT_MESSAGES = "gen_ai.input.messages"
OUTPUT_MESSAGES = "gen_ai.output.messages"
SYSTEM = "gen_ai.system_instructions"
ARGUMENTS = "gen_ai.tool.call.arguments"
RESULT = "gen_ai.tool.call.result"
TEXT = "moa.text"
"""Text of a note or an error."""

NODE = "moa.node"
"""Path of the node, such as `support/sentiment`."""
ENDPOINT = "moa.endpoint"
TIER = "moa.tier"
REQUESTS = "moa.requests"
"""Requests of one call, retries included."""
ROW = "moa.row.id"
ENDED = "moa.ended"
"""End of a span that didn't finish and didn't fail: `cancelled` or `asks a person`."""
DECISION_QUESTION = "moa.decision.question"
DECISION_LABEL = "moa.decision.label"
DECISION_PROBABILITY = "moa.decision.probability"
DECISION_ACCEPTED = "moa.decision.accepted"
DECISION_BOUND = "moa.decision.bound"
"""Guaranteed maximum share of wrong decisions among accepted ones."""
DECISION_THRESHOLD = "moa.decision.threshold"
DECISION_ESCALATED = "moa.decision.escalated"
GUARD_NAME = "moa.guard.name"
GUARD_POSITION = "moa.guard.position"
"""Position of the guard: `before`, `beside` or `after` the node, or at a `tool`."""
GUARD_KEPT = "moa.guard.kept"
GUARD_MASKED = "moa.guard.masked"
"""Number of masked texts."""

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
"""Attribute that holds the name, by kind."""

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
"""Providers by host."""
AZURE_HOST, AZURE = ".openai.azure.com", "azure.ai.openai"


def event(kind: str) -> str:
    """Return the event name for a kind of note, such as `moa.retried` or `moa.fell_back`."""
    return f"moa.{kind.replace(' ', '_')}"
