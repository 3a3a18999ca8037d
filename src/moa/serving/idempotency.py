"""Idempotency: a request sent again with the same `Idempotency-Key` is not paid twice.

Its answer is stored for a day, for its caller alone, and sent again. Such a request goes on when
its client disconnects, since the client will ask again for what it has paid for. Pure ASGI.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, NamedTuple

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from moa.core.errors import MoaError, RequestRefused, StoreBusy, StoreError
from moa.rows._stores import Store
from moa.serving.faults import fault_of
from moa.serving.http import caller_of, read_body
from moa.serving.ledger import Ledger, busy_refusal

if TYPE_CHECKING:
    from moa.serving.server import Server

KEPT_S = 86400.0
"""Seconds for which an answer is stored."""
_LARGEST = 4 << 20
"""Maximum size of a stored answer, in bytes. Of a larger one, only its existence is stored."""
_MOST = 256 << 20
"""Maximum size of all stored answers of a caller, in bytes."""
_MOST_ANSWERS = 100_000
"""Maximum number of answers of a caller. Beyond it, the oldest are dropped."""
_MOST_LATE = 64 << 20
"""Maximum size of the answers in memory that could not be stored yet, in bytes."""
_DROPS = 16
"""Maximum number of old answers that are dropped at once, since a large one takes a while."""
_WAIT_S = 60.0
"""Seconds that a request waits for the first one like it. Then its client has to ask again."""
_FIRST_POLL_S, _LONGEST_POLL_S = 0.05, 1.0
_LONGEST_KEY = 255
_DROPPED = (b"content-length", b"date", b"server", b"connection", b"transfer-encoding")


class StoredAnswer(NamedTuple):
    """An answer as it was sent."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    is_whole: bool
    """False if it was too large, so that its body isn't stored."""


Lookup = StoredAnswer | Literal["begun", "running", "other", "interrupted"]
"""State of a request: `begun`: it is new, and has begun now. `running`: another one like it is
running. `other`: the key was used for another request. `interrupted`: the process that worked on it
has died, and may have paid for calls."""


@dataclass(frozen=True, slots=True)
class _End:
    """The end of a request, which the store has to be told."""

    ledger: Ledger
    name: str
    caller: str
    request: str
    stored: StoredAnswer | None
    """Its answer; `None`: it has none, and may be sent again."""

    def __call__(self) -> None:
        """Tell the store."""
        try:
            self.ledger.store.atomically(self._tell)
        except StoreError:
            self._spare_memory()
            raise

    def _tell(self) -> None:
        self.ledger.answering.discard(self.name)  # until this is stored, it is in `late`
        if self.stored is None:
            mine = "name = ? and worker = ? and status is null"
            _drop(self.ledger.store, mine, self.name, self.ledger.worker)
        else:
            self._keep(self.stored)

    def _spare_memory(self) -> None:
        """Forget the body if there are many that the store could not be told."""
        late = [end for end in [*self.ledger.late.values()] if isinstance(end, _End)]
        size = sum(len(end.stored.body) for end in late if end.stored is not None)
        if self.stored is not None and size > _MOST_LATE:
            shorter = self.stored._replace(body=b"", is_whole=False)
            self.ledger.late[self.name] = replace(self, stored=shorter)

    def _keep(self, stored: StoredAnswer) -> None:
        store, mine = self.ledger.store, (self.name, self.ledger.worker)
        rows = store.run(
            "select size from moa_key_answers where job = ? and name = ? and worker = ?",
            *(store.job, *mine),
        )
        if not rows:
            return
        old_size, new_size = int(rows[0][0]), len(stored.body)
        _, total = _add(store, self.caller, 0, new_size - old_size)
        fits = stored.is_whole and total <= _MOST
        if not fits:
            _add(store, self.caller, 0, -new_size)
        headers = [(a.decode("latin-1"), b.decode("latin-1")) for a, b in stored.headers]
        store.run(
            "update moa_key_answers set status = ?, headers = ?, body = ?, size = ?, until = ? "
            "where job = ? and name = ? and worker = ?",
            *(stored.status, json.dumps(headers), stored.body if fits else None),
            *(new_size if fits else 0, self.ledger.now() + KEPT_S),
            *(store.job, *mine),
        )


def _add(store: Store, caller: str, number: int, size: int) -> tuple[int, int]:
    """Add to the number and the size of a caller's answers, and return both."""
    rows = store.run(
        "insert into moa_key_answer_sums (job, caller, number, size) values (?, ?, ?, ?) "
        "on conflict (job, caller) do update set "
        "number = moa_key_answer_sums.number + excluded.number, "
        "size = moa_key_answer_sums.size + excluded.size returning number, size",
        *(store.job, caller, number, size),
    )
    return int(rows[0][0]), int(rows[0][1])


def _drop(store: Store, condition: str, *values: object) -> None:
    """Drop answers, within a transaction."""
    dropped: dict[str, tuple[int, int]] = {}
    statement = f"delete from moa_key_answers where job = ? and {condition} returning caller, size"
    for caller, size in store.run(statement, store.job, *values):
        number, total = dropped.get(caller, (0, 0))
        dropped[caller] = (number + 1, total + size)
    for caller, (number, size) in sorted(dropped.items()):  # two processes lock them in one order
        _add(store, caller, -number, -size)


class Answers:
    """Answers by caller and key, in the store of the ledger.

    Args:
        ledger: Ledger with an open store.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def begin(self, name: str, caller: str, request: str) -> Lookup:
        """Begin a request, unless it is known.

        Args:
            name: Digest of the caller and its key.
            caller: Name of the caller.
            request: Fingerprint of the request.

        Raises:
            RequestRefused: the store is locked by another program (503).
            StoreError: it can't be used.
        """
        late = self._ledger.late.get(name)
        if isinstance(late, _End) and late.stored is not None:
            return late.stored if late.request == request else "other"
        try:
            return await self._ledger.run(lambda: self._begin(name, caller, request), is_long=True)
        except StoreBusy as error:
            raise busy_refusal(error) from error

    def _begin(self, name: str, caller: str, request: str) -> Lookup:
        self._ledger.do_late(name)
        lookup: Lookup = self._ledger.store.atomically(lambda: self._look_up(name, caller, request))
        if lookup == "begun":  # not within: a transaction whose end was lost is done again
            self._ledger.answering.add(name)
        return lookup

    def _look_up(self, name: str, caller: str, request: str) -> Lookup:
        store, now = self._ledger.store, self._ledger.now()
        if name in self._ledger.late:
            return "running"  # it has just ended
        # What this process has begun without knowing was stored as its connection was lost.
        lost_of = None if name in self._ledger.answering else self._ledger.worker
        _drop(
            store,
            "name = ? and (until < ? or worker = ? and status is null)",
            *(name, now, lost_of),
        )
        _drop(
            store,
            "until < ? and name in (select name from moa_key_answers where job = ? and until < ? "
            "order by until limit ?)",
            *(now, store.job, now, _DROPS),
        )
        inserted_rows = store.run(
            "insert into moa_key_answers (job, name, caller, request, worker, until) "
            "values (?, ?, ?, ?, ?, ?) on conflict (job, name) do nothing returning name",
            *(store.job, name, caller, request, self._ledger.worker, now + KEPT_S),
        )
        if inserted_rows:
            number, _ = _add(store, caller, 1, 0)
            if number > _MOST_ANSWERS:
                _drop(
                    store,
                    "name in (select name from moa_key_answers where job = ? and caller = ? "
                    "and status is not null order by until limit ?)",
                    *(store.job, caller, _DROPS),
                )
            return "begun"
        rows = store.run(
            "select request, worker, status, headers, body from moa_key_answers "
            "where job = ? and name = ?",
            *(store.job, name),
        )
        if not rows:  # it has just been dropped
            return "running"
        stored_request, holder, status, headers, body = rows[0]
        if stored_request != request:
            return "other"
        if status is not None:
            pairs = [(a.encode("latin-1"), b.encode("latin-1")) for a, b in json.loads(headers)]
            return StoredAnswer(status, pairs, bytes(body or b""), body is not None)
        return "running" if self._ledger.is_alive(holder) else "interrupted"

    async def end(self, name: str, caller: str, request: str, stored: StoredAnswer | None) -> None:
        """Store the answer to a request begun here; `None`: forget it, and let it be sent again.

        If the store fails, this is done later. Until then this process knows the answer.
        """
        end = _End(self._ledger, name, caller, request, stored)
        await self._ledger.run_surely(name, end, is_long=True)


class Idempotent:
    """Middleware that answers a repeated request with the stored answer.

    Only successful answers are stored. A refused or failed request may be sent again, and is run
    again, and so is one that can't cost anything (`request.state.is_free`).
    """

    def __init__(self, app: ASGIApp, server: Server) -> None:
        self._app = app
        self._server = server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or send the stored answer."""
        # Without a caller, as on open paths, there is nobody whose answer could be stored.
        has_caller = scope["type"] == "http" and "caller" in scope.get("state", {})
        key = Headers(scope=scope).get("idempotency-key") if has_caller else None
        if key is None or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        try:
            await self._answer_once(key, scope, receive, send)
        except MoaError as error:
            await fault_of(error).response()(scope, receive, send)

    async def _answer_once(self, key: str, scope: Scope, receive: Receive, send: Send) -> None:
        _check(key)
        request = Request(scope, receive)
        caller = caller_of(request)
        body = await read_body(request)
        name = _digest(caller.name.encode(), key.encode("latin-1"))
        path, query = scope["path"].encode("utf-8", "replace"), scope.get("query_string", b"")
        fingerprint = _digest(
            path, query, request.headers.get("accept", "").encode("latin-1"), body
        )
        answers = Answers(self._server.keys.ledger)
        lookup = await self._await_answer(answers, name, caller.name, fingerprint, receive)
        if isinstance(lookup, StoredAnswer):
            await _replay(lookup)(scope, receive, send)
            return
        copy, receive_again = _Copy(send), _receiver_of(body)
        del body  # it isn't kept for as long as the request is worked on
        stored: StoredAnswer | None = None
        try:
            await self._app(scope, receive_again, copy.send)
            stored = copy.stored if self._is_worth_keeping(copy, request) else None
        finally:
            await answers.end(name, caller.name, fingerprint, stored)

    async def _await_answer(
        self, answers: Answers, name: str, caller: str, fingerprint: str, receive: Receive
    ) -> Lookup:
        """Look up an answer, and wait for it a while, unless the client disconnects."""
        disconnect = asyncio.ensure_future(receive())
        poll_s, waited_s = _FIRST_POLL_S, 0.0
        try:
            while (lookup := await answers.begin(name, caller, fingerprint)) == "running":
                if waited_s >= min(_WAIT_S, self._server.settings.timeout_s) or disconnect.done():
                    raise RequestRefused(
                        "a request with this Idempotency-Key is worked on: ask again later",
                        status=409,
                        code="idempotency_key_in_use",
                        retry_after_s=1,
                    )
                await asyncio.wait((disconnect,), timeout=poll_s)
                waited_s, poll_s = waited_s + poll_s, min(poll_s * 1.5, _LONGEST_POLL_S)
        finally:
            disconnect.cancel()
        if lookup == "other":
            raise RequestRefused(
                "this Idempotency-Key was used for another request: give each its own",
                status=422,
                code="idempotency_key_reused",
            )
        if lookup == "interrupted":
            raise RequestRefused(
                "the server that worked on this request has died, and may have paid for it. Give "
                "another Idempotency-Key to have it worked on, and paid for, again",
                status=409,
                code="idempotency_interrupted",
            )
        return lookup

    def _is_worth_keeping(self, copy: _Copy, request: Request) -> bool:
        """Return True if an answer is complete, no error, and not free for anybody to ask again.

        Some failures have the status 200.
        """
        if not copy.is_whole or not 200 <= copy.status < 300:
            return False
        if getattr(request.state, "has_failed", False) or getattr(request.state, "is_free", False):
            return False
        run = Headers(raw=copy.headers).get("x-moa-trace")
        if run is None:
            return True
        try:
            return self._server.runs.trace(run, caller_of(request)).failure is None
        except RequestRefused:  # its trace is no longer kept
            return True


class _Copy:
    """Sender that forwards messages, and keeps a copy."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._parts: list[bytes] = []
        self._size = 0
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.is_whole = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], [*message.get("headers", ())]
        elif message["type"] == "http.response.body":
            part = message.get("body", b"")
            self._size += len(part)
            if self._size <= _LARGEST:
                self._parts.append(part)
            else:
                self._parts.clear()
            self.is_whole = not message.get("more_body", False)
        await self._send(message)

    @property
    def stored(self) -> StoredAnswer:
        headers = [header for header in self.headers if header[0].lower() not in _DROPPED]
        return StoredAnswer(self.status, headers, b"".join(self._parts), self._size <= _LARGEST)


def _replay(stored: StoredAnswer) -> Response:
    if not stored.is_whole:
        raise RequestRefused(
            "this request was answered, by more than is kept for an Idempotency-Key. Give another "
            "key to have it worked on, and paid for, again",
            status=409,
            code="idempotency_answer_too_large",
        )
    response = Response(stored.body, stored.status)
    length = [header for header in response.raw_headers if header[0] == b"content-length"]
    response.raw_headers = [*stored.headers, *length, (b"idempotent-replayed", b"true")]
    return response


def _receiver_of(body: bytes) -> Receive:
    """Make a `receive` that returns the body, but never a disconnect: the run has to finish."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if messages:
            return messages.pop()
        return await asyncio.get_running_loop().create_future()

    return receive


def _check(key: str) -> None:
    if not 0 < len(key) <= _LONGEST_KEY or not (key.isascii() and key.isprintable()):
        raise RequestRefused(
            f"an Idempotency-Key has 1 to {_LONGEST_KEY} printable characters of ASCII",
            status=400,
            code="invalid_idempotency_key",
        )


def _digest(*parts: bytes) -> str:
    hasher = hashlib.sha256()
    for part in parts:
        hasher.update(len(part).to_bytes(8) + part)
    return hasher.hexdigest()
