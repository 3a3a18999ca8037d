"""Tables: of CSV with any separator and in any encoding, and of Excel."""

from __future__ import annotations

import io
import json
import sys
import zipfile
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from moa import rows
from moa.core._files import Existing
from moa.core.batch import MalformedLine, Row, row_text
from moa.core.errors import ConfigError, InputError, MissingDependency

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
    assert isinstance(bad, MalformedLine)
    assert "--encoding cp1252" in bad.error
    assert good.input == {"id": "2", "text": "fine"}
    for content, remedy in ((b"gr\xf6\xdfe;text\n1;x\n", "cp1252"), (b"\xff\xfet\x00", "utf-16")):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=f"--encoding {remedy}"):
            list(rows.read(path))
    with pytest.raises(ConfigError):
        rows.read(path, encoding="cp125x")


def test_bytes_that_an_encoding_lacks_make_one_row_malformed(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\n\x81\nthree\n")
    assert [type(row) for row in rows.read(tmp_path / "a.txt", encoding="cp1252")] == [
        Row,
        MalformedLine,
        Row,
    ]


@pytest.mark.parametrize(("value", "kind"), [(5, "a number: 5"), (None, "empty"), ([1], "a list")])
def test_a_text_that_is_none_is_told_by_what_it_is(
    value: object, kind: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=kind):
        row_text({"text": value})
    (tmp_path / "a.jsonl").write_text(json.dumps({"body": value}))
    with pytest.raises(ConfigError, match=f"'body' is no text, but {kind}"):
        list(rows.read(tmp_path / "a.jsonl", text_column="body"))


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
    with pytest.raises(ConfigError):
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
    assert isinstance(bad, MalformedLine)


def test_an_excel_file_that_unpacks_to_far_too_much_or_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.xlsx"
    path.write_bytes(b"no zip")
    with pytest.raises(ConfigError):
        list(rows.read(path))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("xl/styles.xml", bytes(40_000_000))
    with pytest.raises(ConfigError):
        list(rows.read(path))
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("[Content_Types].xml", "<x/>")
    with pytest.raises(ConfigError):
        list(rows.read(path))


def sorted_out(out: Path, source: Path, *fails: str, **options: Any) -> list[dict[str, Any]]:
    """Work through a table, its last row first, and read the table that comes out."""
    existing: Existing = options.pop("existing", "refuse")
    with rows.result_file(
        out, existing=existing, source=str(source), line=rows.line, **options
    ) as file:
        for row in reversed(list(file.due_rows(rows.read(source)))):
            line: dict[str, Any] = {"id": row.id, "input": row.input}
            if any(one in str(row.input) for one in fails):
                line |= {"output": None, "status": "failed", "error": "InputError: no"}
            else:
                line |= {"output": {"label": "x", "deep": {"n": 1}}, "status": "answered"}
            file.write(line)
    return [row.input for row in rows.read(out) if isinstance(row.input, dict)]


@pytest.fixture(name="mails")
def _mails(tmp_path: Path) -> Path:
    path = tmp_path / "mails.csv"
    path.write_text("id,text,label,stars\n3,=1+1,a,5\n1,@two,b,4\n2,three,c,3\n")
    return path


@pytest.mark.parametrize("name", ["out.csv", "out.parquet", "out.xlsx"])
def test_a_table_has_the_input_s_rows_and_columns_and_beside_them_what_came_out(
    name: str, mails: Path, tmp_path: Path
) -> None:
    found = sorted_out(tmp_path / name, mails, "three")
    assert [row["id"] for row in found] == ["3", "1", "2"]
    first, _, last = found
    assert list(first) == [
        "id",
        "text",
        "label",
        "stars",
        "output_label",
        "deep",
        "error",
        "status",
    ]
    assert (first["text"], first["label"], first["output_label"]) == ("=1+1", "a", "x")
    assert json.loads(first["deep"]) == {"n": 1}
    assert (last["status"], last["error"]) == ("failed", "InputError: no")
    assert {path.name for path in tmp_path.iterdir()} == {"mails.csv", name, f"{name}.jsonl"}


def test_a_table_is_gone_on_with_by_its_lines_and_has_each_row_once(
    mails: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.csv"
    sorted_out(out, mails, "three", "two")
    with pytest.raises(ConfigError):
        sorted_out(out, mails)
    found = sorted_out(out, mails, existing="resume")
    assert [(row["id"], row["status"]) for row in found] == [(n, "answered") for n in "312"]
    assert sorted_out(out, mails, existing="resume") == found


def test_a_table_that_is_not_ours_or_the_input_is_not_replaced(mails: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    out.write_text("mine\n")
    for existing in ("refuse", "resume"):
        with pytest.raises(ConfigError, match=r"out\.csv"):
            sorted_out(out, mails, existing=existing)
    with pytest.raises(ConfigError):
        sorted_out(mails, mails, existing="overwrite")
    assert out.read_text() == "mine\n"
    assert len(sorted_out(out, mails, existing="overwrite")) == 3


def test_only_the_rows_that_are_asked_for_stand_in_a_table(mails: Path, tmp_path: Path) -> None:
    found = sorted_out(tmp_path / "out.csv", mails, "three", where=["kept", "stars=5"])
    assert [row["id"] for row in found] == ["3"]
    assert len((tmp_path / "out.csv.jsonl").read_bytes().splitlines()) == 3
    with pytest.raises(ConfigError):
        sorted_out(tmp_path / "out.jsonl", mails, where=["kept"])


def test_a_text_never_becomes_a_formula_of_excel(mails: Path, tmp_path: Path) -> None:
    sorted_out(tmp_path / "out.xlsx", mails)
    sheet: Any = import_module("openpyxl").load_workbook(tmp_path / "out.xlsx").active
    kinds = {cell.data_type for row in sheet.iter_rows() for cell in row if cell.value is not None}
    assert kinds == {"s"}


def test_a_table_whose_package_is_missing_is_refused_before_a_row_is_done(
    mails: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(MissingDependency, match="openpyxl"):
        rows.result_file(
            tmp_path / "out.xlsx", existing="refuse", source=str(mails), line=rows.line
        )


def test_a_row_that_changed_has_its_new_line_in_the_table_before_all_are_read(
    mails: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.csv"
    sorted_out(out, mails)
    mails.write_text(mails.read_text().replace("=1+1", "new"))
    with rows.result_file(out, existing="resume", source=str(mails), line=rows.line) as file:
        first = next(iter(file.due_rows(rows.read(mails))))
        file.write({"id": first.id, "input": first.input, "output": "y"})
    found: list[Any] = [row.input for row in rows.read(out)]
    texts = {one["id"]: one["text"] for one in found}
    assert (len(found), texts) == (3, {"3": "new", "1": "@two", "2": "three"})


def test_a_row_that_changed_keeps_its_old_line_in_the_table_until_it_is_done(
    mails: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.csv"
    sorted_out(out, mails)
    mails.write_text(mails.read_text().replace("=1+1", "new"))
    with rows.result_file(out, existing="resume", source=str(mails), line=rows.line) as file:
        next(iter(file.due_rows(rows.read(mails))))
    found: list[Any] = [row.input for row in rows.read(out)]
    assert {one["id"]: one["text"] for one in found} == {"3": "=1+1", "1": "@two", "2": "three"}
