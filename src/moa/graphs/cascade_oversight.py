"""Oversight: watches a cascade while it is used, and withdraws what it no longer can promise."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from moa.agents.language import can_detect, language_of
from moa.calibration.acceptance import confidence_of, text_of
from moa.calibration.audit import Audit
from moa.calibration.drift import Drift, Value
from moa.calibration.verifiers import answer_of
from moa.context import RunContext
from moa.graphs.recipe import keep, read_kept
from moa.questions import questions_in


class _Kept(BaseModel):
    audit: Audit | None = None
    drift: Drift | None = None
    of: str = ""
    """Digest of what is watched."""


class Oversight:
    """The audit and the drift check of a cascade, and what they say. It changes while it is used.

    Args:
        audit: Which share of the accepted answers is checked by the last tier, and what was found;
            `None` checks none.
        drift: What new inputs are compared with; `None` compares nothing.
        on_drift: `escalate` sends everything to the last tier after an alarm; `warn` notes it in
            the trace of each run, and goes on.
        promise: Tells what is watched from anything else, as the `seal` of a calibration does.
        file: Keeps audit and drift from one process to the next; what it holds comes before
            `audit` and `drift`, but for the share that is checked. Where it is of another promise,
            risk or reference, both start anew, and the trace of the first run says so. `None`
            keeps nothing.

    Raises:
        ConfigError: the file is there, and can't be read.
    """

    def __init__(
        self,
        *,
        audit: Audit | None = None,
        drift: Drift | None = None,
        on_drift: Literal["escalate", "warn"] = "escalate",
        promise: str = "",
        file: Path | None = None,
    ) -> None:
        kept = read_kept(file, _Kept, what="the audit of a cascade")
        self.audit, self.drift, self.on_drift = audit, drift, on_drift
        self._file, self._of = file, _digest(promise, audit, drift)
        self._anew = kept is not None and kept.of != self._of
        if kept is not None and not self._anew:
            self.drift = kept.drift
            if audit and kept.audit:
                self.audit = kept.audit.model_copy(update={"share": audit.share})

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
        if self._anew:
            self._anew = False
            context.note("changed", f"{self._file} keeps another promise: it is watched anew")

    def look(self, request: Any, answer: Any, context: RunContext) -> None:
        """Take in an input and the answer of the first tier; an alarm goes into the trace."""
        if self.drift is None:
            return
        known = len(self.drift.alarms)
        self.drift = self.drift.after(what_is_seen(request, answer))
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
        agrees = same_answer(small, large)
        stood = not self.audit.withdrawn
        self.audit = self.audit.record(correct=agrees)
        self._keep()
        if stood and self.audit.withdrawn:
            context.note("degraded", self.audit.summary)
        return agrees

    def _keep(self) -> None:
        keep(self._file, _Kept(audit=self.audit, drift=self.drift, of=self._of))


def _digest(promise: str, *started: Audit | Drift | None) -> str:
    """Tell what is watched from anything else; how often and which are checked may change."""
    values = [one and one.model_dump_json(exclude={"share", "seed"}) for one in started]
    return hashlib.sha256(f"{promise}/{values}".encode()).hexdigest()


def what_is_seen(request: Any, answer: Any) -> dict[str, Value | None]:
    """Give what drift looks at: confidence, label mass, length and language.

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
