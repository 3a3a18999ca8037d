"""Rows: every line of an input is a row or is reported; what became of them is never lost."""

from __future__ import annotations

import io
import json
import stat
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from disks import room
from hypothesis import given
from hypothesis import strategies as st

from moa import rows
from moa.core._files import Existing, dump_json
from moa.core.batch import MalformedLine, Row
from moa.core.errors import ConfigError
from moa.rows import RowFile
from moa.rows.lines import Line
from moa.rows.reading import jsonl


def read(tmp_path: Path, name: str, content: str | bytes) -> list[Row | MalformedLine]:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(rows.read(str(path)))


READ: dict[str, tuple[str, str | bytes, dict[object, object]]] = {
    "an id of its own": (
        "a.jsonl",
        '{"id": "x", "text": "one"}',
        {"x": {"id": "x", "text": "one"}},
    ),
    "else its line": ("a.jsonl", '\n{"text": "two"}\n', {2: {"text": "two"}}),
    "texts": ("a.txt", "one\n\nthree\n", {1: "one", 2: "", 3: "three"}),
    "bytes": ("a.txt", b"one\n\xff\xfe\nthree", {1: "one", 2: None, 3: "three"}),
    "bytes in a table": (
        "a.csv",
        b"n\none\n\xff\nthree\n",
        {2: {"n": "one"}, 3: None, 4: {"n": "three"}},
    ),
    "a byte order mark": ("a.csv", b"\xef\xbb\xbfn,m\n7,hello\n", {2: {"n": "7", "m": "hello"}}),
    "commas and line ends in a cell": (
        "a.csv",
        'n\n"a, b\nc"\nd\n',
        {2: {"n": "a, b\nc"}, 4: {"n": "d"}},
    ),
    "a quote that is never closed": (
        "a.csv",
        'n\n"open\n2\n3\n',
        {2: None, 3: {"n": "2"}, 4: {"n": "3"}},
    ),
    "another width": ("a.csv", "n\n1,more\n2\n", {2: None, 3: {"n": "2"}}),
    "a long cell": ("a.csv", f"n\n{'x' * 200_000}\n", {2: {"n": "x" * 200_000}}),
}


@pytest.mark.parametrize(("name", "content", "values"), READ.values(), ids=READ)
def test_each_line_is_a_row_or_malformed(
    name: str, content: str | bytes, values: dict[object, object], tmp_path: Path
) -> None:
    found = read(tmp_path, name, content)
    assert {row.id: row.value if isinstance(row, Row) else None for row in found} == values
    assert list(values) == [row.id for row in found]


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[1]",
        '"text"',
        "null",
        '{"text": "\\ud800"}',
        "[" * 100_000,
        '{"n": NaN}',
        '{"n": 1e400}',
    ],
    ids=["half", "list", "string", "null", "surrogate", "deep", "no number", "huge"],
)
def test_a_malformed_json_line_is_reported_and_the_rest_is_read(tmp_path: Path, line: str) -> None:
    found = read(tmp_path, "a.jsonl", f'{{"text": "one"}}\n{line}\n{{"text": "three"}}\n')
    assert [type(row) for row in found] == [Row, MalformedLine, Row]
    assert found[1].number == 2


@pytest.mark.parametrize(
    ("content", "values"),
    [('\n{"text": "one"}\n', [{"text": "one"}]), ("one\ntwo\n", ["one", "two"])],
    ids=["jsonl", "txt"],
)
def test_standard_input_is_json_lines_or_text(
    content: str, values: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
    assert [row.input for row in rows.read("-")] == values


@pytest.mark.parametrize("name", ["missing.jsonl", "notes.md"])
def test_a_file_that_cannot_be_read_is_a_configuration_error(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        rows.read(name)


def test_a_file_that_the_system_keeps_back_is_a_configuration_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("{}")

    def refuse(path: Path, mode: str) -> BinaryIO:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    said = r"a\.jsonl' can't be read: Permission denied"
    with pytest.raises(ConfigError, match=said):
        rows.count(str(path), None)
    with pytest.raises(ConfigError, match=said):
        next(rows.read(str(path)))


@given(st.lists(st.dictionaries(st.text(), st.text() | st.integers()), max_size=8))
def test_what_is_written_as_json_lines_is_read_back(values: list[dict[str, object]]) -> None:
    lines = [Line(i, json.dumps(v).encode()) for i, v in enumerate(values, start=1)]
    found = list(jsonl(iter(lines)))
    readable = [v for v in values if not any(surrogate(s) for kv in v.items() for s in kv)]
    assert [row.value for row in found if isinstance(row, Row)] == readable
    assert len(found) == len(values)


def surrogate(value: object) -> bool:
    return isinstance(value, str) and any("\ud800" <= c <= "\udfff" for c in value)


def test_two_csv_columns_of_one_name_are_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'text'"):
        read(tmp_path, "a.csv", "id,text,text\n1,a,b\n")


class BadDisk(io.BytesIO):
    """Fails in the middle of a file."""

    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(size)
        if line.startswith(b"bad"):
            raise OSError(5, "Input/output error")
        return line


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", b'{"text": "one"}\n{"text": "two"}\nbad\n{"text": "four"}\n'),
        ("a.csv", b"text\none\ntwo\nbad\nfour\n"),
        ("a.txt", b"one\ntwo\nbad\nfour\n"),
    ],
)
def test_a_disk_that_fails_on_the_way_costs_what_follows_and_is_reported(
    name: str, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / name
    path.write_bytes(content)

    def opened(path: Path, mode: str) -> BinaryIO:
        return BadDisk(content)

    monkeypatch.setattr(Path, "open", opened)
    assert rows.count(str(path), None) is None
    one, two, last = rows.read(str(path))
    assert (type(one), type(two)) == (Row, Row)
    assert isinstance(last, MalformedLine)
    assert "Input/output error" in last.error


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.jsonl", "\n"), ("a.csv", ""), ("a.csv", "id,text\n"), ("a.txt", ""), ("-", "")],
)
def test_an_input_without_rows_is_a_configuration_error_in_every_format(
    name: str, content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
    if name != "-":
        (tmp_path / name).write_text(content)
        name = str(tmp_path / name)
    with pytest.raises(ConfigError):
        list(rows.read(name))


def test_a_table_on_standard_input_is_read_where_it_is_said_to_be_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table = io.TextIOWrapper(io.BytesIO(b"id,body\n7,hello\n"))
    monkeypatch.setattr(sys, "stdin", table)
    (row,) = rows.read("-", format="csv", text_column="body")
    assert row.input == {"id": "7", "body": "hello", "text": "hello"}


def test_a_text_column_must_be_in_the_first_row_and_costs_a_later_one_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"body": "one"}\n{"text": "two"}\n{"body": "three"}\n')
    found = list(rows.read(path, text_column="body"))
    assert [type(row) for row in found] == [Row, MalformedLine, Row]
    keyed = (replace(row, key=f"key {row.number}") for row in rows.read(path))
    assert [row.key for row in rows.with_text(keyed, "body")] == ["key 1", "key 2", "key 3"]
    with pytest.raises(ConfigError, match="'text'"):
        next(rows.read(path, text_column="text"))


GIVEN = [Row(number=n, id=n, value=f"text {n}") for n in range(1, 4)]


@pytest.fixture(name="out")
def _out(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


def go(
    out: Path,
    given: list[Row],
    existing: Existing = "refuse",
    *,
    most: int | None = None,
    fails: str = "",
) -> list[Row | MalformedLine]:
    """Do what is left, at most so many rows; give those that were done."""
    done: list[Row | MalformedLine] = []
    with RowFile(out, existing=existing) as file:
        for row in file.due_rows(given):
            if len(done) == most:
                break
            failed = {"error": "x"} if fails and fails in str(row.input) else {}
            file.write({"id": row.id, "input": row.input, **failed})
            done.append(row)
    return done


def written(out: Path) -> list[dict[str, Any]]:
    lines = out.read_bytes().split(b"\n") if out.exists() else []
    return [json.loads(line) for line in lines if line]


def test_lines_that_are_there_are_refused_kept_or_replaced_as_is_asked(out: Path) -> None:
    go(out, GIVEN[:1])
    before = out.read_bytes()
    with pytest.raises(ConfigError):
        go(out, GIVEN)
    assert out.read_bytes() == before
    assert go(out, GIVEN, "resume") == GIVEN[1:]
    assert out.read_bytes().startswith(before)
    assert go(out, GIVEN[2:], "overwrite") == GIVEN[2:]
    assert [line["id"] for line in written(out)] == [3]


def test_what_is_to_be_overwritten_stays_until_there_is_a_first_line(out: Path) -> None:
    go(out, GIVEN)
    go(out, [], "overwrite")
    assert len(written(out)) == 3


def test_a_row_that_failed_is_due_again_and_has_one_line_in_the_end(out: Path) -> None:
    go(out, GIVEN, fails="text 2")
    assert go(out, GIVEN, "resume") == GIVEN[1:2]
    assert sorted(str(line["id"]) for line in written(out)) == ["1", "2", "3"]
    assert not any("error" in line for line in written(out))


def test_a_row_whose_input_has_changed_is_due_again_and_its_old_line_goes(out: Path) -> None:
    go(out, GIVEN)
    changed = [*GIVEN[:2], Row(number=3, id=3, value="another text")]
    with RowFile(out, existing="resume") as file:
        assert list(file.due_rows(changed)) == changed[2:]
        assert (file.there, file.failed, file.changed) == (2, 0, 1)
        file.write({"id": 3, "input": "another text"})
    assert [line["input"] for line in written(out)] == ["text 1", "text 2", "another text"]


def test_a_changed_row_keeps_its_old_line_until_all_rows_were_read(out: Path) -> None:
    go(out, GIVEN)
    changed = [Row(number=n, id=n, value="another") for n in range(1, 4)]
    go(out, changed, "resume", most=1)
    assert [line["input"] for line in written(out)] == ["text 1", "text 2", "text 3", "another"]
    go(out, changed, "resume")
    assert [line["input"] for line in written(out)] == ["another"] * 3


def test_rows_that_are_no_longer_in_the_input_keep_their_lines(out: Path) -> None:
    go(out, GIVEN, fails="text 2")
    go(out, GIVEN[1:2], "resume")
    assert [line["id"] for line in written(out)] == [1, 3, 2]


def test_good_lines_of_an_id_that_rows_share_stay_where_only_one_of_them_is_read(out: Path) -> None:
    two = [Row(number=n, id="Ann", value=f"text {n}") for n in (1, 2)]
    go(out, two)
    with RowFile(out, existing="resume") as file:
        assert list(file.due_rows(two[:1], all_rows=False)) == []
    assert [line["input"] for line in written(out)] == ["text 1", "text 2"]
    assert go(out, two, "resume") == []


def test_a_line_of_a_row_that_was_not_given_out_stays(out: Path) -> None:
    for existing in ("refuse", "resume"):
        with RowFile(out, existing=existing) as file:
            assert list(file.due_rows([])) == []
            file.write({"id": existing, "input": "x"})
    assert [line["id"] for line in written(out)] == ["refuse", "resume"]


def test_of_copies_that_failed_each_is_due_and_has_one_line_in_the_end(out: Path) -> None:
    two = [Row(number=n, id="Ann", value="text") for n in (1, 2)]
    go(out, two, fails="text")
    assert go(out, two, "resume", most=1) == two[:1]
    assert go(out, two, "resume") == two[1:]
    assert [("error" in line) for line in written(out)] == [False, False]


ANY_ROWS = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from(["a", "é\u2028", "half \ud83d"])), max_size=12
)


@given(ANY_ROWS, st.integers(0, 12), st.integers(0, 60))
def test_wherever_a_run_is_killed_resuming_does_the_rest_and_no_row_twice(
    tmp_path_factory: pytest.TempPathFactory, found: list[tuple[int, str]], most: int, torn: int
) -> None:
    """Also where ids, and whole rows, come more than once."""
    out = tmp_path_factory.mktemp("rows") / "out.jsonl"
    given = [Row(number=n, id=i, value=text) for n, (i, text) in enumerate(found, start=1)]
    go(out, given, most=most)
    kept = 0
    if out.exists():
        data = out.read_bytes()
        whole = data[: -len(data[:-1].split(b"\n")[-1]) - 1]
        out.write_bytes(data[: max(len(whole), len(data) - torn)])
        kept = whole.count(b"\n") + (torn <= 1)
    assert len(go(out, given, "resume")) == len(given) - kept
    expected = [(row.id, json.loads(dump_json(row.input))) for row in given]
    assert sorted((line["id"], line["input"]) for line in written(out)) == sorted(expected)


def test_a_file_that_is_refused_opens_no_index(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out.write_text('{"id": 1, "input": ""}\n')
    monkeypatch.setattr("moa.rows.writing.RowIndex", None)  # which would stay open
    with pytest.raises(ConfigError), RowFile(out):
        raise AssertionError("it is there already")


def test_a_second_process_is_refused_while_one_writes(out: Path) -> None:
    with RowFile(out) as file:
        with pytest.raises(ConfigError):
            go(out, GIVEN)
        file.write({"id": 1, "input": "x"})
        with pytest.raises(ConfigError):
            go(out, GIVEN, "resume")
    assert len(written(out)) == 1
    assert list(out.parent.iterdir()) == [out]


def test_one_with_other_folders_of_its_own_is_refused_too(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RowFile(out):
        for name in ("HOME", "TMPDIR", "TEMP"):
            monkeypatch.setenv(name, str(tmp_path))
        monkeypatch.setattr("tempfile.tempdir", None)
        with pytest.raises(ConfigError):
            go(out, GIVEN)


def test_a_second_process_is_refused_also_where_the_file_was_replaced(out: Path) -> None:
    go(out, GIVEN[:1])
    with RowFile(out, existing="resume"):
        out.write_bytes(out.rename(out.with_suffix(".old")).read_bytes())
        with pytest.raises(ConfigError):
            go(out, GIVEN, "resume")
    assert go(out, GIVEN, "resume") == GIVEN[1:]


def test_a_new_file_is_its_owner_s_alone_and_another_keeps_its_mode(out: Path) -> None:
    go(out, GIVEN, fails="text 2")
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    out.chmod(0o640)
    go(out, GIVEN, "resume")
    assert stat.S_IMODE(out.stat().st_mode) == 0o640


def test_a_full_disk_leaves_whole_lines_and_nothing_else(out: Path) -> None:
    long = [Row(number=n, id=n, value="x" * 40) for n in range(1, 4)]
    with pytest.raises(ConfigError), room(100):
        go(out, long)
    assert [line["id"] for line in written(out)] == [1]
    assert list(out.parent.iterdir()) == [out]


def test_a_disk_without_room_to_remove_lines_keeps_them_all(out: Path) -> None:
    go(out, GIVEN[:1], fails="text")
    before = out.read_bytes()
    file = RowFile(out, existing="resume").__enter__()
    for row in file.due_rows(GIVEN[:1]):
        file.write({"id": row.id, "input": row.input})
    with pytest.raises(ConfigError), room(1):
        file.__exit__(None, None, None)
    assert out.read_bytes().startswith(before)
    assert list(out.parent.iterdir()) == [out]


@pytest.mark.parametrize("content", ['{"id": 1}\n', "hello", '{"input": "x"}\n', "[1]\n"])
def test_a_file_of_something_else_is_not_resumed(content: str, out: Path) -> None:
    out.write_text(content)
    with pytest.raises(ConfigError, match="line 1"):
        go(out, GIVEN, "resume")
    assert out.read_text() == content


def test_half_of_a_surrogate_pair_is_written_as_what_every_reader_takes(out: Path) -> None:
    with RowFile(out) as file:
        file.write({"id": 1, "input": "x", "output": "a \ud83d b \ud83d\ude00"})
    (line,) = written(out)
    assert line["output"] == "a \ufffd b \U0001f600"
