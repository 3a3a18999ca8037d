"""DSPyNode: a module of DSPy as a node."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any, Unpack

from moa.adapters import REPLY, TEXT, Adapter, Calls, Settings
from moa.agents.base import In, Out
from moa.core._json import JSON, is_object, list_of
from moa.core._threads import USER_THREADS
from moa.core.errors import ConfigError, MissingDependency, MoaError


class DSPyNode(Adapter[In, Out]):
    """A module of DSPy.

        DSPyNode(dspy.Predict("question -> answer"))          # text in, a `Reply` out
        DSPyNode(dspy.ChainOfThought(Triage), input=Mail, output=Ticket)

    DSPy's callbacks count each model call; answers from DSPy's cache cost nothing. A module is
    called by `acall`, or in a thread if it has no `aforward`.

    Args:
        module: The module.
        input: Input type; by default a text or any pydantic model.
        output: Output type: by default a `Reply` with the last field, else a pydantic model of the
            prediction's fields.
        read: Makes the module's input fields. `None`: the model's fields, or the text as the only
            field of the first predictor.
        write: Makes the output from the prediction; `None`: as `output` says.
        settings: See `Settings`.

    Raises:
        MissingDependency: DSPy is not installed.
    """

    def __init__(
        self,
        module: Any,
        *,
        input: type[In] = TEXT,
        output: type[Out] = REPLY,
        read: Callable[[In], Mapping[str, object]] | None = None,
        write: Callable[[Any], Out] | None = None,
        **settings: Unpack[Settings],
    ) -> None:
        name = type(module).__name__
        super().__init__(
            input=input, output=output, read=read, write=write, default_name=name, **settings
        )
        self.module = module
        try:
            self._dspy = import_module("dspy")
        except ModuleNotFoundError as error:
            raise MissingDependency(
                "dspy", extra="", purpose="to run its modules", command="pip install dspy"
            ) from error

    def read_input(self, request: object) -> JSON:
        """Return the input's fields by name."""
        value = super().read_input(request)
        if is_object(value):
            return value
        fields = [*self.module.predictors()[0].signature.input_fields]
        if len(fields) != 1:
            raise ConfigError(
                f"{self.name}: takes the fields {', '.join(fields)}: say read=, a function that "
                "gives them by name, or input=, a pydantic model that has them"
            )
        return {fields[0]: value}

    async def ask(self, value: Mapping[str, object], calls: Calls) -> object:
        """Run the module, and count each of its model calls in the ledger."""
        dspy, meter = self._dspy, _Meter(calls, self._dspy)
        callbacks = [*dspy.settings.get("callbacks", []), meter]
        try:
            with dspy.context(callbacks=callbacks, usage_tracker=meter):
                if callable(getattr(self.module.__class__, "aforward", None)):
                    prediction = await self.module.acall(**value)
                else:
                    prediction = await USER_THREADS.run(partial(self.module, **value), self.name)
        except _Stop as stop:
            raise stop.error from None
        return dict(prediction.items()) if hasattr(prediction, "items") else prediction


class _Stop(BaseException):
    """Stops a module: DSPy swallows any `Exception` of a callback."""

    def __init__(self, error: MoaError) -> None:
        super().__init__(str(error))
        self.error = error


def _ignore(**_: object) -> None:
    pass


class _Meter:
    """Counts DSPy's model calls, as a callback and a usage tracker."""

    def __init__(self, calls: Calls, dspy: ModuleType) -> None:
        self._calls = calls
        self._settings = dspy.settings
        self._active = import_module("dspy.utils.callback").ACTIVE_CALL_ID
        self._usage: dict[str, object] = {}
        self.usage_data = defaultdict[str, list[object]](list)
        """Usage that nested trackers add here."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        if not name.startswith("on_"):
            raise AttributeError(name)
        return _ignore  # callbacks of modules, tools and parsers

    def on_lm_start(self, *, call_id: str, instance: Any, inputs: Mapping[str, object]) -> None:
        """Reserve the call."""
        messages = list_of(inputs.get("messages")) or [inputs.get("prompt")]
        try:
            self._calls.begin(call_id, *map(str, messages), model=instance.model)
        except MoaError as error:
            raise _Stop(error) from None

    def add_usage(self, lm: str, usage_entry: Mapping[str, object]) -> None:
        """Record the usage of the call in progress."""
        del lm
        self._usage[self._active.get()] = usage_entry

    def on_lm_end(
        self, *, call_id: str, outputs: object, exception: BaseException | None = None
    ) -> None:
        """Charge the call's usage."""
        del outputs
        usage = self._usage.pop(call_id, None)
        if exception is not None:
            self._calls.fail(call_id, exception)
        elif usage is not None or self._settings.usage_tracker is not self:
            self._calls.answer(call_id, usage)
        else:
            self._calls.release(call_id)
