"""Jobs of several keys and several servers: none of them does anything to another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from moa import Result, RunContext
from moa.core.context import Reference
from moa.core.errors import StoreError
from moa.core.usage import FREE, Amount
from moa.serving.keys import KeyFile, StoredKeys, key_store
from moa.serving.ledger import Ledger as KeyLedger
from moa.serving.limits import Limits

from .harness import SPENT, Ledger, SomeKeys, add_key, client_of, server_with, until
from .test_jobs import begun, ended

JSON = {"content-type": "application/json"}


class Holding:
    """A node that makes a call for each row, and holds those that it is told to hold."""

    name = "shout"
    input_type = str

    def __init__(self, *, most: int | None = None) -> None:
        self.rows: list[str] = []
        self.most = most
        """Number of rows that it answers before it holds the next; `None`: it holds none."""
        self.ended = asyncio.Event()
        """A row that is cancelled ends once this is set."""
        self.ended.set()
        self.is_ending = False

    def holds(self, request: str) -> bool:
        return request == "held" or (self.most is not None and len(self.rows) >= self.most)

    async def run(self, request: str, context: RunContext | None = None, /) -> Result[str]:
        assert context is not None
        try:
            await until(lambda: not self.holds(request), seconds=3600)
        except asyncio.CancelledError:
            self.is_ending = True
            await self.ended.wait()
            raise
        with await context.reserve("small", "slm", SPENT, price=FREE) as call:
            call.settle(FREE.charge(SPENT))
        self.rows.append(request)
        return Result(output=request.upper(), usage=context.usage)


def of(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {name}"}


@asynccontextmanager
async def asking(
    node: Holding, folder: Path, *, keys: Any, headers: dict[str, str]
) -> AsyncGenerator[httpx2.AsyncClient]:
    """Ask a server of a node, as one key."""
    _, app = server_with(node, keys=keys, jobs=folder)
    async with client_of(app, headers=JSON | headers) as client:
        yield client


async def test_jobs_of_one_key_leave_turns_to_the_jobs_of_others(tmp_path: Path) -> None:
    ann, bob = Ledger("ann"), Ledger("bob")
    async with asking(Holding(), tmp_path, keys=SomeKeys(ann, bob), headers=of("ann")) as client:
        for _ in range(6):
            await begun(client, ["held"])
        client.headers.update(of("bob"))
        await ended(client, await begun(client, ["one", "two"]))
        assert ann.inside == 2, "those that wait for their turn take no run of their key"


async def test_without_keys_as_many_jobs_run_at_once_as_may(tmp_path: Path) -> None:
    _, app = server_with(node := Holding(most=0), jobs=tmp_path)
    async with client_of(app) as client:
        ids = [await begun(client, [str(number)]) for number in range(6)]
        node.most = None
        for id in ids:
            await ended(client, id)
    assert sorted(node.rows) == [str(number) for number in range(6)]


async def test_a_job_waits_while_a_run_of_its_dead_server_counts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys, jobs = str(tmp_path / "keys.toml"), tmp_path / "jobs"
    headers = add_key(keys, "bob", parallel=1)
    first, second = Holding(most=1), Holding()
    async with asking(first, jobs, keys=StoredKeys(keys), headers=headers) as client:
        id = await begun(client, ["one", "two"])
        await until(lambda: len(first.rows) == 1)
    with KeyLedger(KeyFile(Path(keys)).ledger) as dead:
        dead.renew()
        dead.begin("bob", Limits(), "a run")
        async with asking(second, jobs, keys=StoredKeys(keys), headers=headers) as client:
            await until(lambda: f"job {id} waits" in caplog.text)
            assert (await client.get(f"/jobs/{id}")).json()["phase"] == "running"
            dead.settle("a run", Amount())
            await ended(client, id)
    assert first.rows + second.rows == ["one", "two"]


async def test_a_job_that_goes_on_is_no_further_request_of_the_minute(tmp_path: Path) -> None:
    keys, jobs = str(tmp_path / "keys.toml"), tmp_path / "jobs"
    headers = add_key(keys, "bob", requests_per_minute=1)
    first, second = Holding(most=1), Holding()
    async with asking(first, jobs, keys=StoredKeys(keys), headers=headers) as client:
        id = await begun(client, ["one", "two"])
        await until(lambda: len(first.rows) == 1)
        body = {"model": "shout", "rows": ["one"]}
        assert (await client.post("/jobs", json=body)).status_code == 429
    async with asking(second, jobs, keys=StoredKeys(keys), headers=headers) as client:
        await ended(client, id)
    assert first.rows + second.rows == ["one", "two"]


class Away(Ledger):
    """A key whose ledger can't be reached at the first time that a job wants to work."""

    is_away = True

    @asynccontextmanager
    async def admit(
        self,
        name: str,
        *,
        timeout_s: float | None = None,
        reference: Reference | None = None,
        is_request: bool = True,
    ) -> AsyncGenerator[RunContext]:
        if self.is_away and not is_request:
            self.is_away = False
            raise StoreError("the database of the keys is away")
        async with super().admit(name, timeout_s=timeout_s, reference=reference) as context:
            yield context


async def test_a_job_waits_for_a_ledger_that_cannot_be_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moa.serving.jobs._LATER_S", 0.01)
    ann = Away("ann")
    async with asking(Holding(), tmp_path, keys=SomeKeys(ann), headers=of("ann")) as client:
        await ended(client, await begun(client, ["one"]))
    assert not ann.is_away


async def test_a_job_of_a_revoked_key_is_stopped_says_why_and_loses_no_row(tmp_path: Path) -> None:
    keys, jobs = str(tmp_path / "keys.toml"), tmp_path / "jobs"
    headers, node = add_key(keys, "bob", calls_per_day=99), Holding(most=1)
    async with asking(node, jobs, keys=StoredKeys(keys), headers=headers) as client:
        id = await begun(client, [str(number) for number in range(9)])
        await until(lambda: len(node.rows) == 1)
        with key_store(keys) as store:
            store.remove("bob")
        node.most = None
        await asyncio.sleep(0.1)
        client.headers.update(add_key(keys, "bob", calls_per_day=99))
        said = await ended(client, id, "stopped")
        assert "revoked" in said["why"]
        assert not said["causes"]
        resumed = (await client.post(f"/jobs/{id}/resume")).json()
        assert (resumed["phase"], "why" in resumed) == ("running", False)
        assert (await ended(client, id))["rows"] == {"done": 9}
    assert len(node.rows) == 9


async def test_a_job_whose_key_is_spent_is_stopped_and_says_why(tmp_path: Path) -> None:
    keys, jobs = str(tmp_path / "keys.toml"), tmp_path / "jobs"
    headers = add_key(keys, "bob", calls_per_day=2)
    async with asking(Holding(), jobs, keys=StoredKeys(keys), headers=headers) as client:
        id = await begun(client, [str(number) for number in range(5)])
        said = await ended(client, id, "stopped")
    assert "0 of 2 calls a day" in said["why"]
    assert (said["rows"]["done"], said["left"]) == (2, 3)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[]", b'{"caller": 1}', None])
async def test_a_damaged_job_harms_no_other_and_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes | None
) -> None:
    keys = SomeKeys(Ledger("ann"), Ledger("bob"))
    async with asking(Holding(), tmp_path, keys=keys, headers=of("bob")) as client:
        bad = await begun(client, ["one"])
        await ended(client, bad)
    path = tmp_path / bad / "owner.json"
    path.unlink()
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    async with asking(Holding(), tmp_path, keys=keys, headers=of("ann")) as client:
        id = await begun(client, ["one"])
        await ended(client, id)
        for _ in range(2):
            assert [job["id"] for job in (await client.get("/jobs")).json()["jobs"]] == [id]
            assert (await client.get(f"/jobs/{bad}")).status_code == 404
    told = [line for line in caplog.messages if "a job is left out" in line]
    assert len(told) == 1
    assert str(path) in told[0]
    assert "remove its folder" in told[0]


async def test_an_interrupted_job_goes_on_whose_owner_says_only_the_necessary(
    tmp_path: Path,
) -> None:
    first = Holding(most=1)
    async with asking(first, tmp_path, keys=SomeKeys(Ledger("ann")), headers=of("ann")) as client:
        id = await begun(client, ["one", "two"])
        await until(lambda: first.rows == ["one"])
    path = tmp_path / id / "owner.json"
    path.write_text('{"caller": "ann", "model": "shout", "created": 1}')
    keys = SomeKeys(Ledger("ann"))
    async with asking(Holding(), tmp_path, keys=keys, headers=of("ann")) as client:
        assert (await ended(client, id))["rows"] == {"done": 2}


async def test_a_server_that_ends_a_cancelled_job_late_does_not_stop_one_that_was_resumed(
    tmp_path: Path,
) -> None:
    ann, bob = Ledger("ann"), Ledger("ann")  # of each server one
    first, second = Holding(most=1), Holding(most=0)
    first.ended.clear()
    async with (
        asking(first, tmp_path, keys=SomeKeys(ann), headers=of("ann")) as one,
        asking(second, tmp_path, keys=SomeKeys(bob), headers=of("ann")) as two,
    ):
        id = await begun(one, ["a", "b"])
        await until(lambda: first.rows == ["a"])
        assert (await two.post(f"/jobs/{id}/cancel")).json()["phase"] == "cancelled"
        await until(lambda: first.is_ending)
        assert (await two.post(f"/jobs/{id}/resume")).json()["phase"] == "running"
        first.ended.set()
        await until(lambda: not ann.inside)
        await asyncio.sleep(0.1)
        assert (await one.get(f"/jobs/{id}")).json()["phase"] == "running"
        second.most = None
        await ended(one, id)
    assert first.rows + second.rows == ["a", "b"]


async def test_a_job_cancelled_at_one_server_is_resumed_at_the_one_that_still_works_on_it(
    tmp_path: Path,
) -> None:
    first = Holding(most=1)
    async with (
        asking(first, tmp_path, keys=SomeKeys(Ledger("ann")), headers=of("ann")) as one,
        asking(Holding(), tmp_path, keys=SomeKeys(Ledger("ann")), headers=of("ann")) as two,
    ):
        id = await begun(one, ["a", "b"])
        await until(lambda: first.rows == ["a"])
        assert (await two.post(f"/jobs/{id}/cancel")).json()["phase"] == "cancelled"
        assert (await one.post(f"/jobs/{id}/resume")).json()["phase"] == "running"
        first.most = None
        await ended(one, id)
    assert first.rows == ["a", "b"]


async def test_many_cancels_and_resumes_at_two_servers_leave_a_job_that_goes_on(
    tmp_path: Path,
) -> None:
    first, second = Holding(most=1), Holding(most=0)
    async with (
        asking(first, tmp_path, keys=SomeKeys(Ledger("ann")), headers=of("ann")) as one,
        asking(second, tmp_path, keys=SomeKeys(Ledger("ann")), headers=of("ann")) as two,
    ):
        id = await begun(one, ["a", "b", "c"])
        await until(lambda: first.rows == ["a"])
        for way, other in (("cancel", "resume"), ("resume", "cancel")) * 4:
            answers = await asyncio.gather(
                one.post(f"/jobs/{id}/{way}"), two.post(f"/jobs/{id}/{other}")
            )
            assert {answer.status_code for answer in answers} == {200}
        assert (await two.post(f"/jobs/{id}/resume")).json()["phase"] == "running"
        first.most = second.most = None
        said = await ended(one, id)
    assert said["rows"] == {"done": 3}
    assert sorted(first.rows + second.rows) == ["a", "b", "c"]
