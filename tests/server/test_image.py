"""The image and the compose file start what `moa` has, and not as root."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import typer.main
import yaml

from moa.cli.app import app
from moa.config import load

DOCKER = Path(__file__).parents[2] / "docker"


def _check(words: list[str]) -> None:
    group: Any = typer.main.get_command(app)
    context = group.make_context("moa", list(words))
    name, command, rest = group.resolve_command(context, words)
    command.make_context(name, rest, parent=context)


def test_the_commands_of_the_image_and_of_compose_are_ones_that_moa_has() -> None:
    image = (DOCKER / "Dockerfile").read_text()
    started = [json.loads(found) for found in re.findall(r"(?m)^CMD (.*)$", image)]
    composed = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]["moa"]["command"]
    for words in (*started, composed):
        _check(words)
    assert re.search(r"(?m)^ENTRYPOINT \[\"moa\"\]$", image)
    assert image.rindex("\nUSER 10001") > image.rindex("\nFROM ")
    assert "HEALTHCHECK" in image


def test_the_configuration_of_compose_can_be_read() -> None:
    assert load(DOCKER / "moa.toml").default_of("llm") == "large"
