"""Loading: files of every kind, and those that are not what they say."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from documents.files import FOX, PNG, closed, pdf, pictures
from moa.core.errors import ConfigError
from moa.documents.files import LoadedDocuments, load


def only(loaded: LoadedDocuments) -> str:
    """The text of the one document."""
    assert not loaded.unread
    (document,) = loaded.documents
    return document.text


def why(loaded: LoadedDocuments) -> str:
    """Why the one file was not read."""
    assert not loaded.documents
    (unread,) = loaded.unread
    return str(unread)


def test_a_folder_is_read_with_those_in_it_in_the_order_of_names(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "hidden.txt").write_text("hidden")
    (tmp_path / "deep" / "b.md").write_text("# Foxes\n\nThey jump.")
    (tmp_path / "a.txt").write_text("Dogs sleep.")
    (tmp_path / "table.xlsx").write_bytes(b"PK\x03\x04")
    loaded = load(tmp_path)
    assert [(d.id, d.title) for d in loaded.documents] == [("a.txt", "a"), ("deep/b.md", "Foxes")]
    assert loaded.ignored == ("table.xlsx",)


def test_html_is_read_as_its_reader_sees_it(tmp_path: Path) -> None:
    page = "<html><head><title>Our &amp; shop</title><script>x()</script></head><p>Open<br>daily"
    (tmp_path / "a.html").write_text(page)
    (document,) = load(tmp_path / "a.html").documents
    assert (document.title, document.text) == ("Our & shop", "Open\ndaily")


def test_html_in_another_encoding_is_read_as_it_declares(tmp_path: Path) -> None:
    # By a guess alone it is Korean.
    text = "この書生というのは時々我々を捕えて煮て食うという話である"
    page = f'<meta charset="euc-jp"><p>{text}</p>'
    (tmp_path / "a.html").write_bytes(page.encode("euc-jp"))
    assert only(load(tmp_path)) == text


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"])
def test_a_text_is_read_in_its_encoding(encoding: str, tmp_path: Path) -> None:
    text = "Das Café öffnet um acht Uhr, und für Gäste gibt es heiße Brötchen. " * 4
    (tmp_path / "a.txt").write_bytes(text.encode(encoding))
    assert only(load(tmp_path)) == text


def test_the_pages_of_a_pdf_are_known(tmp_path: Path) -> None:
    pages = (f"Page number {number}. {FOX}" for number in range(1, 301))
    pdf(tmp_path / "a.pdf", *pages, title="Animals")
    (document,) = load(tmp_path).documents
    assert (document.title, len(document.pages)) == ("Animals", 300)
    for number in (1, 2, 300):
        assert document.page_at(document.text.index(f"number {number}.")) == number


def test_words_and_sentences_of_a_pdf_go_on_over_the_ends_of_lines(tmp_path: Path) -> None:
    pdf(tmp_path / "a.pdf", "An exam-\nple of a\nlong line.\nA new one.")
    assert only(load(tmp_path)) == "An example of a long line.\nA new one."


def test_what_cannot_be_read_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Dogs sleep.")
    (tmp_path / "empty.pdf").write_bytes(b"")
    pdf(tmp_path / "good.pdf", FOX)
    pictures(tmp_path / "scan.pdf", pages=2)
    loaded = load(tmp_path)
    assert [document.id for document in loaded.documents] == ["a.txt", "good.pdf"]
    assert [unread.file for unread in loaded.unread] == ["empty.pdf", "scan.pdf"]
    assert all(unread.file in unread.reason for unread in loaded.unread)


def test_a_pdf_of_pictures_is_told(tmp_path: Path) -> None:
    assert "holds no text" in why(load(pictures(tmp_path / "scan.pdf", pages=2)))
    assert "holds no text" in why(load(pdf(tmp_path / "blank.pdf", "")))


def test_pages_of_a_pdf_without_text_are_told(tmp_path: Path) -> None:
    (document,) = load(pdf(tmp_path / "a.pdf", FOX, "", FOX)).documents
    assert document.notes == ("page 2 of 3 hold no text, as pictures do",)


def test_an_encrypted_pdf_is_told_unless_it_can_be_read_without_a_password(tmp_path: Path) -> None:
    file = pdf(tmp_path / "a.pdf", FOX, password="secret")
    assert why(load(file)) == "a.pdf is encrypted, and can't be read: save it without a password"
    assert only(load(pdf(file, FOX, password=""))) == FOX


def test_a_pdf_that_breaks_off_is_told(tmp_path: Path) -> None:
    file = pdf(tmp_path / "a.pdf", FOX)
    file.write_bytes(file.read_bytes()[:120])
    assert why(load(file)).startswith("a.pdf is a broken PDF, and could not be read (")


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.pdf", PNG, "a.pdf is no PDF, as its name says"),
        ("a.pdf", b"<html><p>Hi</p>", "a.pdf is no PDF, as its name says"),
        ("a.pdf", b"Hello there", "a.pdf is no PDF, as its name says"),
        ("a.txt", PNG, "a.txt is no text, as its name says"),
        ("a.txt", b"%PDF-1.7 \x00", "a.txt is no text, as its name says"),
        ("a.md", b"PK\x03\x04\xff\xfe\x00", "a.md is no Markdown, as its name says"),
        ("a.html", bytes(range(256)), "a.html is no HTML, as its name says"),
        ("a.txt", b" \n", "a.txt is empty"),
        ("a.html", b"<p> </p>", "a.html holds no text"),
        ("a.txt", b"\xef\xbb\xbf", "a.txt holds no text"),
        ("a.txt", b"\xff\xfe", "a.txt holds no text"),
        ("a.docx", b"PK\x03\x04", "a.docx is of no kind that is read: .txt"),
    ],
)
def test_a_file_that_is_not_what_it_says_is_told(
    name: str, data: bytes, reason: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(data)
    assert why(load(tmp_path / name)).startswith(reason)


def test_of_several_folders_each_gives_its_name_and_files_of_one_name_are_refused(
    tmp_path: Path,
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text(name)
    loaded = load([tmp_path / "one", tmp_path / "two"])
    assert [document.id for document in loaded.documents] == ["one/a.txt", "two/a.txt"]
    with pytest.raises(ConfigError, match=r"'a\.txt'"):
        load([tmp_path / "one" / "a.txt", tmp_path / "two" / "a.txt"])


def test_files_whose_names_are_not_utf8_are_read_and_told_apart(tmp_path: Path) -> None:
    for name in (b"\xe9.txt", b"\xe8.txt"):
        (tmp_path / os.fsdecode(name)).write_text("hello")
    loaded = load(tmp_path)
    assert [document.id for document in loaded.documents] == ["\\xe8.txt", "\\xe9.txt"]


def test_a_folder_that_cannot_be_listed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.txt").write_text("Dogs sleep.")
    closed(tmp_path / "deep", monkeypatch)
    loaded = load(tmp_path)
    assert [document.id for document in loaded.documents] == ["a.txt"]
    assert [unread.file for unread in loaded.unread] == ["deep/"]
    assert str(loaded.unread[0]).endswith("deep can't be read: Permission denied")


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        load(tmp_path / "missing")
