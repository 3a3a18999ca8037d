"""Task: what is to be done, how much of it, how fast, and what must not happen.

A task in words is read by rules that can be seen, and are told with it. No model reads it: numbers
are taken with their units, and the rest by the words of the tables below. What was taken from which
words is part of the result, so that a misreading shows.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from moa.advisor.words import Job, Risk
from moa.config import explained, nearest
from moa.endpoints.dialects import VENDORS, Dialect
from moa.errors import ConfigError

PEAK = 3.0
"""How much busier the busiest time is than the mean of the day."""
_DAY_S = 86_400
_LENGTHS: dict[Job, tuple[int, int]] = {
    "classify": (100, 1),
    "recommend": (300, 1),
    "extract": (300, 80),
    "summarise": (1500, 200),
    "converse": (300, 150),
    "answer-from-documents": (1500, 200),
    "reason": (500, 2000),
    "create": (200, 1000),
}
"""Usual tokens of an item and of an answer, where the task says none; thoughts are counted."""


def vendor_name(vendor: Dialect) -> str:
    """Name a vendor as `Task.vendors` does: the first word of its key's variable."""
    return vendor.api_key_env.split("_")[0].lower()


_VENDOR_NAMES = tuple(map(vendor_name, VENDORS))


def _known(vendor: str) -> str:
    if vendor not in _VENDOR_NAMES:
        raise ValueError(f"there is no vendor {vendor!r}{nearest(vendor, _VENDOR_NAMES)}")
    return vendor


class Task(BaseModel):
    """A task to choose models for: `Task(job="classify", per_day=10_000, latency_s=0.3)`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    job: Job
    input_tokens: Annotated[int, Field(gt=0)] | None = None
    """Tokens of one item, without instructions; `None`: as usual for the job."""
    output_tokens: Annotated[int, Field(gt=0)] | None = None
    """Tokens of an answer, thoughts included; `None`: as usual for the job."""
    languages: tuple[Annotated[str, Field(pattern="^[a-z]{2,3}$")], ...] = ("en",)
    """ISO 639-1 codes of the items' languages, such as `de` for German."""
    risk: Risk = "medium"
    labels: int = Field(default=0, ge=0)
    """How many items there are whose right answer is known."""
    latency_s: Annotated[float, Field(gt=0)] | None = None
    """p95 latency that is allowed, in seconds; `None`: no matter."""
    streamed: bool = False
    """Whether `latency_s` is of an answer's first token, since a person reads along."""
    per_day: Annotated[int, Field(gt=0)] | None = None
    """Items a day; `None`: not known, so one after the other."""
    concurrency: Annotated[int, Field(gt=0)] | None = None
    """Items in flight at once; `None`: from `per_day`, by Little's law."""
    max_usd_per_thousand: Annotated[Decimal, Field(ge=0)] | None = None
    """Maximum US dollars for a thousand items; `None`: no matter."""
    private: bool = False
    """Whether the items may not leave this machine, so that no vendor is asked."""
    offline: bool = False
    """Whether there is no network while it runs."""
    api: bool = False
    """Whether a vendor's model may be asked, with a key that there is."""
    vendors: tuple[Annotated[str, AfterValidator(_known)], ...] = ()
    """Vendors that may be asked, such as `openai`; empty: any, where `api` is set."""

    @property
    def reads(self) -> int:
        """Tokens of one item."""
        return self.input_tokens or _LENGTHS[self.job][0]

    @property
    def writes(self) -> int:
        """Tokens of one answer."""
        return self.output_tokens or _LENGTHS[self.job][1]

    @property
    def decides(self) -> bool:
        """Whether an answer is a label or a score, and no text."""
        return self.job in ("classify", "recommend")

    @property
    def rate(self) -> float:
        """Items a second at the busiest time; 0 where it isn't known."""
        return (self.per_day or 0) / _DAY_S * PEAK


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
_SAID: dict[tuple[str, str | bool], str] = {
    ("risk", "high"): r"high[- ]risk|medic\w*|clinic\w*|diagnos\w*|legal|court|safety|critical"
    r"|fraud\w*|compliance|(?:zero|no) (?:errors?|mistakes?)|error-free|financial advice",
    ("risk", "low"): r"low[- ]risk|hobby|casual|nice to have|for fun|internal use",
    ("private", True): r"private|confidential|(?:may|must|can) ?not leave|on[- ]prem\w*"
    r"|in[- ]house|gdpr|sensitive",
    ("offline", True): r"offline|air[- ]gapped"
    r"|(?:no|without an?|without) (?:network|internet|connection)",
    ("api", True): r"api keys?|an? api|by api|(?:openai|gemini|anthropic|claude|gpt)(?:'s)?",
}
"""Words that set a field, where no negation stands before them."""
_NEGATION = (
    r"(?:\b(?:no|not|never|without|neither|nor|avoid\w*|lack\w*|cannot)|n['\u2019]t)\s+"
    r"(?:(?:an?|any|the|our|my|own|have|has|be|use|using|need|want|ask|call|send|to|by|via)\s+)*"
)
_NO_API = rf"{_NEGATION}api(?: keys?)?\b"
_SOON = r"real[- ]?time|interactive|live|instant\w*"
_TALKS = ("converse", "answer-from-documents")
_SOON_S, _TALK_SOON_S = 0.5, 2.0
"""Seconds of `_SOON`, and where a person reads along."""

_NUMBER = r"(?<![\w.])(\d[\d.,]*)\s*(k|m|thousand|million|mio)?"
_PER = (
    rf"{_NUMBER}\s*(?:[a-z-]+\s+){{0,3}}?(?:a|an|per|each|every|/)\s*"
    r"(second|minute|hour|day|week|month)"
)
_LATENCY = r"(?<![\w.])(\d+(?:\.\d+)?)\s*(ms|milliseconds?|s|secs?|seconds?|min|minutes?)\b"
_LENGTH = rf"{_NUMBER}\s*(tokens?|words?|pages?)\b"
_DOLLARS = r"(?:us\$|\$|usd)\s*(\d+(?:\.\d+)?)\s*(?:per|a|for a|/)\s*(?:thousand|1,?000|1k)\b"
_COUNTS = {
    "labels": rf"{_NUMBER}\s*(?:[a-z]+\s+)?(?:labell?ed|labels|annotated|examples)",
    "concurrency": rf"{_NUMBER}\s*(?:[a-z]+\s+)?(?:at once|concurrent\w*|in parallel)",
}
_TIMES = {"k": 1e3, "thousand": 1e3, "m": 1e6, "million": 1e6, "mio": 1e6}
_PER_DAY = {"second": 86_400, "minute": 1440, "hour": 24, "day": 1, "week": 1 / 7, "month": 1 / 30}
_TOKENS = {"t": 1.0, "w": 1.35, "p": 650.0}
"""Tokens of a token, an English word, a page of about 480 words."""


class Read(NamedTuple):
    """One thing that was understood."""

    field: str
    """Of `Task`."""
    value: Any
    words: str
    """That said so."""


def read(text: str) -> list[Read]:
    """Find what a text says about a task; each field once."""
    lowered = " ".join(text.lower().split())
    found: dict[str, Read] = {}
    for one in _found(lowered):
        found.setdefault(one.field, one)
    return list(found.values())


def task_of(text: str, given: Mapping[str, Any]) -> tuple[Task, list[Read]]:
    """Make a task of a text, and of fields given beside it, which go first; say what was read.

    Where neither says whether vendors may be asked, those may whose key is in the environment.
    """
    found = [one for one in read(text) if one.field not in given]
    keys = tuple(vendor_name(it) for it in VENDORS if os.environ.get(it.api_key_env))
    if keys and not {*given, *(one.field for one in found)} & {"api", "vendors"}:
        found.append(Read("api", True, "a key in the environment"))
        found.append(Read("vendors", keys, "a key in the environment"))
    fields = {one.field: one.value for one in found} | dict(given)
    if "job" not in fields:
        raise ConfigError(
            "what is to be done doesn't show from the text: name one of "
            f"{', '.join(_JOBS)} with --job"
        )
    try:
        return Task.model_validate(fields), found
    except ValidationError as error:
        raise ConfigError(explained(error, Task, where="the task")) from error


def _found(text: str) -> Iterator[Read]:
    hits = {job: re.search(rf"\b(?:{words})\b", text) for job, words in _JOBS.items()}
    jobs = [(hit.start(), job, hit.group()) for job, hit in hits.items() if hit]
    _, job, words = min(jobs, default=(0, "", ""))
    if job:
        yield Read("job", job, words)
    yield from _numbers(text, job)
    spoken = [name for name in _LANGUAGES if re.search(rf"\b{name}\b", text)]
    if spoken:
        yield Read("languages", tuple(_LANGUAGES[name] for name in spoken), ", ".join(spoken))
    for (field, value), words in _SAID.items():
        if hit := _said(words, text):
            yield Read(field, value, hit.group())
    if hit := re.search(_NO_API, text):
        yield Read("api", False, hit.group())
    if named := tuple(name for name in _VENDOR_NAMES if _said(name, text)):
        yield Read("vendors", named, ", ".join(named))


def _said(words: str, text: str) -> re.Match[str] | None:
    """Find words where no negation stands before them."""
    hits = re.finditer(rf"\b(?:{words})\b", text)
    return next((hit for hit in hits if not re.search(f"{_NEGATION}$", text[: hit.start()])), None)


def _numbers(text: str, job: str) -> Iterator[Read]:
    if hit := re.search(_PER, text):
        amount = _number(hit[1], hit[2]) * _PER_DAY[hit[3]]
        yield Read("per_day", max(1, round(amount)), hit.group())
        text = text.replace(hit.group(), " ")
    if hit := re.search(_DOLLARS, text):
        yield Read("max_usd_per_thousand", hit[1], hit.group())
    for field, words in _COUNTS.items():
        if hit := re.search(words, text):
            yield Read(field, round(_number(hit[1], hit[2])), hit.group())
    if hit := re.search(_LENGTH, text):
        field = "output_tokens" if job == "create" else "input_tokens"
        yield Read(field, max(1, round(_number(hit[1], hit[2]) * _TOKENS[hit[3][0]])), hit.group())
    soon = re.search(rf"\b(?:{_SOON})\b", text)
    if soon and job in _TALKS:
        yield Read("streamed", True, soon.group())
    if hit := re.search(_LATENCY, text):
        unit = 0.001 if hit[2].startswith(("ms", "mil")) else 60 if hit[2].startswith("min") else 1
        yield Read("latency_s", float(hit[1]) * unit, hit.group())
    elif soon:
        yield Read("latency_s", _TALK_SOON_S if job in _TALKS else _SOON_S, soon.group())


def _number(digits: str, times: str | None) -> float:
    """Read `10`, `1.5`, `10,000` or `1.000`, and how many of them."""
    plain = digits.rstrip(".,")
    grouped = re.fullmatch(r"\d{1,3}(?:[.,]\d{3})+", plain)
    value = float(re.sub(r"[.,]", "", plain) if grouped else plain.replace(",", "."))
    return value * _TIMES.get(times or "", 1.0)
