"""Run: one run of a graph. Nodes start when they are needed and their sources are ready."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections import defaultdict, deque
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from moa.core._json import is_sequence
from moa.core._threads import USER_THREADS
from moa.core.context import RunContext
from moa.core.errors import ConfigError, DeadlineExceeded, MoaError, NodeError, WiringError
from moa.core.journal import explain, interrupts_of, join_interrupts
from moa.core.journal_records import Form, run_once
from moa.core.questions import is_accepted
from moa.core.telemetry.spans import UNTRACED
from moa.core.trace import NodeFinished, NodeSkipped, NodeStarted
from moa.endpoints.rehearsal import at_work
from moa.graphs.engine.forms import JsonForm, json_form
from moa.graphs.engine.plan import Plan, Task
from moa.graphs.engine.types import Skipped

T = TypeVar("T")
PENDING: object = object()
"""Value of a step that has no result yet."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Value of a failed node while it isn't known to be needed."""

    error: MoaError


IDLE, CONDITION, SOURCES, RUNNING, ALTERNATIVE = range(5)
"""Stage of a step: what it waits for."""


class Run:
    """One run. Its state belongs to one event loop, so it needs no locks.

    A step is *demanded* when a running step needs it. It then demands its condition, then its
    sources, and last its alternative, each only once it is needed. If only one node is ready, it
    runs in the task that made it ready, so a chain needs no further tasks.
    """

    def __init__(self, plan: Plan, context: RunContext) -> None:
        size = len(plan.tasks)
        self._plan = plan
        self._tasks = plan.tasks
        self._context = context
        self._interrupts: list[Exception] = []
        self._values: list[object] = [PENDING] * size
        self._stages = [IDLE] * size
        self._missing = [0] * size
        self._waiting: defaultdict[int, list[int]] = defaultdict(list)
        self._chosen: dict[int, int] = {}
        self._accepted: dict[int, bool | None] = {}
        self._todo: deque[int] = deque()
        self._ready: list[int] = []
        self._workers: set[asyncio.Task[None]] = set()

    async def output(self, request: object) -> object:
        """Compute the graph's output for `request`.

        Raises:
            DeadlineExceeded: the context's deadline has passed.
            MoaError: the first error of a node. All other nodes are cancelled.
        """
        if self._context.deadline is None:
            return await self._work_out(request)
        timeout = asyncio.timeout(self._context.remaining_s())
        try:
            async with timeout:
                return await self._work_out(request)
        except TimeoutError:
            if not timeout.expired():
                raise
        raise DeadlineExceeded(
            f"{self._plan.name}: the time given to the run is up, and {self._running()} had not "
            "finished; give it more time or less to do"
        )

    async def _work_out(self, request: object) -> object:
        self._begin(request)
        failure: BaseException | None = None
        try:
            async with asyncio.TaskGroup() as group:
                if self._plan.tentative:  # the first worker may need to be stopped too
                    self._spawn(self._work(group), group)
                else:
                    try:
                        await self._work(group)
                    except Exception as error:
                        # A task group lists the error of its own body last, even if it was the
                        # first. If a worker's error was the first, the group has cancelled this
                        # task.
                        if not _is_being_cancelled():
                            failure = error
                        raise
        except BaseExceptionGroup as failures:
            failure = failure or failures.exceptions[0]
        if failure is not None:
            raise failure
        output = self._values[self._plan.output]
        if output is PENDING and self._interrupts:
            raise join_interrupts(self._interrupts)
        if output is PENDING:  # a node cancelled itself, which a task group ignores
            raise asyncio.CancelledError(f"{self._running()} was cancelled from within")
        self._tell_idle()
        return output

    def _begin(self, request: object) -> None:
        self._values[0] = request
        self._demand(self._plan.output)
        self._drain()
        if self._values[self._plan.output] is PENDING:
            for index in self._plan.eager:
                self._demand(index)
            self._drain()

    async def _work(self, group: asyncio.TaskGroup) -> None:
        """Run ready nodes, the first here and others in tasks, then those that became ready."""
        while self._ready and self._values[self._plan.output] is PENDING:
            ready, self._ready = self._ready, []
            for index in ready[1:]:
                self._spawn(self._work_on(index, group), group)
            await self._run_node(ready[0])

    def _spawn(self, work: Coroutine[object, None, None], group: asyncio.TaskGroup) -> None:
        worker = group.create_task(work)
        self._workers.add(worker)
        worker.add_done_callback(self._workers.discard)

    async def _work_on(self, index: int, group: asyncio.TaskGroup) -> None:
        await self._run_node(index)
        await self._work(group)

    async def _run_node(self, index: int) -> None:
        task = self._tasks[index]
        context, request = self._context, self._values[task.sources[0]]
        call = _call if context.journal is None else _call_once
        value: object
        try:
            if context.listener is None:
                value, accepted = await call(task, request, context)
            else:
                path = self._path(task)
                context.emit(NodeStarted(path))
                start = time.perf_counter()
                value, accepted = await call(task, request, context)
                context.emit(NodeFinished(path, value, time.perf_counter() - start))
            self._accepted[index] = accepted
        except MoaError as error:
            if index not in self._plan.tentative:
                raise
            context.nested(task.name).note("failed", str(error))
            value = Failure(error)
        except Exception as error:
            if not interrupts_of(error):
                raise
            self._interrupts.append(error)  # independent nodes go on before the run stops
            return
        self._resolve(index, value)
        self._drain()
        if self._workers and self._values[self._plan.output] is not PENDING:
            self._stop_others()

    def _demand(self, index: int) -> None:
        if self._stages[index] == IDLE:
            self._stages[index] = CONDITION
            self._todo.append(index)

    def _drain(self) -> None:
        """Advance every step as far as possible without waiting for a node."""
        while self._todo:
            index = self._todo.popleft()
            if self._values[index] is PENDING and not self._missing[index]:
                self._advance(index)

    def _advance(self, index: int) -> None:
        """Advance one step whose awaited values are ready."""
        task, stage = self._tasks[index], self._stages[index]
        if stage == ALTERNATIVE:
            self._follow(index, self._chosen[index])
            return
        if stage == CONDITION:
            if task.when is not None and not self._holds(index, task, task.when):
                return
            self._stages[index] = SOURCES
            if not self._all_there(index, task.sources):
                return
        self._start(index, task)

    def _holds(self, index: int, task: Task, when: int) -> bool:
        """Return True if the condition holds. Skip the step if it doesn't."""
        if not self._all_there(index, (when,)):
            return False
        holds = self._values[when]
        if isinstance(holds, Failure):
            self._resolve(index, holds)
        elif isinstance(holds, Skipped):
            self._skip(index, task, f"its condition was not worked out: {holds.reason}")
        elif not holds:
            self._skip(index, task, f"its condition, {self._tasks[when].name!r}, does not hold")
        else:
            return True
        return False

    def _all_there(self, index: int, sources: tuple[int, ...]) -> bool:
        """Return True if all of these steps have values. Otherwise demand them, and retry later."""
        missing = 0
        for source in sources:
            if self._values[source] is PENDING:
                self._waiting[source].append(index)
                missing += 1
                self._demand(source)
        self._missing[index] = missing
        return not missing

    def _start(self, index: int, task: Task) -> None:
        self._stages[index] = RUNNING
        values = [*map(self._values.__getitem__, task.sources)]
        failed = self._plan.tentative and _first_failed(values)
        if failed:
            self._resolve(index, failed)
        elif task.kind == "match":
            self._take_branch(index, task, values[0])
        elif task.kind == "function":
            self._resolve(index, self._call_now(task, values))
        elif task.kind == "accepted":
            self._resolve(index, self._is_accepted(task.sources[0]))
        elif isinstance(values[0], Skipped) and not task.takes_skipped:
            self._skip(index, task, f"{self._tasks[task.sources[0]].name!r} was skipped")
        elif task.quick and self._context.journal is None:
            self._run_now(index, task, values)
        else:
            self._ready.append(index)

    def _run_now(self, index: int, task: Task, values: list[object]) -> None:
        context = self._context
        if context.listener is None:
            self._resolve(index, self._call_now(task, values))
            return
        path, start = self._path(task), time.perf_counter()
        context.emit(NodeStarted(path))
        output = self._call_now(task, values)
        context.emit(NodeFinished(path, output, time.perf_counter() - start))
        self._resolve(index, output)

    def _call_now(self, task: Task, values: list[object]) -> object:
        output = call_quick(task.name, task.work, *values)
        self._context.remaining_s()  # it can't be interrupted, so check the time after it
        return output

    def _is_accepted(self, source: int) -> bool:
        accepted = self._accepted.get(source)
        if accepted is None:
            accepted = is_accepted(self._values[source])
        if accepted is None:
            raise ConfigError(
                f"{self._tasks[source].name!r} doesn't say whether its answer is accepted: give "
                "its agent a calibration, or put it into a Cascade"
            )
        return accepted

    def _take_branch(self, index: int, task: Task, choice: object) -> None:
        label: object = getattr(choice, "label", None)
        if label not in task.cases:
            raise WiringError(
                f"{self._tasks[task.sources[0]].name!r} chose {label!r}, which has no branch in "
                f"{self._plan.name!r}: name it in match(…, labels=[…])"
            )
        for eager in task.eager.get(label, ()):
            self._demand(eager)
        self._turn_to(index, task.cases[label])

    def _skip(self, index: int, task: Task, reason: str) -> None:
        self._tell_skipped(task, reason)
        if task.otherwise is None:
            self._resolve(index, Skipped(reason))
        else:
            self._turn_to(index, task.otherwise)

    def _turn_to(self, index: int, alternative: int) -> None:
        self._stages[index] = ALTERNATIVE
        self._chosen[index] = alternative
        if self._all_there(index, (alternative,)):
            self._follow(index, alternative)

    def _follow(self, index: int, alternative: int) -> None:
        self._accepted[index] = self._accepted.get(alternative)
        self._resolve(index, self._values[alternative])

    def _resolve(self, index: int, value: object) -> None:
        if isinstance(value, Failure) and index not in self._plan.tentative:
            raise value.error
        self._values[index] = value
        for waiter in self._waiting.get(index, ()):
            self._missing[waiter] -= 1
            if not self._missing[waiter]:
                self._todo.append(waiter)

    def _stop_others(self) -> None:
        """Cancel eager nodes that turned out not to be needed."""
        current = asyncio.current_task()
        for worker in self._workers:
            if worker is not current:
                worker.cancel()

    def _tell_idle(self) -> None:
        for index in self._plan.nodes:
            stage = self._stages[index]
            if stage == RUNNING and self._values[index] is PENDING:
                self._tell_skipped(self._tasks[index], "stopped: nothing needed it any more")
            elif stage != RUNNING and self._values[index] is PENDING:
                self._tell_skipped(self._tasks[index], self._tasks[index].idle_reason)

    def _tell_skipped(self, task: Task, reason: str) -> None:
        self._context.nested(task.name).note("skipped", reason)
        if self._context.listener is not None:
            self._context.emit(NodeSkipped(self._path(task), reason))

    def _path(self, task: Task) -> str:
        return f"{self._context.node}/{task.name}"

    def _running(self) -> str:
        names = [
            repr(self._tasks[index].name)
            for index in self._plan.nodes
            if self._stages[index] == RUNNING and self._values[index] is PENDING
        ]
        return ", ".join(names) or "nothing"


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _first_failed(values: Iterable[object]) -> Failure | None:
    return next((value for value in values if isinstance(value, Failure)), None)


NodeOutput = tuple[object, bool | None]
"""Output of a node, and `accepted` of its result."""


async def _call_once(task: Task, value: object, context: RunContext) -> NodeOutput:
    """Run a node or a function of a resumable run, or return its recorded output."""
    form = json_form(task.output, task.name)
    return await run_once(
        context,
        f"{context.node}/{task.name}",
        value,
        form and _node_output_form(form),
        lambda inner: _call(task, value, inner),
    )


def _node_output_form(form: JsonForm) -> Form[NodeOutput]:
    """Return the form of an output, with `accepted` if the result has it."""

    def dump(node_output: NodeOutput) -> list[object]:
        output, accepted = node_output
        data = form.dump(output)
        return data if accepted is None else [*data, accepted]

    def load(data: object) -> NodeOutput:
        if is_sequence(data) and len(data) == 3:
            *value, accepted = data
            return form.load(value), bool(accepted)
        return form.load(data), None  # it explains what is wrong with other data

    return Form(dump, load)


async def _call(task: Task, value: object, context: RunContext) -> NodeOutput:
    """Run a node or a function.

    Raises:
        NodeError: a function raised something that isn't a `MoaError`.
    """
    try:
        if task.is_node:
            inner = context.nested(task.name) if task.renamed else context
            result = await task.work(value, inner)
            return result.output, getattr(result, "accepted", None)
        waited_for = context.tracer is not None and not task.quick
        inner = context.nested(task.name) if waited_for else context
        with at_work(task), inner.span("function", task.name) if waited_for else UNTRACED:
            if task.thread:
                return await USER_THREADS.run(partial(task.work, value), task.name), None
            output = task.work(value)
            return (await output if hasattr(output, "__await__") else output), None
    except MoaError:
        raise
    except Exception as error:
        failure = explain(error, task.name) if task.is_node else failure_of(task.name, error)
        if failure is error:
            raise
        raise failure from error


def call_quick(name: str, work: Callable[..., T], *values: object) -> T:
    """Call a quick function.

    Raises:
        NodeError: it raised something that isn't a `MoaError`.
        WiringError: it returned a coroutine.
    """
    try:
        output = work(*values)
    except MoaError:
        raise
    except Exception as error:
        raise failure_of(name, error) from error
    if inspect.iscoroutine(output):
        output.close()
        raise WiringError(f"{name!r} gave a coroutine, and nobody waits for it: use g.add for that")
    return output


def failure_of(name: str, error: Exception) -> Exception:
    """Wrap a function's error as `NodeError`. LangGraph's signals stay as they are."""
    if type(error).__module__.startswith("langgraph."):
        return error
    failure = explain(error, name)
    return NodeError(name, error) if failure is error else failure
