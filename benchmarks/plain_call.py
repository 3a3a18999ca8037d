"""Ask a chat model several questions about one text in a single JSON-schema call."""

from __future__ import annotations

import json

# (name, kind: "predicate" | "choice" | "score", question text, options or levels, lowest first)
Question = tuple[str, str, str, list[str]]

SYSTEM = (
    "You read a text carefully and answer questions about it. "
    "Judge only by what the text says. "
    "For each question, give the one allowed answer that fits the text best. "
    "Reply with JSON only."
)


def _quoted(values: list[str]) -> str:
    return ", ".join(json.dumps(value, ensure_ascii=False) for value in values)


def _question_line(question: Question) -> str:
    """One prompt line: the name, the question and its allowed answers."""
    name, kind, wording, options = question
    if kind == "predicate":
        hint = 'Answer "yes" or "no".'
    elif kind == "score":
        hint = f"Answer with one level, from lowest to highest: {_quoted(options)}."
    else:
        hint = f"Answer with one of: {_quoted(options)}."
    return f"{name}: {wording.strip()} {hint}"


def plain_request(text: str, questions: list[Question]) -> tuple[list[dict[str, str]], dict]:
    """Return the chat messages and the JSON schema for `response_format`."""
    lines = "\n".join(_question_line(question) for question in questions)
    names = [question[0] for question in questions]
    user = (
        f"<text>\n{text.strip()}\n</text>\n\n"
        f"Questions about the text:\n{lines}\n\n"
        f"Reply with one JSON object with these keys: {_quoted(names)}."
    )
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": user}]
    schema = {
        "type": "object",
        "properties": {
            name: {"type": "string", "enum": ["yes", "no"] if kind == "predicate" else options}
            for name, kind, _, options in questions
        },
        "required": names,
        "additionalProperties": False,
    }
    return messages, schema


def _parse_object(answer: str) -> dict:
    """The JSON object that starts at the first brace, or {} if there is none."""
    try:
        value, _ = json.JSONDecoder().raw_decode(answer, answer.index("{"))
    except (ValueError, TypeError, AttributeError, RecursionError):
        return {}
    return value


def _match(value: object, options: list[str]) -> str | None:
    """The option that `value` names: exactly, or else ignoring case and outer spaces."""
    if not isinstance(value, (str, int)):
        return None
    if value in options:
        return str(value)
    wanted = str(value).strip().casefold()
    return next((option for option in options if option.strip().casefold() == wanted), None)


def read_answers(answer: str, questions: list[Question]) -> dict[str, object]:
    """Return True/False for predicates, the option otherwise, None if unreadable."""
    found = _parse_object(answer)
    results: dict[str, object] = {}
    for name, kind, _, options in questions:
        if kind == "predicate":
            word = _match(found.get(name), ["yes", "no", "true", "false"])
            results[name] = None if word is None else word in ("yes", "true")
        else:
            results[name] = _match(found.get(name), options)
    return results
