"""DSPyNode: a module of DSPy as a node."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any, Unpack

from moa._json import JSON, is_object, list_of
from moa._threads import USER_THREADS
from moa.adapters import REPLY, TEXT, Adapter, Calls, Settings
from moa.agents.base import In, Out
from moa.errors import ConfigError, MissingDependency, MoaError


class DSPyNode(Adapter[In, Out]):
    """A module of DSPy.

        DSPyNode(dspy.Predict("question -> answer"))          # text in, a `Reply` out
        DSPyNode(dspy.ChainOfThought(Triage), input=Mail, output=Ticket)

    Every call of a model is counted, by DSPy's callbacks; what its cache answers costs nothing. A
    module that has no `aforward` runs in a thread.

    Args:
        module: Is called by its `acall`.
        input: What it takes: a text or any pydantic model, unless it is said.
        output: What it gives: a `Reply` of the last field, or a pydantic model that is made of the
            fields of the prediction.
        read: Makes the fields of the module's input; `None`: those of the model, or the text as
            the only field of its first predictor.
        write: Makes the output of the prediction; `None`: as `output` says.
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
        """Name the fields of the input."""
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
        """Run the module, and count each model that it asks in the ledger."""
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
    """Ends a module: DSPy lets no `Exception` of a callback through."""

    def __init__(self, error: MoaError) -> None:
        super().__init__(str(error))
        self.error = error


def _ignore(**_: object) -> None:
    pass


class _Meter:
    """Counts what DSPy asks: a callback, and a tracker of usage."""

    def __init__(self, calls: Calls, dspy: ModuleType) -> None:
        self._calls = calls
        self._settings = dspy.settings
        self._active = import_module("dspy.utils.callback").ACTIVE_CALL_ID
        self._usage: dict[str, object] = {}
        self.usage_data = defaultdict[str, list[object]](list)
        """Usage that trackers inside this one leave here."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        if not name.startswith("on_"):
            raise AttributeError(name)
        return _ignore  # of modules, tools and parsers

    def on_lm_start(self, *, call_id: str, instance: Any, inputs: Mapping[str, object]) -> None:
        """Set the call aside."""
        messages = list_of(inputs.get("messages")) or [inputs.get("prompt")]
        try:
            self._calls.begin(call_id, *map(str, messages), model=instance.model)
        except MoaError as error:
            raise _Stop(error) from None

    def add_usage(self, lm: str, usage_entry: Mapping[str, object]) -> None:
        """Hear what the call took that is under way here."""
        del lm
        self._usage[self._active.get()] = usage_entry

    def on_lm_end(
        self, *, call_id: str, outputs: object, exception: BaseException | None = None
    ) -> None:
        """Charge what it took."""
        del outputs
        usage = self._usage.pop(call_id, None)
        if exception is not None:
            self._calls.fail(call_id, exception)
        elif usage is not None or self._settings.usage_tracker is not self:
            self._calls.answer(call_id, usage)
        else:
            self._calls.release(call_id)
