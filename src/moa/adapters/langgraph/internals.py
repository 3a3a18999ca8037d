"""Internals: everything that durable runs use of LangGraph's private interface.

`pyproject.toml` pins LangGraph's minor version, and `tests/graphs/test_internals.py` shows which of
these has moved.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler, CallbackManager
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import var_child_runnable_config
from langgraph._internal._constants import (
    CONFIG_KEY_CHECKPOINTER,
    CONFIG_KEY_RESUME_MAP,
    CONFIG_KEY_SCRATCHPAD,
    CONFIG_KEY_SEND,
    CONFIG_KEY_STREAM,
    INTERRUPT,
    NULL_TASK_ID,
    RESUME,
)
from langgraph._internal._scratchpad import PregelScratchpad
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.config import get_config
from langgraph.types import Interrupt

from moa.core._json import is_sequence

FORGOTTEN = (NULL_TASK_ID, RESUME, None)
"""Task, channel and value of a write that revokes an answer given for no specific task.

LangGraph stores such an answer, and would give it to the next question."""


class Task:
    """LangGraph's current task, read from its configuration."""

    def __init__(self) -> None:
        self.config = get_config()
        self._settings: Mapping[str, Any] = self.config.get("configurable", {})

    @property
    def saver(self) -> BaseCheckpointSaver[str] | None:
        """Checkpointer of the graph. An inner graph has the outer one's."""
        saver: BaseCheckpointSaver[str] | bool | None = self._settings.get(CONFIG_KEY_CHECKPOINTER)
        return None if isinstance(saver, bool) else saver

    @property
    def scratchpad(self) -> PregelScratchpad | None:
        """State of `interrupt`. Each run of a task has its own."""
        return self._settings.get(CONFIG_KEY_SCRATCHPAD)

    @property
    def is_streamed(self) -> bool:
        """True if an outer graph streams what is written inside."""
        return CONFIG_KEY_STREAM in self._settings

    @property
    def answers(self) -> Mapping[str, object]:
        """Answers of `Command(resume={id: answer})`."""
        return self._settings.get(CONFIG_KEY_RESUME_MAP) or {}

    def take_answer(self) -> object:
        """Take the answer of `Command(resume=answer)`; `None` if there is none, or it was taken."""
        return self.scratchpad and self.scratchpad.get_null_resume(True)

    @contextmanager
    def ask_in(self, path: str, answers: Mapping[str, object]) -> Generator[None]:
        """Let `interrupt` number its questions within `path` only, and find answers by id.

        LangGraph numbers the questions of a task in order. But the nodes of a run are not tasks,
        and ask in any order.
        """
        if self.scratchpad is None:
            yield
            return
        namespace = f"{self._settings['checkpoint_ns']}|{path}"
        resume_values: list[object] = []

        def answer(consume: bool = False) -> object:
            del consume
            return answers.get(question_id(namespace, len(resume_values)))

        def ignore(writes: object) -> None:
            """Drop an answer that LangGraph would store for the whole task."""

        scratchpad = replace(
            self.scratchpad,
            interrupt_counter=count().__next__,
            resume=resume_values,
            get_null_resume=answer,
        )
        inner = {
            "checkpoint_ns": namespace,
            CONFIG_KEY_SCRATCHPAD: scratchpad,
            CONFIG_KEY_SEND: ignore,
        }
        config: RunnableConfig = {**self.config, "configurable": {**self._settings, **inner}}
        token = var_child_runnable_config.set(config)
        try:
            yield
        finally:
            var_child_runnable_config.reset(token)


def question_id(namespace: str, number: int) -> str:
    """Return LangGraph's id of a question, counted from 0 in its namespace."""
    return Interrupt.from_ns(None, f"{namespace}|{number}" if number else namespace).id


def pending_questions(writes: Sequence[tuple[str, str, object]], task: str) -> frozenset[str]:
    """Return the ids of the questions at which a task has stopped."""
    interrupts = next(
        (value for task_id, channel, value in writes if (task_id, channel) == (task, INTERRUPT)), ()
    )
    questions = interrupts if is_sequence(interrupts) else ()
    return frozenset(question.id for question in questions if isinstance(question, Interrupt))


def can_ask() -> bool:
    """Return True if LangGraph runs this code, so that `interrupt` works."""
    try:
        return Task().scratchpad is not None
    except RuntimeError:  # outside LangGraph, as in a job
        return False


def message_callbacks(config: RunnableConfig) -> CallbackManager | None:
    """Return the callbacks that stream a chat model's text, as `stream_mode="messages"` does.

    Others, such as tracers, would take each node for a chat model. `None` if there are none.
    """
    manager = CallbackManager.configure(
        inheritable_callbacks=config.get("callbacks"),
        inheritable_tags=config.get("tags"),
        inheritable_metadata=config.get("metadata"),
    )
    streaming: list[BaseCallbackHandler] = [
        handler for handler in manager.handlers if hasattr(handler, "tap_output_iter")
    ]
    manager.handlers = manager.inheritable_handlers = streaming
    return manager if streaming else None
