"""The ready graph that chooses a model from the request, before any answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from moa.errors import ConfigError
from moa.graphs.routed import routed
from moa.ready.entry import AnyNode, Ready, beside
from moa.ready.labelling import AloneSettings, alone
from moa.tiers import Endpoints


class RoutedSettings(AloneSettings):
    """`[graphs.routed]`: with labels the models decide, without them they write."""

    router: Path | list[Path] = Field(default_factory=list[Path])
    """The file that `moa route fit` wrote, beside `moa.toml`; of more than two models a list, one
    for each but the first."""
    models: list[str] = Field(default_factory=list[str])
    """Endpoints, the cheapest first; none: the default small model, and the large one."""

    @model_validator(mode="after")
    def _has_several(self) -> Self:
        if len(self.models) == 1:
            raise ValueError("models names one endpoint: there is nothing to choose among")
        return self


def _routed(endpoints: Endpoints, settings: RoutedSettings) -> AnyNode:
    if settings.models:
        asked = [endpoints.named(name) for name in settings.models]
    else:
        asked = [endpoints.slm, endpoints.llm]
    first, *others = [
        alone(endpoints, endpoint, settings, calibrated=place == 0)
        for place, endpoint in enumerate(asked)
    ]
    routers: list[Any] = []
    files = settings.router if isinstance(settings.router, list) else [settings.router]
    if files:
        from moa.routing import Router

        routers = [Router.load(beside(endpoints, file)) for file in files]
    elif endpoints.to_be_asked:
        raise ConfigError(
            'graphs.routed: it needs router = "ROUTER.json", the file that moa route fit wrote'
        )
    return routed(first, *others, routers=routers)


READY: dict[str, Ready[Any]] = {
    "routed": Ready("the small model or the large one, chosen before", RoutedSettings, _routed),
}
