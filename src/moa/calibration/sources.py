"""Sources: the endpoints that a calibration reads from, by their role."""

from __future__ import annotations

from collections.abc import Mapping

from moa.calibration.members import DECIDES
from moa.endpoints import Endpoint
from moa.endpoints.embedded import EmbeddedEndpoint
from moa.endpoints.encoders import SentenceEncoder
from moa.endpoints.wrappers import unwrapped

HIDDEN = "hidden states"
"""The embedded model itself, which is about to name the label."""
SENTENCES = "sentences"
"""A small sentence encoder on this machine."""


def sources_of(
    endpoint: Endpoint, embedders: Mapping[str, Endpoint] | None = None
) -> dict[str, Endpoint]:
    """Give all that can be read from: the endpoint, its hidden states, encoders.

    Args:
        endpoint: Who decides.
        embedders: More endpoints that can embed, by role.
    """
    found: dict[str, Endpoint] = {DECIDES: endpoint, SENTENCES: SentenceEncoder()}
    inner = unwrapped(endpoint)
    if isinstance(inner, EmbeddedEndpoint):
        found[SENTENCES] = SentenceEncoder(price=inner.price)  # it runs on the same machine
        found[HIDDEN] = inner.hidden_states
    return {**found, **(embedders or {})}
