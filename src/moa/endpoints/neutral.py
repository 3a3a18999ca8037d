"""Neutral: a small request that shows if a server is there, without a client's text."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from moa.core.context import RunContext
from moa.core.errors import EndpointError, EndpointTimeout, OutputError
from moa.endpoints import Endpoint, Prompt
from moa.endpoints.breaker import Breaker, is_down
from moa.endpoints.calls import left_of_call_s, limit_time
from moa.endpoints.wrappers import Sender

_TEXT = "Hi"
PROBE_S = 10.0
"""Seconds after which a neutral probe without an answer counts as hung."""


async def ask_neutrally(endpoint: Endpoint, context: RunContext) -> None:
    """Send the cheapest request that a model has to answer, in the way of all its requests.

    It writes one token, or reads one word, which is charged. An endpoint that can do neither counts
    as there. A list of models would be free, but gateways give it while the model is away.

    Raises:
        EndpointError: the request failed. A status may still show that the server is there.
        BudgetExceeded: the run can't pay for it.
        DeadlineExceeded: the run's time is up.
    """
    if isinstance(endpoint, Sender):
        await endpoint.ask(lambda inner: ask_neutrally(inner, context), context)
        return
    own_context = context.nested("probe")  # it is no part of the run's text or journal
    own_context.listener = own_context.journal = None
    limit_s = left_of_call_s.get()
    try:
        async with asyncio.timeout(limit_s):
            if "complete" in endpoint.capabilities:
                with suppress(OutputError):  # it answered, if only with a cut thought
                    await endpoint.complete(Prompt.of(_TEXT, max_tokens=1), own_context)
            elif "embed" in endpoint.capabilities:
                await endpoint.embed([_TEXT], own_context)
    except TimeoutError as error:
        message = f"no answer to a probe in {limit_s:.3g} s"
        raise EndpointTimeout(message, endpoint=endpoint.name) from error


async def probe_neutrally(
    endpoint: Endpoint, breaker: Breaker, context: RunContext, left_s: float, hung_s: float
) -> None:
    """Send the neutral request, whose outcome opens or closes the server's breaker.

    It takes at most `left_s` and `hung_s` seconds. If it had less than `hung_s` seconds, no answer
    says nothing.

    Raises:
        BudgetExceeded: the run can't pay for it.
        DeadlineExceeded: the run's time is up.
    """
    limit_s = min(hung_s, left_s, left_of_call_s.get())
    try:
        with limit_time(limit_s):
            await ask_neutrally(endpoint, context)
    except EndpointError as error:
        is_late = isinstance(error, EndpointTimeout) and error.status is None
        if is_late and limit_s < hung_s:
            return
        if is_late or is_down(error):
            breaker.fail(error, probes=True)
            return
    breaker.close()
