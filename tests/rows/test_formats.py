"""Rows of files that are compressed, many, tables of Parquet, or elsewhere."""

from __future__ import annotations

import gzip
import json
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import pytest
import zstandard

from moa import rows
from moa.core.batch import MalformedLine
from moa.core.errors import ConfigError

LINES = b'{"id": "a", "text": "one"}\n{"text": "two"}\n'


def found(source: str | Path) -> list[tuple[str | int, object]]:
    return [(row.id, row.input) for row in rows.read(source)]


def parquet(path: Path, **columns: list[Any]) -> Path:
    arrow, tables = import_module("pyarrow"), import_module("pyarrow.parquet")
    tables.write_table(arrow.table(columns), path)
    return path


PACKED = pytest.mark.parametrize(
    ("end", "pack"), [(".gz", gzip.compress), (".zst", zstandard.compress)]
)


@PACKED
def test_a_compressed_file_is_read_as_it_is_unpacked(end: str, pack: Any, tmp_path: Path) -> None:
    path = tmp_path / f"mails.jsonl{end}"
    path.write_bytes(pack(LINES))
    assert found(path) == [("a", {"id": "a", "text": "one"}), (2, {"text": "two"})]


def test_rows_of_parquet_are_read_as_their_columns(tmp_path: Path) -> None:
    path = parquet(tmp_path / "mails.parquet", id=["a", "b"], text=["one", None], size=[1, 2])
    assert found(path) == [
        ("a", {"id": "a", "text": "one", "size": 1}),
        ("b", {"id": "b", "text": None, "size": 2}),
    ]


def test_a_file_that_is_no_parquet_and_a_name_that_says_no_format_are_refused(
    tmp_path: Path,
) -> None:
    path = tmp_path / "mails.parquet"
    path.write_bytes(LINES)
    with pytest.raises(ConfigError):
        found(path)
    with pytest.raises(ConfigError):
        rows.export_lines(list, tmp_path / "out.txt")


def test_rows_of_many_files_tell_which_file_they_are_of(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / f"{name}.jsonl").write_bytes(LINES)
    (tmp_path / "c.jsonl").write_text('{"id": 1}\n{"id": 2}\n')  # no numbers of lines
    ids = [one for one, _ in found(tmp_path / "*.jsonl")]
    assert ids == ["a", "a.jsonl:2", "a", "b.jsonl:2", 1, 2]
    with pytest.raises(ConfigError):
        found(tmp_path / "*.csv")


@pytest.mark.parametrize("name", ["mails", "mails.jsonl"])
def test_a_folder_is_told_to_be_one(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(ConfigError):
        found(tmp_path / name)


def test_a_file_elsewhere_is_read_by_its_address() -> None:
    import fsspec

    with cast("Any", fsspec).open("memory://mails.jsonl", "wb") as file:
        file.write(LINES)
    assert [one for one, _ in found("memory://mails.jsonl")] == ["a", 2]


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz"])
def test_what_came_out_is_written_as_the_name_says(name: str, tmp_path: Path) -> None:
    lines = [{"id": 1, "input": "a", "output": {"label": "x"}, "status": "answered"}]
    assert rows.export_lines(lambda: lines, tmp_path / name) == 1
    ((_, values),) = found(tmp_path / name)
    fields = cast("dict[str, Any]", values)
    output = fields["output"]
    assert (json.loads(output) if isinstance(output, str) else output) == {"label": "x"}


@PACKED
def test_a_compressed_file_that_is_cut_off_says_so_behind_its_rows(
    end: str, pack: Any, tmp_path: Path
) -> None:
    path = tmp_path / f"mails.txt{end}"
    packed = pack(b"".join(b"%064x\n" % (7**n % 2**255) for n in range(9000)))
    path.write_bytes(packed[: len(packed) // 2])
    *_, last = rows.read(path)
    assert isinstance(last, MalformedLine)
    assert "all that follows can't be read" in last.error
    assert rows.count(str(path), None) is None


def test_a_zstd_file_of_several_frames_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "mails.txt.zst"
    path.write_bytes(zstandard.compress(b"a\n") + zstandard.compress(b"b\n"))
    assert [value for _, value in found(path)] == ["a", "b"]


def test_of_many_files_one_that_is_broken_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt.gz").write_bytes(b"no gzip")
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"b\n"))
    broken, row = rows.read(tmp_path / "*.gz")
    assert isinstance(broken, MalformedLine)
    assert broken.error.startswith("a.txt.gz: ")
    assert row.input == "b"


def test_a_row_of_parquet_with_bytes_that_are_no_text_is_malformed(tmp_path: Path) -> None:
    path = parquet(tmp_path / "mails.parquet", text=["a", "b"], picture=[b"\xff", b"fine"])
    bad, good = rows.read(path)
    assert isinstance(bad, MalformedLine)
    assert "bytes that are no text" in bad.error
    assert good.input == {"text": "b", "picture": "fine"}


def test_a_small_packed_file_with_an_endless_line_ends_there(tmp_path: Path) -> None:
    path = tmp_path / "bomb.txt.gz"
    path.write_bytes(gzip.compress(b"fine\n" + b"a" * (70 << 20), compresslevel=1))
    fine, broken = rows.read(path)
    assert fine.input == "fine"
    assert isinstance(broken, MalformedLine)
    assert "64 MiB" in broken.error
