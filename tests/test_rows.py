"""Rows: every line of an input file is an item or is reported, under its number."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa.cli import rows
from moa.cli.items import Malformed, Row
from moa.errors import ConfigError


def read(tmp_path: Path, name: str, content: str | bytes) -> list[Row | Malformed]:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(rows.read(str(path)))


def test_a_row_keeps_its_own_id_and_else_gets_its_line_number(tmp_path: Path) -> None:
    found = read(tmp_path, "a.jsonl", '{"id": "x", "text": "one"}\n\n{"text": "two"}\n')
    assert [row.id for row in found] == ["x", 3]


@pytest.mark.parametrize(
    "line",
    ["{", "[1]", '"text"', "null", '{"text": "\\ud800"}', "[" * 100_000, '{"n": NaN}'],
    ids=["half", "list", "string", "null", "surrogate", "deep", "no number"],
)
def test_a_malformed_json_line_is_reported_and_the_rest_is_read(tmp_path: Path, line: str) -> None:
    found = read(tmp_path, "a.jsonl", f'{{"text": "one"}}\n{line}\n{{"text": "three"}}\n')
    assert [type(row) for row in found] == [Row, Malformed, Row]
    assert found[1].number == 2


def test_bytes_that_are_not_utf_8_are_malformed(tmp_path: Path) -> None:
    found = read(tmp_path, "a.txt", b"one\n\xff\xfe\nthree")
    assert [type(row) for row in found] == [Row, Malformed, Row]
    found = read(tmp_path, "a.csv", b"text\none\n\xff\nthree\n")
    assert [type(row) for row in found] == [Row, Malformed, Row]


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    (row,) = read(tmp_path, "a.csv", b"\xef\xbb\xbfid,text\n7,hello\n")
    assert isinstance(row, Row)
    assert row.value == {"id": "7", "text": "hello"}


def test_a_csv_cell_may_hold_commas_and_line_ends(tmp_path: Path) -> None:
    found = read(tmp_path, "a.csv", 'id,text\n1,"a, b\nc"\n2,d\n')
    assert [row.value for row in found if isinstance(row, Row)] == [
        {"id": "1", "text": "a, b\nc"},
        {"id": "2", "text": "d"},
    ]
    assert [row.number for row in found] == [2, 4]


def test_a_csv_quote_that_is_never_closed_costs_one_line(tmp_path: Path) -> None:
    found = read(tmp_path, "a.csv", 'id,text\n1,"open\n2,two\n3,three\n')
    assert [(type(row), row.number) for row in found] == [(Malformed, 2), (Row, 3), (Row, 4)]


def test_a_csv_row_of_another_width_is_malformed(tmp_path: Path) -> None:
    found = read(tmp_path, "a.csv", "id,text\n1,one,more\n2,two\n")
    assert [type(row) for row in found] == [Malformed, Row]


def test_text_is_one_item_a_line(tmp_path: Path) -> None:
    found = read(tmp_path, "a.txt", "one\n\nthree\n")
    assert [row.value for row in found if isinstance(row, Row)] == ["one", "", "three"]


@pytest.mark.parametrize(
    ("content", "values"),
    [
        pytest.param('\n{"text": "one"}\n', [{"text": "one"}], id="jsonl"),
        pytest.param("one\ntwo\n", ["one", "two"], id="txt"),
        pytest.param("", [], id="nothing"),
    ],
)
def test_standard_input_is_json_lines_or_text(
    content: str, values: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
    found = list(rows.read("-"))
    assert [row.value for row in found if isinstance(row, Row)] == values


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
    lines = [rows.Line(i, json.dumps(v).encode()) for i, v in enumerate(values, start=1)]
    found = list(rows.jsonl(iter(lines)))
    readable = [v for v in values if not any(surrogate(s) for kv in v.items() for s in kv)]
    assert [row.value for row in found if isinstance(row, Row)] == readable
    assert len(found) == len(values)


def surrogate(value: object) -> bool:
    return isinstance(value, str) and any("\ud800" <= c <= "\udfff" for c in value)


def test_a_csv_cell_may_be_long(tmp_path: Path) -> None:
    (row,) = read(tmp_path, "a.csv", f"id,text\n1,{'x' * 200_000}\n")
    assert isinstance(row, Row)
    assert row.value == {"id": "1", "text": "x" * 200_000}


def test_two_csv_columns_of_one_name_are_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"two columns .* are called 'text'"):
        read(tmp_path, "a.csv", "id,text,text\n1,a,b\n")


class BadDisk(io.BytesIO):
    """Fails in the middle of a file."""

    def __next__(self) -> bytes:
        line = super().__next__()
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
    found = list(rows.read(str(path)))
    assert [type(row) for row in found] == [Row, Row, Malformed]
    last = found[-1]
    assert isinstance(last, Malformed)
    assert "Input/output error" in last.error
