"""The studio over HTTP: whom it answers, and what a page may load."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from moa import Agent, Graph, serve
from moa.serving.keys import Key, KeyFile, digest, new_secret
from moa.studio.app import mount, recent_runs, studio_app
from moa.studio.data import Query
from moa.studio.labels import Labels
from moa.studio.learning import Learning
from moa.studio.report import page
from moa.studio.sources import View, find_source
from moa.studio.trials import Trials
from moa.testing import ScriptedEndpoint
from studio.lines import HOSTILE, shop, written


@pytest.fixture
def view(tmp_path: Path) -> View:
    source = find_source(str(written(tmp_path / "run.jsonl", shop())))
    return View(source, labels=Labels(tmp_path / "labelled.jsonl"))


@pytest.fixture
def client(view: View) -> Iterator[TestClient]:
    with TestClient(mount(studio_app(view)), base_url="http://127.0.0.1") as client:
        yield client


def test_the_page_and_what_it_reads_are_there(client: TestClient) -> None:
    assert client.get("/").url.path == "/studio/"
    assert "<main" in client.get("/studio/").text
    assert client.get("/studio/app.js").headers["content-type"].startswith("text/javascript")
    assert client.get("/studio/api/overview").json()["total"] == 7
    found = client.get("/studio/api/rows", params={"limit": "2", "tag": "corrected"}).json()
    assert [one["id"] for one in found["rows"]] == ["sure", "unsure"]
    assert client.get("/studio/api/rows/3").json()["line"]["id"] == "sure"


def test_no_script_but_its_own_may_run(client: TestClient) -> None:
    policy = client.get("/studio/").headers["content-security-policy"]
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy


@pytest.mark.parametrize("name", ["../app.py", "..%2fapp.py", "app.py", "example", "%00"])
def test_nothing_but_the_page_is_served(client: TestClient, name: str) -> None:
    assert client.get(f"/studio/{name}").status_code == 404


def test_a_label_is_written_by_a_post_of_json_alone(client: TestClient, view: View) -> None:
    given = {"place": 2, "question": "intent", "label": "refund"}
    assert client.post("/studio/api/labels", data=given).status_code == 415
    assert client.get("/studio/api/labels", params={"place": "2"}).status_code == 405
    assert (
        client.post("/studio/api/labels", json=given).json()["said"]["intent"]["right"] == "refund"
    )
    assert view.labels is not None
    assert view.labels.path.exists()
    assert client.post("/studio/api/undo", json={}).status_code == 200
    assert client.post("/studio/api/undo", json={}).status_code == 400


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"place": "2", "question": "intent", "label": "refund"},
        {"place": 2, "question": HOSTILE, "label": "refund"},
        {"place": 2, "question": "intent", "label": HOSTILE},
        {"place": -1, "question": "intent", "label": "refund"},
    ],
)
def test_what_is_no_label_is_refused(client: TestClient, body: object) -> None:
    assert client.post("/studio/api/labels", json=body).status_code == 400


@pytest.mark.parametrize("query", ["limit=x", "offset=1e9", "node=a"])
def test_a_query_that_is_none_is_refused(client: TestClient, query: str) -> None:
    assert client.get(f"/studio/api/rows?{query}").status_code == 400


@pytest.mark.parametrize("place", ["7", "-1", "x", "1.5", "9" * 20, "9" * 5000])
def test_the_number_of_no_row_is_refused(client: TestClient, place: str) -> None:
    assert client.get(f"/studio/api/rows/{place}").status_code == 400


@pytest.mark.parametrize("name", ["offset", "limit", "node"])
def test_a_number_of_5000_digits_in_a_query_is_refused(client: TestClient, name: str) -> None:
    assert client.get("/studio/api/rows", params={name: "9" * 5000}).status_code == 400
    assert client.get("/studio/api/rows", params={name: "9" * 20}).status_code == 200


def test_another_host_is_not_answered(view: View) -> None:
    with TestClient(mount(studio_app(view)), base_url="http://evil.example") as client:
        assert client.get("/studio/api/overview").status_code == 421
        assert client.get("/studio/").status_code == 421


def test_with_a_key_the_page_holds_nothing_until_it_is_given(view: View) -> None:
    app = mount(studio_app(view, key="secret"))
    with TestClient(app, base_url="http://127.0.0.1") as client:
        assert client.get("/studio/").status_code == 200
        assert client.get("/studio/api/overview").status_code == 401
        assert client.get("/studio/api/overview?key=secret").status_code == 401
        given = {"authorization": "Bearer secret"}
        assert client.get("/studio/api/overview", headers=given).status_code == 200


def test_beside_a_server_its_last_runs_are_shown_without_their_texts() -> None:
    g = Graph("greet", str)
    greeter = Agent(ScriptedEndpoint(["a secret answer"]), "Greet.", name="greeter")
    app: Starlette = serve(g.build(g.add(greeter, g.input)))
    view = View(recent_runs(app.state.server), texts=False)
    both = mount(studio_app(view, key="k"), app)
    with TestClient(both, base_url="http://127.0.0.1") as client:
        assert client.post("/run/greet", json="a secret text").status_code == 200
        key = {"authorization": "Bearer k"}
        assert client.get("/studio/api/overview", headers=key).json()["total"] == 1
        said = client.get("/studio/api/rows", headers=key).text
        said += client.get("/studio/api/rows/0", headers=key).text
        assert "secret" not in said
        assert client.get("/run/greet", headers=key).status_code == 405


def test_what_is_tried_beside_a_server_with_keys_is_paid_by_one_of_them(tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    secret = new_secret()
    KeyFile(keys).add(Key(name="shop", sha256=digest(secret), calls_per_day=1))
    g = Graph("greet", str)
    greeter = Agent(ScriptedEndpoint(["Hello!", "Hello!"]), "Greet.", name="greeter")
    app: Starlette = serve(g.build(g.add(greeter, g.input)), keys=str(keys))
    view = View(recent_runs(app.state.server), texts=False)
    page = studio_app(view, key="k", trials=Trials(app.state.server))
    with TestClient(mount(page, app), base_url="http://127.0.0.1") as client:
        headers = {"authorization": "Bearer k"}
        run = partial(client.post, "/studio/api/run/greet", json="Hi")
        assert run().status_code == 401
        assert run(headers=headers).status_code == 401
        headers["x-moa-server-key"] = secret
        assert "event: result" in run(headers=headers).text
        assert run(headers=headers).status_code == 402


def test_what_cannot_be_done_is_said_in_words(view: View, tmp_path: Path) -> None:
    view.learning = Learning(tmp_path / "labelled.jsonl", "support")
    with TestClient(mount(studio_app(view)), base_url="http://127.0.0.1") as client:
        refused = client.post("/studio/api/learn", json={})
        assert (refused.status_code, "label some" in refused.text) == (409, True)
    view.close()


def test_an_answer_that_nobody_waits_for_is_refused() -> None:
    app: Starlette = serve(Agent(ScriptedEndpoint(["Hello!"]), "Greet.", name="greeter"))
    page = studio_app(View(find_source(None)), trials=Trials(app.state.server))
    with TestClient(mount(page, app, only_page=True), base_url="http://127.0.0.1") as client:
        assert client.get("/studio/api/questions").json() == []
        given = client.post("/studio/api/questions/none", json={"answer": True})
        assert given.status_code == 404
        assert client.post("/run/greeter", json="Hi").status_code == 404


def test_no_text_ends_the_block_of_data_in_a_file() -> None:
    made = page({"overview": {"source": HOSTILE}, "rows": [{"text": HOSTILE}]}, title="<b>")
    assert made.count("<script") == 2
    assert made.count("</script") == 2
    assert "<img" not in made
    assert "<b>" not in made
    assert "\u2028" not in made
    assert "unsafe" not in made


def test_pages_of_many_rows_come_by_their_place(tmp_path: Path) -> None:
    lines = [{"id": i, "input": f"text {i}", "output": None} for i in range(1000)]
    view = View(find_source(str(written(tmp_path / "run.jsonl", lines))))
    found = view.book.find(Query(offset=990, limit=100))
    assert found.total == 1000
    assert [one.id for one in found.rows] == [str(i) for i in range(990, 1000)]
