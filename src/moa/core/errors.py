"""Errors that `moa` raises.

`retryable` is true if asking again can help, `recoverable` if another node may do better.
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

from moa.core._text import strip_controls
from moa.core.usage import Usage


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
    """True if sending the same request again can succeed."""
    recoverable: bool = False
    """True if retrying, or asking another node, could succeed.

    A wrong setup, such as a wrong key, is not recoverable: a fallback would hide it.
    """
    escalates: bool = False
    """True if a large node may answer instead, at its price, when a small node fails with this.

    A small node with a refused key counts as down: the large one answers, and the trace says why.
    """

    def __reduce__(self) -> tuple[object, ...]:
        """Support pickling, since `__init__` takes other arguments than `args`."""
        return _rebuild, (type(self), self.args), self.__dict__


def _rebuild(kind: type[MoaError], args: tuple[object, ...]) -> MoaError:
    return kind.__new__(kind, *args)


class ConfigError(MoaError):
    """A mistake of the caller that no retry can fix."""


class WiringError(ConfigError):
    """A graph was built of nodes that do not fit together.

    Examples:
        >>> g = Graph("wrong", Text)
        >>> g.build(g.add(Sentiment, g.input))
        Traceback (most recent call last):
            ...
        moa.core.errors.WiringError: ...
    """


class CapabilityError(ConfigError):
    """An endpoint was given a task that it can't do.

    Examples:
        >>> writer = ScriptedEndpoint(capabilities={"complete"})
        >>> Sentiment(writer)
        Traceback (most recent call last):
            ...
        moa.core.errors.CapabilityError: agent 'sentiment' needs an endpoint that can decide, ...
    """


class MissingDependency(ConfigError):
    """A required optional package is not installed.

    Args:
        package: Name of the package on PyPI.
        extra: Extra of `mixture-of-agents` that installs it.
        purpose: Purpose that needs it, as the end of a sentence.
        command: Command that installs it; `None` for pip, with the extra.
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
    """A budget is strict and an endpoint's price is unknown, so no request was sent."""


class NotResumable(ConfigError):
    """A node may ask people in a run that isn't stored, or a thread has no run to resume."""


class CalibrationError(ConfigError):
    """A calibration is of another model, question or set of options, or its file is broken."""


class InputError(MoaError):
    """A value does not fit the node or the file that it was given to."""


class MalformedRow(InputError):
    """A line of a file or a pipe isn't a row: half an object, too many cells, or not UTF-8."""


class ProcessDied(MoaError):
    """Every process that worked on a row of a job died while working on it."""


class StoreError(MoaError):
    """Stored data, such as a conversation, can't be read or written."""


class StoreBusy(StoreError):
    """Another program has locked stored data for longer than is waited for it, or it is away."""


class RequestRefused(MoaError):
    """A server of `moa` refused a request, because of its content or its sender.

    Args:
        message: Reason, and what to do.
        status: HTTP status.
        code: OpenAI error code, such as `model_not_found`, or a similar one.
        param: Invalid field of the request.
        retry_after_s: Seconds after which it can succeed; `None` if it can't.
        headers: Extra headers of the response.
        faults: Faults of an invalid request, each with `loc`, `msg` and `type`.
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
"""Statuses of a gateway whose server got the request, and may still work on it."""


class EndpointError(MoaError):
    """A request to an endpoint failed.

    Args:
        message: What happened, and what to do.
        endpoint: Name of the endpoint.
        status: HTTP status, if there was one.
        retry_after_s: Seconds the server asked to wait before the next try.
        begun: True if the server had, or may have, begun to answer: the connection was lost, or a
            gateway timed out. See `may_be_billed`.
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
        message = strip_controls(message)  # it quotes servers, and may be printed
        super().__init__(f"{endpoint}: {message}")
        self.message = message
        self.endpoint = endpoint
        self.status = status
        self.retry_after_s = retry_after_s
        self.begun = begun or status in GATEWAY_TIMEOUTS
        self.seconds: float | None = None
        """Duration of the failed request, without the wait for a slot; `None` if unknown."""

    def with_message(self, message: str) -> Self:
        """Return a copy with another message."""
        error = copy(self)
        error.args, error.message = (f"{self.endpoint}: {message}",), message
        return error


class EndpointTimeout(EndpointError):
    """No complete answer came within the endpoint's timeout."""

    retryable = True


class EndpointUnavailable(EndpointError):
    """The connection was refused or lost, or the status is 429 or 5xx.

    Examples:
        >>> down = EndpointUnavailable("connection refused", endpoint="first")
        >>> both = Fallback(ScriptedEndpoint([down]), ScriptedEndpoint(["Here I am."]))
        >>> print(Agent(both, "Greet.").run_sync("Hi").output)
        Here I am.
    """

    retryable = True


class InvalidResponse(EndpointError):
    """The response violates the protocol: HTML, incomplete JSON, no choice, or no text."""

    retryable = True


class AnswerTooLarge(InvalidResponse):
    """The response has more bytes or values than may be. Asking again would bring it again."""

    retryable = False


class EndpointRejected(EndpointError):
    """The server understood the request and refused it (4xx) or redirected it (3xx)."""


class EndpointUnauthorized(EndpointRejected):
    """The key is missing, wrong, or lacks permission (401, 403)."""

    recoverable = False


class QuotaExceeded(EndpointUnauthorized):
    """The account of the key has no credit left (402, or 429 with `insufficient_quota`).

    Waiting does not help. A rate limit, which passes, is `EndpointUnavailable`.
    """


class EndpointUnsupported(EndpointRejected):
    """The server or its model doesn't support the request (501, or 404 for the route)."""

    recoverable = False


class OutputError(MoaError):
    """The model answered, but the answer does not fit the node's output type.

    Args:
        message: Fault of the answer.
        node: Name of the node.
        text: Text that the model wrote.
    """

    recoverable = True
    escalates = True

    def __init__(self, message: str, *, node: str, text: str) -> None:
        super().__init__(f"{node}: {message}")
        self.node = node
        self.text = text


class Unanswered(MoaError):
    """The label of a question was read that the model refused or left out.

    Args:
        question: Name of the question, or if unknown, of the kind of its answer.
        status: `refused` or `missing`, or words that say that the text doesn't state it.
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
    """A plain function in a graph raised an error, which is chained.

    The message states the file and line, if they are in the user's code.

    Args:
        node: Name of the node.
        cause: Error that it raised.
    """

    def __init__(self, node: str, cause: BaseException) -> None:
        super().__init__(f"{node}: {type(cause).__name__}: {cause}{_place_of(cause)}")
        self.node = node


_LIBRARIES = (get_paths()[name] for name in ("stdlib", "purelib"))
_NOT_OWN = (str(Path(__file__).parents[1]), *_LIBRARIES, "<")
"""Prefixes of file names that are not the user's own code."""


def _place_of(cause: BaseException) -> str:
    """Return where in the user's code an error was raised, or the call that led to it."""
    frames = traceback.extract_tb(cause.__traceback__)
    own_frames = [frame for frame in frames if not frame.filename.startswith(_NOT_OWN)]
    return f" ({Path(own_frames[-1].filename).name}:{own_frames[-1].lineno})" if own_frames else ""


class QuorumNotMet(MoaError):
    """Too few of several nodes answered a request.

    It is recoverable unless all of them were set up wrong.

    Args:
        message: Number that answered, number required, and each cause.
        causes: Errors, by name of the failed node.
    """

    def __init__(self, message: str, *, causes: Mapping[str, MoaError]) -> None:
        super().__init__(message)
        self.causes = causes
        set_up_wrong = (ConfigError, EndpointUnauthorized, EndpointUnsupported)
        self.recoverable = self.escalates = not causes or any(
            not isinstance(cause, set_up_wrong) for cause in causes.values()
        )


class GuardFailed(MoaError):
    """A guard could not check a text, so nothing was sent. The message never quotes the text."""


class BudgetExceeded(MoaError):
    """A limit of a run's `Budget` would be passed by the next call, so it was not sent or was cut.

    Args:
        message: The limit, the amount spent, and the amount that the call asked for.
        spent: Usage of the run so far.

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
        message: The limit, the amount left, and the time of renewal.
        spent: Usage of the run so far.
        left: Amount left of each limit of the key, by name.
        renews_at: Time when the limit renews, in UTC.
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
    """The run's deadline has passed."""

    recoverable = True
    escalates = True


def may_be_billed(error: BaseException | None) -> bool:
    """Return True if a server may bill for the tokens of a failed call.

    It can't if nothing was sent or the server refused: no connection, a 3xx, a 4xx, or a 5xx except
    `GATEWAY_TIMEOUTS`. An answer that was cut, lost or unreadable may have been generated.
    `docs/endpoints.md` has the table.
    """
    if isinstance(error, EndpointRejected | EndpointUnavailable):
        return error.begun
    return not isinstance(error, ConfigError)


def check_recoverable(error: MoaError) -> None:
    """Raise an error that no fallback may hide.

    Raises:
        MoaError: it is not recoverable, such as a wrong key, or the run's time is up.
    """
    if isinstance(error, DeadlineExceeded) or not error.recoverable:
        raise error
