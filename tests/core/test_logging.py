"""Logging: what a user wants to know of a run, and never a text."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys

import pytest
from tenacity import wait_none

from moa.agents import Agent
from moa.budget import Budget
from moa.context import RunContext
from moa.endpoints import Endpoint
from moa.endpoints.retries import Retried
from moa.endpoints.wrappers import Fallback
from moa.errors import BudgetExceeded, EndpointUnavailable
from moa.testing import ScriptedEndpoint, SimulatedEndpoint

BUSY = EndpointUnavailable("busy with Ann's divorce", endpoint="small", status=429)


def heard(
    caplog: pytest.LogCaptureFixture, level: int, endpoint: Endpoint, context: RunContext
) -> list[str]:
    with caplog.at_level(level, logger="moa"):
        asyncio.run(Agent(endpoint, "Answer.").run("Ann's divorce", context))
    return [record.getMessage() for record in caplog.records if record.name.startswith("moa")]


@pytest.mark.parametrize("did", ["retried", "fell back"])
def test_what_mended_a_failure_is_logged_with_its_reason_and_no_text(
    did: str, caplog: pytest.LogCaptureFixture
) -> None:
    small = ScriptedEndpoint(steps=[BUSY, "Hello"], name="small")
    mended = Retried(small, wait=wait_none()) if did == "retried" else Fallback(small, small)
    assert heard(caplog, logging.INFO, mended, RunContext()) == [
        f"agent: small {did} after EndpointUnavailable (HTTP 429)"
    ]


def test_a_budget_that_is_used_up_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(BudgetExceeded):
        heard(caplog, logging.INFO, SimulatedEndpoint(), RunContext(budget=Budget(calls=0)))
    assert caplog.messages == ["agent: the budget is used up: calls=1 of 0"]


def test_each_call_is_logged_in_detail_and_without_a_text(
    caplog: pytest.LogCaptureFixture,
) -> None:
    (line,) = heard(caplog, logging.DEBUG, SimulatedEndpoint(name="small"), RunContext())
    assert line.startswith("agent: small took 10 tokens in, 5 out, 0.")


def test_nothing_is_printed_unless_somebody_listens() -> None:
    program = "import moa, logging; logging.getLogger('moa.context').warning('lost')"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("", "")
