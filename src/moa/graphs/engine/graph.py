"""Graph: declares nodes and their inputs, and builds a node of them."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Generic, NoReturn, TypeVar, cast, overload

from moa.core._async import run_sync
from moa.core.context import RunContext, run_context
from moa.core.errors import InputError, WiringError
from moa.core.journal import not_resumable_error
from moa.core.node import Node, Result, finish
from moa.core.node_base import NodeBase
from moa.core.questions import Choice
from moa.endpoints import Endpoint
from moa.endpoints.rehearsal import rehearse
from moa.graphs.engine.compilable import Compilable
from moa.graphs.engine.nodes import Human, HumanQuestion, as_node, is_kept
from moa.graphs.engine.plan import Plan, check, plan_of
from moa.graphs.engine.run import Run
from moa.graphs.engine.sketch import DRAWINGS, Sketch
from moa.graphs.engine.steps import (
    Branch,
    Handle,
    MatchStep,
    NodeStep,
    Step,
    exclude_each_other,
    function_step,
    labels_of,
    path,
    step_of,
)
from moa.graphs.engine.types import (
    Skipped,
    Work,
    check_work,
    describe_type,
    is_node,
    name_of,
    signature_of,
    union,
)

if TYPE_CHECKING:
    from typing_extensions import TypeForm

    from moa.endpoints.sent import SentPrompt

In = TypeVar("In")
T = TypeVar("T")
U = TypeVar("U")
V = TypeVar("V")
L = TypeVar("L")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
E = TypeVar("E")
F = TypeVar("F")
G = TypeVar("G")
H = TypeVar("H")
In_contra = TypeVar("In_contra", contravariant=True)
Out_co = TypeVar("Out_co", covariant=True)

NodeLike = Node[T, U] | Callable[[T], Awaitable[U]] | Callable[[T, RunContext], Awaitable[U]]
"""A node, or an asynchronous function that acts as one, of its input, and of the run's context if
it asks agents."""
Condition = Handle[bool] | Handle[bool | Skipped]


class Graph(Generic[In]):
    """Declares a graph, so that it can be checked, drawn and scheduled before it runs.

    A node runs when it is needed and its sources are ready. A node that only an unused branch needs
    doesn't run. Nodes that are ready at the same time run concurrently.

    Args:
        name: Shown in traces, errors and drawings.
        input_type: Type of the request.

    Raises:
        WiringError: the name is invalid.

    Examples:
        >>> small = SimulatedEndpoint(rule=lambda _: {"filter": {"yes": 0.1}})
        >>> large = ScriptedEndpoint(["It comes on Friday."])
        >>> g = Graph("desk", Text)
        >>> spam = g.add(Filter(small, "spam", action="drop"), g.input)
        >>> writer = Agent(large, "Answer the customer.")
        >>> answer = g.add(writer, g.input, when=spam.map(lambda v: v.kept), otherwise=g.input)
        >>> print(g.build(answer).run_sync(Text(text="Where is it?")).output)
        It comes on Friday.
    """

    def __init__(self, name: str, input_type: type[In]) -> None:
        _check_name(name)
        self.name = name
        self.input: Handle[In] = Handle(Step(graph=self, name="input", type=input_type))
        self._nodes: list[NodeStep] = []
        self._problems: list[str] = []
        self._branch: Branch | None = None

    @overload
    def add(
        self,
        node: NodeLike[T, U],
        source: Handle[T],
        *,
        eager: bool | None = None,
        name: str | None = None,
    ) -> Handle[U]: ...
    @overload
    def add(
        self,
        node: NodeLike[T, U],
        source: Handle[T | Skipped],
        *,
        when: Condition | None = None,
        eager: bool | None = None,
        name: str | None = None,
    ) -> Handle[U | Skipped]: ...
    @overload
    def add(
        self,
        node: NodeLike[T, U],
        source: Handle[T | Skipped],
        *,
        when: Condition | None = None,
        otherwise: Handle[V],
        eager: bool | None = None,
        name: str | None = None,
    ) -> Handle[U | V]: ...
    # With a union with NodeLike, mypy could not tell asynchronous functions from others.
    @overload
    def add(
        self,
        node: Callable[[T], U],
        source: Handle[T],
        *,
        eager: bool | None = None,
        thread: bool = False,
        name: str | None = None,
    ) -> Handle[U]: ...
    @overload
    def add(
        self,
        node: Callable[[T], U],
        source: Handle[T | Skipped],
        *,
        when: Condition | None = None,
        eager: bool | None = None,
        thread: bool = False,
        name: str | None = None,
    ) -> Handle[U | Skipped]: ...
    @overload
    def add(
        self,
        node: Callable[[T], U],
        source: Handle[T | Skipped],
        *,
        when: Condition | None = None,
        otherwise: Handle[V],
        eager: bool | None = None,
        thread: bool = False,
        name: str | None = None,
    ) -> Handle[U | V]: ...
    def add(
        self,
        node: object,
        source: Handle[object],
        *,
        when: Handle[object] | None = None,
        otherwise: Handle[object] | None = None,
        eager: bool | None = None,
        thread: bool = False,
        name: str | None = None,
    ) -> Handle[object]:
        """Declare a node.

        It is skipped if its condition is false, or if its source was skipped and it doesn't accept
        `Skipped`. Nodes that need a skipped node are skipped in turn.

        Args:
            node: A node; an `async def f(request, context: RunContext)`, which is one; or a
                function of one argument: asynchronous, quick, or with `thread`, blocking.
            source: Its input.
            when: Condition: the node runs if this is `True`.
            otherwise: Replaces the node if it is skipped. Nodes that only this needs don't run
                before.
            eager: Start as soon as the source is ready, even if it may not be needed. `None`: true,
                except for a large model, which is too expensive, a person, and a node that only
                replaces another.
            thread: Run a blocking function in a thread. The run waits for it until the deadline;
                the thread itself continues to its end.
            name: `None` uses the node's own name. Names must be unique within a graph.

        Raises:
            WiringError: an argument isn't a node or a handle, or `thread` doesn't apply to the
                node.
        """
        node = as_node(check_work(node))
        signature = signature_of(node)
        if thread and (is_node(node) or signature.is_async):
            raise WiringError(
                f"{name_of(node)!r} is asynchronous: thread=True is for a function that blocks"
            )
        alternative = None if otherwise is None else step_of(otherwise)
        origin = step_of(source)
        skips = when is not None or (origin.may_skip and not signature.takes_skipped())
        output, may_skip = signature.output, signature.may_skip or (skips and alternative is None)
        if alternative is not None:
            output = union((output, alternative.type))
            may_skip = may_skip or alternative.may_skip
        return self._declare(
            NodeStep(
                graph=self,
                name=name or name_of(node),
                type=output,
                may_skip=may_skip,
                branches=[self._branch],
                node=node,
                signature=signature,
                sources=(origin,),
                when=None if when is None else step_of(when),
                otherwise=alternative,
                eager=eager,
                thread=thread,
            )
        )

    @overload
    def ask_human(
        self,
        question: HumanQuestion | Callable[[T], HumanQuestion],
        source: Handle[T],
        *,
        answer: TypeForm[A],
        name: str = "human",
    ) -> Handle[A]: ...
    @overload
    def ask_human(
        self,
        question: HumanQuestion | Callable[[T], HumanQuestion],
        source: Handle[T | Skipped],
        *,
        answer: TypeForm[A],
        when: Condition | None = None,
        name: str = "human",
    ) -> Handle[A | Skipped]: ...
    @overload
    def ask_human(
        self,
        question: HumanQuestion | Callable[[T], HumanQuestion],
        source: Handle[T | Skipped],
        *,
        answer: TypeForm[A],
        when: Condition | None = None,
        otherwise: Handle[V],
        name: str = "human",
    ) -> Handle[A | V]: ...
    def ask_human(
        self,
        question: HumanQuestion | Callable[..., HumanQuestion],
        source: Handle[object],
        *,
        answer: object,
        when: Condition | None = None,
        otherwise: Handle[object] | None = None,
        name: str = "human",
    ) -> Handle[object]:
        """Declare a node that asks a person, by LangGraph's `interrupt`, and returns the answer.

        Run the graph as `graph.compile(checkpointer=…)`: it stops with the question in
        `__interrupt__`, and resumes with `Command(resume=answer)`. If an answer is not of the type,
        the person is asked again, with the reason.

        Args:
            question: A text or a dictionary, or a quick function that returns one for the source's
                value.
            source: Handle of the subject of the question.
            answer: Type of the answer, such as `bool`, `Literal["send", "stop"]` or a pydantic
                model.
            when: Condition: the person is asked if this is `True`.
            otherwise: Replaces the answer if they are not asked.
            name: Shown in traces, errors and drawings. Names must be unique within a graph.

        Raises:
            NotResumable: when the graph starts without a checkpointer, even if this person would
                not be asked.
        """
        human = Human(question, answer, name=name)
        self._problems += human.problems()
        if otherwise is None:
            return self.add(human, source, when=when)
        return self.add(human, source, when=when, otherwise=otherwise)

    @overload
    def join(self, function: Callable[[A], U], a: Handle[A], /) -> Handle[U]: ...
    @overload
    def join(self, function: Callable[[A, B], U], a: Handle[A], b: Handle[B], /) -> Handle[U]: ...
    @overload
    def join(
        self, function: Callable[[A, B, C], U], a: Handle[A], b: Handle[B], c: Handle[C], /
    ) -> Handle[U]: ...
    @overload
    def join(
        self,
        function: Callable[[A, B, C, D], U],
        a: Handle[A],
        b: Handle[B],
        c: Handle[C],
        d: Handle[D],
        /,
    ) -> Handle[U]: ...
    @overload
    def join(
        self,
        function: Callable[[A, B, C, D, E], U],
        a: Handle[A],
        b: Handle[B],
        c: Handle[C],
        d: Handle[D],
        e: Handle[E],
        /,
    ) -> Handle[U]: ...
    @overload
    def join(
        self,
        function: Callable[[A, B, C, D, E, F], U],
        a: Handle[A],
        b: Handle[B],
        c: Handle[C],
        d: Handle[D],
        e: Handle[E],
        f: Handle[F],
        /,
    ) -> Handle[U]: ...
    @overload
    def join(
        self,
        function: Callable[[A, B, C, D, E, F, G], U],
        a: Handle[A],
        b: Handle[B],
        c: Handle[C],
        d: Handle[D],
        e: Handle[E],
        f: Handle[F],
        g: Handle[G],
        /,
    ) -> Handle[U]: ...
    @overload
    def join(
        self,
        function: Callable[[A, B, C, D, E, F, G, H], U],
        a: Handle[A],
        b: Handle[B],
        c: Handle[C],
        d: Handle[D],
        e: Handle[E],
        f: Handle[F],
        g: Handle[G],
        h: Handle[H],
        /,
    ) -> Handle[U]: ...
    def join(self, function: Callable[..., object], /, *handles: Handle[object]) -> Handle[object]:
        """Combine several handles with a quick, synchronous function.

        It gets the values of the handles, which may be `Skipped` if a node can be skipped.

        Args:
            function: Function of one argument per handle.
            handles: One to eight.

        Raises:
            WiringError: there is no handle, or an argument isn't one.
        """
        if not handles:
            raise WiringError(
                f"join({name_of(function)}, …): give the handles that it brings together"
            )
        return Handle(function_step(function, tuple(step_of(handle) for handle in handles)))

    def match(
        self,
        choice: Handle[Choice[L]],
        branch: Callable[[L], Handle[U]],
        *,
        labels: Sequence[L] | None = None,
    ) -> Handle[U]:
        """Run one branch, chosen by a label.

        Args:
            choice: Answer whose label decides.
            branch: Declares the branch of a label. It is called at once for each label, and the
                nodes it adds run only if that label is chosen. `None` is the label "none of these"
                of a type such as `Choice[Topic | None]`.
            labels: All labels, if the type isn't an Enum or Literal.
        """
        source = step_of(choice)
        step = MatchStep(
            graph=self,
            name=f"match({source.name})",
            type=None,
            branches=[self._branch],
            sources=(source,),
        )
        all_labels = labels_of(source, labels)
        if all_labels is None:
            self._problems.append(
                f"the labels of {source.name!r} are not known: annotate it with a Choice of an "
                "Enum or a Literal, which a lambda can't be, or say match(…, labels=[…])"
            )
        ways: Callable[..., Handle[U]] = branch
        outer = self._branch
        for label in all_labels or (None,):
            self._branch = Branch(step, label, outer)
            try:
                step.cases[label] = step_of(ways(label))
            finally:
                self._branch = outer
        step.type = union(tuple(case.type for case in step.cases.values()))
        step.may_skip = any(case.may_skip for case in step.cases.values())
        return Handle(step)

    def build(self, output: Handle[U]) -> BuiltGraph[In, U]:
        """Check the graph and build a node of it.

        Args:
            output: Handle of the graph's answer, which must not be skippable.

        Raises:
            WiringError: nodes do not fit together. The message lists every fault.
        """
        end = step_of(output)
        problems = [*self._problems, *check(self, self._nodes, end)]
        if problems:
            listed = "".join(f"\n  - {problem}" for problem in dict.fromkeys(problems))
            raise WiringError(f"graph {self.name!r} does not fit together:{listed}")
        return BuiltGraph(plan_of(self.name, step_of(self.input), end))

    if not TYPE_CHECKING:  # a type checker finds these itself

        def __getattr__(self, name: str) -> NoReturn:
            if name.startswith("_") or not hasattr(BuiltGraph, name):
                raise AttributeError(f"Graph has no attribute {name!r}")
            raise AttributeError(
                f"graph {self.name!r} is not built yet, so it has no {name!r}: "
                f"graph = g.build(output), and then graph.{name}"
            )

    def _declare(self, step: NodeStep) -> Handle[object]:
        twin = self._find_node(step.name)
        if twin is not None and all(
            exclude_each_other(branch, self._branch) for branch in twin.branches
        ):
            if _is_same(twin, step):
                twin.branches.append(self._branch)
                return Handle(twin)
            step.name = f"{step.name}[{path(self._branch)}]"
            twin = self._find_node(step.name)
        if twin is not None:
            self._problems.append(f"two nodes are called {step.name!r}: give one another name=")
        self._nodes.append(step)
        return Handle(step)

    def _find_node(self, name: str) -> NodeStep | None:
        return next((step for step in self._nodes if step.name == name), None)


def _check_name(name: object) -> None:
    if not isinstance(name, str):
        raise WiringError(f'a graph takes its name first: Graph("…", {name_of(name)})')


def _is_same(left: NodeStep, right: NodeStep) -> bool:
    """Return True if two labels of a `match` use the same node on the same source."""
    first, second = (
        (step.node, step.sources, step.when, step.otherwise, step.eager, step.thread)
        for step in (left, right)
    )
    return first == second


class BuiltGraph(Compilable[In_contra, Out_co], NodeBase[In_contra, Out_co]):
    """Result of `Graph.build`: a node to run, stream, map over rows, draw or compile.

    It has no state, so any number of runs can be concurrent.

    Examples:
        >>> g = Graph("greet", Text)
        >>> graph = g.build(g.add(Agent(ScriptedEndpoint(["Hello!"]), "Greet."), g.input))
        >>> print(graph.run_sync(Text(text="Hi")).output)
        Hello!
        >>> graph.draw().mermaid.startswith("---")
        True
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.name = plan.name
        self.input_type = plan.steps[0].type
        self.output_type = plan.steps[plan.output].type

    async def run(self, request: In_contra, /, context: RunContext | None = None) -> Result[Out_co]:
        """Run every node that the answer to `request` needs.

        Args:
            request: The input.
            context: Budget, deadline and ledger; `None` starts one without limits.

        Raises:
            InputError: `request` is not of the graph's input type; nothing ran.
            NotResumable: a node may ask a person, and this run isn't stored; nothing ran.
            NodeError: a plain function raised; its error is chained.
            DeadlineExceeded: the context's deadline has passed.
            MoaError: the first error of a node. All other nodes are cancelled.
        """
        inner = run_context(context, self.name)
        start = time.perf_counter()
        with inner.span("workflow", self.name):
            self._admit(request)
            if self.plan.asks is not None and not is_kept(inner):
                raise not_resumable_error(f"{inner.node}/{self.plan.asks}")
            output = await Run(self.plan, inner).output(request)
        return finish(cast("Out_co", output), inner, seconds=time.perf_counter() - start)

    def prompt(self, request: In_contra, /) -> tuple[SentPrompt, ...]:
        """Return the first model calls of a request without making them; see `TypedNode.prompt`.

        Functions before them are called.

        Raises:
            InputError: `request` is not of the graph's input type; nothing ran.
            MoaError: it failed before the first call.
        """
        return run_sync(lambda: rehearse(partial(self.run, request)))

    def sketch(self, sketch: Sketch) -> None:
        """Draw the nodes, and what passes between them."""
        DRAWINGS.open().sketch_plan(self.plan, sketch)

    def members(self) -> Iterator[Work]:
        """Yield the nodes, and the functions that act as nodes."""
        return self.plan.members()

    def list_endpoints(self) -> list[Endpoint] | None:
        """Return an empty list, as its nodes ask; `None` if a function may ask any endpoint."""
        return self.plan.list_endpoints()

    def _admit(self, request: object) -> None:
        kind = self.input_type
        if isinstance(kind, type) and not isinstance(request, kind):
            raise InputError(
                f"{self.name}: takes {describe_type(kind)}, but was given {type(request).__name__}"
            )
