"""moa docs: what a coding agent has to know to write with `moa`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from moa.errors import ConfigError

SKILL = Path(__file__).parents[1] / ".agents" / "skills" / "moa" / "SKILL.md"
"""Where tools look for the skills of a package that is installed."""


def docs(
    *,
    for_agents: Annotated[
        bool, typer.Option("--for-agents", help="Print the skill for coding agents.")
    ] = False,
) -> None:
    """Print what coding agents have to know of moa.

    It is a skill of this version, in the form of agentskills.io: how agents, graphs, calibrations,
    cascades and tests are written, and ten mistakes. To have your coding agent find it, write it
    where that looks for skills:

        mkdir -p .claude/skills/moa
        moa docs --for-agents > .claude/skills/moa/SKILL.md
    """
    if not for_agents:
        raise ConfigError("say what to print: moa docs --for-agents")
    sys.stdout.write(SKILL.read_text("utf-8"))
