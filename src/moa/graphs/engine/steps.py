"""Steps: the parts of a declared graph, and the handles for their future values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import reduce
from typing import TYPE_CHECKING, Generic, NoReturn, TypeGuard, TypeVar

from moa.core.errors import WiringError
from moa.core.questions import Choice, Question, labels_of_type
from moa.graphs.engine.types import Signature, Work, name_of, signature_of

T_co = TypeVar("T_co", covariant=True)
U = TypeVar("U")


@dataclass(frozen=True, slots=True)
class Branch:
    """One label of a `match`."""

    match: MatchStep
    label: object
    outer: Branch | None
    """Branch that the `match` itself is in."""


def find_innermost(branches: Iterable[Branch | None]) -> Branch | None:
    """Return the deepest of several branches."""
    return max(branches, key=lambda branch: len(_lineage(branch)), default=None)


def exclude_each_other(first: Branch | None, second: Branch | None) -> bool:
    """Return True if two branches are never taken together."""
    labels = {branch.match: branch.label for branch in _lineage(first)}
    return any(b.match in labels and labels[b.match] != b.label for b in _lineage(second))


def find_common(first: Branch | None, second: Branch | None) -> Branch | None:
    """Return the innermost branch around both."""
    around = _lineage(second)
    return next((branch for branch in _lineage(first) if branch in around), None)


def path(branch: Branch | None) -> str:
    """Return the labels from the outside in, such as `card/lost`."""
    return "/".join(label_name(level.label) for level in reversed(_lineage(branch)))


def label_name(label: object) -> str:
    """Return a label as a reader knows it."""
    if isinstance(label, Enum):
        return label.value if isinstance(label.value, str) else label.name
    return "none of these" if label is None else str(label)


def _lineage(branch: Branch | None) -> tuple[Branch, ...]:
    """Return a branch and those around it, from the inside out."""
    return () if branch is None else (branch, *_lineage(branch.outer))


@dataclass(eq=False, kw_only=True)
class Step:
    """A value that a graph computes, or its input. All runs share it."""

    graph: object
    """Builder that it belongs to."""
    name: str
    type: object
    """Type of the value, without `Skipped`, as far as annotations say."""
    may_skip: bool = False
    """True if the value can be `Skipped`."""
    branches: list[Branch | None] = field(default_factory=lambda: [None])
    """Innermost branch that it was declared in; several if labels share it."""
    sources: tuple[Step, ...] = ()
    """Steps that it is computed from."""

    @property
    def branch(self) -> Branch | None:
        """Innermost branch around all in which it was declared."""
        return reduce(find_common, self.branches)

    @property
    def needs(self) -> tuple[Step, ...]:
        """Steps that it always waits for."""
        return self.sources

    @property
    def may_need(self) -> tuple[Step, ...]:
        """Steps that it may demand once those it needs have values."""
        return ()


@dataclass(eq=False, kw_only=True)
class NodeStep(Step):
    """A node, or a function that acts as one."""

    node: Work
    signature: Signature
    when: Step | None = None
    otherwise: Step | None = None
    eager: bool | None = None
    thread: bool = False
    """True if it is a blocking function, run in a thread."""

    @property
    def needs(self) -> tuple[Step, ...]:
        """Steps that it always waits for, the condition first."""
        return self.sources if self.when is None else (self.when, *self.sources)

    @property
    def may_need(self) -> tuple[Step, ...]:
        """Step that replaces it if it is skipped."""
        return () if self.otherwise is None else (self.otherwise,)


@dataclass(eq=False, kw_only=True)
class FunctionStep(Step):
    """A `map` or a `join`: a quick function of the values of other steps."""

    function: Callable[..., object]
    signature: Signature


@dataclass(eq=False, kw_only=True)
class AcceptedStep(Step):
    """True if the answer of another step is accepted."""


@dataclass(eq=False, kw_only=True)
class MatchStep(Step):
    """One branch for each label of a choice."""

    cases: dict[object, Step] = field(default_factory=dict[object, Step])
    """Branches by label. `None` is "none of these", if it can be chosen."""

    @property
    def may_need(self) -> tuple[Step, ...]:
        """Branches."""
        return tuple(dict.fromkeys(self.cases.values()))


class Handle(Generic[T_co]):
    """The output of a node in a graph that is being declared. It holds a value only in a run.

    Examples:
        >>> g = Graph("length", Text)
        >>> length: Handle[int] = g.input.map(lambda text: len(text.text))
        >>> g.build(length).run_sync(Text(text="Hello")).output
        5
    """

    __slots__ = ("_step",)

    def __init__(self, step: Step) -> None:
        self._step = step

    @property
    def name(self) -> str:
        """Name of the node whose output it is."""
        return self._step.name

    def map(self, function: Callable[[T_co], U]) -> Handle[U]:
        """Apply a quick, synchronous function.

        It gets the handle's value, which may be `Skipped` if the node can be skipped.

        Args:
            function: Any function that doesn't wait, such as picking a field, comparing or
                converting.
        """
        return Handle(function_step(function, (self._step,)))

    @property
    def accepted(self) -> Handle[bool]:
        """True if the answer is accepted, for `when=`.

        This is read from the cascade that gave the answer, else from the answer itself, as set by a
        calibrated agent. With several questions, all must be accepted. If neither has it, the run
        ends with a `ConfigError`. If the type can't have it, the graph doesn't build.
        """
        return Handle(
            AcceptedStep(
                graph=self._step.graph,
                name=f"{self._step.name}.accepted",
                type=bool,
                branches=[self._step.branch],
                sources=(self._step,),
            )
        )

    if not TYPE_CHECKING:  # a type checker finds these itself if they are undefined

        def __getattr__(self, name: str) -> NoReturn:
            if name.startswith("__"):
                raise AttributeError(name)
            raise AttributeError(_holds_nothing(self, f"handle.map(lambda value: value.{name})"))

        def __repr__(self) -> str:
            return f"<handle of {self.name!r}>"

        def __str__(self) -> NoReturn:
            text = "handle.map(lambda value: f'… {value}')"
            raise TypeError(_holds_nothing(self, f"{text}, or join for several handles"))

        def __format__(self, spec: str) -> NoReturn:
            str(self)

        def __bool__(self) -> NoReturn:
            raise TypeError(_holds_nothing(self, "when=handle where a node is added, or map"))

        def _refuse_comparison(self, other: object) -> NoReturn:
            raise TypeError(_holds_nothing(self, "handle.map(lambda value: …) to compare, or join"))

        __eq__ = __ne__ = _refuse_comparison
        __hash__ = object.__hash__


def _holds_nothing(handle: Handle[object], instead: str) -> str:
    return f"the handle of {handle.name!r} holds nothing before the graph runs: write {instead}"


def step_of(handle: object) -> Step:
    """Return the step of a handle.

    Raises:
        WiringError: it isn't a handle.
    """
    if isinstance(handle, Handle):
        return handle._step  # pyright: ignore[reportPrivateUsage]
    label = repr(handle) if isinstance(handle, str | bool) else type(handle).__name__
    raise WiringError(f"{label} is no handle: give g.input, or what add, map, join or match gave")


def function_step(function: Callable[..., object], sources: tuple[Step, ...]) -> FunctionStep:
    """Declare a `map` or a `join`."""
    signature = signature_of(function)
    called = name_of(function)
    names = ", ".join(step.name for step in sources)
    return FunctionStep(
        graph=sources[0].graph,
        name=names if called == "<lambda>" else f"{called}({names})",
        type=signature.output,
        may_skip=signature.may_skip,
        branches=[find_innermost(step.branch for step in sources)],
        function=function,
        signature=signature,
        sources=sources,
    )


def _is_choice(kind: object) -> TypeGuard[type[Choice[object]]]:
    return isinstance(kind, type) and issubclass(kind, Choice)


def labels_of(choice: Step, allowed_labels: Sequence[object] | None) -> tuple[object, ...] | None:
    """Return all labels: those given, else of the type, else of the node's only question.

    Returns:
        Labels; "none of these" is the label `None`. Unknown labels give `None`.
    """
    labels: tuple[object, ...] | None = None
    none, kind = False, choice.type
    if _is_choice(kind):
        labels, none = labels_of_type(kind)
    if allowed_labels is not None:
        labels = tuple(allowed_labels)
    if labels is None and isinstance(choice, NodeStep):
        questions: tuple[Question, ...] = getattr(choice.node, "questions", ())
        if len(questions) == 1:
            labels = tuple(option.value for option in questions[0].options)
    if labels is None:
        return None
    return (*labels, None) if none and None not in labels else labels
