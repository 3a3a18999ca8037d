"""Agents: one prompt, one endpoint, one output type. Each is in a file of its own.

`Agent` writes and `Decider`, in `deciding.py`, decides; most others derive from what one of the two
is. What they share: `base.py`, which has nodes with limits, and `@ready`; `prompts.py`; `tools.py`
and the `tool_calls.py` of a run; `splitting.py` and `language.py`, which are about texts.
"""

from moa.agents.agent import (
    REPLY,
    Agent,
    Instructions,
    MaxTokens,
    Settings,
    Temperature,
    WarmTemperature,
)

__all__ = [
    "REPLY",
    "Agent",
    "Instructions",
    "MaxTokens",
    "Settings",
    "Temperature",
    "WarmTemperature",
]
