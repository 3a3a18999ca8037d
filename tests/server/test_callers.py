"""Who asks with a key: what it may run, and that its calls are set aside before they are sent."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from moa import Agent, Budget, Price
from moa.core.errors import (
    BudgetExceeded,
    ConfigError,
    DeadlineExceeded,
    KeySpent,
    PriceUnknown,
    RequestRefused,
    StoreError,
)
from moa.core.usage import Amount
from moa.endpoints.wrappers import Cached
from moa.serving.keys import Caller, KeyFile, StoredKeys, key_store, keys_in
from moa.testing import ScriptedEndpoint

from .harness import add_key

PRICE = Price(input=Decimal(10), output=Decimal(100))


@pytest.fixture(params=["file", "postgres"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgres":
        return f"{request.getfixturevalue('postgres')}#shop"
    return str(tmp_path / "keys.toml")


def add(address: str, name: str = "alice", **limits: Any) -> str:
    """Add a key, and give what its owner sends."""
    return add_key(address, name, **limits)["authorization"]


@asynccontextmanager
async def opened(address: str) -> AsyncGenerator[StoredKeys]:
    keys = keys_in(address)
    assert isinstance(keys, StoredKeys)
    await keys.open()
    try:
        yield keys
    finally:
        await keys.close()


def agent(*answers: str, **more: Any) -> Agent[Any, Any]:
    return Agent(ScriptedEndpoint(answers or ["Fine."] * 100, **more), "Answer.")


async def test_a_key_lets_its_owner_in_and_no_one_else(address: str) -> None:
    secret = add(address, graphs=["support"])
    async with opened(address) as keys:
        caller = await keys.caller(secret)
        assert (caller.name, caller.may_run("support"), caller.may_run("spam")) == (
            "alice",
            True,
            False,
        )
        for wrong in (None, "", "Bearer", "Bearer ", f"{secret}x", "Basic abc", secret[:-1]):
            with pytest.raises(RequestRefused) as refused:
                await keys.caller(wrong)
            assert refused.value.status == 401
            assert refused.value.headers == {"www-authenticate": "Bearer"}


async def test_a_revoked_key_is_refused_at_once_and_its_run_makes_no_further_call(
    address: str,
) -> None:
    secret = add(address, calls_per_day=10)
    node = agent()
    async with opened(address) as keys:
        caller = await keys.caller(secret)
        async with caller.admit("agent") as context:
            await node.run("Hi", context)
            with key_store(address) as store:
                store.remove("alice")
            with pytest.raises(RequestRefused, match="revoked"):
                await node.run("Hi", context)
        with pytest.raises(RequestRefused):
            await keys.caller(secret)
        assert await keys.caller_by_name("alice") is None


async def test_a_key_that_is_added_and_limits_that_change_are_known_at_once(address: str) -> None:
    add(address)
    async with opened(address) as keys:
        late = add(address, "bob", calls_per_day=0)
        caller = await keys.caller(late)
        with pytest.raises(KeySpent):
            async with caller.admit("agent"):
                pass


@pytest.mark.parametrize("limit", ["requests_per_minute", "parallel", "calls_per_day"])
async def test_a_look_at_what_a_key_may_counts_nothing_and_refuses_as_a_run_is(
    address: str, limit: str
) -> None:
    limits: dict[str, Any] = {limit: 1}
    secret = add(address, **limits)
    async with opened(address) as keys:
        caller = await keys.caller(secret)
        for _ in range(3):
            await caller.check()
        async with caller.admit("agent") as context:
            await agent().run("Hi", context)
            refusals: list[str] = []
            for ask in (caller.check(), caller.admit("agent").__aenter__()):
                with pytest.raises((KeySpent, RequestRefused)) as refused:
                    await ask
                refusals.append(str(refused.value))
    assert refusals[0] == refusals[1]


async def test_parallel_runs_do_not_pass_a_limit_and_use_it_up(address: str) -> None:
    secret = add(address, calls_per_day=30)
    node, sent = agent(), list[str]()

    async def run(keys: StoredKeys) -> str:
        caller = await keys.caller(secret)
        try:
            async with caller.admit("agent") as context:
                for _ in range(3):
                    sent.append(str((await node.run("Hi", context.nested())).output))
        except KeySpent:
            return "spent"
        return "done"

    async with opened(address) as one, opened(address) as other:
        came = await asyncio.gather(*(run(keys) for keys in [one, other] * 20))
        assert len(sent) == 30
        assert "spent" in came
        standing = one.ledger.usage_of("alice")
        assert (standing.day.calls, standing.held.calls, standing.runs) == (30, 0, 0)


async def test_dollars_are_set_aside_and_what_was_not_used_is_given_back(tmp_path: Path) -> None:
    address = str(tmp_path / "keys.toml")
    secret = add(address, usd_per_day=Decimal("0.02"))
    node, done = agent(price=PRICE), list[str]()

    async def work(caller: Caller) -> None:
        while True:
            async with caller.admit("agent") as context:
                done.append(str((await node.run("Hi", context)).output))

    async with opened(address) as keys:
        with pytest.raises(KeySpent) as refused:
            await work(await keys.caller(secret))
        standing = keys.ledger.usage_of("alice")
        assert len(done) > 1
        assert standing.held.nano == 0
        assert 0 < standing.day.usd <= Decimal("0.02")
        assert refused.value.left["usd_per_day"] == pytest.approx(0.02 - float(standing.day.usd))


async def test_a_key_with_dollars_asks_no_endpoint_without_a_price(tmp_path: Path) -> None:
    address = str(tmp_path / "keys.toml")
    dollars, calls = add(address, usd_per_month=1), add(address, "bob", calls_per_day=1)
    async with opened(address) as keys:
        async with (await keys.caller(dollars)).admit("agent") as context:
            with pytest.raises(PriceUnknown):
                await agent(price=Price()).run("Hi", context)
        async with (await keys.caller(calls)).admit("agent") as context:
            await agent(price=Price()).run("Hi", context)
        assert keys.ledger.usage_of("bob").day.unpriced == 1


async def test_what_a_cancelled_run_has_paid_is_in_the_ledger(address: str) -> None:
    secret = add(address, calls_per_day=5, parallel=1)
    paid = asyncio.Event()

    async with opened(address) as keys:
        caller = await keys.caller(secret)

        async def run() -> None:
            async with caller.admit("agent") as context:
                for _ in range(2):
                    await agent().run("Hi", context)
                paid.set()
                await asyncio.sleep(60)

        working = asyncio.ensure_future(run())
        await paid.wait()
        working.cancel()
        with pytest.raises(asyncio.CancelledError):
            await working
        await keys.ledger.finish()
        standing = keys.ledger.usage_of("alice")
        assert (standing.day.calls, standing.held.calls, standing.runs) == (2, 0, 0)


async def test_a_thin_key_is_seen_ahead_and_a_full_one_is_not_taken_to_be_thin(
    tmp_path: Path,
) -> None:
    address = str(tmp_path / "keys.toml")
    secret = add(address, calls_per_day=3)
    async with opened(address) as keys, (await keys.caller(secret)).admit("agent") as context:
        inner = context.nested()
        assert inner.limit_ahead([("llm", Amount(calls=3))]) is None
        assert inner.limit_ahead([("llm", Amount(calls=4))]) == "calls=4 of 3"


async def test_calls_of_frameworks_that_await_nothing_are_set_aside_too(address: str) -> None:
    secret = add(address, calls_per_day=1)
    async with opened(address) as keys, (await keys.caller(secret)).admit("agent") as context:
        with context.reserve_now("framework", "llm", Amount(calls=1)) as call:
            call.settle(Amount(calls=1))
        with pytest.raises(KeySpent):
            context.reserve_now("framework", "llm", Amount(calls=1))


async def test_a_run_that_is_refused_by_its_own_budget_is_not_told_that_the_key_is_spent(
    tmp_path: Path,
) -> None:
    address = str(tmp_path / "keys.toml")
    secret = add(address, calls_per_day=5)
    async with opened(address) as keys, (await keys.caller(secret)).admit("agent") as context:
        with pytest.raises(BudgetExceeded) as refused:
            await agent().run("Hi", context.nested(budget=Budget(calls=0)))
    assert not isinstance(refused.value, KeySpent)


async def test_a_deadline_ends_the_wait_for_dollars_of_others(tmp_path: Path) -> None:
    address = str(tmp_path / "keys.toml")
    secret = add(address, usd_per_day=1)
    half = Amount(calls=1, priced_cost=Decimal("0.6"), output_tokens=1)
    async with opened(address) as keys:
        caller = await keys.caller(secret)
        async with caller.admit("a") as one, caller.admit("b", timeout_s=0.3) as two:
            with await one.reserve("llm", "llm", half), pytest.raises(DeadlineExceeded):
                await two.reserve("llm", "llm", half)


async def test_a_cache_gives_no_caller_what_another_one_asked(tmp_path: Path) -> None:
    address = str(tmp_path / "keys.toml")
    alice, bob = add(address), add(address, "bob")
    endpoint = Cached(ScriptedEndpoint(["For Alice.", "For Bob."]))
    node, said = Agent(endpoint, "Answer."), list[str]()
    async with opened(address) as keys:
        for secret in (alice, alice, bob):
            async with (await keys.caller(secret)).admit("agent") as context:
                said.append(str((await node.run("Hi", context.nested())).output))
    assert said == ["For Alice.", "For Alice.", "For Bob."]


async def test_a_killed_server_leaves_known_what_a_key_without_limits_has_spent(
    tmp_path: Path,
) -> None:
    address = str(tmp_path / "keys.toml")
    secret = add(address)
    async with opened(address) as keys, (await keys.caller(secret)).admit("agent") as context:
        for _ in range(3):
            await agent(price=PRICE).run("Hi", context)
        keys.ledger.store.run("delete from moa_key_workers")
        keys.ledger.charge_the_dead()
        day = keys.ledger.usage_of("alice").day
    assert day.calls == 3
    assert day.usd > 0


async def test_keys_that_cannot_be_read_let_nobody_in(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    secret = add(str(path))
    async with opened(str(path)) as keys:
        path.write_text("[keys.alice]\nsha256 = 1")
        with pytest.raises(RequestRefused) as refused:
            await keys.caller(secret)
        assert (refused.value.status, str(path) in str(refused.value)) == (503, False)
        path.unlink()
        with pytest.raises(RequestRefused):
            await keys.caller(secret)


async def test_no_secret_is_logged_or_shown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    path = tmp_path / "keys.toml"
    secret = add(str(path), calls_per_day=1).removeprefix("Bearer ")
    async with opened(str(path)) as keys:
        caller = await keys.caller(f"Bearer {secret}")
        async with caller.admit("agent") as context:
            await agent().run("Hi", context)
        with pytest.raises(RequestRefused) as refused:
            await keys.caller(f"Bearer {secret}wrong")
    said = [caplog.text, str(refused.value), repr(vars(caller)), path.read_text()]
    assert not [one for one in said if secret in one]
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("keys = 1", "keys"),
        ("[keys.a]", "sha256"),
        ("[alice]\nsha256 = 'x'", "alice"),
        (f"[keys.a]\nsha256 = '{'0' * 64}'\nusd_per_week = 1", "usd_per_week"),
        (f"[keys.a]\nsha256 = '{'0' * 64}'\ncalls_per_day = -1", "calls_per_day"),
        (f"[keys.'a.b']\nsha256 = '{'0' * 64}'", "name"),
        (f"[keys.a]\nsha256 = '{'0' * 64}'\n[keys.b]\nsha256 = '{'0' * 64}'", "same"),
        ("[keys", "TOML"),
    ],
)
def test_a_file_that_holds_something_else_is_refused_with_the_place(
    tmp_path: Path, text: str, says: str
) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=says):
        keys_in(str(path))


def test_a_file_keeps_its_comments_and_says_where_its_ledger_is(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text('# Ours.\nledger = "state/spent.sqlite"\n')
    add(str(path))
    assert "# Ours." in path.read_text()
    assert KeyFile(path).ledger == tmp_path / "state/spent.sqlite"


def test_keys_that_are_made_at_once_are_all_kept(tmp_path: Path) -> None:
    path = str(tmp_path / "keys.toml")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(partial(add, path), [f"key{n}" for n in range(24)]))
    assert len(KeyFile(Path(path)).all()) == 24


async def test_a_run_whose_process_was_taken_to_be_dead_makes_no_further_call(
    tmp_path: Path,
) -> None:
    address = str(tmp_path / "keys.toml")
    secret = add(address, calls_per_day=5)
    async with opened(address) as keys:
        async with (await keys.caller(secret)).admit("agent") as context:
            await agent().run("Hi", context)
            keys.ledger.store.run("delete from moa_key_workers")
            keys.ledger.charge_the_dead()
            with pytest.raises(StoreError, match="away"):
                await agent().run("Hi", context)
        assert keys.ledger.usage_of("alice").day.calls == 1
