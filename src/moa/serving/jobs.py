"""Jobs: rows from the body of a request, processed until all are done.

Each is a `moa.jobs.Job` in its own folder, with a file that names its owner. A job that the end of
the server interrupted goes on when the server starts again.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from pydantic import BaseModel

from moa._async import cancel
from moa._files import load_model, save_text
from moa._json import JSON, is_object
from moa.batch import Row
from moa.config.endpoints import Endpoints
from moa.errors import InputError, RequestRefused
from moa.jobs import Job, State
from moa.rows.lines import row_of
from moa.serving.faults import line_for_client
from moa.serving.keys import Caller, Keys
from moa.serving.served import ServedNode

_logger = logging.getLogger(__name__)
_ID = re.compile(r"[0-9a-f]{32}")
_AT_ONCE = 4
"""Maximum number of jobs that run at once. Others wait."""
_ROWS_AT_ONCE = 8
"""Maximum number of rows of a job that run at once."""
_STATES: tuple[State, ...] = get_args(State)
Phase = Literal["running", "stopped", "cancelled", "done"]
"""A `stopped` job has rows left that nobody works on, for example since its budget is spent."""


class Owner(BaseModel):
    """Owner and phase of a job."""

    caller: str
    model: str
    created: float
    """Seconds since 1970."""
    phase: Phase = "running"


class _Preparation(NamedTuple):
    """Work before a job begins, and a future that is done after it."""

    prepare: Callable[[], None]
    """Called in a thread, since many rows take seconds to store."""
    begun: asyncio.Future[None]

    async def pass_on(self) -> None:
        """Do the work, and resolve the future."""
        await asyncio.to_thread(self.prepare)
        self.begun.set_result(None)


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

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        """Go on with interrupted jobs. At the end, stop all running ones."""
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            for id, owner in await asyncio.to_thread(lambda: list(self._owners())):
                caller = self._keys.caller_by_name(owner.caller)
                if owner.phase == "running" and caller and owner.model in self._served:
                    self._start(id, owner, caller)
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
        id = secrets.token_hex(16)
        owner = Owner(caller=caller.name, model=served.name, created=time.time())

        def keep() -> None:
            job_rows = list(_rows(rows))
            with Job(self._folder_of(id), graph=served.node.name) as job:
                job.add(job_rows)
            self._save(id, owner)

        await self._begin_work(id, owner, caller, keep)
        return id

    async def cancel(self, id: str, caller: Caller) -> None:
        """Stop a job, in all servers of the folder. Finished rows are kept; `resume` continues it.

        Raises:
            RequestRefused: there is no such job of the caller (404).
        """
        owner = self._owner(id, caller)

        def stop() -> None:
            with Job(self._folder_of(id)) as job:
                job.cancel()
            self._save(id, owner.model_copy(update={"phase": "cancelled"}))

        if owner.phase in ("running", "stopped"):
            await asyncio.to_thread(stop)
        if working := self._working.get(id):
            await cancel([working])

    async def resume(self, id: str, caller: Caller) -> None:
        """Go on with a cancelled or stopped job. Failed rows are tried again.

        Raises:
            RequestRefused: the caller has no such job (404), or it may not go on now.
        """
        owner = self._owner(id, caller)
        if id in self._working:
            return
        if owner.model not in self._served:
            raise RequestRefused(
                f"the job runs {owner.model!r}, which is not served now: start the server with it",
                status=404,
                code="model_not_found",
            )
        owner = owner.model_copy(update={"phase": "running"})

        def retry() -> None:
            with Job(self._folder_of(id)) as job:
                job.retry()
            self._save(id, owner)

        await self._begin_work(id, owner, caller, retry)

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

    async def _begin_work(
        self, id: str, owner: Owner, caller: Caller, prepare: Callable[[], None]
    ) -> None:
        """Start a job once the caller's budget allows it, and wait until its rows are prepared."""
        begun = asyncio.get_running_loop().create_future()
        working = self._start(id, owner, caller, _Preparation(prepare, begun))
        try:
            await asyncio.wait((begun, working), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:  # the client has left, and doesn't know its id
            await cancel([working])
            raise
        if not begun.done():
            working.result()  # raises why it didn't begin

    def _start(
        self, id: str, owner: Owner, caller: Caller, beginning: _Preparation | None = None
    ) -> asyncio.Future[None]:
        working = asyncio.ensure_future(self._work(id, owner, caller, beginning))
        self._working[id] = working
        working.add_done_callback(lambda _: self._working.pop(id, None))
        return working

    async def _work(
        self, id: str, owner: Owner, caller: Caller, beginning: _Preparation | None
    ) -> None:
        served = self._served[owner.model]
        phase: Phase = "stopped"
        try:
            reference = self._endpoints.reference
            async with caller.admit(served.name, reference=reference) as context:
                if beginning is not None:
                    await beginning.pass_on()
                async with self._turn:
                    with Job(self._folder_of(id), graph=served.node.name) as job:
                        node = served.node_of(caller)
                        status = await job.run(node, context, max_concurrency=_ROWS_AT_ONCE)
            if not status.left:
                phase = "done"
            elif status.is_cancelled:
                phase = "cancelled"
        except Exception as error:  # any error, since nobody else would report it
            if beginning is not None and not beginning.begun.done():
                raise
            _logger.warning("job %s was stopped: %s: %s", id, type(error).__name__, error)
        self._save(id, owner.model_copy(update={"phase": phase}))

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
        folder = self._folder_of(id)
        if _ID.fullmatch(id) and (folder / "owner.json").is_file():
            owner = _load(folder)
            if owner.caller == caller.name and caller.may_run(owner.model):
                return owner
        raise RequestRefused(f"there is no job {id!r:.40}", status=404, code="job_not_found")

    def _owners(self) -> Iterator[tuple[str, Owner]]:
        for folder in self._folder_of().iterdir():
            if _ID.fullmatch(folder.name) and (folder / "owner.json").is_file():
                yield folder.name, _load(folder)

    def _save(self, id: str, owner: Owner) -> None:
        save_text(self._folder_of(id) / "owner.json", owner.model_dump_json(), private=True)


def _load(folder: Path) -> Owner:
    return load_model(folder / "owner.json", Owner, what="job", maker="POST /jobs")


def _summary(id: str, owner: Owner) -> dict[str, object]:
    return {"id": id, "model": owner.model, "phase": owner.phase, "created": owner.created}


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
