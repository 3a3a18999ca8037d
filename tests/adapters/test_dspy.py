"""Modules of DSPy as nodes, over a double with DSPy's callbacks, trackers and settings."""

from __future__ import annotations

import asyncio
import sys
from collections import defaultdict
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType, ModuleType, SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from pydantic import BaseModel

from adapters.conformance import Conformance
from moa import Budget, RunContext
from moa.adapters.dspy import DSPyNode
from moa.core.errors import BudgetExceeded, ConfigError, MissingDependency, OutputError

USED = {"prompt_tokens": 120, "completion_tokens": 12}
ACTIVE: ContextVar[str | None] = ContextVar("active_call_id", default=None)


class Mail(BaseModel):
    question: str


class Answer(BaseModel):
    answer: str


class Settings:
    """As `dspy.settings`: what holds in a task, or in a thread that copies it."""

    def __init__(self) -> None:
        self._now = ContextVar[Mapping[str, Any]]("settings", default=MappingProxyType({}))

    def get(self, name: str, default: Any = None) -> Any:
        return self._now.get().get(name, default)

    @property
    def usage_tracker(self) -> Any:
        return self.get("usage_tracker")

    @contextmanager
    def context(self, **given: Any) -> Generator[None]:
        token = self._now.set({**self._now.get(), **given})
        try:
            yield
        finally:
            self._now.reset(token)


SETTINGS = Settings()


class LM:
    """As `dspy.LM`, whose errors of callbacks are swallowed, and whose answers are cached."""

    def __init__(self, *, error: Exception | None = None, seconds: float = 0.0) -> None:
        self.model = "openai/gpt-x"
        self.sent: list[str] = []
        self.error = error
        self.seconds = seconds

    async def acall(self, prompt: str | None = None, *, messages: Any = None) -> str:
        call_id, outer = uuid4().hex, ACTIVE.get()
        inputs: dict[str, Any] = {"prompt": prompt, "messages": messages, "kwargs": {}}
        self._tell("on_lm_start", call_id=call_id, instance=self, inputs=inputs)
        ACTIVE.set(call_id)
        error: BaseException | None = None
        try:
            return await self._asked(str(prompt or messages))
        except BaseException as raised:
            error = raised
            raise
        finally:
            ACTIVE.set(outer)
            self._tell("on_lm_end", call_id=call_id, outputs=[], exception=error)

    async def _asked(self, text: str) -> str:
        if text in self.sent:
            return "Paris"
        self.sent.append(text)
        await asyncio.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        if SETTINGS.usage_tracker:
            SETTINGS.usage_tracker.add_usage(self.model, USED)
        return "Paris"

    @staticmethod
    def _tell(what: str, **about: Any) -> None:
        for callback in SETTINGS.get("callbacks", []):
            try:
                getattr(callback, what)(**about)
            except Exception:  # noqa: BLE001  as DSPy does
                continue


class Predict:
    """As `dspy.Predict`: asks once, or several times."""

    def __init__(self, lm: LM, *, times: int = 1, fields: Sequence[str] = ("question",)) -> None:
        self.lm = lm
        self.times = times
        self.signature = SimpleNamespace(input_fields=dict.fromkeys(fields))

    def predictors(self) -> list[Predict]:
        return [self]

    async def acall(self, **inputs: Any) -> dict[str, str]:
        return await self.aforward(**inputs)

    async def aforward(self, **inputs: Any) -> dict[str, str]:
        for callback in SETTINGS.get("callbacks", []):
            callback.on_module_start(call_id="m", instance=self, inputs=inputs)
        answer = ""
        for turn in range(self.times):
            content = f"{inputs['question']} {turn}"
            answer = await self.lm.acall(messages=[{"role": "user", "content": content}])
        return {"reasoning": "It is.", "answer": answer}


class Blocking:
    """A module of a user's own that has a `forward` alone."""

    def __init__(self, lm: LM) -> None:
        self.inner = Predict(lm)

    def predictors(self) -> list[Predict]:
        return [self.inner]

    def __call__(self, **inputs: Any) -> dict[str, str]:
        return asyncio.run(self.inner.acall(**inputs))


class Tracking(Predict):
    """A module that tracks its usage itself, so that nobody around it hears of it before."""

    async def aforward(self, **inputs: Any) -> dict[str, str]:
        around = SETTINGS.usage_tracker
        own = SimpleNamespace(add_usage=print, usage_data=defaultdict[str, Any](list))
        with SETTINGS.context(usage_tracker=own):
            found = await super().aforward(**inputs)
        around.usage_data["openai/gpt-x"].extend([USED])
        return found


@pytest.fixture(autouse=True)
def dspy(monkeypatch: pytest.MonkeyPatch) -> None:
    double: Any = ModuleType("dspy")
    double.settings, double.context = SETTINGS, SETTINGS.context
    utils, callback = ModuleType("dspy.utils"), ModuleType("dspy.utils.callback")
    vars(callback)["ACTIVE_CALL_ID"] = ACTIVE
    for module in (double, utils, callback):
        monkeypatch.setitem(sys.modules, module.__name__, module)


class TestDSPy(Conformance):
    def node(self, *, asks: int = 1, error: Any = None, seconds: float = 0, **more: Any) -> Any:
        return DSPyNode(Predict(LM(error=error, seconds=seconds), times=asks), **more)


async def test_a_call_is_in_the_ledger_and_the_last_field_is_the_reply() -> None:
    result = await DSPyNode(Predict(LM()), name="geo").run("Capital of France?")
    assert result.output.text == "Paris"
    ((part, amount),) = result.usage.parts.items()
    assert (part.node, part.endpoint) == ("geo", "openai/gpt-x")
    assert (amount.calls, amount.input_tokens, amount.output_tokens) == (1, 120, 12)


async def test_fields_go_in_and_out_by_name() -> None:
    node = DSPyNode(Predict(LM()), input=Mail, output=Answer)
    assert (await node.run(Mail(question="?"))).output == Answer(answer="Paris")
    with pytest.raises(OutputError):
        await DSPyNode(Predict(LM()), output=Mail).run("?")


async def test_a_text_needs_a_module_of_one_field() -> None:
    module = Predict(LM(), fields=("question", "context"))
    with pytest.raises(ConfigError):
        await DSPyNode(module).run("?")
    assert (await DSPyNode(module, read=lambda text: {"question": text}).run("?")).usage.calls == 1


async def test_what_its_cache_answers_costs_no_call() -> None:
    lm = LM()
    await DSPyNode(Predict(lm)).run("?")
    context = RunContext(budget=Budget(calls=1))
    result = await DSPyNode(Predict(lm)).run("?", context)
    assert result.usage.calls == 0
    assert [note.kind for note in result.trace] == ["cached"]
    assert (await DSPyNode(Predict(lm)).run("another", context)).usage.calls == 1


async def test_a_module_that_blocks_runs_in_a_thread_and_is_counted_and_stopped() -> None:
    lm = LM()
    assert (await DSPyNode(Blocking(lm)).run("?")).usage.calls == 1
    with pytest.raises(BudgetExceeded):
        await DSPyNode(Blocking(lm)).run("other", RunContext(budget=Budget(calls=0)))
    assert len(lm.sent) == 1


async def test_a_module_that_tracks_its_usage_itself_is_charged_by_the_estimate() -> None:
    result = await DSPyNode(Tracking(LM())).run("?")
    assert result.usage.calls == 1
    assert [note.kind for note in result.trace] == ["degraded", "answered"]


def test_without_the_package_the_error_says_what_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "dspy", None)
    with pytest.raises(MissingDependency, match="pip install dspy"):
        DSPyNode(Predict(LM()))
