"""moa bench: what is sent, what is counted, and when nothing is sent at all."""

from __future__ import annotations

import asyncio
import signal
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from command import moa

from moa.advisor.bench import Bench, Step, measured
from moa.cli.bench import agree, counts, hourly
from moa.config import Config, EndpointConfig
from moa.config.endpoints import Endpoints
from moa.context import RunContext
from moa.endpoints import Completion, Prompt
from moa.endpoints.wrappers import Wrapping
from moa.errors import BudgetExceeded, ConfigError, EndpointUnavailable, OutputError
from moa.testing import ScriptedEndpoint, SimulatedEndpoint
from moa.testing import Step as Answer
from moa.usage import Budget, Price

PRICE = Price(input=Decimal(1), output=Decimal(2))


def rule(text: str) -> Answer:
    return "Once." if "story" in text else {}


def simulated(**settings: Any) -> SimulatedEndpoint:
    return SimulatedEndpoint(rule=rule, **settings)


async def steps(endpoint: Any, **settings: Any) -> list[Step]:
    settings = {"concurrencies": (1, 3), "seconds": 0.02, "rounds": 2, **settings}
    return [step async for step in Bench(endpoint=endpoint, **settings).steps()]


async def test_each_kind_of_work_is_measured_at_each_concurrency() -> None:
    found = await steps(simulated())
    assert [(step.work, step.concurrency) for step in found] == [
        (work, count) for count in (1, 3) for work in ("read", "reread", "write", "decide")
    ]
    for step in found:
        assert step.failed == 0
        assert step.input_tokens == 10 * step.requests
        assert 0 < step.latency_median_s <= step.latency_p95_s <= step.seconds


async def test_so_many_requests_are_in_flight_and_no_more() -> None:
    class Counting(Wrapping):
        inside = most = 0

        async def complete(self, prompt: Prompt, context: RunContext, /) -> Completion:
            self.inside += 1
            self.most = max(self.most, self.inside)
            await asyncio.sleep(0)
            self.inside -= 1
            return await super().complete(prompt, context)

    endpoint = Counting(simulated())
    await steps(endpoint, concurrencies=(5,))
    assert endpoint.most == 5


async def test_no_prompt_begins_like_another_but_where_that_is_measured() -> None:
    endpoint = simulated()
    await steps(endpoint)
    await steps(endpoint)
    texts = [prompt.messages[-1].content for prompt in endpoint.prompts] + endpoint.states
    assert len(set(texts)) == len(texts)
    known = [text for text in texts if not text[:12].isalnum()]
    new = [text for text in texts if text[:12].isalnum()]
    assert len({text[:12] for text in new}) == len(new)
    assert 2 <= len({text[:1000] for text in known}) < len(known)


async def test_what_an_endpoint_can_t_do_is_left_out() -> None:
    found = await steps(simulated(capabilities=frozenset(("decide",))), concurrencies=(1,))
    assert [step.work for step in found] == ["decide"]
    with pytest.raises(ConfigError):
        await steps(simulated(capabilities=frozenset(("embed",))))


async def test_a_failure_is_counted_and_ends_its_slot() -> None:
    asked = 0

    def failing(text: str) -> Answer:
        nonlocal asked
        asked += 1
        if asked > 5:  # three to warm up, and two that are answered
            raise EndpointUnavailable("HTTP 503", endpoint="m", status=503)
        return rule(text)

    endpoint = SimulatedEndpoint(rule=failing, capabilities=frozenset(("complete",)))
    bench = Bench(endpoint=endpoint, concurrencies=(4,), seconds=9, rounds=9).steps()
    read = await anext(bench)
    assert (read.requests, read.failed) == (2, 4)
    with pytest.raises(EndpointUnavailable):  # of the next step, nothing is answered
        await anext(bench)


async def test_a_server_that_is_not_there_is_told_before_anything_is_measured() -> None:
    down = EndpointUnavailable("refused", endpoint="m")
    with pytest.raises(EndpointUnavailable, match="refused"):
        await steps(ScriptedEndpoint(steps=[down]))


async def test_a_model_that_thinks_and_writes_nothing_is_counted_all_the_same() -> None:
    class Thinking(Wrapping):
        async def complete(self, prompt: Prompt, context: RunContext, /) -> Completion:
            await super().complete(prompt, context)
            raise OutputError("thoughts and no answer", node="m", text="")

    found = await steps(Thinking(simulated()), concurrencies=(1,))
    assert len(found) == 4
    assert all(step.requests for step in found)


async def test_the_budget_ends_it() -> None:
    answered: list[str] = []
    endpoint = SimulatedEndpoint(
        rule=lambda text: answered.append(text) or "Once.",
        capabilities=frozenset(("complete",)),
    )
    budget = Budget(calls=7)
    bench = Bench(endpoint=endpoint, concurrencies=(2,), seconds=9, rounds=9, budget=budget)
    with pytest.raises(BudgetExceeded):
        [step async for step in bench.steps()]
    assert len(answered) == 7


async def test_what_it_costs_is_no_more_than_was_said() -> None:
    endpoint = simulated(price=PRICE)
    bench = Bench(endpoint=endpoint, concurrencies=(1, 2), seconds=9, rounds=2)
    most, requests = bench.estimate(PRICE), bench.most_requests
    assert most is not None
    assert requests is not None
    measured_ones = [step async for step in bench.steps()]
    assert sum(step.input_tokens + 2 * step.output_tokens for step in measured_ones) < most * 10**6
    assert len(endpoint.prompts) + len(endpoint.states) <= requests
    assert bench.estimate(Price()) is None


OWN = EndpointConfig(tier="slm", model="m", base_url="http://127.0.0.1:9/v1")


@pytest.mark.parametrize(
    ("entry", "billed"),
    [
        (OWN, False),
        (OWN.model_copy(update={"base_url": "http://10.0.0.7:8000/v1"}), False),
        (OWN.model_copy(update={"base_url": "http://gpu-box:8000/v1"}), False),
        (OWN.model_copy(update={"base_url": "https://llm.example.com/v1"}), True),
        (OWN.model_copy(update={"base_url": ("http://10.0.0.7/v1", "http://8.8.8.8/v1")}), True),
        (EndpointConfig(tier="llm", model="gpt-5-mini"), True),
        (EndpointConfig(tier="llm", model="gpt-5-mini", serve="llama.cpp"), False),
    ],
)
def test_who_may_send_a_bill_is_asked_only_after_a_yes(entry: EndpointConfig, billed: bool) -> None:
    bench, config = Bench(endpoint=simulated(), concurrencies=(1,)), Config(endpoints={"x": entry})
    if billed:
        with pytest.raises(ConfigError, match=r"nothing was sent.*--yes"):
            agree(bench, config, "x", may_cost=False)
        agree(bench, config, "x", may_cost=True)
        assert bench.rounds is not None
    else:
        agree(bench, config, "x", may_cost=False)
        assert bench.rounds is None


def test_watts_and_rent_become_an_hourly_price() -> None:
    assert hourly(0.8, None, None) == Decimal("0.8")
    assert hourly(None, 500, 0.3) == Decimal("0.15")
    assert hourly(1, 500, 0.3) == Decimal("1.15")
    assert hourly(None, None, None) is None
    for watts, kwh in ((500, None), (None, 0.3)):
        with pytest.raises(ConfigError, match="go together"):
            hourly(None, watts, kwh)


def test_concurrencies_are_read_from_a_list() -> None:
    assert counts("1, 8,32") == (1, 8, 32)
    for wrong in ("", "0", "1,x", "1,,2", "-1"):
        with pytest.raises(ConfigError, match="--steps"):
            counts(wrong)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "moa.toml").write_text(
        '[endpoints.small]\ntier = "slm"\nmodel = "m"\nbase_url = "http://127.0.0.1:9/v1"\n'
    )
    return tmp_path


def configured_as(endpoint: SimulatedEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    def named(self: Endpoints, name: str) -> SimulatedEndpoint:
        del self, name
        return endpoint

    monkeypatch.setattr("moa.config.endpoints.Endpoints.named", named)


def called(*words: str) -> int:
    return moa("bench", *words)


def test_the_command_keeps_what_it_measured(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    configured_as(simulated(model="m"), monkeypatch)
    assert called("small", "--steps", "2", "--seconds", "0.1", "--hourly-usd", "1") == 0
    assert "decisions" in capsys.readouterr().out
    kept = measured("small")
    assert kept is not None
    assert len(kept.steps) == 4
    assert kept.usd_per_thousand_decisions is not None
    assert (folder / "moa.bench.json").is_file()


def test_ctrl_c_keeps_what_was_measured_until_then(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del folder

    def impatient(text: str) -> Answer:
        if "Write" in text and len(endpoint.prompts) > 5:
            signal.raise_signal(signal.SIGINT)
        return rule(text)

    endpoint = SimulatedEndpoint(rule=impatient, model="m")
    configured_as(endpoint, monkeypatch)
    assert called("small", "--steps", "1", "--seconds", "0.1") == 130
    kept = measured("small")
    assert kept is not None
    assert kept.stopped
    assert [step.work for step in kept.steps] == ["read", "reread"]


def test_an_endpoint_that_is_not_configured_is_told(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    del folder
    assert called("smal") == 2
    assert "Did you mean 'small'?" in capsys.readouterr().err
