"""Self-mixture: one model, asked several times, makes one answer of its own answers.

After Li et al. 2025, "Rethinking Mixture-of-Agents: Is mixing different large language models
beneficial?", arXiv:2502.00674, Self-MoA and Self-MoA-Seq; there the answer so far is in
several places of the window, here in one.
"""

from __future__ import annotations

from typing import Annotated, Never

from pydantic import Field

from moa.agents.agent import Instructions, MaxTokens, WarmTemperature
from moa.agents.proposer import ANSWER, Proposer
from moa.core.context import RunContext, quiet
from moa.core.errors import ConfigError
from moa.core.node import Node
from moa.endpoints import Endpoint
from moa.graphs.fields import FromEndpoint
from moa.graphs.mixing.packing import LayerRequest
from moa.graphs.mixture import (
    MAX_TOKENS,
    BaseMixture,
    Member,
    aggregator_of,
    node_of,
)
from moa.graphs.recipe import Sketch


def sample_of(
    endpoint: Endpoint,
    *,
    instructions: Instructions = ANSWER,
    temperature: WarmTemperature = 0.7,
    max_tokens: MaxTokens = MAX_TOKENS,
) -> Proposer:
    """Make the node that is sampled.

    An endpoint with a cache in front gives the same sample every time.
    """
    return Proposer(
        endpoint, instructions, name="sample", temperature=temperature, max_tokens=max_tokens
    )


class SelfMixture(BaseMixture, recipe="self_mixture"):
    """One model, sampled and merged.

    If one model is better than the others at hand, its own samples make a better mixture than
    answers of several models. With a `window`, answers are read a few at a time, each time together
    with the answer so far, so that any number of samples fits a short context.

    Raises:
        ConfigError: no aggregator is given, and the node has no endpoint that could be it.
        CapabilityError: the endpoint can't complete.

    Examples:
        >>> large = ScriptedEndpoint(["Fly.", "By train.", "Take the train."])
        >>> output = SelfMixture(node=large, samples=2).run_sync("To Venice?").output
        >>> print(output.text)
        Take the train.
    """

    node: Annotated[Member, FromEndpoint(sample_of)]
    """Who is sampled: an endpoint, or a node that gives different answers to one request."""
    samples: int = Field(default=6, ge=1)
    """Times that it is asked, in parallel."""
    aggregator: Annotated[Member, FromEndpoint(aggregator_of)] | None = None
    """Who makes one answer; `None`: the same model, at temperature 0."""
    window: int | None = Field(default=None, ge=2)
    """Answers that are read at once, further ones then with the answer so far; `None`: all."""

    def prepare(self) -> None:
        """Take the model itself as its aggregator, if there is no other."""
        node, windows = node_of(self.node), 1
        if self.window is not None:
            windows = max(1, -(-(self.samples - 1) // (self.window - 1)))
        if self.aggregator is None:
            self.aggregator = self._itself(node)
        self.arrange([[node] * self.samples], node_of(self.aggregator), aggregations=windows)

    async def aggregate(self, request: LayerRequest, context: RunContext) -> str:
        """Merge all answers into one; with a `window`, a few at a time into the one so far."""
        if self.window is None or len(request.answers) <= self.window:
            return await super().aggregate(request, context)
        hidden = quiet(context)  # only the last window's text is the answer
        answers, names = request.answers, request.names
        while len(answers) > self.window:
            first = LayerRequest(request.request, answers[: self.window], names[: self.window])
            standing = await super().aggregate(first, hidden)
            answers = (standing, *answers[self.window :])
            names = ("the answer so far", *names[self.window :])
        return await super().aggregate(LayerRequest(request.request, answers, names), context)

    def sketch(self, sketch: Sketch) -> None:
        """The model, and what makes one answer of its samples."""
        sketch.chain((self.node, f"{self.node.name} x {self.samples}"), self.top.node)

    def _itself(self, node: Node[Never, object]) -> Proposer:
        endpoint = getattr(node, "endpoint", None)
        if endpoint is None:
            raise ConfigError(
                f"{self.name}: {node.name!r} has no endpoint that could make one answer of its "
                "samples: give an aggregator"
            )
        instructions = getattr(node, "instructions", ANSWER)
        max_tokens = getattr(node, "max_tokens", MAX_TOKENS)
        return aggregator_of(endpoint, instructions=instructions, max_tokens=max_tokens)
