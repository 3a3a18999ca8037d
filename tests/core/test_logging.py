"""Logging: what a user wants to know of a run, and never a text."""

from __future__ import annotations

import asyncio
import errno
import logging
import subprocess
import sys
from io import StringIO

import pytest
from tenacity import wait_none

from moa.agents.agent import Agent
from moa.cli.serve import LogHandler
from moa.core._logs import LineFormatter
from moa.core.budget import Budget
from moa.core.context import RunContext
from moa.core.errors import BudgetExceeded, EndpointUnavailable
from moa.endpoints import Endpoint
from moa.endpoints.retries import Retried
from moa.endpoints.wrappers import Fallback
from moa.serving.listening import uvicorn_for
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
    program = "import moa, logging; logging.getLogger('moa.core.context').warning('lost')"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize(
    "name", ["moa.serving.ledger", "moa.learning.recording", "moa.adapters.sqlite"]
)
def test_a_server_tells_what_its_stores_can_not_do(name: str) -> None:
    program = (
        "import logging\n"
        "from moa.cli.serve import _show_warnings\n"
        "_show_warnings()\n"
        f"logging.getLogger({name!r}).warning('the disk is full')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stderr.splitlines() == ["warning: the disk is full"]


FORGED = "busy\nerror: forged\r\u2028error: forged\x1b[2J\ud800"


def test_a_line_break_in_an_error_makes_no_further_line_in_the_log_of_a_server() -> None:
    program = (
        "import logging\n"
        "from moa.cli.serve import _show_warnings\n"
        "_show_warnings()\n"
        f"logging.getLogger('moa.serving.faults').error('a run failed: %s', {FORGED!a})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stderr.splitlines() == [
        r"error: a run failed: busy\nerror: forged\r\u2028error: forged\x1b[2J\ud800"
    ]


async def test_a_line_break_in_an_unforeseen_error_begins_no_line_in_the_log_of_a_server(
    capsys: pytest.CaptureFixture[str],
) -> None:
    uvicorn_for(nothing, drain_s=1)
    try:
        raise ValueError(FORGED)
    except ValueError:
        logging.getLogger("uvicorn.error").exception("Exception in %s", FORGED)
    first, *rest = capsys.readouterr().err.splitlines()
    assert first.startswith(r"error: Exception in busy\nerror: forged")
    assert any("ValueError: busy" in line for line in rest)
    assert all(line.startswith("  ") for line in rest)


async def nothing(*_: object) -> None:
    """An application that answers nothing."""


class FullDisk(StringIO):
    """A log whose disk is full."""

    def write(self, text: str, /) -> int:
        raise OSError(errno.ENOSPC, f"no space for {len(text)} characters")


def test_a_log_that_can_not_be_written_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", FullDisk())
    handler = LogHandler()
    handler.setFormatter(LineFormatter())
    record = logging.makeLogRecord({"levelname": "WARNING", "msg": "it is full"})
    assert handler.handle(record)
