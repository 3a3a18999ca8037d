"""The ready graphs that decide between labels, by the small model, the large one, or both."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from moa.agents.classifier import Classifier
from moa.agents.generator import Generator
from moa.calibration.acceptance import Confident
from moa.calibration.audit import Audit
from moa.endpoints import Endpoint
from moa.errors import ConfigError
from moa.graphs.cascade import cascade
from moa.graphs.oversight import Oversight
from moa.questions import NONE_OF_THESE
from moa.ready.entry import AnyNode, Mark, Ready, beside
from moa.tiers import Endpoints

if TYPE_CHECKING:
    from moa.calibration.file import Calibration


class LabelSettings(BaseModel):
    """What a text is decided on: by a calibration's question and labels, or by those given."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: str = "What is this text about?"
    """The question that the labels answer."""
    labels: dict[str, str] | list[str] | None = Field(default=None, min_length=2)
    """The labels, or what each means, by label; `None`: those of the calibration."""
    none: bool = False
    """Whether "none of these" is an answer too."""
    calibration: Path | None = None
    """A file that `moa calibrate` made for the small model, beside `moa.toml`; its question and
    labels come before those given here."""


class AloneSettings(LabelSettings):
    """`[graphs.slm]` and `[graphs.llm]`: with labels it decides, without them it writes."""

    instructions: str = "Answer the message, in its language."
    """What to do with the input, where nothing is decided."""
    max_tokens: int = Field(default=512, gt=0)
    """Most tokens to write."""


class CascadeSettings(LabelSettings):
    """`[graphs.cascade]`."""

    confidence: float | None = Field(default=None, ge=0, le=1)
    """From which confidence on the small model is believed, where there is no calibration. Nothing
    is promised of it."""
    audit: float = Field(default=0.02, ge=0, le=1)
    """Share of what is accepted that the large model checks, where there is a calibration."""
    drift: Literal["escalate", "warn", "off"] = "escalate"
    """What an alarm does, where inputs are no longer like those of the calibration: everything goes
    to the large model, or the trace says so. `off` compares nothing."""
    state: Annotated[Path | None, Mark.WRITTEN] = None
    """File that keeps audit and drift from one run to the next, beside `moa.toml`. With another
    calibration they start anew."""

    @property
    def says_what_is_accepted(self) -> bool:
        """Whether a cascade can be run so; without that it can only be drawn."""
        return self.calibration is not None or (
            self.labels is not None and self.confidence is not None
        )


def _slm(endpoints: Endpoints, settings: AloneSettings) -> AnyNode:
    return alone(endpoints, endpoints.slm, settings, calibrated=True)


def _llm(endpoints: Endpoints, settings: AloneSettings) -> AnyNode:
    return alone(endpoints, endpoints.llm, settings, calibrated=False)


def alone(
    endpoints: Endpoints, endpoint: Endpoint, settings: AloneSettings, *, calibrated: bool
) -> AnyNode:
    """Build the agent of one model, which decides where there are labels, and else writes."""
    if settings.labels is None and settings.calibration is None:
        return Generator(
            endpoint,
            settings.instructions,
            name=endpoint.name,
            max_tokens=settings.max_tokens,
        )
    return labeller(endpoint, settings, _calibration(endpoints, settings), calibrated=calibrated)


def _cascade(endpoints: Endpoints, settings: CascadeSettings) -> AnyNode:
    if not settings.says_what_is_accepted:
        if endpoints.to_be_asked:
            raise ConfigError(
                "graphs.cascade: a cascade needs calibration = the file that moa calibrate wrote, "
                "or both labels and confidence, of which nothing is promised"
            )
        drawn = AloneSettings(labels=settings.labels)
        tiers = [
            alone(endpoints, one, drawn, calibrated=False) for one in (endpoints.slm, endpoints.llm)
        ]
        return cascade(*tiers, accept=Confident(1.0))
    calibration = _calibration(endpoints, settings)
    oversight = Oversight(
        audit=calibration
        and Audit.of(calibration.bound, share=settings.audit, seed=secrets.randbits(32)),
        drift=calibration.drift if calibration and settings.drift != "off" else None,
        on_drift="warn" if settings.drift == "warn" else "escalate",
        promise=calibration.seal if calibration else "",
        file=settings.state and beside(endpoints, settings.state),
    )
    return cascade(
        labeller(endpoints.slm, settings, calibration, calibrated=True),
        labeller(endpoints.llm, settings, calibration, calibrated=False),
        accept=None if calibration else Confident(settings.confidence or 0.0),
        oversight=oversight,
    )


def _calibration(endpoints: Endpoints, settings: LabelSettings) -> Calibration | None:
    if settings.calibration is None:
        return None
    from moa.calibration.file import Calibration

    return Calibration.load(beside(endpoints, settings.calibration))


def labeller(
    endpoint: Endpoint,
    settings: LabelSettings,
    calibration: Calibration | None,
    *,
    calibrated: bool,
) -> Classifier[str]:
    """Build the agent that decides, by the question and labels of the calibration if there is one.

    Raises:
        ConfigError: there are no labels.
    """
    labels, describe, task, none = settings.labels, None, settings.task, settings.none
    if calibration is not None:
        asked = calibration.question
        if asked.kind != "choice":
            raise ConfigError(
                f"the calibration was made for a {asked.kind}, and here one of several labels is "
                "chosen. In Python, a Decider takes it"
            )
        labels = [option.name for option in asked.options if option.name != NONE_OF_THESE]
        describe = {o.name: o.description for o in asked.options if o.description is not None}
        none = len(labels) < len(asked.options)
        task = asked.text
    if not labels:
        raise ConfigError("there are no labels to decide on: give labels, or a calibration")
    return Classifier(
        endpoint,
        labels,
        task=task,
        describe=describe,
        none=none,
        question="label",
        name=endpoint.name,  # in a cascade it tells the tiers apart
        calibration=calibration if calibrated else None,
    )


READY: dict[str, Ready[Any]] = {
    "cascade": Ready("the small model, and in doubt the large one", CascadeSettings, _cascade),
    "slm": Ready("the small model alone", AloneSettings, _slm),
    "llm": Ready("the large model alone", AloneSettings, _llm),
}
