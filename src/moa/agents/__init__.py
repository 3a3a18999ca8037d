"""Agents: one prompt, one endpoint, one output type; each in its own file.

`Agent` writes, and `Decider`, in `deciding.py`, decides. Most others derive from `Agent` or
`DecidingAgent`. They share `base.py` (nodes with limits, and `@ready`), `prompts.py`, `tools.py`,
`tool_calls.py`, and, for texts, `splitting.py` and `language.py`.
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
