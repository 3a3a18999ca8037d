"""Measured: which figures of `moa bench` hold for a model at a place of a machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

from moa.catalogue import BUILT_IN, Model, Quantisation
from moa.config import EMBEDDED, Config, EndpointConfig
from moa.endpoints.client import is_loopback
from moa.endpoints.weights import SMOLLM2
from moa.machine import Machine
from moa.measuring import Measurement, measured
from moa.sizing import Place

_BUILT_IN_FILE = SMOLLM2.file.removesuffix(".gguf")
_BUILT_IN_AS: Quantisation = "q4_k_m"
"""What its weights come to; they are Q4_1, also 4 bits."""


class Figures(NamedTuple):
    """What was measured of one endpoint that runs on the machine."""

    endpoint: EndpointConfig | None
    """`None`: the model that is built in."""
    measurement: Measurement

    def hold(self, model: Model, place: Place, quantisation: Quantisation) -> bool:
        """Whether they are of this model, in this form, at this place."""
        if self.endpoint is None:
            here = place.engine == "llama.cpp" and place.gpu is None
            return here and model.name == BUILT_IN and quantisation == _BUILT_IN_AS
        asked = self.endpoint.known_as
        if self.endpoint.serve == "llama.cpp":
            here = place.engine == "llama.cpp" and place.gpu is None
            file = model.files.get(quantisation)
            return here and file is not None and asked in (model.name, Path(file).stem)
        if not self.endpoint.serve:  # how it was started isn't known
            return asked in _names(model, quantisation)
        if place.engine != "vllm" or place.count != self.endpoint.vllm.gpus_each:
            return False
        made_while_loading = model.weights[quantisation].repository is None
        said = quantisation if made_while_loading and quantisation != "bf16" else None
        return asked in _names(model, quantisation) and self.endpoint.vllm.quantization == said


def figures(config: Config | None, machine: Machine) -> list[Figures]:
    """Find what `moa bench` measured on a machine, of endpoints that run on it.

    What was measured on another machine holds for none that is described, and what a server
    elsewhere does tells nothing of this one.

    Raises:
        ConfigError: the file of measurements can't be read.
    """
    return [] if config is None else list(_found(config, machine.hardware))


def held(
    found: Sequence[Figures], model: Model, place: Place, quantisation: Quantisation
) -> Measurement | None:
    """Pick the figures of a model at a place; `None`: it wasn't measured."""
    kept = (one.measurement for one in found if one.hold(model, place, quantisation))
    return max(kept, key=lambda it: it.date, default=None)


def hourly_usd(config: Config | None, machine: Machine) -> Decimal | None:
    """Give what an hour of the machine was last measured with; `None`: with no price.

    Raises:
        ConfigError: the file of measurements can't be read.
    """
    priced = [one.measurement for one in figures(config, machine) if one.measurement.hourly_usd]
    return max(priced, key=lambda it: it.date).hourly_usd if priced else None


def _found(config: Config, hardware: str) -> Iterator[Figures]:
    for name, entry in [*config.endpoints.items(), (EMBEDDED, None)]:
        if entry is not None and not _is_here(entry):
            continue
        asked = _BUILT_IN_FILE if entry is None else entry.known_as
        found = measured(name, config.file)
        if found is not None and (found.model, found.machine) == (asked, hardware):
            yield Figures(entry, found)


def _is_here(entry: EndpointConfig) -> bool:
    return entry.serve is not None or (bool(entry.urls) and all(map(is_loopback, entry.urls)))


def _names(model: Model, quantisation: Quantisation) -> set[str | None]:
    """What a configuration may call a model in one form."""
    repository = model.weights[quantisation].repository
    return {model.name, repository or model.hub}
