"""Jobs: rows in the body of a request, worked on beside it, and never lost."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import socket
import struct
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

from moa import Result, RunContext
from moa.core.errors import InputError
from moa.rows.jobs import Job

from .harness import SPENT, Ledger, SomeKeys, client_of, greeter, listening, server_with, until


class Shout:
    """A node that waits before each row but those it has done, if it is told to."""

    name = "shout"
    input_type = str

    def __init__(self, *, most: int | None = None) -> None:
        self.rows: list[str] = []
        self.most = most

    async def run(self, request: str, context: RunContext | None = None, /) -> Result[str]:
        assert context is not None
        if self.most is not None and len(self.rows) >= self.most:
            await asyncio.sleep(3600)
        with await context.reserve("small", "slm", SPENT) as call:
            call.settle(SPENT)
        self.rows.append(request)
        return Result(output=request.upper(), usage=context.usage)


async def begun(client: httpx2.AsyncClient, rows: list[Any], name: str = "shout") -> str:
    answer = await client.post("/jobs", json={"model": name, "rows": rows})
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"].endswith(answer.json()["id"])
    return answer.json()["id"]


async def ended(client: httpx2.AsyncClient, id: str, phase: str = "done") -> dict[str, Any]:
    said: dict[str, Any] = {}
    for _ in range(500):
        said = (await client.get(f"/jobs/{id}")).json()
        if said["phase"] == phase:
            return said
        await asyncio.sleep(0.02)
    raise AssertionError(said)


async def test_rows_of_a_body_are_worked_on_and_their_lines_can_be_read(tmp_path: Path) -> None:
    _, app = server_with(Shout(), jobs=tmp_path)
    async with client_of(app) as client:
        id = await begun(client, ["one", {"id": "b", "text": "two"}, {"nothing": 1}])
        said = await ended(client, id)
        found = (await client.get(f"/jobs/{id}/lines")).text.splitlines()
        failed = await client.get(f"/jobs/{id}/lines?state=dead")
        listed = (await client.get("/jobs")).json()["jobs"]
    lines = [json.loads(line) for line in found]
    assert said["rows"] == {"done": 2, "dead": 1}
    assert said["calls"] == 2
    assert [(line["id"], line["output"]) for line in lines[:2]] == [(1, "ONE"), ("b", "TWO")]
    assert json.loads(failed.text)["error"].startswith("InputError")
    assert [one["id"] for one in listed] == [id]


class Leaking:
    """A node whose errors and notes quote what only the server's owner may read."""

    name = "leaking"
    input_type = str
    output_type = str

    async def run(self, request: str, context: RunContext | None = None, /) -> Result[str]:
        assert context is not None
        context.note("retried", "after 0.3 s: postgresql://admin:hunter2@db failed")
        if request == "mine":
            raise InputError("a text has at most 9 words")
        raise RuntimeError("postgresql://admin:hunter2@db failed")


async def test_a_client_reads_no_error_or_note_of_a_row_that_is_for_the_server_s_owner(
    tmp_path: Path,
) -> None:
    _, app = server_with(Leaking(), jobs=tmp_path)
    async with client_of(app) as client:
        id = await begun(client, ["ours", "mine"], "leaking")
        address = f"/jobs/{id}/lines?state=failed&state=dead"
        while len((text := (await client.get(address)).text).splitlines()) < 2:  # noqa: ASYNC110  what is waited for has no event
            await asyncio.sleep(0.02)
    ours, mine = sorted(map(json.loads, text.splitlines()), key=lambda line: line["id"])
    assert "hunter2" not in text
    assert ours["error"].startswith("NodeError: ")
    assert mine["error"] == "InputError: a text has at most 9 words"
    assert [note["kind"] for note in mine["trace"]] == ["retried"]
    with Job(tmp_path / id) as job:
        assert "hunter2" in str([*job.lines("failed", "dead")])


async def test_every_line_of_many_rows_is_read_in_the_order_of_the_rows(tmp_path: Path) -> None:
    _, app = server_with(Shout(), jobs=tmp_path)
    async with client_of(app) as client:
        id = await begun(client, [str(number) for number in range(350)])
        await ended(client, id)
        found = (await client.get(f"/jobs/{id}/lines")).text.splitlines()
    assert [json.loads(line)["output"] for line in found] == [str(n) for n in range(350)]


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="counts them in /proc")
@pytest.mark.parametrize("reads", [0, 1, 100_000], ids=["nothing", "a byte", "some lines"])
async def test_readers_who_leave_early_keep_no_job_open(tmp_path: Path, reads: int) -> None:
    _, app = server_with(Long(), jobs=tmp_path)
    with without_collection():
        async with listening(app) as address:
            async with httpx2.AsyncClient(base_url=address) as client:
                id = await begun(client, [str(number) for number in range(500)], "long")
                await ended(client, id)
            for _ in range(20):
                await asyncio.to_thread(leave_early, address, f"/jobs/{id}/lines", reads)
            await until(lambda: not files_open_in(tmp_path))


class Long:
    """A node whose answers are so long that no socket takes them all unread."""

    name = "long"
    input_type = str

    async def run(self, request: str, context: RunContext | None = None, /) -> Result[str]:
        assert context is not None
        return Result(output=request * 10_000, usage=context.usage)


@contextmanager
def without_collection() -> Generator[None]:
    """Show what is only closed where the collector of cycles comes by."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def files_open_in(folder: Path) -> list[str]:
    """The files in a folder that this process has open."""
    links = list[str]()
    for number in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{number}"))
        except FileNotFoundError:  # the one that listed them
            continue
    return [link for link in links if link.startswith(str(folder))]


def leave_early(address: str, path: str, reads: int) -> None:
    """Ask, read some bytes of the answer, and reset the connection."""
    url = urlsplit(address)
    with socket.create_connection((url.hostname or "", url.port or 0), timeout=10) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
        left = reads
        while left > 0:
            left -= len(client.recv(min(left, 65536)))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def test_a_job_goes_on_when_the_server_starts_again_and_pays_for_no_row_twice(
    tmp_path: Path,
) -> None:
    first, ann = Shout(most=3), Ledger("ann")
    keys, headers = SomeKeys(ann), {"authorization": "Bearer ann"}
    _, app = server_with(first, keys=keys, jobs=tmp_path)
    rows = [f"row {number}" for number in range(6)]
    async with client_of(app, headers=headers) as client:
        id = await begun(client, list(rows))
        await until(lambda: len(first.rows) == 3)
    second = Shout()
    _, app = server_with(second, keys=keys, jobs=tmp_path)
    async with client_of(app, headers=headers) as client:
        await ended(client, id)
    assert sorted(first.rows + second.rows) == rows
    assert sum(usage.calls for usage in ann.settled) == 6


async def test_a_job_is_cancelled_and_resumed(tmp_path: Path) -> None:
    shout = Shout(most=1)
    _, app = server_with(shout, jobs=tmp_path)
    async with client_of(app) as client:
        id = await begun(client, ["one", "two"])
        await until(lambda: len(shout.rows) == 1)
        cancelled = (await client.post(f"/jobs/{id}/cancel", json={})).json()
        assert (cancelled["phase"], cancelled["left"]) == ("cancelled", 1)
        shout.most = None
        assert (await client.post(f"/jobs/{id}/resume", json={})).json()["phase"] == "running"
        await ended(client, id)
    assert sorted(shout.rows) == ["one", "two"]


async def test_a_job_cancelled_at_one_server_is_paid_no_further_in_another(
    tmp_path: Path,
) -> None:
    first, second = Shout(most=3), Shout()
    ann = Ledger("ann")
    headers = {"authorization": "Bearer ann"}
    (_, app), (_, other_app) = (
        server_with(shout, keys=SomeKeys(ann), jobs=tmp_path) for shout in (first, second)
    )
    async with client_of(other_app, headers=headers) as other:
        async with client_of(app, headers=headers) as client:
            id = await begun(client, [str(number) for number in range(40)])
            await until(lambda: len(first.rows) == 3)
            cancelled = (await other.post(f"/jobs/{id}/cancel", json={})).json()
            assert cancelled["phase"] == "cancelled"
            await until(lambda: len(ann.settled) == 2, seconds=30)  # the run of the first has ended
            assert len(first.rows) == 3
            assert (await client.get(f"/jobs/{id}")).json()["phase"] == "cancelled"
        assert (await other.post(f"/jobs/{id}/resume", json={})).status_code == 200
        await ended(other, id)
    assert len(first.rows + second.rows) == 40
    assert sum(usage.calls for usage in ann.settled) == 40


async def test_a_job_is_cancelled_and_resumed_by_an_object_or_no_body_and_by_nothing_else(
    tmp_path: Path,
) -> None:
    _, app = server_with(Shout(), jobs=tmp_path)
    headers = {"content-type": "application/json"}
    async with client_of(app, headers=headers) as client:
        id = await begun(client, ["one"])
        await ended(client, id)
        for way in ("cancel", "resume"):
            refused = [
                await client.post(f"/jobs/{id}/{way}", content=body)
                for body in (b"true", b"\0", b"[]")
            ]
            assert {answer.status_code for answer in refused} <= {400, 422}, way
            assert (await client.post(f"/jobs/{id}/{way}")).status_code == 200
        await ended(client, id)


async def test_a_job_that_cannot_be_kept_or_gone_on_with_is_told_and_hangs_nobody(
    tmp_path: Path,
) -> None:
    _, app = server_with(Shout(), jobs=tmp_path)
    async with client_of(app) as client:
        id = await begun(client, ["one"])
        await ended(client, id)
        tmp_path.rename(tmp_path.with_name("moved"))  # noqa: ASYNC240
        tmp_path.write_text("no folder")  # noqa: ASYNC240
        lost = await client.post("/jobs", json={"model": "shout", "rows": ["one"]})
    _, app = server_with(greeter(), jobs=tmp_path.with_name("moved"))
    async with client_of(app) as client:
        gone = await client.post(f"/jobs/{id}/resume", json={})
    assert lost.status_code == 500
    assert gone.status_code == 404
    assert "shout" in gone.json()["error"]["message"]


async def test_a_job_is_its_callers_alone_and_no_id_is_a_path(tmp_path: Path) -> None:
    _, app = server_with(Shout(), keys=SomeKeys(Ledger("ann"), Ledger("bob")), jobs=tmp_path)
    (tmp_path / "owner.json").write_text("{}")
    async with client_of(app) as client:
        client.headers["authorization"] = "Bearer ann"
        id = await begun(client, ["one"])
        client.headers["authorization"] = "Bearer bob"
        for ask in (
            client.get(f"/jobs/{id}"),
            client.get(f"/jobs/{id}/lines"),
            client.post(f"/jobs/{id}/cancel", json={}),
            client.post(f"/jobs/{id}/resume", json={}),
            client.get("/jobs/..%2f"),
            client.get("/jobs/owner.json"),
        ):
            answer = await ask
            assert answer.status_code == 404, answer.url
        assert (await client.get("/jobs")).json() == {"jobs": []}


async def test_what_is_no_job_is_told_why(tmp_path: Path) -> None:
    _, app = server_with(greeter(), jobs=tmp_path)
    async with client_of(app) as client:
        bodies: list[Any] = [
            [],
            {},
            {"model": "greeter", "rows": []},
            {"model": "greeter", "rows": [5]},
        ]
        for body in bodies:
            assert (await client.post("/jobs", json=body)).status_code == 400
        unknown = await client.post("/jobs", json={"model": "nobody", "rows": ["one"]})
        assert unknown.status_code == 404
    assert not list(tmp_path.iterdir())  # noqa: ASYNC240


async def test_a_server_without_a_folder_says_how_jobs_are_had() -> None:
    _, app = server_with(greeter())
    async with client_of(app) as client:
        answer = await client.post("/jobs", json={"model": "greeter", "rows": ["one"]})
    assert answer.status_code == 501
    assert "--jobs" in answer.json()["error"]["message"]
