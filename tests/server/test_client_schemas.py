"""A client's JSON schema: what is held to it, and that none takes the server's time."""

from __future__ import annotations

import math
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from moa import Agent
from moa.serving.keys import keys_in
from moa.serving.schemas import Checker
from moa.testing import ScriptedEndpoint

from .harness import add_key, client_of, server_with

UUID = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
LARGE: list[Any] = [
    {"type": ["string", *range(20_000)]},
    {"enum": [*range(30_000)]},
    {"properties": {f"p{n}": {"type": "string"} for n in range(20_000)}},
    {"required": [f"p{n}" for n in range(30_000)]},
    {"anyOf": [{"anyOf": [{"type": "null"}] * 30}] * 1000},
]
PATTERNS: list[Any] = [
    {"properties": {f"p{n}": {"pattern": f"^(a|a)*{n}$"} for n in range(300)}},
    {"pattern": "((a{1000}){1000}){1000}"},
    {"pattern": "(?:(?:(?:a?){,99}){99}){99}"},
    {"pattern": "(?x)#(\n((a{1000}){1000})"},
    {"pattern": "(a{300}[[:alpha:])][[:alpha:](]){300}"},
    {"pattern": "a{100000}"},
    {"pattern": "("},
    {"pattern": "a)"},
    {"pattern": 5},
]
MALFORMED: list[Any] = [
    {"type": 5},
    {"type": "text"},
    {"properties": []},
    {"properties": {"a": 5}},
    {"items": [{}]},
    {"anyOf": []},
    {"required": "a"},
    {"minLength": -1},
    {"minLength": math.inf},
    {"maxItems": 1.5},
    {"multipleOf": 0},
    {"enum": "ab"},
    {"uniqueItems": "yes"},
    {"patternProperties": {}},
    {"items": {"$schema": "http://json-schema.org/draft-07/schema#"}},
]
SLOW: list[tuple[Any, Any]] = [
    ({"pattern": "^(a|a)*$"}, "a" * 60 + "!"),
    ({"items": {"pattern": "^(a|aa)+$"}}, ["a" * 60 + "!"] * 50),
    ({"anyOf": [{"pattern": f"^(a|a)*$|^{n}$"} for n in range(90)]}, "a" * 60 + "!"),
    ({"items": {"anyOf": [{"type": "null"}] * 5000 + [{}]}}, [0] * 5000),
    ({"items": {"enum": [f"e{n}" for n in range(20_000)]}}, [f"e{n}" for n in range(9999)]),
    (
        {"$defs": {"t": {"properties": {"a": {"allOf": [{"$ref": "#/$defs/t"}] * 9}}}},
         "$ref": "#/$defs/t"},
        {"a": {"a": {"a": {"a": {"a": {"a": {"a": {"a": {"a": {}}}}}}}}}},
    ),
    (
        {"$schema": "http://json-schema.org/draft-07/schema#", "pattern": "^(a|a)*$",
         "properties": {"a": {"$ref": "#"}}},
        {"a": "a" * 60 + "!"},
    ),
]  # fmt: skip
FINE: list[tuple[Any, Any]] = [
    ({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}, {"a": 1}),
    ({"properties": {"patternProperties": {"const": {"$dynamicRef": 1}}}}, {"a": 1}),
    ({"pattern": UUID}, "0123abcd-0000-0000-0000-0123456789ab"),
    ({"pattern": r"^\(?[0-9]{3}\)?(?:-(?=[0-9]))?(?<n>[0-9]+)$"}, "(030)-55"),
    ({"uniqueItems": True}, [1, True, "1", [1], {"a": 1}, {"a": True}, 0, False]),
    ({"uniqueItems": True}, [{"a": n} for n in range(5000)]),
    ({"format": "email"}, "none"),
    ({"anyOf": [{"type": "null"}, {"$ref": "#/$defs/a"}], "$defs": {"a": {"const": 1}}}, 1),
    ({"oneOf": [{"type": "null"}, {"type": "integer"}, {"minLength": 2}]}, "ab"),
    ({"$id": "http://a/b", "$ref": "c", "$defs": {"c": {"$id": "c", "type": "string"}}}, "a"),
    ({"$ref": "#/$defs/a", "$defs": {"a": True}}, "a"),
    ({"$schema": "http://json-schema.org/draft-07/schema#", "items": {"$ref": "#"}}, [[], 1]),
]
MISFITS: list[tuple[Any, Any]] = [
    ({"anyOf": [{"type": "null"}, {"type": "string"}]}, 1),
    ({"oneOf": [{"type": "null"}, {"type": "string"}]}, 1),
    ({"oneOf": [{"type": "integer"}, {"const": 1}, {"type": "null"}]}, 1),
    ({"multipleOf": 0.1}, 10**400),
    ({"multipleOf": 0.1}, math.inf),
    ({"multipleOf": 10**400}, 1.5),
    ({"$ref": "#/a", "a": {"pattern": "b"}}, "a"),
    ({"$ref": "#/a", "a": {"minLength": "b"}}, "a"),
    ({"$ref": "#/const", "const": 5}, "a"),
    ({"$ref": "http://json-schema.org/draft-07/schema#"}, {"type": 5}),
    ({"$ref": "#/$defs/b", "$defs": {"a": {}}}, "a"),
]


def checked(schema: Any, value: object) -> None:
    checker = Checker(schema)
    checker.prepare()
    checker.check(value)


@pytest.mark.parametrize(("schema", "value"), FINE)
def test_what_people_send_is_taken(schema: Any, value: object) -> None:
    checked(schema, value)


def test_a_schema_as_large_as_openai_takes_is_taken() -> None:
    names = [f"property{n}" for n in range(5000)]
    fields = {name: {"type": "string", "minLength": 1} for name in names}
    schema = {"type": "object", "properties": fields, "required": names}
    checked(schema, dict.fromkeys(names, "a"))


@pytest.mark.parametrize("schema", [*LARGE, *PATTERNS, *MALFORMED], ids=lambda one: str(one)[:40])
def test_a_schema_that_is_too_large_or_none_is_refused(schema: Any) -> None:
    with pytest.raises(ValueError, match=r"it |pattern"):
        Checker(schema).prepare()


@pytest.mark.parametrize("schema", MALFORMED[:-2], ids=str)
def test_what_is_refused_as_no_schema_is_none_for_jsonschema(schema: Any) -> None:
    metaschema: Any = Draft202012Validator(Draft202012Validator.META_SCHEMA)
    assert not metaschema.is_valid(schema)


@pytest.mark.parametrize(("schema", "value"), SLOW, ids=lambda one: str(one)[:40])
def test_a_check_ends_with_its_time(schema: Any, value: object) -> None:
    with pytest.raises(ValueError):
        checked(schema, value)


@pytest.mark.parametrize(("schema", "value"), MISFITS, ids=lambda one: str(one)[:40])
def test_what_does_not_fit_is_told_whatever_the_schema_names(schema: Any, value: object) -> None:
    with pytest.raises(ValueError, match=r"it|schema"):
        checked(schema, value)


@pytest.mark.parametrize("keyword", ["anyOf", "oneOf"])
def test_no_text_of_the_answer_is_kept_for_a_branch(keyword: str) -> None:
    value = "a" * 100_000
    # A hundred branches that kept it would take five times the limit; a thousand run out of the
    # checker's time where other processes run, since tracemalloc slows every step.
    checker = Checker({keyword: [{"type": "integer"}] * 100})
    checker.prepare()
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=keyword):
            checker.check(value)
        assert tracemalloc.get_traced_memory()[1] < 20 * len(value)
    finally:
        tracemalloc.stop()


def test_items_that_are_there_twice_are_found() -> None:
    for twice in ([1, 1.0], [{"a": [1]}, {"a": [1]}]):
        with pytest.raises(ValueError, match="twice"):
            checked({"uniqueItems": True}, twice)


def wanting(schema: Any, **further: Any) -> Any:
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    talk = [{"role": "user", "content": "Hi"}]
    return {"model": "writer", "messages": talk, "response_format": wanted, **further}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_schema_is_looked_at_after_its_key_was_admitted(
    tmp_path: Path, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[Checker] = []

    def look(self: Checker) -> None:
        looked.append(self)

    monkeypatch.setattr(Checker, "prepare", look)
    address = str(tmp_path / "keys.toml")
    headers = add_key(address, requests_per_minute=1)
    node = Agent(ScriptedEndpoint(["{}"] * 9), "Answer.", name="writer")
    _, app = server_with(node, keys=keys_in(address))
    async with client_of(app, headers=headers) as client:
        body = wanting({"type": "object"}, stream=stream)
        codes = [
            (await client.post("/v1/chat/completions", json=body)).status_code for _ in range(3)
        ]
    assert codes == [200, 429, 429]
    assert len(looked) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_wrong_schema_is_400_also_of_a_stream(stream: bool) -> None:
    writer = ScriptedEndpoint(["{}"] * 9)
    _, app = server_with(Agent(writer, "Answer.", name="writer"))
    async with client_of(app) as client:
        for schema in (LARGE[0], PATTERNS[1], MALFORMED[0]):
            answer = await client.post("/v1/chat/completions", json=wanting(schema, stream=stream))
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, "response_format")
    assert not writer.prompts


@pytest.mark.parametrize("answer", ["NaN", "[1, Infinity]", "1" + "0" * 400])
async def test_a_number_that_json_lacks_or_that_is_too_large_is_asked_for_again(
    answer: str,
) -> None:
    endpoint = ScriptedEndpoint([answer, "0.5"])
    _, app = server_with(Agent(endpoint, "Answer.", name="writer"))
    async with client_of(app) as client:
        came = await client.post("/v1/chat/completions", json=wanting({"multipleOf": 0.5}))
    assert came.json()["choices"][0]["message"]["content"] == "0.5"
    assert len(endpoint.prompts) == 2


async def test_schema_and_answer_are_looked_at_beside_the_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads: list[int] = []
    for name in ("prepare", "check"):
        whole = getattr(Checker, name)

        def noted(self: Checker, *values: object, whole: Any = whole) -> None:
            threads.append(threading.get_ident())
            whole(self, *values)

        monkeypatch.setattr(Checker, name, noted)
    writer = Agent(ScriptedEndpoint(["{}", '{"a": 1}']), "Answer.", name="writer")
    _, app = server_with(writer)
    async with client_of(app) as client:
        schema = {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}
        answer = await client.post("/v1/chat/completions", json=wanting(schema))
    assert answer.status_code == 200
    assert len(threads) == 3  # the schema, a wrong answer, a right one
    assert threading.get_ident() not in threads
