"""What a server says of itself: whether it is ready, its metrics, its document, its drawings."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any, cast

import pytest

from moa import Agent, EmbeddedEndpoint, Graph, Result, RunContext
from moa.cli.serve import commands
from moa.core.errors import EndpointRejected, ModelNotFound
from moa.graphs.engine.sketch import Drawable, Sketch

from .harness import Ledger, Slow, SomeKeys, client_of, greeter, server_with, until


class Loading(EmbeddedEndpoint):
    """A model that is loaded when it is let."""

    @property
    def encoder(self) -> None:
        return None

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__("loading")
        self.asked = False
        self.let = asyncio.Event()
        self._error = error

    async def start(self, context: RunContext, /) -> None:
        await self.let.wait()
        if self._error is not None:
            raise self._error

    async def decide(self, *asked: Any, **named: Any) -> Any:
        self.asked = True


async def test_a_server_is_ready_once_models_are_loaded() -> None:
    loading = Loading()
    _, app = server_with(Agent(loading, "Greet."))
    async with client_of(app) as client:
        assert (await client.get("/health")).status_code == 200
        assert (await client.get("/ready")).status_code == 503
        loading.let.set()
        await asyncio.sleep(0.05)
        assert (await client.get("/ready")).status_code == 200


async def test_a_server_whose_models_cannot_be_loaded_never_is_ready() -> None:
    loading = Loading(ModelNotFound("no weights"))
    loading.let.set()
    server, app = server_with(Agent(loading, "Greet."))
    async with client_of(app) as client:
        await asyncio.sleep(0.05)
        assert (await client.get("/ready")).status_code == 503
        assert isinstance(server.warming_error, ModelNotFound)


async def test_a_server_is_ready_once_its_small_model_can_be_asked() -> None:
    loading = Loading()
    _, app = server_with(greeter(), small=loading, starts_decide=True)
    async with client_of(app) as client:
        await asyncio.sleep(0.05)
        assert (await client.get("/ready")).status_code == 503
        loading.let.set()
        await asyncio.sleep(0.05)
        assert (await client.get("/ready")).status_code == 200
    assert loading.asked


async def test_a_server_that_does_without_its_small_model_is_ready() -> None:
    loading = Loading(ModelNotFound("no weights"))
    loading.let.set()
    _, app = server_with(greeter(), small=loading, starts_decide=True)
    async with client_of(app) as client:
        await asyncio.sleep(0.05)
        assert (await client.get("/ready")).status_code == 200


async def test_metrics_count_runs_and_what_they_asked() -> None:
    _, app = server_with(greeter("Hello!", EndpointRejected("no", endpoint="scripted")))
    async with client_of(app) as client:
        await client.post("/run/greeter", json="Hi")
        await client.post("/run/greeter", json="Hi")
        text = (await client.get("/metrics")).text
    assert 'moa_runs_total{model="greeter",status="answered"} 1.0' in text
    assert 'moa_runs_total{model="greeter",status="failed"} 1.0' in text
    assert 'direction="in",endpoint="scripted",model="greeter",tier="slm"} 10.0' in text
    assert "moa_runs_active 0.0" in text
    assert "moa_ready 1.0" in text


async def test_metrics_of_a_key_are_of_its_own_runs_of_graphs_that_it_may_run() -> None:
    ann, bob = Ledger("ann"), Ledger("bob", may=["shared"])
    nodes = greeter(name="shared"), greeter(name="private"), Slow()
    server, app = server_with(*nodes, keys=SomeKeys(ann, bob))
    as_ann, as_bob = ({"authorization": f"Bearer {name}"} for name in ("ann", "bob"))
    async with client_of(app) as client:
        for path in ("/run/shared", "/run/shared", "/run/private"):
            await client.post(path, json="Hi", headers=as_ann)
        await client.post("/run/shared", json="Hi", headers=as_bob)
        running = asyncio.ensure_future(client.post("/run/slow", json="Hi", headers=as_ann))
        await until(lambda: server.runs.active)
        of_ann = (await client.get("/metrics", headers=as_ann)).text
        of_bob = (await client.get("/metrics", headers=as_bob)).text
        ann.may = ["shared"]
        of_ann_later = (await client.get("/metrics", headers=as_ann)).text
        running.cancel()
    assert 'moa_runs_total{model="shared",status="answered"} 2.0' in of_ann
    assert 'moa_runs_total{model="private",status="answered"} 1.0' in of_ann
    assert "moa_runs_active 1.0" in of_ann
    assert 'moa_runs_total{model="shared",status="answered"} 1.0' in of_bob
    assert 'model="shared",tier="slm"} 1.0' in of_bob
    assert "moa_runs_active 0.0" in of_bob
    assert "moa_ready" in of_bob
    assert "private" not in of_bob
    assert "private" not in of_ann_later
    assert "ann" not in of_bob


def _refs(value: Any) -> set[str]:
    if isinstance(value, dict):
        known = cast("dict[str, Any]", value)
        own = {known["$ref"]} if "$ref" in known else set[str]()
        return own.union(*map(_refs, known.values()))
    return (
        set[str]().union(*map(_refs, cast("list[Any]", value)))
        if isinstance(value, list)
        else set()
    )


async def test_the_document_has_every_route_and_every_schema_that_it_names(tmp_path: Path) -> None:
    server, app = server_with(greeter(), greeter(name="other one"), jobs=tmp_path)
    async with client_of(app) as client:
        found = (await client.get("/openapi.json")).json()
    for ref in _refs(found):
        place: Any = found
        for part in ref.removeprefix("#/").split("/"):
            place = place[part]
    paths = {*found["paths"]}
    assert {"/run/greeter", "/run/other one"} <= paths
    for route in app.routes:
        path = re.sub(r":\w+}", "}", getattr(route, "path", ""))
        about = {"/run/{name}", "/health", "/ready", "/metrics", "/openapi.json", "/mcp"}
        about |= {"/v1/embeddings"}  # where there is an encoder
        assert path in paths | about, path
    assert server.served.keys() == {"greeter", "other one"}


async def test_the_document_demands_the_body_without_which_a_route_refuses(tmp_path: Path) -> None:
    _, app = server_with(greeter(), jobs=tmp_path)
    async with client_of(app) as client:
        found = (await client.get("/openapi.json")).json()
        posts = {path: way["post"] for path, way in found["paths"].items() if "post" in way}
        assert "/jobs/{id}/cancel" in posts
        for path, post in posts.items():
            assert (await client.post(path)).status_code == 415, path
            assert post["requestBody"]["required"], path


async def test_a_graph_is_drawn_and_a_single_agent_is_not() -> None:
    g = Graph("shout", str)
    _, app = server_with(g.build(g.add(str.upper, g.input)), greeter())
    async with client_of(app) as client:
        drawn = await client.get("/drawing/shout")
        agent = await client.get("/drawing/greeter")
    assert "flowchart" in drawn.text
    assert agent.status_code == 404


class Drawn(Drawable):
    """Something that counts how often it is drawn."""

    name = "drawn"
    input_type = output_type = str

    def __init__(self) -> None:
        self.times = 0

    async def run(self, request: str, context: RunContext | None = None, /) -> Result[str]:
        return Result(output=request, usage=(context or RunContext()).usage)

    def sketch(self, sketch: Sketch) -> None:
        self.times += 1
        sketch.arrow(sketch.input, sketch.output)


async def test_a_graph_is_drawn_once_however_many_ask_for_it_at_once() -> None:
    drawn = Drawn()
    _, app = server_with(drawn)
    async with client_of(app) as client:
        for accept in ("text/plain", "image/svg+xml"):
            drawn.times = 0
            asking = [client.get("/drawing/drawn", headers={"accept": accept}) for _ in range(9)]
            answers = await asyncio.gather(*asking)
            assert all(answer.headers["content-type"].startswith(accept) for answer in answers)
            assert len({answer.content for answer in answers}) == 1
            assert drawn.times == 1


def test_the_demo_names_three_commands_that_ask_what_is_served() -> None:
    server, _ = server_with(greeter())
    found = commands(server, "http://127.0.0.1:8080")
    assert len(found) == 3
    assert all("http://127.0.0.1:8080/" in one and one.startswith("curl") for one in found)


def test_what_no_path_can_name_is_not_served() -> None:
    from moa.core.errors import ConfigError
    from moa.serving.served import ServedNode
    from moa.serving.server import Server, Settings

    node = greeter()
    server, _ = server_with(node)
    with pytest.raises(ConfigError):
        Server([ServedNode(node, name="a/b")], server.endpoints, Settings(), server.keys)
