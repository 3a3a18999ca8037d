"""Jobs: rows from the body of a request, processed until all are done.

Each is a `moa.rows.jobs.Job` in its own folder, with a file that names its owner. A job that the
end of the server interrupted goes on when the server starts again.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Literal, get_args

from filelock import AsyncFileLock, Timeout
from pydantic import BaseModel, FiniteFloat

from moa.config.endpoints import Endpoints
from moa.core._async import cancel
from moa.core._files import load_model, save_text
from moa.core._json import JSON, is_object
from moa.core.batch import Row, RowState
from moa.core.context import RunContext
from moa.core.errors import ConfigError, InputError, RequestRefused, StoreBusy, StoreError
from moa.rows.jobs import Job
from moa.rows.lines import row_of
from moa.serving.faults import fault_of, line_for_client
from moa.serving.keys import ANYONE, Caller, Keys
from moa.serving.ledger import BUSY_S
from moa.serving.served import ServedNode

_logger = logging.getLogger(__name__)
_ID = re.compile(r"[0-9a-f]{32}")
_AT_ONCE = 4
"""Maximum number of jobs that run at once. Others wait."""
_OF_A_KEY = _AT_ONCE // 2
"""The same of one key, where there are keys."""
_ROWS_AT_ONCE = 8
"""Maximum number of rows of a job that run at once."""
_LATER_S = 5.0
"""Seconds until a job is tried again whose key or store can't be used at the moment."""
_STATES: tuple[RowState, ...] = get_args(RowState)
Phase = Literal["running", "stopped", "cancelled", "done"]
"""A `stopped` job has rows left that nobody works on, for example since its budget is spent."""


class Owner(BaseModel):
    """Owner and phase of a job."""

    caller: str
    model: str
    created: FiniteFloat
    """Seconds since 1970."""
    phase: Phase = "running"
    why: str = ""
    """Why it was stopped."""
    attempt: str = ""
    """Id of the last begin or resume. A server that works for an earlier one changes nothing."""


class Jobs:
    """The jobs of a server.

    Args:
        folder: Folder of the jobs, each in a folder of its id; `None`: no jobs are accepted.
        served: Nodes that can be run, by name.
        keys: The keys that may continue a job after a restart.
        endpoints: Endpoints, for the large model to compare the cost with.
    """

    def __init__(
        self,
        folder: Path | None,
        served: Mapping[str, ServedNode],
        keys: Keys,
        endpoints: Endpoints,
    ) -> None:
        self._folder = folder
        self._served = served
        self._keys = keys
        self._endpoints = endpoints
        self._working: dict[str, asyncio.Future[None]] = {}
        self._turn = asyncio.Semaphore(_AT_ONCE)
        self._shares: dict[str, asyncio.Semaphore] = {}
        """Turns of each key. One that has none waits for them before it waits for `_turn`."""
        self._damaged: set[str] = set()
        """Ids of jobs whose owner can't be read, as the log was told."""

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        """Go on with interrupted jobs. At the end, stop all running ones."""
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            for id, owner in await asyncio.to_thread(lambda: list(self._owners())):
                if owner.phase != "running" or owner.model not in self._served:
                    continue
                if await self._keys.caller_by_name(owner.caller):
                    self._start(id, owner)
        try:
            yield
        finally:
            await cancel(list(self._working.values()))

    async def begin(self, served: ServedNode, rows: list[object], caller: Caller) -> str:
        """Store rows and start a job on them; return its id.

        Raises:
            InputError: a row is neither a text nor an object, or there are no rows.
            RequestRefused: there is no folder for jobs (501), or the caller may not begin one now.
        """
        self._folder_of()
        id = _new_id()
        owner = Owner(caller=caller.name, model=served.name, created=time.time(), attempt=_new_id())

        def keep() -> None:
            job_rows = list(_rows(rows))
            with Job(self._folder_of(id), graph=served.node.name) as job:
                job.add(job_rows)

        async with caller.admit(served.name):
            await asyncio.to_thread(keep)  # many rows take seconds to store
        # A client that has left by now doesn't know the id, so the job has no owner yet.
        await self._save(id, owner)
        self._start(id, owner)
        return id

    async def cancel(self, id: str, caller: Caller) -> None:
        """Stop a job, in all servers of the folder. Finished rows are kept; `resume` continues it.

        Raises:
            RequestRefused: there is no such job of the caller (404).
            StoreBusy: another program has locked the job.
        """
        self._owner(id, caller)
        async with self._held(id, BUSY_S):
            owner = self._owner(id, caller)
            if owner.phase in ("running", "stopped"):
                await self._change(id, Job.cancel)
                await self._save(id, owner.model_copy(update={"phase": "cancelled", "why": ""}))
            if working := self._working.get(id):
                await cancel([working])

    async def resume(self, id: str, caller: Caller) -> None:
        """Go on with a cancelled or stopped job. Failed rows are tried again.

        Raises:
            RequestRefused: the caller has no such job (404), or it may not go on now.
            StoreBusy: another program has locked the job.
        """
        self._owner(id, caller)
        async with self._held(id, BUSY_S):
            owner = self._owner(id, caller)
            if owner.model not in self._served:
                raise RequestRefused(
                    f"the job runs {owner.model!r}, which is not served now: start the server with "
                    "it",
                    status=404,
                    code="model_not_found",
                )
            if working := self._working.get(id):
                if owner.phase == "running":
                    return
                await cancel([working])  # it was cancelled in another server, and is about to end
            async with caller.admit(owner.model):
                await self._change(id, Job.retry)
            begun = {"phase": "running", "why": "", "attempt": _new_id()}
            owner = owner.model_copy(update=begun)
            await self._save(id, owner)
            self._start(id, owner)

    async def status(self, id: str, caller: Caller) -> dict[str, object]:
        """Return the progress of a job, its cost, and why rows failed.

        Raises:
            RequestRefused: there is no such job of the caller (404).
        """
        owner = self._owner(id, caller)

        def look() -> dict[str, object]:
            with Job(self._folder_of(id)) as job:
                status = job.status()
            return {
                "total": status.total,
                "left": status.left,
                "rows": dict(status.rows),
                "calls": status.calls,
                "cost": status.cost,
                "needed_llm": status.needed_llm,
                "causes": dict(status.causes),
            }

        return _summary(id, owner) | await asyncio.to_thread(look)

    async def list_for(self, caller: Caller) -> list[dict[str, object]]:
        """List the jobs of a caller, newest first."""
        self._folder_of()
        jobs = await asyncio.to_thread(lambda: list(self._owners()))
        own_jobs = [(id, owner) for id, owner in jobs if owner.caller == caller.name]
        own_jobs.sort(key=lambda pair: -pair[1].created)
        return [_summary(id, owner) for id, owner in own_jobs]

    def lines(self, id: str, caller: Caller, states: Iterable[str]) -> Generator[JSON]:
        """Yield the lines of processed rows, as `moa run --out` writes them.

        Notes have no text, and errors that are none of the client's no message.

        Raises:
            RequestRefused: the caller has no such job (404), or there is no such state (400).
        """
        self._owner(id, caller)
        state_names = list(states)
        if unknown := [state for state in state_names if state not in _STATES]:
            raise RequestRefused(
                f"rows are never {unknown[0]!r:.40}. Their state is one of {', '.join(_STATES)}",
                status=400,
                code="no_state",
                param="state",
            )

        def read() -> Generator[JSON]:
            with Job(self._folder_of(id)) as job:
                for line in job.lines(*filter(state_names.__contains__, _STATES)):
                    yield line_for_client(line)

        return read()

    def _start(self, id: str, owner: Owner) -> None:
        def forget(working: asyncio.Future[None]) -> None:
            if self._working.get(id) is working:
                del self._working[id]
            if not working.cancelled() and (error := working.exception()):
                _logger.error("how job %s ended can't be stored: %s", id, error)

        working = self._working[id] = asyncio.ensure_future(self._work(id, owner))
        working.add_done_callback(forget)

    async def _work(self, id: str, owner: Owner) -> None:
        """Work on a job until it has ended, and store how. What may be over soon is waited for."""
        phase: Phase = "stopped"
        why, has_waited = "", False
        while True:
            try:
                phase = await self._process(id, owner)
                break
            except Exception as error:  # noqa: BLE001  nobody else would report it
                wait_s = _wait_s(error)
                if wait_s is None:
                    _logger.warning("job %s was stopped: %s: %s", id, type(error).__name__, error)
                    why = fault_of(error).message
                    break
                if not has_waited:
                    _logger.warning("job %s waits: %s", id, error.__cause__ or error)
                has_waited = True
            await asyncio.sleep(wait_s)
        async with self._held(id):
            current = self._read(id)
            if current is None or current.attempt != owner.attempt:
                return  # it was resumed meanwhile, here or in another server
            if current.phase == "running" or phase == "done":
                await self._save(id, current.model_copy(update={"phase": phase, "why": why}))

    async def _process(self, id: str, owner: Owner) -> Phase:
        """Work on the rows of a job once it is its turn, and return how it ended.

        Raises:
            Exception: it can't go on, or not at the moment: see `_wait_s`.
        """
        served = self._served[owner.model]
        async with self._share_of(owner.caller), self._turn:
            current = self._read(id)
            if current is None or (current.phase, current.attempt) != ("running", owner.attempt):
                return "stopped"  # it has another phase by now, which stays
            async with (
                self._admitted(served, owner) as (caller, context),
                _opened(Job(self._folder_of(id), graph=served.node.name)) as job,
            ):
                node = served.node_of(caller)
                status = await job.run(node, context, max_concurrency=_ROWS_AT_ONCE)
        if not status.left:
            return "done"
        if status.is_cancelled:
            return "cancelled"
        if isinstance(context.ended_by, StoreError):  # one of the job itself is raised above
            raise _LedgerAway from context.ended_by
        if context.ended_by is not None:
            raise context.ended_by
        return "stopped"

    def _share_of(self, name: str) -> asyncio.Semaphore:
        most = _AT_ONCE if name == ANYONE.name else _OF_A_KEY
        return self._shares.setdefault(name, asyncio.Semaphore(most))

    @asynccontextmanager
    async def _admitted(
        self, served: ServedNode, owner: Owner
    ) -> AsyncGenerator[tuple[Caller, RunContext]]:
        """Open the run of a job, with its caller as the keys have it now."""
        reference = self._endpoints.reference
        async with AsyncExitStack() as stack:
            try:
                caller = await self._keys.caller_by_name(owner.caller)
                if caller is None:
                    raise RequestRefused(
                        f"the key {owner.caller!r} was revoked: the job can be resumed with a new "
                        "one of that name",
                        status=401,
                        code="invalid_api_key",
                    )
                context = await stack.enter_async_context(
                    caller.admit(served.name, reference=reference, is_request=False)
                )
            except StoreError as error:
                raise _LedgerAway from error
            yield caller, context

    @asynccontextmanager
    async def _held(self, id: str, wait_s: float = -1.0) -> AsyncGenerator[None]:
        """Keep others from changing the owner of a job, in all servers of the folder.

        Raises:
            StoreBusy: they did so for `wait_s`, unless it is negative.
        """
        lock = AsyncFileLock(self._folder_of(id) / ".lock", wait_s, run_in_executor=False)
        try:
            await lock.acquire()
        except Timeout as error:
            raise StoreBusy(f"job {id} is being changed by another server") from error
        try:
            yield
        finally:
            await lock.release()

    async def _change(self, id: str, change: Callable[[Job], object]) -> None:
        def work() -> None:
            with Job(self._folder_of(id)) as job:
                job.within(BUSY_S, lambda: change(job))

        await asyncio.to_thread(work)

    def _folder_of(self, id: str = "") -> Path:
        if self._folder is None:
            raise RequestRefused(
                "this server keeps no jobs: start it with --jobs DIR, or send rows one by one to "
                "/run",
                status=501,
                code="no_jobs",
            )
        return self._folder / id

    def _owner(self, id: str, caller: Caller) -> Owner:
        self._folder_of()
        owner = self._read(id) if _ID.fullmatch(id) else None
        if owner and owner.caller == caller.name and caller.may_run(owner.model):
            return owner
        raise RequestRefused(f"there is no job {id!r:.40}", status=404, code="job_not_found")

    def _owners(self) -> Iterator[tuple[str, Owner]]:
        for folder in self._folder_of().iterdir():
            if _ID.fullmatch(folder.name) and (owner := self._read(folder.name)):
                yield folder.name, owner

    def _read(self, id: str) -> Owner | None:
        """Read the owner of a job; `None` if it has none. A damaged file is told once."""
        path = self._folder_of(id) / "owner.json"
        try:
            return load_model(path, Owner, what="job", maker="POST /jobs")
        except ConfigError as error:
            if not isinstance(error.__cause__, FileNotFoundError) and id not in self._damaged:
                self._damaged.add(id)
                _logger.error(
                    "a job is left out: %s. To have it again, write its key and its graph into "
                    'this file, {"caller": "NAME", "model": "NAME", "created": 0, "phase": '
                    '"stopped"}, and resume it; or remove its folder',
                    error,
                )
            return None

    async def _save(self, id: str, owner: Owner) -> None:
        path = self._folder_of(id) / "owner.json"
        await asyncio.to_thread(save_text, path, owner.model_dump_json(), private=True)


def _new_id() -> str:
    return secrets.token_hex(16)


@asynccontextmanager
async def _opened(job: Job) -> AsyncGenerator[Job]:
    """Open a job, and close it, in threads: each may wait for another program."""
    await asyncio.to_thread(job.__enter__)
    try:
        yield job
    finally:
        await asyncio.to_thread(job.__exit__, None, None, None)


class _LedgerAway(Exception):
    """The ledger can't be used at the moment; the cause says why."""


def _wait_s(error: Exception) -> float | None:
    """Return the seconds until a job can go on that an error has ended; `None` if it can't.

    A spent key is not waited for, since it may be so for a month.
    """
    if isinstance(error, RequestRefused):
        return error.retry_after_s
    return _LATER_S if isinstance(error, StoreBusy | _LedgerAway) else None


def _summary(id: str, owner: Owner) -> dict[str, object]:
    summary: dict[str, object] = {"id": id, "model": owner.model, "phase": owner.phase}
    return summary | {"created": owner.created} | ({"why": owner.why} if owner.why else {})


def _rows(values: list[object]) -> Iterator[Row]:
    if not values:
        raise InputError("rows: there is none")
    for number, value in enumerate(values, start=1):
        if is_object(value):
            yield row_of(number, value)
        elif isinstance(value, str):
            yield Row(number=number, id=number, value=value)
        else:
            raise InputError(f"rows: number {number} is neither a text nor an object")
