"""`moa docs`: the skill for coding agents."""

from __future__ import annotations

import re

import pytest
from command import told

from moa.cli.docs import SKILL


def test_the_skill_is_printed_as_it_stands_in_the_package() -> None:
    assert told("docs", "--for-agents").out == SKILL.read_text("utf-8")


def test_without_a_word_for_whom_it_says_what_to_type() -> None:
    assert "moa docs --for-agents" in told("docs", leaves=2).words


def test_the_skill_has_the_front_matter_that_tools_look_for_and_is_short() -> None:
    text = SKILL.read_text("utf-8")
    front = re.match(r"---\nname: (.+)\ndescription: (.+)\n---\n", text)
    assert front
    assert front[1] == SKILL.parent.name
    assert len(front[2]) <= 1024
    assert ": " not in front[2]
    assert len(text.split()) <= 1500


@pytest.mark.parametrize("section", ["Agents", "Graphs", "A calibration", "A cascade", "serve"])
def test_the_skill_tells_of_what_is_written(section: str) -> None:
    headings = re.findall(r"^## (.+)$", SKILL.read_text("utf-8"), re.MULTILINE)
    assert any(section in heading for heading in headings)


def test_the_skill_has_ten_mistakes() -> None:
    *_, mistakes = SKILL.read_text("utf-8").split("## Ten mistakes")
    assert re.findall(r"^(\d+)\. ", mistakes, re.MULTILINE) == [str(n) for n in range(1, 11)]
