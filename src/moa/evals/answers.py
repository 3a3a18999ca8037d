"""Answers: what a design answered to a case, and what that took."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from moa._files import Existing, LineFile
from moa.calibration.acceptance import confidence_of, text_of
from moa.errors import InputError
from moa.node import Result
from moa.questions import NONE_OF_THESE, Choice, Predicate, Score
from moa.usage import Usage


class Answer(BaseModel):
    """One answer of a design, as it is kept in a cache of answers."""

    model_config = ConfigDict(frozen=True)

    text: str | None
    """The label it gave, or the text it wrote; `None` where it failed."""
    error: str | None = None
    probabilities: dict[str, float] = Field(default_factory=dict[str, float])
    confidence: float | None = None
    accepted: bool | None = None
    """`None` where the design doesn't say."""
    seconds: float = 0.0
    calls: int = 0
    llm_calls: int = 0
    tokens: int = 0
    cost: float | None = None
    """US dollars; `None` is unknown."""

    @classmethod
    def of(cls, result: Result[object]) -> Answer:
        """Read the result of a run."""
        output: Any = result.output
        accepted = getattr(result, "accepted", getattr(output, "accepted", None))
        return cls(
            text=answer_text(output),
            probabilities=_probabilities(output),
            confidence=confidence_of(output),
            accepted=accepted if isinstance(accepted, bool) else None,
            **taken(result.usage, result.seconds),
        )


def taken(usage: Usage, seconds: float) -> dict[str, Any]:
    """Give what an answer took, as the fields of `Answer`."""
    total, by_tier = usage.total, usage.by_tier()
    return {
        "seconds": seconds,
        "calls": total.calls,
        "llm_calls": by_tier["llm"].calls if "llm" in by_tier else 0,
        "tokens": total.tokens,
        "cost": None if total.cost is None else float(total.cost),
    }


def answer_text(output: object) -> str:
    """Read the label of a decision, or the text of any other output.

    Raises:
        InputError: there are several decisions in it, so none of them is the label.
        Unanswered: the model refused.
    """
    if isinstance(output, Choice):
        label = cast("Choice[object]", output).label
        return NONE_OF_THESE if label is None else str(getattr(label, "value", label))
    if isinstance(output, Predicate):
        return "yes" if output.value else "no"
    if isinstance(output, Score):
        return output.level
    met = getattr(output, "met", None)
    if isinstance(met, bool):
        return "yes" if met else "no"
    decided = _decisions(output)
    if len(decided) > 1:
        raise InputError(
            f"{type(output).__name__} holds {len(decided)} decisions: compare them one at a time"
        )
    return answer_text(decided[0]) if decided else text_of(output)


def _decisions(output: object) -> list[object]:
    if not isinstance(output, BaseModel):
        return []
    values = (cast("object", getattr(output, name)) for name in type(output).model_fields)
    return [value for value in values if isinstance(value, Predicate | Choice | Score)]


def _probabilities(output: object) -> dict[str, float]:
    found = getattr(output, "probabilities", None)
    if isinstance(found, Mapping):
        return dict(cast("Mapping[str, float]", found))
    decided = _decisions(output)
    return _probabilities(decided[0]) if len(decided) == 1 else {}


class Cache:
    """Answers that were given already, in a file of JSON lines; only good ones are kept.

    Args:
        path: The file; `None` keeps nothing.
        existing: What is done with answers that the file has.
        setup: Whatever the answers of each design depend on beside its name and the request, such
            as the configuration: answers of another setup are not taken up.

    Raises:
        ConfigError: the file can't be read or written, is written by another process, or has
            answers that are to be refused.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        existing: Existing = "resume",
        setup: Mapping[str, str] | None = None,
    ) -> None:
        self._setup = setup or {}
        self._known: dict[str, Answer] = {}
        self._file = None if path is None else LineFile(path, existing=existing)
        if self._file is None:
            return
        self._file.__enter__()
        for number, _, values in self._file.lines():
            try:
                self._known[values["key"]] = Answer.model_validate(values)
            except (KeyError, TypeError, ValidationError) as error:
                raise self._file.unreadable(number) from error

    def get(self, design: str, request: str) -> Answer | None:
        """Give an answer that was given already."""
        return self._known.get(self._key(design, request))

    def put(self, design: str, request: str, answer: Answer) -> None:
        """Keep an answer: it is on disk when this returns.

        Raises:
            ConfigError: the disk is full, or gone.
        """
        key = self._key(design, request)
        self._known[key] = answer
        if self._file is not None:
            self._file.add({"key": key, "design": design, **answer.model_dump(mode="json")})

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _key(self, design: str, request: str) -> str:
        named = json.dumps([self._setup.get(design, ""), design, request])
        return hashlib.sha256(named.encode()).hexdigest()[:32]
