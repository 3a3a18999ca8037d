"""Ray: runs a graph over a Dataset or a file on many machines, with one budget.

Each worker builds its graph once. The budget of all workers is in a ledger, an actor that hands out
shares of it, so that no number of workers exceeds it, whichever of them dies.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Protocol, TypeVar
from uuid import uuid4
from weakref import ref

from moa.config import load
from moa.config.endpoints import Endpoints
from moa.config.loading import load_graph
from moa.config.tables import Config
from moa.core._async import cancel
from moa.core._files import dump_json, to_jsonable
from moa.core._json import JSON
from moa.core.batch import Item, Row, map_rows
from moa.core.budget import Budget, Look, Quantity, Share
from moa.core.context import Reference, RunContext
from moa.core.errors import ConfigError, MoaError, NodeError, require_package
from moa.core.node import Node, Result
from moa.core.node_base import NodeBase
from moa.core.usage import Usage
from moa.rows import line
from moa.rows.lines import own_id

T_co = TypeVar("T_co", covariant=True)
Dataset = Any
"""A `ray.data.Dataset`."""
Build = str | Callable[[], Node[Any, object]]
"""Name of a ready graph or agent, `file.py:object`, or a function that makes a node."""
Limits = Mapping[str, Quantity]
"""Limits of a budget by name, without those that aren't set."""
COLUMNS = ("id", "input", "output", "status", "error", "seconds", "usage", "trace")
"""Columns of the resulting rows: the fields of a line of `moa run --out`. Values with more than a
word or a number are JSON, since a column has one type."""
_JSON = ("input", "output", "usage", "trace")
_REPORT_S = 1.0
"""Seconds between two reports of a worker that is running rows."""
_LEASE_S = 15.0
"""Seconds without a report after which a worker counts as dead, and its share as spent."""
_WAIT_S = 0.2
_CONNECT_S = 5.0
_MAX_DEATHS = 3
"""Number of workers that may die while running a row; then the row fails."""
_ROWS_OF_A_WORKER = 32
"""Number of rows in flight per process, before its machine gets another one."""


def map_dataset(
    dataset: Dataset,
    graph: Build,
    *,
    config: Config | str | Path | None = None,
    workers: int = 2,
    max_concurrency: int = 8,
    batch_size: int = 64,
    budget: Budget | None = None,
    num_cpus: float = 0.5,
) -> MappedDataset:
    """Run a graph on each row of a Ray Dataset.

        mapped = map_dataset(ray.data.read_json("mails/"), "support", workers=8)
        mapped.rows.write_parquet("done/")
        print(mapped.usage())

    A failed row has an `error`; the job doesn't fail. If a worker dies, another one runs its
    batches again: each row comes out once, and at most the calls of those batches are paid twice.

    Args:
        dataset: Rows with a `text`, or with the fields that the graph takes, and with an `id` to
            tell them apart afterwards.
        graph: The graph to run. A file that it names must be at the same path on each machine.
        config: Endpoints and tables, for a `graph` by name. They are read here and sent to the
            workers. Keys are read there, from the environment. `None`: see `moa.config.load`.
        workers: Number of processes, each with its own graph.
        max_concurrency: Maximum number of rows at once in each process.
        batch_size: Number of rows that a worker takes together.
        budget: Budget of all workers together. Rows that exceed it fail.
        num_cpus: CPUs that Ray reserves for a worker, which mostly waits.

    Raises:
        ConfigError: a number is not positive, or no worker can build the graph.
        MissingDependency: Ray isn't installed.
    """
    if min(workers, max_concurrency, batch_size) < 1:
        raise ConfigError(f"{workers=}, {max_concurrency=} and {batch_size=} must be at least 1")
    ray, recipe = _import_ray(), _prepare_build(graph, config)
    budget = budget or Budget()
    ledger = _start_ledger(ray, budget.limits, workers)
    rows = dataset.repartition(target_num_rows_per_block=batch_size, strict=True).map_batches(
        _Worker,
        fn_constructor_args=(*recipe, _empty(budget), ledger, max_concurrency),
        batch_size=None,  # a block, so that no more than a batch is lost with a worker
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=2),
        num_cpus=num_cpus,
    )
    return MappedDataset(rows, ledger)


class MappedDataset:
    """The result of `map_dataset`."""

    def __init__(self, rows: Dataset, ledger: _LedgerHandle) -> None:
        self.rows = rows
        """A Dataset with the columns `COLUMNS`. Each time it is read, it is computed again, so
        write or `materialize` it once."""
        self._ledger = ledger

    def usage(self) -> Usage:
        """Return what all workers have spent; of dead ones, up to their last report."""
        usage: Usage = _import_ray().get(self._ledger.usage.remote())
        return usage


class RayNode(NodeBase[object, object]):
    """A graph whose runs are spread over workers on a Ray cluster; `moa run --ray` maps it.

    `node` is the same graph, built on this machine, for its name and input type. For the rest see
    `map_dataset`. At most `max_concurrency` runs go on at once, over all workers.
    """

    def __init__(
        self,
        node: Node[Any, object],
        graph: Build,
        config: Config | str | Path | None = None,
        *,
        max_concurrency: int = 8,
        budget: Budget | None = None,
    ) -> None:
        ray, recipe = _import_ray(), _prepare_build(graph, config)
        budget = budget or Budget()
        self.name = node.name
        self.input_type: object = getattr(node, "input_type", object)
        machines = sum(machine["Alive"] for machine in ray.nodes())
        limit = min(int(ray.cluster_resources().get("CPU", 1)), max_concurrency)
        target = max(machines, -(-max_concurrency // _ROWS_OF_A_WORKER))
        self.workers = max(1, min(target, limit))
        name = f"moa-ledger-{uuid4().hex}"
        # It lives as long as this reference to it.
        self._ledger = _start_ledger(ray, budget.limits, self.workers, name)
        worker = ray.remote(_Worker).options(
            num_cpus=0.5,
            scheduling_strategy="SPREAD",
            max_concurrency=max_concurrency,
            max_restarts=-1,
        )
        self._actor_error = ray.exceptions.RayActorError
        self._workers = [
            _RemoteWorker(worker.remote(*recipe, _empty(budget), name, max_concurrency))
            for _ in range(self.workers)
        ]

    async def run(self, request: object, context: RunContext | None = None, /) -> Result[object]:
        """Run one request on a worker; see `Node.run`. Its usage is counted here too.

        If the worker dies, another one runs it, unless that has happened too often.
        """
        context = context or RunContext()
        deaths = 0
        while True:
            worker = min(self._workers, key=lambda worker: (worker.is_away, worker.running))
            was_away = worker.is_away
            try:
                item = await self._run(worker, request)
            except self._actor_error as error:
                deaths += not was_away
                if deaths > _MAX_DEATHS:
                    raise NodeError(self.name, error) from error
                worker.away_until = time.monotonic() + _LEASE_S
                await asyncio.sleep(_WAIT_S)
            else:
                break
        context.recall(item.usage, item.trace)
        if item.error is not None:
            raise item.error
        assert item.result is not None, "an item without an error has a result"
        return item.result

    @staticmethod
    async def _run(worker: _RemoteWorker, request: object) -> Item[object]:
        run = worker.actor.run.remote(request)
        worker.running += 1
        try:
            return await run
        except asyncio.CancelledError:
            _import_ray().cancel(run)
            raise
        finally:
            worker.running -= 1


class _RemoteMethod(Protocol[T_co]):
    """A method of an actor."""

    def remote(self, *arguments: object) -> Awaitable[T_co]: ...


class _LedgerHandle(Protocol):
    """A `Ledger` in its actor."""

    share: _RemoteMethod[Limits | Literal["wait"] | None]
    report: _RemoteMethod[None]
    usage: _RemoteMethod[Usage]


class _WorkerHandle(Protocol):
    """A `_Worker` in its actor."""

    run: _RemoteMethod[Item[object]]


@dataclass(slots=True)
class _RemoteWorker:
    """A worker as this process sees it."""

    actor: _WorkerHandle
    running: int = 0
    away_until: float = 0.0

    @property
    def is_away(self) -> bool:
        """True if it was lost recently. Ray starts it again if there is room."""
        return time.monotonic() < self.away_until


def connect(address: str) -> None:
    """Join the Ray cluster at an address. If it is empty, use `$RAY_ADDRESS` or start one here."""
    ray = _import_ray()
    if ray.is_initialized():
        return
    # Set it to 1 to send usage statistics to the makers of Ray.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    cluster_address = address or os.environ.get("RAY_ADDRESS") or "local"
    host, colon, port = cluster_address.removeprefix("ray://").rpartition(":")
    try:
        if colon:  # Ray itself would wait for minutes
            socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()
        ray.init(cluster_address, log_to_driver=False, logging_level="error")
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"there is no Ray cluster at {cluster_address!r} to join: {error}. Start one there by "
            "`ray start --head`, or give --ray no address, to start one on this machine"
        ) from error


class Ledger:
    """Ledger that adds up what workers spend, and hands out shares of the budget."""

    def __init__(
        self, limits: Limits, workers: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._left = dict(limits)
        self._parts = 2 * workers
        self._clock = clock
        self._spent: dict[str, Usage] = {}
        self._holders: dict[str, float] = {}
        """Time of the last report of each worker with a share."""
        self._waiting: dict[str, float] = {}
        """Time of the last request of each worker that got no share."""

    def share(self, worker: str, lacking: Limits) -> Limits | Literal["wait"] | None:
        """Return a share of the budget that covers what a call lacks.

        `wait`: other workers may still give a part back. `None`: too little is left, and none can.
        """
        now = self._clock()
        if any(self._left[name] < amount for name, amount in lacking.items()):
            self._waiting[worker] = now
            holders = [
                holder
                for holder, reported_at in self._holders.items()
                if now - reported_at < _LEASE_S
            ]
            # A worker that waits itself gives nothing back before it gets something.
            idle_s = 5 * _WAIT_S
            may_give_back = any(
                now - self._waiting.get(holder, -_LEASE_S) > idle_s for holder in holders
            )
            return "wait" if may_give_back else None
        self._waiting.pop(worker, None)
        self._holders[worker] = now
        share = {
            name: max(lacking.get(name, 0), _part(left, self._parts))
            for name, left in self._left.items()
        }
        self._left = {name: left - share[name] for name, left in self._left.items()}
        return share

    def report(self, worker: str, spent: Usage, back: Limits | None = None) -> None:
        """Record what a worker has spent since it began, and take back the rest if it is idle."""
        self._spent[worker] = spent
        if back is not None:
            self._left = {name: left + back[name] for name, left in self._left.items()}
            self._holders.pop(worker, None)
        elif worker in self._holders:
            self._holders[worker] = self._clock()

    def usage(self) -> Usage:
        """Return the reported usage of all workers."""
        return sum(self._spent.values(), Usage())


def _start_ledger(
    ray: ModuleType, limits: Limits, workers: int, name: str | None = None
) -> _LedgerHandle:
    """Start a ledger on the driver's machine, so that it doesn't die with another one.

    With `soft=True` Ray could put it anywhere, since it needs no CPU.
    """
    affine = import_module("ray.util.scheduling_strategies").NodeAffinitySchedulingStrategy
    strategy = affine(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"name": name, "num_cpus": 0, "scheduling_strategy": strategy}
    return ray.remote(Ledger).options(**options).remote(limits, workers)


class _Worker:
    """One process, with its graph and its share of the budget."""

    _loop: asyncio.AbstractEventLoop | None = None

    def __init__(
        self,
        graph: Build,
        config: Config | None,
        budget: Budget,
        ledger: _LedgerHandle | str,
        max_concurrency: int,
    ) -> None:
        self._name = uuid4().hex  # a new name, even in place of a dead worker
        self._ledger: _LedgerHandle = (
            _import_ray().get_actor(ledger) if isinstance(ledger, str) else ledger
        )
        self._max_concurrency = max_concurrency
        self._node, reference = _build(graph, config)
        self._context = RunContext(budget=budget, reference=reference, keep_notes=False)
        me = ref(self)  # a reference cycle would delay `__del__`

        async def more(look: Look) -> bool:
            worker = me()
            return worker is not None and await worker._ask_for_more(look)

        self._set_budget: Callable[[Budget], None] | None = None
        if budget.limits:
            self._set_budget = self._context.share_budget(Share(more, None))
        self._running = 0
        self._asking = asyncio.Lock()
        self._reporting: list[asyncio.Future[None]] = []

    def __del__(self) -> None:
        """Close the connections when Ray Data is done with it."""
        if self._loop is not None and self._loop.is_running():
            closing = self._loop.shutdown_asyncgens()
            asyncio.run_coroutine_threadsafe(closing, self._loop).result(_WAIT_S)

    async def __call__(self, batch: Any) -> object:
        """Run the rows of an Arrow table, and return another one. Ray Data calls this."""
        arrow = import_module("pyarrow")
        kinds = {"seconds": arrow.float64()}
        schema = arrow.schema([(name, kinds.get(name, arrow.string())) for name in COLUMNS])
        rows = [_row(number, value) for number, value in enumerate(batch.to_pylist(), start=1)]
        cells = [_cells(item) for item in await self._run_rows(rows)]
        return arrow.Table.from_pylist(cells, schema=schema)

    async def run(self, request: object) -> Item[object]:
        """Run one request."""
        (item,) = await self._run_rows([request])
        return replace(item, input=None)

    async def _run_rows(self, rows: Sequence[object]) -> list[Item[object]]:
        limit = self._max_concurrency
        mapped = map_rows(self._node, rows, self._context, max_concurrency=limit, ordered=True)
        async with self._report_usage(), aclosing(mapped) as items:
            return [item async for item in items]

    @asynccontextmanager
    async def _report_usage(self) -> AsyncGenerator[None]:
        """Report while rows are running, and give back the rest of the share afterwards."""
        self._loop = asyncio.get_running_loop()
        self._running += 1
        if not self._reporting:
            self._reporting = [asyncio.ensure_future(self._report())]
        try:
            yield
        finally:
            self._running -= 1
            if not self._running:
                # All before the first `await`, since the next run may begin during it.
                reporting, self._reporting = self._reporting, []
                spent, budget = self._context.usage, self._context.budget
                back = budget.subtract(spent).limits
                self._grow({name: -left for name, left in back.items()})
                reported = self._ledger.report.remote(self._name, spent, back)
                await cancel(reporting)
                await reported

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(_REPORT_S)
            await self._ledger.report.remote(self._name, self._context.usage)

    async def _ask_for_more(self, look: Look) -> bool:
        async with self._asking:  # what the first one got may be enough for all
            lacking = look()
            if lacking is None:
                return True
            share = await self._ledger.share.remote(self._name, lacking.limits.limits)
            if share == "wait":
                await asyncio.sleep(_WAIT_S)
            elif share is not None:
                self._grow(share)
            return share is not None

    def _grow(self, share: Limits) -> None:
        budget = self._context.budget
        if self._set_budget is not None:
            limits = {name: budget.limits[name] + part for name, part in share.items()}
            self._set_budget(replace(budget, **limits))


def _empty(budget: Budget) -> Budget:
    """Return the budget that a worker begins with: 0 for each limit."""
    return replace(budget, **dict.fromkeys(budget.limits, 0))


def _part(left: Quantity, parts: int) -> Quantity:
    return min(left, max(1, left // parts)) if isinstance(left, int) else left / parts


def _build(graph: Build, config: Config | None) -> tuple[Node[Any, object], Reference | None]:
    if not isinstance(graph, str):
        return graph(), None
    endpoints = Endpoints(config)
    return load_graph(graph, endpoints), endpoints.reference


def _try_build(graph: Build, config: Config | None) -> str | None:
    """Return why the graph can't be built on this machine; `None` if it can."""
    try:
        _build(graph, config)
    except MoaError as error:
        return str(error)
    return None


def _prepare_build(graph: Build, config: Config | str | Path | None) -> tuple[Build, Config | None]:
    """Return what workers build their graphs from, after a trial on one worker."""
    ray = _import_ray()
    if callable(getattr(graph, "run", None)):
        raise ConfigError(
            "a graph holds connections, and can't be sent to workers: give its name, "
            "'file.py:object', or a function that makes it"
        )
    loaded: Config | None = None
    if isinstance(graph, str):
        file, colon, name = graph.rpartition(":")
        graph = f"{Path(file).absolute()}:{name}" if colon and file.endswith(".py") else graph
        loaded = config if isinstance(config, Config) else load(config)
    try:
        problem = ray.get(ray.remote(_try_build).options(num_cpus=0).remote(graph, loaded))
    except (TypeError, ray.exceptions.RayError) as error:
        cause = getattr(error, "cause", None) or error
        (last, *_) = str(cause).strip().splitlines()[-1:] or [""]
        raise ConfigError(
            f"the graph can't be sent to a worker, or be built there: {type(cause).__name__}: "
            f"{last}. Each machine needs the same packages and modules; give what makes the graph "
            "as 'file.py:object', or as a function that holds no connections and no locks"
        ) from error
    if problem is not None:
        raise ConfigError(f"the graph can't be built on a worker: {problem}")
    return graph, loaded


def _row(number: int, value: JSON) -> Row:
    if set(value) == {"item"}:  # Ray's column name for plain texts
        return Row(number=number, id="", value=str(value["item"]))
    value = {name: to_jsonable(cell) for name, cell in value.items()}
    row_id = own_id(value)
    return Row(number=number, id="" if row_id is None else row_id, value=value)


def _cells(item: Item[object]) -> JSON:
    values = line(item)
    values["id"] = None if item.id == "" else str(item.id)
    return {
        name: dump_json(values[name]) if name in _JSON else values.get(name) for name in COLUMNS
    }


def _import_ray() -> ModuleType:
    with require_package("ray", extra="ray", purpose="to run on a cluster"):
        import_module("ray.data")
        return import_module("ray")
