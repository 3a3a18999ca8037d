"""Self-mixture: one model, asked several times, makes one answer of its own answers."""

from __future__ import annotations

from moa.agents.proposer import ANSWER, Proposer
from moa.context import RunContext
from moa.endpoints import Endpoint
from moa.errors import ConfigError
from moa.graphs.mixture import Member, Mixture
from moa.mixing.layering import Terms
from moa.mixing.listening import quiet
from moa.mixing.packing import Asked
from moa.usage import UNLIMITED, Budget


class SelfMixture(Mixture):
    """What `self_mixture` makes."""

    window: int | None = None
    """Answers that are read at once; `None`: all."""

    async def aggregate(self, asked: Asked, context: RunContext) -> str:
        """Have one answer made of all, or of a window of them and then of it and the next ones."""
        if self.window is None or len(asked.answers) <= self.window:
            return await super().aggregate(asked, context)
        hidden = quiet(context)  # only the last window's text is the answer
        answers, names = asked.answers, asked.names
        while len(answers) > self.window:
            first = Asked(asked.request, answers[: self.window], names[: self.window])
            standing = await super().aggregate(first, hidden)
            answers = (standing, *answers[self.window :])
            names = ("the answer so far", *names[self.window :])
        return await super().aggregate(Asked(asked.request, answers, names), context)


def self_mixture(
    endpoint: Endpoint,
    *,
    samples: int = 6,
    temperature: float | None = 0.7,
    aggregator: Member | None = None,
    window: int | None = None,
    instructions: str = ANSWER,
    max_tokens: int = 1024,
    name: str = "self_mixture",
    quorum: int | None = None,
    timeout_s: float | None = None,
    patience_s: float | None = 0.2,
    agree: int | None = None,
    seed: int = 0,
    budget: Budget = UNLIMITED,
) -> SelfMixture:
    """Sample one model several times, and have it make one answer of what it wrote.

    Where one model is better than the others at hand, its own samples make a better mixture than
    answers of several models. With a `window`, answers are read a few at a time, each time
    together with the answer so far, so that any number of samples fits a short context.

    Source: Li et al. 2025, "Rethinking Mixture-of-Agents: Is mixing different large language models
    beneficial?", arXiv:2502.00674, Self-MoA and Self-MoA-Seq; there the answer so far stands in
    several places of the window, here in one.

    Args:
        endpoint: The model. One with a cache in front gives the same sample every time.
        samples: How often it is asked, side by side.
        temperature: Of the samples; without one above 0 they are all alike.
        aggregator: Who makes one answer; `None`: the same model, at temperature 0.
        window: Answers that are read at once, 2 or more; `None`: all of them.
        instructions: What to do with the request.
        max_tokens: Most tokens to generate for each answer.
        name: Shown in traces, errors and drawings.
        quorum: Fewest samples to go on with; see `fan_out` for `None`.
        timeout_s: Seconds that a sample may take, retries included; `None`: as long as the run has.
        patience_s: Seconds that the others get once the quorum is there; `None` waits for all.
        agree: Samples that say the same, from which on no other is waited for, and one of them is
            the answer; `None` waits for all.
        seed: Decides, with the request, the order in which answers are shown.
        budget: Limits on each run, on top of those of the run it is part of.

    Raises:
        ConfigError: there are no samples, or the window is too small.
        CapabilityError: the endpoint can't complete.
    """
    if samples < 1 or (window is not None and window < 2):
        raise ConfigError(f"{name}: samples={samples} and window={window}, but at least 1 and 2")
    sample = Proposer(
        endpoint,
        instructions,
        name="sample",
        temperature=temperature,
        max_tokens=max_tokens,
    )
    made = SelfMixture(
        [[sample] * samples],
        aggregator or Proposer(endpoint, instructions, name="aggregator", max_tokens=max_tokens),
        name=name,
        terms=Terms(quorum=quorum, timeout_s=timeout_s, patience_s=patience_s, agree=agree),
        seed=seed,
        budget=budget,
    )
    made.window = window
    if window is not None:
        made.aggregations = max(1, -(-(samples - 1) // (window - 1)))
    return made
