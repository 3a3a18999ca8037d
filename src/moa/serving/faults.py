"""Faults: the HTTP status of each error, in OpenAI's format. The only table of them.

A client is told what to change in its own request, but not what is wrong with the server: messages
of other servers and of users' code may contain keys, addresses and texts. They go to the server's
log.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import ceil

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from moa.core._json import JSON, objects_of
from moa.core.errors import (
    BudgetExceeded,
    DeadlineExceeded,
    EndpointError,
    EndpointTimeout,
    EndpointUnauthorized,
    GuardFailed,
    InputError,
    InvalidResponse,
    KeySpent,
    MoaError,
    NotResumable,
    OutputError,
    PriceUnknown,
    QuorumNotMet,
    RequestRefused,
    StoreBusy,
    StoreError,
    Unanswered,
    may_be_billed,
)

_logger = logging.getLogger(__name__)
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
"""The `type` of an error by its status. Other 4xx have that of 400; 5xx have `server_error`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """An error response."""

    status: int
    message: str
    code: str
    param: str | None = None
    retry: bool = False
    """True if the same request may succeed when sent again, and nothing is paid twice."""
    retry_after_s: float | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    more: Mapping[str, object] = field(default_factory=dict[str, object])
    """Further fields of the error."""
    faults: Sequence[Mapping[str, object]] = ()
    """Faults of an invalid request."""

    @property
    def body(self) -> dict[str, object]:
        """The error in OpenAI's format, with `detail` in that of System One."""
        kind = "server_error" if self.status >= 500 else _TYPES.get(self.status, _TYPES[400])
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        detail = list(self.faults) or {"error_type": kind, "message": self.message}
        return {"error": {**error, **self.more}, "detail": detail}

    def response(self, headers: Mapping[str, str] | None = None) -> JSONResponse:
        """Make the HTTP response."""
        own_headers = {"x-should-retry": "true" if self.retry else "false", **self.headers}
        if self.retry_after_s is not None:
            own_headers["retry-after"] = str(ceil(self.retry_after_s))
        return JSONResponse(self.body, self.status, {**own_headers, **(headers or {})})


_TABLE: tuple[tuple[type[MoaError], int, str, str | None], ...] = (
    (InputError, 400, "invalid_input", None),
    (BudgetExceeded, 402, "budget_exceeded", None),
    (DeadlineExceeded, 504, "deadline_exceeded", None),
    (OutputError, 502, "invalid_output", None),
    (Unanswered, 502, "unanswered", None),
    (GuardFailed, 503, "guard_failed", None),
    (
        NotResumable,
        501,
        "asks_people",
        (
            "the run came to where a person is asked, and nobody can answer over HTTP: run it in a "
            "program that keeps it until somebody does"
        ),
    ),
    (
        PriceUnknown,
        501,
        "price_unknown",
        (
            "the key has a limit in dollars, and a model that the run needs has no price here: "
            "whoever runs the server has to give it one"
        ),
    ),
    (
        QuorumNotMet,
        502,
        "quorum_not_met",
        "of the models that were asked together too few answered: the server's log says why",
    ),
)
"""Errors with their status, code and message. `None`: the error's own message, which is about the
request."""


_TOLD = {kind.__name__ for kind, _, _, message in _TABLE if message is None} | {
    kind.__name__ for kind in (RequestRefused, KeySpent)
}
"""Classes of errors whose message is about the request, so that a client is told it."""


_OF_INPUT = (400, 413, 422)
"""Statuses with which a model refuses an input, such as one that is too long."""


def fault_of(error: Exception) -> Fault:
    """Map an error to its response. The message of a server's own error goes only to the log."""
    if isinstance(error, RequestRefused):
        return Fault(
            status=error.status,
            message=str(error),
            code=error.code,
            param=error.param,
            retry=error.retry_after_s is not None,
            retry_after_s=error.retry_after_s,
            headers=error.headers,
            faults=error.faults,
        )
    if isinstance(error, HTTPException):  # of Starlette's routing: 404 and 405
        message = f"{error.detail}. GET /openapi.json says what there is"
        code = error.detail.lower().replace(" ", "_")
        headers = dict(error.headers or {})
        return Fault(status=error.status_code, message=message, code=code, headers=headers)
    if isinstance(error, QuorumNotMet):  # each node of several was refused by the key
        error = next(
            (cause for cause in error.causes.values() if isinstance(cause, KeySpent)), error
        )
    if isinstance(error, KeySpent):
        return _key_fault(error)
    for kind, status, code, message in _TABLE:
        if isinstance(error, kind):
            if message is not None:
                _logger.error("a run failed: %s: %s", kind.__name__, error)
            return Fault(status=status, message=message or str(error), code=code)
    _logger.error("a run failed: %s: %s", type(error).__name__, error)
    if isinstance(error, EndpointError):
        return _endpoint_fault(error)
    if isinstance(error, StoreBusy):  # within a run, which may have paid for calls
        message = "another program has locked what this server stores: try again later"
        return Fault(status=503, message=message, code="store_busy", retry_after_s=5)
    kind = "store_error" if isinstance(error, StoreError) else "server_error"
    return Fault(
        status=500,
        message=f"the server has a fault ({type(error).__name__}): its log says which",
        code=kind,
    )


def line_for_client(line: JSON) -> JSON:
    """Return the stored line of a row as a client may read it; see `Item.problem` and `Note`.

    Notes keep no text, and errors their message only if it is about the request.
    """
    told = dict(line)
    if isinstance(error := line.get("error"), str):
        kind = error.partition(":")[0]
        if kind not in _TOLD:
            kind = kind if kind.isidentifier() else "the row failed"
            told["error"] = f"{kind}: whoever runs the server sees why by moa job failed"
    if "trace" in line:
        told["trace"] = [{**note, "text": ""} for note in objects_of(line["trace"])]
    return told


def _key_fault(error: KeySpent) -> Fault:
    """Return the fault of a spent key, with what is left. Retrying is useless before it renews."""
    wait_s = (error.renews_at - datetime.now(UTC)).total_seconds()
    return Fault(
        status=402,
        message=str(error),
        code="insufficient_quota",
        retry_after_s=max(wait_s, 1.0),
        more={"left": dict(error.left), "renews_at": f"{error.renews_at:%Y-%m-%dT%H:%M:%SZ}"},
    )


def _endpoint_fault(error: EndpointError) -> Fault:
    model = f"the model {error.endpoint!r}"
    if isinstance(error, EndpointUnauthorized):
        message = f"{model} refuses the key of this server: whoever runs it has to look to that"
        return Fault(status=502, message=message, code="endpoint_unauthorized")
    if isinstance(error, EndpointTimeout):
        message, status, code = f"{model} took too long", 504, "endpoint_timeout"
    elif isinstance(error, InvalidResponse):
        message, status, code = f"{model} gave no valid answer", 502, "invalid_response"
    elif error.retryable:
        message, status, code = (
            f"{model} can't be reached, or has too much to do",
            503,
            "unavailable",
        )
    else:
        message = (
            f"{model} refused what it was asked (status {error.status}): a shorter input may help"
        )
        status = 400 if error.status in _OF_INPUT else 502
        return Fault(status=status, message=message, code="endpoint_rejected")
    return Fault(
        status=status,
        message=f"{message}: try again later",
        code=code,
        retry=not may_be_billed(error),
        retry_after_s=error.retry_after_s,
    )
