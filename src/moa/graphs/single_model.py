"""Single model: the agent of one model, which decides if there are labels, and else writes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from moa.agents.agent import REPLY, Agent, MaxTokens
from moa.agents.base import ready
from moa.agents.classifier import Classifier
from moa.core.errors import ConfigError
from moa.core.node import Node
from moa.core.questions import NONE_OF_THESE
from moa.endpoints import Endpoint
from moa.graphs.fields import from_file

if TYPE_CHECKING:
    from moa.decisions.file import Calibration
else:
    Calibration = object  # numpy is imported if one is read

Labels = Annotated[dict[str, str] | list[str] | None, Field(min_length=2)]
"""Labels, or what each means, by label."""


def load_calibration(file: Path) -> Calibration:
    """Read what `moa learn` wrote.

    Raises:
        CalibrationError: it can't be read.
    """
    from moa.decisions.file import Calibration

    return Calibration.load(file)


@ready("slm", "The small model alone", "slm")
def single_model(
    endpoint: Endpoint,
    *,
    task: str = "What is this text about?",
    labels: Labels = None,
    none: bool = False,
    calibration: Annotated[Calibration, from_file(load_calibration)] | None = None,
    calibrated: bool = True,
    instructions: str = REPLY,
    max_tokens: MaxTokens = 512,
) -> Node[Any, Any]:
    """Build the agent of one model.

    Args:
        endpoint: The endpoint that decides or writes; its name is the agent's.
        task: The question that the labels answer.
        labels: The labels, or what each means, by label; `None`: those of the calibration.
        none: Whether "none of these" is an answer too.
        calibration: Its question and labels come before those given here.
        calibrated: Whether the calibration says of each answer whether it is accepted: it was made
            for this model.
        instructions: What to do with the input, if nothing is decided.
        max_tokens: Limit of a written reply.

    Raises:
        ConfigError: the calibration is of another kind of question.
    """
    if labels is None and calibration is None:
        return Agent(endpoint, instructions, name=endpoint.name, max_tokens=max_tokens)
    describe = None
    if calibration is not None:
        question = calibration.question
        if question.kind != "choice":
            raise ConfigError(
                f"the calibration was made for a {question.kind}, and here one of several labels "
                "is chosen. In Python, a Decider takes it"
            )
        labels = [option.name for option in question.options if option.name != NONE_OF_THESE]
        describe = {o.name: o.description for o in question.options if o.description is not None}
        none, task = len(labels) < len(question.options), question.text
    return Classifier(
        endpoint,
        labels or (),
        task=task,
        describe=describe,
        none=none,
        question="label",
        name=endpoint.name,  # in a cascade it tells the tiers apart
        calibration=calibration if calibrated else None,
    )


LARGE = ready("llm", "The large model alone", "llm")(partial(single_model, calibrated=False))
"""Makes the agent of a large model, beside a small one that was calibrated."""
