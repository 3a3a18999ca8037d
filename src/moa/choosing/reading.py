"""Reading: a task in words becomes a `Task`, by rules that can be seen, and are told with it.

No model reads it: numbers are taken with their units, and the rest by the words of the tables
below. What was taken from which words is part of the result, so that a misreading shows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from pydantic import ValidationError

from moa.choosing.members import VENDOR_NAMES
from moa.choosing.task import Job, Task
from moa.config import explained
from moa.errors import ConfigError

_JOBS: dict[Job, str] = {
    "classify": r"classif\w*|categori\w*|label(?!l?ed)\w*|triag\w*|sentiment|spam|detect\w*"
    r"|filter\w*|rout(?:e|ing)|tag(?:ging)?|intents?|moderat\w*",
    "extract": r"extract\w*|pars(?:e|ing)|pull(?:ing)? out|entities|fields",
    "summarise": r"summar\w*|condens\w*|tl;?dr",
    "recommend": r"recommend\w*|suggest\w*|personali[sz]\w*",
    "answer-from-documents": r"answer\w* (?:\w+ )*(?:from|about|over|on) (?:\w+ )*"
    r"(?:documents?|manuals?|docs|wiki|handbooks?|files)|rag|knowledge base",
    "converse": r"chat\w*|\w*bot|assistants?|convers\w*|repl(?:y|ies|ying)|talk\w*|answer(?:ing)? "
    r"(?:customers?|messages|mails|e-?mails|support)",
    "reason": r"reason\w*|scientific|maths?|mathemati\w*|prov(?:e|ing)|proofs?|solv\w*|analys\w*",
    "create": r"essays?|writ(?:e|es|ing|er)|stor(?:y|ies)|blogs?|creat\w*|generat\w*|draft\w*"
    r"|articles?|poems?|copywrit\w*",
}
"""Words that name a job; the first of them in the text counts."""
_LANGUAGES = {
    "arabic": "ar", "bengali": "bn", "chinese": "zh", "czech": "cs", "danish": "da", "dutch": "nl",
    "english": "en", "finnish": "fi", "french": "fr", "german": "de", "greek": "el",
    "hebrew": "he", "hindi": "hi", "hungarian": "hu", "indonesian": "id", "italian": "it",
    "japanese": "ja", "korean": "ko", "norwegian": "no", "persian": "fa", "polish": "pl",
    "portuguese": "pt", "romanian": "ro", "russian": "ru", "spanish": "es", "swedish": "sv",
    "thai": "th", "turkish": "tr", "ukrainian": "uk", "vietnamese": "vi",
}  # fmt: skip
_HIGH = (
    r"high[- ]risk|medic\w*|clinic\w*|diagnos\w*|legal|court|safety|critical|fraud\w*|compliance|"
    r"(?:zero|no) (?:errors?|mistakes?)|error-free|never be wrong"
    r"|financial advice"
)
_LOW = r"low[- ]risk|hobby|casual|nice to have|for fun|internal use"
_PRIVATE = (
    r"private|confidential|(?:may|must|can) ?not leave|on[- ]prem\w*|in[- ]house|gdpr|sensitive"
)
_OFFLINE = r"offline|air[- ]gapped|(?:no|without an?|without) (?:network|internet|connection)"
_API_ITSELF = r"api(?: keys?)?"
_API = r"api keys?|an? api|by api|(?:openai|gemini|anthropic|claude|gpt)(?:'s)?"
_NEGATION = (
    r"(?:\b(?:no|not|never|without|neither|nor|avoid\w*|lack\w*|cannot)|n['\u2019]t)\s+"
    r"(?:(?:an?|any|the|our|my|own|have|has|be|use|using|need|want|ask|call|send|to|by|via)\s+)*"
)
"""What stands before words that say the contrary."""
_SOON = r"real[- ]?time|interactive|live|instant\w*"
_SOON_S = {"converse": 2.0, "answer-from-documents": 2.0}
_ELSE_SOON_S = 0.5

_NUMBER = r"(?<![\w.])(\d[\d.,]*)\s*(k|m|thousand|million|mio)?"
_PER = (
    rf"{_NUMBER}\s*(?:[a-z-]+\s+){{0,3}}?(?:a|an|per|each|every|/)\s*"
    r"(second|minute|hour|day|week|month)"
)
_LATENCY = r"(?<![\w.])(\d+(?:\.\d+)?)\s*(ms|milliseconds?|s|secs?|seconds?|min|minutes?)\b"
_LABELS = rf"{_NUMBER}\s*(?:[a-z]+\s+)?(?:labell?ed|labels|annotated|examples)"
_LENGTH = rf"{_NUMBER}\s*(tokens?|words?|pages?)\b"
_DOLLARS = r"(?:us\$|\$|usd)\s*(\d+(?:\.\d+)?)\s*(?:per|a|for a|/)\s*(?:thousand|1,?000|1k)\b"
_TOGETHER = rf"{_NUMBER}\s*(?:[a-z]+\s+)?(?:at once|concurrent\w*|in parallel|at the same time)"
_TIMES = {"k": 1e3, "thousand": 1e3, "m": 1e6, "million": 1e6, "mio": 1e6}
_PER_DAY = {"second": 86_400, "minute": 1440, "hour": 24, "day": 1, "week": 1 / 7, "month": 1 / 30}
_SECONDS = {"ms": 0.001, "mi": 60.0, "s": 1.0}
_TOKENS = {"t": 1.0, "w": 1.35, "p": 650.0}
"""Tokens of a token, an English word, a page of about 480 words."""


OPTIONS = {
    "languages": "--language",
    "latency_s": "--latency",
    "max_usd_per_thousand": "--max-usd",
    "vendors": "--vendor",
}
"""Options of the command line that aren't called as the field of the task is."""


class Read(NamedTuple):
    """One thing that was understood."""

    field: str
    """Of `Task`."""
    value: Any
    words: str
    """That said so."""

    @property
    def option(self) -> str:
        """The option of the command line that corrects it."""
        return OPTIONS.get(self.field, "--" + self.field.replace("_", "-"))


def read(text: str) -> list[Read]:
    """Find what a text says about a task; each field once."""
    lowered = " ".join(text.lower().split())
    found: dict[str, Read] = {}
    for one in _found(lowered):
        found.setdefault(one.field, one)
    return list(found.values())


def task_of(understood: list[Read], given: dict[str, Any]) -> Task:
    """Make a task of what was read and what was given beside it, which goes first.

    Raises:
        ConfigError: no job is named, or a value is impossible.
    """
    fields = {one.field: one.value for one in understood} | given
    if "job" not in fields:
        raise ConfigError(
            "what is to be done doesn't show from the text: name one of "
            f"{', '.join(_JOBS)} with --job"
        )
    try:
        return Task.model_validate(fields)
    except ValidationError as error:
        raise ConfigError(explained(error, Task, where="the task")) from error


def _found(text: str) -> Iterator[Read]:
    job = _job(text)
    if job:
        yield job
    yield from _numbers(text, job.value if job else None)
    spoken = [(name, code) for name, code in _LANGUAGES.items() if re.search(rf"\b{name}\b", text)]
    if spoken:
        codes = tuple(code for _, code in spoken)
        yield Read("languages", codes, ", ".join(name for name, _ in spoken))
    for field, value, words in (
        ("risk", "high", _HIGH),
        ("risk", "low", _LOW),
        ("private", True, _PRIVATE),
        ("offline", True, _OFFLINE),
        ("api", True, _API),
    ):
        hit = _said(words, text)
        if hit:
            yield Read(field, value, hit.group())
    without = re.search(rf"{_NEGATION}(?:{_API_ITSELF})\b", text)
    if without and _said(_API, text) is None:
        yield Read("api", False, without.group())
    named = tuple(name for name in VENDOR_NAMES if _said(name, text))
    if named:
        yield Read("vendors", named, ", ".join(named))


def _said(words: str, text: str) -> re.Match[str] | None:
    """Find words where no negation stands before them."""
    hits = re.finditer(rf"\b(?:{words})\b", text)
    return next((hit for hit in hits if not re.search(f"{_NEGATION}$", text[: hit.start()])), None)


def _job(text: str) -> Read | None:
    hits = [
        (hit.start(), name, hit.group())
        for name, words in _JOBS.items()
        if (hit := re.search(rf"\b(?:{words})\b", text))
    ]
    if not hits:
        return None
    _, name, words = min(hits)
    return Read("job", name, words)


def _numbers(text: str, job: str | None) -> Iterator[Read]:
    if hit := re.search(_PER, text):
        amount = _number(hit[1], hit[2]) * _PER_DAY[hit[3]]
        yield Read("per_day", max(1, round(amount)), hit.group())
        text = text.replace(hit.group(), " ")
    if hit := re.search(_DOLLARS, text):
        yield Read("max_usd_per_thousand", hit[1], hit.group())
    if hit := re.search(_LABELS, text):
        yield Read("labels", round(_number(hit[1], hit[2])), hit.group())
    if hit := re.search(_TOGETHER, text):
        yield Read("concurrency", round(_number(hit[1], hit[2])), hit.group())
    if hit := re.search(_LENGTH, text):
        field = "output_tokens" if job == "create" else "input_tokens"
        yield Read(field, max(1, round(_number(hit[1], hit[2]) * _TOKENS[hit[3][0]])), hit.group())
    yield from _latency(text, job)


def _latency(text: str, job: str | None) -> Iterator[Read]:
    soon = re.search(rf"\b(?:{_SOON})\b", text)
    if soon and job in _SOON_S:
        yield Read("streamed", True, soon.group())
    if hit := re.search(_LATENCY, text):
        unit = hit[2] if hit[2] == "ms" else "ms" if hit[2].startswith("milli") else hit[2][:2]
        yield Read("latency_s", float(hit[1]) * _SECONDS.get(unit, 1.0), hit.group())
    elif soon:
        yield Read("latency_s", _SOON_S.get(job or "", _ELSE_SOON_S), soon.group())


def _number(digits: str, times: str | None) -> float:
    """Read `10`, `1.5`, `10,000` or `1.000`, and how many of them."""
    plain = digits.rstrip(".,")
    grouped = re.fullmatch(r"\d{1,3}(?:[.,]\d{3})+", plain)
    value = float(re.sub(r"[.,]", "", plain) if grouped else plain.replace(",", "."))
    return value * _TIMES.get(times or "", 1.0)
