"""Dialects: how each vendor or server differs from OpenAI's format.

A vendor without differences is one line of `DIALECTS`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from decimal import Decimal
from typing import Literal

from moa.core._json import JSON, at, is_list, is_object, list_of, object_of, objects_of
from moa.core.errors import ConfigError
from moa.core.questions import Question
from moa.core.usage import Price


@dataclass(frozen=True, slots=True)
class Dialect:
    """One vendor or server; the defaults are what most of them do."""

    name: str
    """Its name in messages."""
    prefixes: tuple[str, ...] = ()
    """Prefixes of a vendor's model names."""
    base_url: str = ""
    """A vendor's address; empty for a server of your own."""
    api_key_env: str = ""
    """Environment variable that usually holds a vendor's key."""
    _: KW_ONLY
    owner: str = ""
    """Its `owned_by` in `GET /v1/models`."""
    answer_limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """The field that limits the tokens of an answer."""
    schema_field: Literal["response_format", "structured_outputs"] = "response_format"
    """The field that holds the JSON schema of an answer."""
    enforces: Literal["none", "strict", "all"] = "none"
    """The schemas that it enforces; `strict`: those that `response_format` can send as strict."""
    answers_at_once: Mapping[str, object] = field(default_factory=dict[str, object])
    """Fields with which a thinking model answers without a thought."""
    schema_beside_tools: bool = False
    """True if it takes a schema of the answer together with tools."""
    wire: Literal["systemone", "decisions"] = "systemone"
    """The format of its decisions, if it can decide."""
    labels: Literal["vllm", "llama.cpp"] | None = None
    """Its format for log-probabilities of labels; `None`: it sends none."""
    most_options: int = 255
    """Maximum options of a choice."""
    most_levels: int = 10
    """Maximum levels of a score."""
    most_questions: int = 64
    """Maximum questions in one request; more take several requests."""
    together: bool = True
    """True if questions in one request don't influence each other's answers."""
    empty_text: bool = True
    """True if it decides about an empty text."""

    def constrain(self, schema: Mapping[str, object]) -> JSON:
        """Return the field that makes the answer follow `schema`."""
        if self.schema_field == "structured_outputs":
            return {self.schema_field: {"json": schema}}
        return {self.schema_field: response_format(schema)}

    def enforces_schema(self, schema: Mapping[str, object]) -> bool:
        """Return True if it is known to enforce `schema`; else the model is shown it."""
        if self.enforces == "strict":
            return at(response_format(schema), "json_schema", "strict") is True
        return self.enforces == "all"

    def check(self, text: str, questions: Sequence[Question]) -> None:
        """Raise `ConfigError` for a request that this server would refuse, or cut."""
        if not text.strip() and not self.empty_text:
            raise ConfigError(f"{self.name} decides about no empty text: leave it out")
        for question in questions:
            is_score = question.kind == "score"
            limit = self.most_levels if is_score else self.most_options
            if len(question.options) > limit:
                raise ConfigError(
                    f"question {question.name!r} has {len(question.options)} "
                    f"{'levels' if is_score else 'options'}, and {self.name} takes {limit}. "
                    "Group them and ask twice, or ask an endpoint that takes more"
                )

    def split(self, questions: Sequence[Question]) -> list[Sequence[Question]]:
        """Split questions into as many requests as this server needs."""
        size = self.most_questions if self.together else 1
        return [questions[start : start + size] for start in range(0, len(questions), size)]


_NO_THOUGHT = {"chat_template_kwargs": {"enable_thinking": False}}
"""What Qwen3 and its like are told by their chat template; other templates don't read it."""
_LITTLE_THOUGHT = {"reasoning_effort": "minimal"}
UNKNOWN = Dialect("a System One server", answers_at_once=_NO_THOUGHT)
"""A server of unknown kind."""
OPENAI = Dialect(
    "OpenAI",
    ("gpt-", "o1", "o3", "o4", "chatgpt-"),
    "https://api.openai.com/v1",
    "OPENAI_API_KEY",
    answer_limit="max_completion_tokens",  # its reasoning models know no other
    enforces="strict",
    answers_at_once=_LITTLE_THOUGHT,
    schema_beside_tools=True,
    wire="decisions",
    most_questions=400,
)
VLLM = Dialect(
    "vLLM",
    owner="vllm",
    schema_field="structured_outputs",
    enforces="all",
    answers_at_once=_NO_THOUGHT,
    labels="vllm",
    most_options=26,
)
LLAMACPP = Dialect(
    "llama.cpp",
    owner="llamacpp",
    enforces="all",
    answers_at_once=_NO_THOUGHT,
    labels="llama.cpp",
    together=False,
)
OLLAMA = Dialect(
    "Ollama", owner="library", most_options=26, most_levels=26, together=False, empty_text=False
)
DIALECTS = (
    OPENAI,
    Dialect(
        "Gemini",
        ("gemini-",),
        "https://generativelanguage.googleapis.com/v1beta/openai/",
        "GEMINI_API_KEY",
    ),
    Dialect("Anthropic", ("claude-",), "https://api.anthropic.com/v1/", "ANTHROPIC_API_KEY"),
    Dialect(
        "Mistral",
        ("mistral-", "ministral-", "magistral-", "codestral-"),
        "https://api.mistral.ai/v1",
        "MISTRAL_API_KEY",
    ),
    Dialect("DeepSeek", ("deepseek-",), "https://api.deepseek.com/v1", "DEEPSEEK_API_KEY"),
    Dialect("xAI", ("grok-",), "https://api.x.ai/v1", "XAI_API_KEY"),
    Dialect(
        "TypeSafe", ("jev-",), "https://api.typesafe.ai/v1", "TYPESAFE_API_KEY", owner="typesafe"
    ),
    VLLM,
    LLAMACPP,
    OLLAMA,
    Dialect("SGLang", owner="sglang", answers_at_once=_NO_THOUGHT, empty_text=False),
    Dialect("moa", owner="moa", enforces="all", empty_text=False),
)
VENDORS = tuple(dialect for dialect in DIALECTS if dialect.base_url)
"""Vendors, whose models are known by their names."""

_BY_OWNER = {dialect.owner: dialect for dialect in DIALECTS if dialect.owner}


def dialect_of(models: Mapping[str, object]) -> Dialect:
    """Detect the server by `owned_by` in its `GET /v1/models`; else `UNKNOWN`."""
    owners = (str(entry.get("owned_by")).lower() for entry in objects_of(models.get("data")))
    return next((_BY_OWNER[owner] for owner in owners if owner in _BY_OWNER), UNKNOWN)


def response_format(schema: Mapping[str, object]) -> JSON:
    """Build OpenAI's `response_format` for a JSON schema.

    `strict`, which makes OpenAI enforce the schema, requires that each object lists all its
    properties as required and allows no others. It is set if the schema can meet that without a
    change of meaning.
    """
    closed, strict = _close(dict(schema))
    strict = strict and schema.get("type") == "object" and "anyOf" not in schema
    name = str(schema.get("title") or "answer")
    name = "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "_" for c in name)[:64]
    return {
        "type": "json_schema",
        "json_schema": {"name": name, "schema": closed if strict else schema, "strict": strict},
    }


_NAMED = ("properties", "$defs", "definitions")
_UNENFORCED = {
    *("allOf", "oneOf", "not", "if", "then", "else", "dependentRequired", "dependentSchemas"),
    *("patternProperties", "propertyNames", "minProperties", "maxProperties"),
    *("contains", "minContains", "maxContains", "uniqueItems", "minLength", "maxLength"),
}
"""Keywords that OpenAI refuses in a strict schema:
<https://platform.openai.com/docs/guides/structured-outputs#supported-schemas>."""


def _close(value: object, *, is_named: bool = False) -> tuple[object, bool]:
    """Close every object of a schema; return False if not all of them can be."""
    if is_object(value):
        pairs = {key: _close(inner, is_named=key in _NAMED) for key, inner in value.items()}
        closed = {key: inner for key, (inner, _) in pairs.items()}
        strict = all(is_strict for _, is_strict in pairs.values())
        if is_named:  # its keys are names of the user's own
            return closed, strict
        strict = strict and not _UNENFORCED & value.keys()
        if value.get("type") == "object":
            extra = closed.setdefault("additionalProperties", False)
            properties = object_of(value.get("properties"))
            is_complete = set(list_of(value.get("required"))) == properties.keys()
            strict = strict and extra is False and is_complete
        return closed, strict
    if is_list(value):
        parts = [_close(inner) for inner in value]
        return [inner for inner, _ in parts], all(is_strict for _, is_strict in parts)
    return value, True


def published_price(model: str, vendor: Dialect | None) -> Price:
    """Return the published price of a vendor's model; an unknown price if there is none."""
    if vendor is None:
        return Price()
    from genai_prices import Usage, calc_price
    from genai_prices.types import TieredPrices

    try:
        prices = calc_price(Usage(), model, provider_api_url=vendor.base_url).model_price
    except LookupError:
        return Price()

    def base(price: Decimal | TieredPrices | None) -> Decimal | None:
        return price.base if isinstance(price, TieredPrices) else price

    lacks_output = prices.input_mtok is not None and prices.output_mtok is None
    return Price(
        input=base(prices.input_mtok),
        cached_input=base(prices.cache_read_mtok),
        output=Decimal(0) if lacks_output else base(prices.output_mtok),  # decisions cost no output
    )
