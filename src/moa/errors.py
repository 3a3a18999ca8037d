"""Every error `moa` raises.

`retryable` says whether asking again can help, `recoverable` whether another node may do better.
"""

from __future__ import annotations

import traceback
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from datetime import datetime
from pathlib import Path
from sysconfig import get_paths
from typing import ClassVar, Self

from moa._text import strip_controls
from moa.usage import Usage


class MoaError(Exception):
    """Base of every error raised on purpose by `moa`.

    Examples:
        >>> try:
        ...     Filter(SimulatedEndpoint(), " ", action="drop")
        ... except MoaError as error:
        ...     print(type(error).__name__)
        ConfigError
    """

    retryable: ClassVar[bool] = False
    """True if the same request can succeed when sent again."""
    recoverable: bool = False
    """True if retrying, or asking another node, could succeed.

    A wrong setup, such as a wrong key, is not recoverable: a fallback would hide it.
    """
    escalates: bool = False
    """True if a large node may answer, at its price, for a small node that failed.

    A small node with a refused key counts as down: the large one answers; the trace says why.
    """

    def __reduce__(self) -> tuple[object, ...]:
        """Support pickling, since `__init__` takes other arguments than `args` holds."""
        return _rebuild, (type(self), self.args), self.__dict__


def _rebuild(kind: type[MoaError], args: tuple[object, ...]) -> MoaError:
    return kind.__new__(kind, *args)


class ConfigError(MoaError):
    """The caller wrote something that no retry can mend."""


class WiringError(ConfigError):
    """A graph was built from nodes that do not fit together.

    Examples:
        >>> g = Graph("wrong", Text)
        >>> g.build(g.add(Sentiment, g.input))
        Traceback (most recent call last):
            ...
        moa.errors.WiringError: ...
    """


class CapabilityError(ConfigError):
    """An endpoint was given a job that it cannot do.

    Examples:
        >>> writer = ScriptedEndpoint(capabilities={"complete"})
        >>> Sentiment(writer)
        Traceback (most recent call last):
            ...
        moa.errors.CapabilityError: agent 'sentiment' needs an endpoint that can decide, ...
    """


class MissingDependency(ConfigError):
    """An optional package is needed and not installed.

    Args:
        package: Name of the package on the index.
        extra: The extra of `mixture-of-agents` that it belongs to.
        purpose: What it is needed for, as the end of a sentence.
        command: What installs it; `None`: pip, with the extra.
    """

    def __init__(
        self, package: str, *, extra: str, purpose: str, command: str | None = None
    ) -> None:
        command = command or f'pip install "mixture-of-agents[{extra}]"'
        super().__init__(f"{package!r} is not installed, and is needed {purpose}. Run: {command}")
        self.package = package
        self.extra = extra


@contextmanager
def require_package(
    package: str, *, extra: str, purpose: str, command: str | None = None
) -> Generator[None]:
    """Raise a `MissingDependency` that names the package if an import fails."""
    try:
        yield
    except ImportError as error:
        raise MissingDependency(package, extra=extra, purpose=purpose, command=command) from error


class ModelNotFound(ConfigError):
    """The weights of a local model could not be found, fetched, trusted or loaded."""


class PriceUnknown(ConfigError):
    """A budget is strict, and the price of an endpoint is unknown, so it was not asked."""


class NotResumable(ConfigError):
    """A node may ask people in a run of which nothing is kept, or a thread has no run to go on."""


class CalibrationError(ConfigError):
    """A calibration belongs to another model, question or set of options, or its file is broken."""


class InputError(MoaError):
    """A value does not fit the node, or the file, that it was given to."""


class MalformedRow(InputError):
    """A line of a file or a pipe isn't a row: half an object, too many cells, or not UTF-8."""


class ProcessDied(MoaError):
    """Each process that worked on a row of a job died with it in its hands."""


class StoreError(MoaError):
    """Stored data, such as a conversation, can't be read or written."""


class RequestRefused(MoaError):
    """A server of `moa` refused a request, because of its content or its sender.

    Args:
        message: Why, and what to do.
        status: HTTP status.
        code: Error code of OpenAI, such as `model_not_found`, or a similar one.
        param: The field of the request that is at fault.
        retry_after_s: Seconds after which it can succeed; `None`: it can't as it is.
        headers: Further headers of the response.
        faults: Each fault of an invalid request: `loc`, `msg` and `type`.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: str,
        param: str | None = None,
        retry_after_s: float | None = None,
        headers: Mapping[str, str] | None = None,
        faults: Sequence[Mapping[str, object]] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.retry_after_s = retry_after_s
        self.headers = dict(headers or {})
        self.faults = tuple(faults)


GATEWAY_TIMEOUTS = frozenset((504, 524))
"""Statuses of a gateway whose server had the request, and may go on with it."""


class EndpointError(MoaError):
    """A request to an endpoint failed.

    Args:
        message: What happened, and what to do.
        endpoint: Name of the endpoint that was asked.
        status: HTTP status, if there was one.
        retry_after_s: Seconds the server asked to wait before the next try.
        begun: Whether it ended when the server had, or may have, begun to answer: the connection
            was lost, or a gateway waited no longer. See `may_be_billed`.
    """

    recoverable = True
    escalates = True

    def __init__(
        self,
        message: str,
        *,
        endpoint: str,
        status: int | None = None,
        retry_after_s: float | None = None,
        begun: bool = False,
    ) -> None:
        message = strip_controls(message)  # it quotes servers, and may be printed anywhere
        super().__init__(f"{endpoint}: {message}")
        self.message = message
        self.endpoint = endpoint
        self.status = status
        self.retry_after_s = retry_after_s
        self.begun = begun or status in GATEWAY_TIMEOUTS
        self.seconds: float | None = None
        """How long the request took that failed, waiting for its turn excluded; `None`: unknown."""

    def with_message(self, message: str) -> Self:
        """Return a copy with another message."""
        error = copy(self)
        error.args, error.message = (f"{self.endpoint}: {message}",), message
        return error


class EndpointTimeout(EndpointError):
    """No complete answer within the endpoint's timeout."""

    retryable = True


class EndpointUnavailable(EndpointError):
    """Connection refused or lost, 429 or 5xx.

    Examples:
        >>> down = EndpointUnavailable("connection refused", endpoint="first")
        >>> both = Fallback(ScriptedEndpoint([down]), ScriptedEndpoint(["Here I am."]))
        >>> print(Agent(both, "Greet.").run_sync("Hi").output)
        Here I am.
    """

    retryable = True


class InvalidResponse(EndpointError):
    """The response violates the protocol: HTML, incomplete JSON, no choice, no text."""

    retryable = True


class EndpointRejected(EndpointError):
    """The server understood the request and said no (4xx), or sent it elsewhere (3xx)."""


class EndpointUnauthorized(EndpointRejected):
    """The key is missing, wrong, or not allowed to do this (401, 403)."""

    recoverable = False


class QuotaExceeded(EndpointUnauthorized):
    """The account of the key has no credit left (402, or 429 with `insufficient_quota`).

    Waiting does not help. A rate limit, which does pass, is `EndpointUnavailable`.
    """


class EndpointUnsupported(EndpointRejected):
    """The server or its model can't do what was asked (501, or 404 for the route)."""

    recoverable = False


class OutputError(MoaError):
    """The model answered, but the answer does not fit the node's output type.

    Args:
        message: What is wrong with it.
        node: Name of the node.
        text: What the model wrote.
    """

    recoverable = True
    escalates = True

    def __init__(self, message: str, *, node: str, text: str) -> None:
        super().__init__(f"{node}: {message}")
        self.node = node
        self.text = text


class Unanswered(MoaError):
    """A label was read from a question that the model refused or left out.

    Args:
        question: Name of the question, or of the kind of its answer where that isn't known.
        status: `refused` or `missing`, or that the text doesn't tell it.
    """

    recoverable = True
    escalates = True

    def __init__(self, question: str, *, status: str) -> None:
        super().__init__(
            f"question {question!r} has no answer: it was {status}. "
            "Look at `.status` and `.untold` before the label"
        )
        self.question = question
        self.status = status


class NodeError(MoaError):
    """A plain function that is in a graph raised; the cause is chained.

    It says in which file and line, as far as that is code of one's own.

    Args:
        node: Name of the node.
        cause: What it raised.
    """

    def __init__(self, node: str, cause: BaseException) -> None:
        super().__init__(f"{node}: {type(cause).__name__}: {cause}{_place_of(cause)}")
        self.node = node


_NOT_OWN = (str(Path(__file__).parent), *(get_paths()[name] for name in ("stdlib", "purelib")), "<")
"""Prefixes of file names that are not the user's own code."""


def _place_of(cause: BaseException) -> str:
    """Say where an error was raised, or the call that led there, in code of one's own."""
    frames = traceback.extract_tb(cause.__traceback__)
    own_frames = [frame for frame in frames if not frame.filename.startswith(_NOT_OWN)]
    return f" ({Path(own_frames[-1].filename).name}:{own_frames[-1].lineno})" if own_frames else ""


class QuorumNotMet(MoaError):
    """Too few of several nodes answered one request.

    It is recoverable if one of them was set up right.

    Args:
        message: How many did, how many must, and each cause.
        causes: Why, by the name of each node that failed.
    """

    def __init__(self, message: str, *, causes: Mapping[str, MoaError]) -> None:
        super().__init__(message)
        self.causes = causes
        set_up_wrong = (ConfigError, EndpointUnauthorized, EndpointUnsupported)
        self.recoverable = self.escalates = not causes or any(
            not isinstance(cause, set_up_wrong) for cause in causes.values()
        )


class GuardFailed(MoaError):
    """A guard could not look at a text, so nothing was sent. It never quotes the text."""


class BudgetExceeded(MoaError):
    """A limit of a run's `Budget` would be passed by the next call, so it was not sent or was cut.

    Args:
        message: The limit, what was spent, what the call asked for.
        spent: What the run had used by then.

    Examples:
        >>> agent = Agent(ScriptedEndpoint(["Hello!"]), "Greet.", budget=Budget(calls=0))
        >>> try:
        ...     agent.run_sync("Hi")
        ... except BudgetExceeded:
        ...     print("no call was sent")
        no call was sent
    """

    recoverable = True
    escalates = True

    def __init__(self, message: str, *, spent: Usage) -> None:
        super().__init__(message)
        self.spent = spent


class KeySpent(BudgetExceeded):
    """The daily or monthly limit of a server's key is used up, so no further call was sent.

    Args:
        message: The limit, what is left of it, and when it renews.
        spent: What the run had used by then.
        left: What is left of each limit of the key, by its name.
        renews_at: When the limit renews, in UTC.
    """

    def __init__(
        self,
        message: str,
        *,
        spent: Usage,
        left: Mapping[str, int | float],
        renews_at: datetime,
    ) -> None:
        super().__init__(message, spent=spent)
        self.left = left
        self.renews_at = renews_at


class DeadlineExceeded(MoaError):
    """The time given to the run is up."""

    recoverable = True
    escalates = True


def may_be_billed(error: BaseException | None) -> bool:
    """Return True if a server may bill for the tokens of a call that ended with an error.

    It can't if nothing was sent, or the server refused: no connection, a 3xx, a 4xx, and a 5xx but
    for `GATEWAY_TIMEOUTS`. An answer that was cut, lost or unreadable may have been generated. The
    table is in `docs/endpoints.md`.
    """
    if isinstance(error, EndpointRejected | EndpointUnavailable):
        return error.begun
    return not isinstance(error, ConfigError)


def check_recoverable(error: MoaError) -> None:
    """Raise an error that no simpler way may stand in for.

    Raises:
        MoaError: it is not recoverable, such as a wrong key, which nobody would see behind a
            stand-in; or the run's time is up.
    """
    if isinstance(error, DeadlineExceeded) or not error.recoverable:
        raise error
