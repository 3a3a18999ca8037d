"""Oversight: watches a cascade while it is used, and withdraws what it no longer can promise."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from moa.agents.language import can_detect, language_of
from moa.calibration.acceptance import confidence_of, text_of
from moa.calibration.audit import Audit
from moa.calibration.drift import Drift, Value
from moa.calibration.verifiers import answer_of
from moa.context import RunContext
from moa.graphs.keeping import keep, read_kept
from moa.questions import answers_in


class _Kept(BaseModel):
    audit: Audit | None = None
    audit_of: str = ""
    """Digest of the promise that is audited."""
    drift: Drift | None = None
    drift_of: str = ""
    """Digest of what new inputs are compared with."""


class Oversight:
    """The audit and the drift check of a cascade, and what they say. It changes while it is used.

    Args:
        audit: Which share of the accepted answers is checked by the last tier, and what was found;
            `None` checks none.
        drift: What new inputs are compared with; `None` compares nothing.
        on_drift: `escalate` sends everything to the last tier after an alarm; `warn` notes it in
            the trace of each run, and goes on.
        seen: What drift looks at, from a request and the answer of the first tier. What the drift
            check doesn't watch is left out.
        same: Whether two answers agree, for the audit.
        promise: Tells what is watched from anything else, as the `seal` of a calibration does.
        file: Keeps audit and drift from one process to the next; what it holds comes before
            `audit` and `drift`, but for the share that is checked. An audit of another promise or
            risk, and drift from another reference, are left: they start anew, and the trace of the
            first run says so. `None` keeps nothing.

    Raises:
        ConfigError: the file is there, and can't be read.
    """

    def __init__(
        self,
        *,
        audit: Audit | None = None,
        drift: Drift | None = None,
        on_drift: Literal["escalate", "warn"] = "escalate",
        seen: Callable[[Any, Any], Mapping[str, Value | None]] | None = None,
        same: Callable[[Any, Any], bool] | None = None,
        promise: str = "",
        file: Path | None = None,
    ) -> None:
        kept = read_kept(file, _Kept, what="the audit of a cascade") or _Kept()
        self.audit, self._audit_of = audit, _digest(promise, audit)
        self.drift, self._drift_of = drift, _digest(promise, drift)
        self._left: list[str] = []
        if audit and kept.audit:
            if kept.audit_of == self._audit_of:
                self.audit = kept.audit.model_copy(update={"share": audit.share})
            else:
                self._left.append(f"{file} keeps the audit of another promise: it starts anew")
        if drift and kept.drift:
            if kept.drift_of == self._drift_of:
                self.drift = kept.drift
            else:
                self._left.append(f"{file} keeps drift from other inputs: it is watched anew")
        self.on_drift: Literal["escalate", "warn"] = on_drift
        self._seen = seen or what_is_seen
        self._same = same or same_answer
        self._file = file

    @property
    def suspended(self) -> str | None:
        """Why nothing is accepted any more; `None` while the promise stands."""
        if self.audit is not None and self.audit.withdrawn:
            return self.audit.summary
        if self.on_drift == "escalate":
            return self._alarm
        return None

    @property
    def _alarm(self) -> str | None:
        alarms = () if self.drift is None else self.drift.alarms
        return "; ".join(alarm.message for alarm in alarms) or None

    def begin(self, context: RunContext) -> None:
        """Say in the trace of the first run what was kept of another promise, and left."""
        while self._left:
            context.note("changed", self._left.pop(0))

    def look(self, request: Any, answer: Any, context: RunContext) -> None:
        """Take in an input and the answer of the first tier; an alarm goes into the trace."""
        if self.drift is None:
            return
        known = len(self.drift.alarms)
        self.drift = self.drift.after(self._seen(request, answer))
        self._keep()
        for alarm in self.drift.alarms[known:]:
            context.note("degraded", f"drift: {alarm.message}")
        if known and self.on_drift == "warn":
            context.note("degraded", f"drift, since some time: {self._alarm}")

    def picks(self) -> bool:
        """Count one more accepted answer, and say whether it is to be checked."""
        if self.audit is None:
            return False
        self.audit, picked = self.audit.pick()
        self._keep()
        return picked

    def record(self, small: Any, large: Any, context: RunContext) -> bool:
        """Take in a check, and say whether the two agree."""
        assert self.audit is not None, "only an audit picks"
        agrees = self._same(small, large)
        stood = not self.audit.withdrawn
        self.audit = self.audit.record(correct=agrees)
        self._keep()
        if stood and self.audit.withdrawn:
            context.note("degraded", self.audit.summary)
        return agrees

    def _keep(self) -> None:
        kept = _Kept(
            audit=self.audit,
            audit_of=self._audit_of,
            drift=self.drift,
            drift_of=self._drift_of,
        )
        keep(self._file, kept)


def _digest(promise: str, started: Audit | Drift | None) -> str:
    """Tell what is watched from anything else; how often and which are checked may change."""
    values = "" if started is None else started.model_dump_json(exclude={"share", "seed"})
    return hashlib.sha256(f"{promise}/{values}".encode()).hexdigest()


def what_is_seen(request: Any, answer: Any) -> dict[str, Value | None]:
    """Give what drift looks at unless told otherwise: confidence, label mass, length and language.

    Of a calibrated answer also whether it is accepted, and how surely then.
    """
    confidence, accepted = confidence_of(answer), getattr(answer, "accepted", None)
    text = str(getattr(request, "text", None) or text_of(request))
    language = getattr(request, "language", None)
    if language is None and can_detect():
        language = language_of(text)
    return {
        "confidence": confidence,
        "accepted": None if accepted is None else float(accepted),
        "accepted confidence": confidence if accepted else None,
        "label mass": getattr(answer, "label_mass", None),
        "length": float(len(text)),
        "language": language,
    }


def same_answer(first: Any, second: Any) -> bool:
    """Whether two answers say the same, however sure they are; all of several questions count."""
    names = questions_in(first)
    if names and names == questions_in(second):
        return all(answer_of(getattr(first, n)) == answer_of(getattr(second, n)) for n in names)
    kept = [getattr(answer, "kept", None) for answer in (first, second)]
    if all(isinstance(value, bool) for value in kept):
        return kept[0] == kept[1]
    return answer_of(first) == answer_of(second)


def questions_in(output: object) -> tuple[str, ...]:
    """Name the fields of a model that is made of typed answers alone; empty for any other."""
    names = tuple(answers_in(output))
    made_of = isinstance(output, BaseModel) and names == tuple(type(output).model_fields)
    return names if made_of else ()
