"""moa docs: a guide to `moa` for coding agents."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from moa.core.errors import ConfigError

SKILL = Path(__file__).parents[1] / ".agents" / "skills" / "moa" / "SKILL.md"
"""File where tools look for the skill of an installed package."""


def docs(
    *,
    for_agents: Annotated[
        bool, typer.Option("--for-agents", help="Print the skill for coding agents.")
    ] = False,
) -> None:
    """Print a guide to moa for coding agents.

    It is a skill in the format of agentskills.io, for this version: how to write agents, graphs,
    calibrations, cascades and tests, and ten mistakes. Write it into your coding agent's folder of
    skills:

        mkdir -p .claude/skills/moa
        moa docs --for-agents > .claude/skills/moa/SKILL.md
    """
    if not for_agents:
        raise ConfigError("say what to print: moa docs --for-agents")
    sys.stdout.write(SKILL.read_text("utf-8"))
