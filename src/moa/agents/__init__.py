"""Agents: one prompt, one endpoint, one output type. Each stands in a file of its own."""

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
