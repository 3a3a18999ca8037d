"""LangChainNode: any runnable of LangChain as a node."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, Unpack
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.runnables.config import var_child_runnable_config

from moa.adapters import REPLY, TEXT, Adapter, Calls, Settings
from moa.agents.base import In, Out
from moa.core._json import is_table, object_of
from moa.core.errors import ConfigError

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage
    from langchain_core.outputs import LLMResult
    from langchain_core.runnables import Runnable

T = TypeVar("T")


class LangChainNode(Adapter[In, Out]):
    """A runnable of LangChain: a chain, a chat model, or an agent or graph of LangGraph.

        LangChainNode(prompt | model)                                  # text in, a `Reply` out
        LangChainNode(create_agent(model, tools), read=lambda text: {"messages": [("user", text)]})

    LangChain's callbacks count each model call inside. If the output is a `Reply`, its text is
    streamed to the run's listener. A graph that asks a person by `interrupt` raises `ConfigError`
    when it does.

    Args:
        runnable: The runnable, called by `ainvoke`. Bind its own settings by `with_config`.
        input: Input type; by default a text or any pydantic model.
        output: Output type: by default a `Reply` with the text, else a pydantic model of the value
            or its `structured_response`.
        read: Makes the runnable's input; `None`: the text, or the model's fields by name.
        write: Makes the output from the runnable's result; `None`: as `output` says.
        settings: See `Settings`.
    """

    def __init__(
        self,
        runnable: Runnable[Any, Any],
        *,
        input: type[In] = TEXT,
        output: type[Out] = REPLY,
        read: Callable[[In], object] | None = None,
        write: Callable[[Any], Out] | None = None,
        **settings: Unpack[Settings],
    ) -> None:
        super().__init__(
            input=input,
            output=output,
            read=read,
            write=write,
            default_name=runnable.get_name(),
            **settings,
        )
        self.runnable = runnable

    async def ask(self, value: object, calls: Calls) -> object:
        """Run it, and count each of its model calls in the ledger."""
        meter = (_ShowingMeter if self.shows(calls.context) else _Meter)(calls)
        # Run it apart from a LangGraph graph that holds this node: else that graph would be asked
        # for this one's state, and would stream its texts twice.
        around = var_child_runnable_config.set(None)
        try:
            answer: object = await self.runnable.ainvoke(value, {"callbacks": [meter]})
        finally:
            var_child_runnable_config.reset(around)
        if is_table(answer) and "__interrupt__" in answer:
            raise ConfigError(
                f"{self.name}: the graph stopped to ask a person, and nothing here can answer it. "
                "Ask in the graph of moa, by g.ask_human, before or after this node"
            )
        return answer


class _Meter(BaseCallbackHandler):
    """Counts LangChain's model calls. It stops a call by raising, also in threads."""

    raise_error = True
    run_inline = True

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def on_chat_model_start(
        self,
        serialized: dict[str, object],
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        **about: object,
    ) -> None:
        """Reserve the call."""
        self.on_llm_start(
            serialized,
            [str(message.text) for batch in messages for message in batch],
            run_id=run_id,
            **about,
        )

    def on_llm_start(
        self, serialized: dict[str, object], prompts: list[str], *, run_id: UUID, **about: object
    ) -> None:
        """Reserve the call."""
        model = object_of(about.get("metadata")).get("ls_model_name")
        self._calls.begin(run_id, *prompts, model=model if isinstance(model, str) else None)

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **about: object) -> None:
        """Charge the call's usage."""
        del about
        generated = response.generations[0][0] if response.generations else None
        usage: object = getattr(getattr(generated, "message", None), "usage_metadata", None)
        usage = usage or (response.llm_output or {}).get("token_usage")
        self._calls.answer(run_id, usage, str(getattr(generated, "text", "")))

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **about: object) -> None:
        """Charge a failed call."""
        del about
        self._calls.fail(run_id, error)


class _ShowingMeter(_Meter):
    """Also shows texts. LangChain streams them because of the two `tap_output` methods."""

    def on_llm_new_token(self, token: object, **about: object) -> None:
        """Show a piece of text."""
        del about
        if isinstance(token, str):
            self._calls.show(token)

    def tap_output_aiter(self, run_id: UUID, output: T) -> T:
        """Return the stream unchanged."""
        del run_id
        return output

    def tap_output_iter(self, run_id: UUID, output: T) -> T:
        """Return the stream unchanged."""
        del run_id
        return output
