"""What the benchmark of recipes is made of: recipes, the models they ask, and graders."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from kept import Kept
from moa import EmbeddedEndpoint, Endpoints, VLLMEndpoint
from moa.config.tables import EMBEDDED, Config
from moa.core.context import RunContext
from moa.core.usage import Amount, Tier
from moa.documents.claims import claims_in
from moa.documents.sentences import sentences
from moa.endpoints import Completion, Endpoint, Prompt
from moa.endpoints.wrappers import Wrapping
from moa.local.embedded import EngineSettings
from moa.recipes.code import SandboxResult, source_of

Item = dict[str, Any]
"""A row with an `id`, what is asked, and what is right."""
Answer = dict[str, Any]
"""The `text` that came, and whatever else of it is graded."""
Scores = dict[str, float]
"""By measure, from 0 to 1. A measure that an item says nothing about is left out."""
Run = Callable[[Item, RunContext], Awaitable[Answer]]

HALVES = ("chosen", "reported")
WINDOW = 4096
"""Tokens of a model's window, where vLLM serves it."""
TIMEOUT_S = 7200.0
"""Seconds that one call may take."""
LIMIT_S = 5.0
"""Seconds that a program and its tests may run."""
_LIMITED = """
import resource, runpy
resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))
runpy.run_path("program.py", run_name="__main__")
"""
_WORD = re.compile(r"\w+")
_LISTED = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+(.*\S)", re.MULTILINE)
_ALIKE = 0.6
"""Share of the words of two texts that both have, from which on they say the same."""


class Plain:
    """Makes plain calls at temperature 0, and keeps what each prompt was answered.

    Args:
        llm: Who is asked.
        kept: Holds the answers, by model and prompt.
    """

    def __init__(self, llm: Endpoint, kept: Kept) -> None:
        self.llm = llm
        self.kept = kept
        self.spent: Answer = {}

    async def __call__(self, prompt: Prompt) -> str:
        """Ask, or take what is kept; what it takes is added to `spent`."""
        written = json.dumps([self.llm.model, asdict(prompt)], sort_keys=True)
        key = hashlib.sha256(written.encode()).hexdigest()[:32]
        if key not in self.kept.found:
            context, begun = RunContext(keep_notes=False), time.perf_counter()
            completion = await self.llm.complete(prompt, context)
            took = spent(context, time.perf_counter() - begun)
            self.kept.keep(key, {"text": completion.text, **took})
        found = dict(self.kept.found[key])
        text = found.pop("text")
        self.spent = {name: self.spent.get(name, 0) + value for name, value in found.items()}
        return text


_AMOUNT = TypeAdapter(Amount)
_DRAWN: ContextVar[Counter[str]] = ContextVar("drawn")
"""How often each prompt was asked about the item that is being answered."""
_SAVED: ContextVar[list[float]] = ContextVar("saved")
"""Seconds that samples took which are taken from the file."""


class Shared(Wrapping):
    """Gives the n-th answer to a prompt from a file, if some recipe had its n-th answer before.

    What it takes is charged as it was then, and its seconds count, so that only the machine is
    spared. It knows the samples of an item apart by their number, so they stay different.

    Args:
        endpoint: Who is asked else.
        kept: Holds the answers.
    """

    def __init__(self, endpoint: Endpoint, kept: Kept) -> None:
        super().__init__(endpoint)
        self.kept = kept

    async def complete(self, prompt: Prompt, context: RunContext, /) -> Completion:
        written = json.dumps([self.model, asdict(prompt)], sort_keys=True)
        digest = hashlib.sha256(written.encode()).hexdigest()[:32]
        drawn = _DRAWN.get()
        drawn[digest] += 1
        key = f"{digest}|{drawn[digest]}"
        found = self.kept.found.get(key)
        if found is not None:
            amount = _AMOUNT.validate_python(found["amount"])
            with await context.reserve(self.name, self.tier, amount) as call:
                call.settle(amount)
            _SAVED.get().append(found["seconds"])
            fields = {name: found[name] for name in ("text", "finish_reason", "model")}
            return Completion(**fields, endpoint=self.name, amount=amount)
        begun = time.perf_counter()
        completion = await self.endpoint.complete(prompt, context)
        self.kept.keep(
            key,
            {
                "text": completion.text,
                "finish_reason": completion.finish_reason,
                "model": completion.model,
                "amount": _AMOUNT.dump_python(completion.amount, mode="json"),
                "seconds": time.perf_counter() - begun,
            },
        )
        return completion

    async def stream(
        self, prompt: Prompt, context: RunContext, /
    ) -> AsyncIterator[str | Completion]:
        completion = await self.complete(prompt, context)
        yield completion.text
        yield completion


@contextmanager
def one_item() -> Generator[list[float]]:
    """Count samples from 1 within it, and collect the seconds of those that are kept."""
    saved: list[float] = []
    tokens = _DRAWN.set(Counter()), _SAVED.set(saved)
    try:
        yield saved
    finally:
        _DRAWN.reset(tokens[0])
        _SAVED.reset(tokens[1])


def spent(context: RunContext, seconds: float) -> Answer:
    """What a run took; tokens are those of the model that is measured, not of the built-in one."""
    by_endpoint, by_tier = context.usage.by_endpoint(), context.usage.by_tier()
    asked = [usage for name, usage in by_endpoint.items() if name in ("large", "small")]
    return {
        "calls": sum(usage.calls for usage in asked),
        "large": by_tier["llm"].calls if "llm" in by_tier else 0,
        "input": sum(usage.input_tokens for usage in asked),
        "output": sum(usage.output_tokens for usage in asked),
        "seconds": seconds,
    }


def endpoint_of(name: str, tier: Tier, model: str, *, slots: int = 0) -> Endpoint:
    """Make the endpoint of a GGUF file, or of `NAME@URL`, which vLLM serves.

    Args:
        name: Shown in traces and errors.
        tier: `slm` or `llm`.
        model: The file, or the model and its address.
        slots: Requests that the engine of a file answers at a time; 0 as it chooses itself.
    """
    served, at, url = model.partition("@")
    if at:
        return VLLMEndpoint(
            name,
            model=served,
            base_url=url,
            api_key=os.environ.get("VLLM_API_KEY"),
            tier=tier,
            context_window=WINDOW,
            connect_timeout_s=60,
            timeout_s=TIMEOUT_S,
        )
    return EmbeddedEndpoint(
        name,
        tier=tier,
        model_path=Path(model),
        settings=EngineSettings(slots=slots),
        timeout_s=TIMEOUT_S,
    )


class Models(Endpoints):
    """One model under two names, so that every part of a graph is asked of it; and the built-in.

    Args:
        model: A GGUF file, or `NAME@URL` of a model that vLLM serves, with the key in
            `VLLM_API_KEY`.
        data: Folder of the data sets.
        kept: For what a recipe finds out before its first item.
        samples: For what the model wrote, shared by the recipes.
        slots: Requests that the engine of a file answers at a time; 0 as it chooses itself.
    """

    def __init__(
        self, model: str, data: Path, kept: Kept, samples: Kept, *, slots: int = 0
    ) -> None:
        super().__init__(Config())
        self.data = data
        self.kept = kept
        self.large = Shared(endpoint_of("large", "llm", model, slots=slots), samples)
        small = Shared(endpoint_of("small", "slm", model, slots=slots), samples)
        self._built = {"large": self.large, "small": small, EMBEDDED: EmbeddedEndpoint(EMBEDDED)}
        self._folder = tempfile.TemporaryDirectory(prefix="recipes-")
        self.folder = Path(self._folder.name)

    @property
    def slm(self) -> Endpoint:
        return self._built["small"]

    @property
    def llm(self) -> Endpoint:
        return self.large

    async def close(self) -> None:
        await super().close()
        self._folder.cleanup()


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A graph, the plain call beside it, and how the answers of both are graded."""

    name: str
    measures: tuple[str, ...]
    """The first decides whether it pays."""
    items: Callable[[Path], Sequence[Item]]
    """From the folder of the data sets; even ones are to choose prompts on, odd ones to report."""
    graph: Callable[[Models], Awaitable[Run]]
    plain: Callable[[Models, Item, Plain], Awaitable[Answer]]
    grade: Callable[[Item, Answer], Scores]
    warms: bool = False
    """Whether an item of the other half is asked first, and not counted: at its first decision an
    agent finds out the model's bias, once for all items."""
    read: bool = False
    """Whether people are to read its texts."""


def rows_of(path: Path) -> list[Item]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def own(name: str) -> list[Item]:
    """Rows of a file beside this one."""
    return rows_of(Path(__file__).parent / "data" / f"recipes_{name}.jsonl")


def words_of(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def holds(text: str, answers: Sequence[str]) -> bool:
    """Whether a text has the words of one of several answers, next to each other."""
    inside = f" {' '.join(words_of(text))} "
    return any(f" {' '.join(words_of(answer))} " in inside for answer in answers)


def cites(text: str, sources: Mapping[str, str], holding: Sequence[str]) -> bool:
    """Whether a text cites a passage that holds the answer.

    Args:
        text: Cites by `[1]`.
        sources: Passages, by the numbers that they are cited by.
        holding: The passages that hold the answer.
    """
    numbers = {str(number) for statement in claims_in(text) for number in statement.numbers}
    return any(sources.get(number) in holding for number in numbers)


def listed(text: str) -> list[str]:
    """The points of a list."""
    return _LISTED.findall(text)


def distinct(texts: Sequence[str]) -> list[str]:
    """Leave out texts that share most of their words with one before."""
    kept: list[tuple[str, set[str]]] = []
    for text in texts:
        words = set(words_of(text))
        if words and all(len(words & one) < _ALIKE * len(words | one) for _, one in kept):
            kept.append((text, words))
    return [text for text, _ in kept]


def unrepeated(text: str) -> float:
    """Share of the sentences of a text that say something new."""
    found = [sentence for _, sentence in sentences(text) if words_of(sentence)]
    return len(distinct(found)) / len(found) if found else 0.0


def same(given: object, gold: object) -> bool:
    """Whether a field is right: null where it is, a number by its value, a text by its words.

    An article before a name and a plural are no mistake.
    """
    if gold is None or given is None:
        return not given and not gold
    if isinstance(gold, int | float):
        return isinstance(given, int | float) and abs(given - gold) < 0.005
    return _bare(str(given)) == _bare(str(gold))


def _bare(text: str) -> list[str]:
    words = [word for word in words_of(text) if word not in ("a", "an", "the")]
    return [re.sub(r"(?<=\w{3})(?:(?<=ss)es|(?<!s)s)$", "", word) for word in words]


def json_in(text: str) -> Any:
    """The object that a reply holds, fenced or not; `None` where it holds none."""
    start, end = text.find("{"), text.rfind("}")
    try:
        return json.loads(text[start : end + 1])
    except ValueError:
        return None


class Subprocess:
    """Runs a program and its tests in a Python of its own, with limits of time and memory.

    It has no environment, an empty folder, and ends with all its children. That stops mistakes; a
    program that means harm takes a container.

    Args:
        limit_s: Seconds until it is killed.
    """

    def __init__(self, limit_s: float = LIMIT_S) -> None:
        self.limit_s = limit_s

    def now(self, code: str, tests: str) -> SandboxResult:
        with tempfile.TemporaryDirectory() as folder:
            program = Path(folder) / "program.py"
            program.write_text(f"{code}\n\n{tests}\n", encoding="utf-8")
            process = subprocess.Popen(
                [sys.executable, "-I", "-c", _LIMITED],
                cwd=folder,
                env={},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
            )
            try:
                output, _ = process.communicate(timeout=self.limit_s)
            except subprocess.TimeoutExpired:
                return SandboxResult(passed=False, output=f"not done in {self.limit_s:g} s")
            finally:
                _end(process)
        return SandboxResult(passed=process.returncode == 0, output=output[-4000:])


def _end(process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert process.stdout is not None, "it was asked for"
    process.stdout.close()


def passes(reply: str, tests: str, runner: Subprocess) -> bool:
    """Whether the program in a reply passes tests that its writer has not seen."""
    try:
        source = source_of(reply)
    except ValueError:
        return False
    return runner.now(source.code, tests).passed


def half_of(items: Sequence[Item], half: str, most: int) -> list[Item]:
    """The items of a half, the first ones."""
    return list(items[HALVES.index(half) :: 2][:most])
