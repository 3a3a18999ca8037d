"""Tables: of CSV with any separator and in any encoding, and of Excel."""

from __future__ import annotations

import io
import sys
import zipfile
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from moa import rows
from moa.batch import Malformed, Row
from moa.errors import ConfigError

TEXT = {"id": "1", "text": "Schön, danke"}
WRITTEN: dict[str, tuple[bytes, str | None]] = {
    "semicolon": (b"id;text\n1;Sch\xc3\xb6n, danke\n", None),
    "tab": (b"id\ttext\n1\tSch\xc3\xb6n, danke\n", None),
    "bar": (b"id|text\n1|Sch\xc3\xb6n, danke\n", None),
    "comma": (b'id,text\n1,"Sch\xc3\xb6n, danke"\n', None),
    "quoted names": (b'"id";"text"\n1;"Sch\xc3\xb6n, danke"\n', None),
    "said": (b"sep=;\nid;text\n1;Sch\xc3\xb6n, danke\n", None),
    "blank lines before": (b"\n\nid;text\n1;Sch\xc3\xb6n, danke\n", None),
    "Windows": (b"id;text\r\n1;Sch\xf6n, danke\r\n", "cp1252"),
    "UTF-16": ("id\ttext\n1\tSchön, danke\n".encode("utf-16"), "utf-16"),
}


@pytest.mark.parametrize(("content", "encoding"), WRITTEN.values(), ids=WRITTEN)
def test_a_table_is_read_whatever_its_separator_and_encoding(
    content: bytes, encoding: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    (row,) = rows.read(path, encoding=encoding)
    assert row.input == TEXT


def test_a_separator_in_a_quoted_name_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('"a;b;c;d",text\n1,"x;y"\n')
    said: list[str] = []
    (row,) = rows.read(tmp_path / "a.csv", say=said.append)
    assert (row.input, said) == ({"a;b;c;d": "1", "text": "x;y"}, [])


def test_the_separator_is_said_where_it_is_no_comma(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("id\ttext\n1\tx\n")
    said: list[str] = []
    assert len(list(rows.read(tmp_path / "a.tsv", say=said.append))) == 1
    assert "tabs" in said[0]


def test_what_is_not_utf_8_is_told_with_the_remedy_and_never_guessed(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"id;text\n1;Sch\xf6n\n2;fine\n")
    bad, good = rows.read(path)
    assert isinstance(bad, Malformed)
    assert "--encoding cp1252" in bad.error
    assert good.input == {"id": "2", "text": "fine"}
    for content, remedy in ((b"gr\xf6\xdfe;text\n1;x\n", "cp1252"), (b"\xff\xfet\x00", "utf-16")):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=f"--encoding {remedy}"):
            list(rows.read(path))
    with pytest.raises(ConfigError, match="no encoding"):
        rows.read(path, encoding="cp125x")


def test_bytes_that_an_encoding_lacks_make_one_row_malformed(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\n\x81\nthree\n")
    assert [type(row) for row in rows.read(tmp_path / "a.txt", encoding="cp1252")] == [
        Row,
        Malformed,
        Row,
    ]


PIPED = {
    "id,text\n1,Hello\n": {"id": "1", "text": "Hello"},
    "id;text\n1;Hello\n": {"id": "1", "text": "Hello"},
    "body,name\n1,Hello\n": "body,name",
    "Well, text\n": "Well, text",
    "text,text\n": "text,text",
    "text\n": "text",
}


@pytest.mark.parametrize(("content", "first"), PIPED.items())
def test_a_header_on_standard_input_tells_a_table_from_texts(
    content: str, first: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
    assert next(rows.read("-")).input == first


def test_a_column_that_is_named_tells_a_table_on_standard_input_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"body,name\nHello,Ada\n")))
    (row,) = rows.read("-", text_column="body")
    assert row.input == {"body": "Hello", "name": "Ada", "text": "Hello"}


@pytest.mark.parametrize("format", ["parquet", "xlsx"])
def test_what_is_not_read_front_to_back_is_refused_on_standard_input(
    format: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"x")))
    with pytest.raises(ConfigError, match="needs a file"):
        next(rows.read("-", format=format))


def excel(path: Path, *lines: list[Any]) -> Path:
    book: Any = import_module("openpyxl").Workbook()
    for line in lines:
        book.active.append(line)
    book.create_sheet("second").append(["not", "read"])
    book.save(path)
    return path


def test_the_first_sheet_of_an_excel_file_is_read_by_its_first_row(tmp_path: Path) -> None:
    day = datetime(2026, 3, 1, 12, 30)
    path = excel(
        tmp_path / "mails.xlsx",
        [],
        ["id", "text", "stars", "at"],
        ["a", "=1+1", 5, day],
        [],
        [None, "two"],
        ["c", "x", 1, day, "too many"],
    )
    first, second, bad = rows.read(path)
    assert first.input == {"id": "a", "text": None, "stars": 5, "at": "2026-03-01T12:30:00"}
    assert (second.id, second.input) == (5, {"id": None, "text": "two", "stars": None, "at": None})
    assert isinstance(bad, Malformed)


def test_an_excel_file_that_unpacks_to_far_too_much_or_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.xlsx"
    path.write_bytes(b"no zip")
    with pytest.raises(ConfigError, match=r"is no \.xlsx file"):
        list(rows.read(path))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("xl/styles.xml", bytes(40_000_000))
    with pytest.raises(ConfigError, match=r"save it as \.csv"):
        list(rows.read(path))
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("[Content_Types].xml", "<x/>")
    with pytest.raises(ConfigError, match="can't be read as an Excel file"):
        list(rows.read(path))
