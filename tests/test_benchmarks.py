"""The benchmarks: which code a section is of, and the command that runs them all."""

from __future__ import annotations

import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "benchmarks"))
every: Any = import_module("all")
figures: Any = import_module("figures")
report: Any = import_module("report")
sections: Any = import_module("sections")

PAGE = "<!-- begin one -->{}\n\nFigures: 0.9.\n\n<!-- end one -->\n"
ONE = sections.Section("one.py {data} {kept}", ("mixing", "graphs/rag*"))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one module, and one benchmark that measures it."""
    for module in (every, sections):
        monkeypatch.setattr(module, "ROOT", tmp_path)
        monkeypatch.setattr(module, "SECTIONS", {"one": ONE})
    monkeypatch.setattr(every, "PAGES", tmp_path)
    (tmp_path / "src/moa/mixing").mkdir(parents=True)
    (tmp_path / "src/moa/mixing/judges.py").write_text("A = 1\n")
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks/one.py").write_text(
        "import sys; open('ran', 'a').write(sys.argv[1] + '\\n'); sys.exit(sys.argv[1] == 'bad')"
    )
    return tmp_path


def test_what_a_section_says_of_its_age_is_true() -> None:
    files = sections.files_here()
    for path in sorted((ROOT / "docs").glob("*.md")):
        for name, body in sections.sections_in(path.read_text("utf-8")):
            stamp = sections.stamp_in(body)
            assert stamp, f"{path.name}: {name} doesn't say of which code it is"
            old = stamp.modules != sections.modules_of(sections.section_of(name), files)
            assert stamp.old is old, f"{path.name}: {name}; run python benchmarks/all.py --mark"


def test_each_section_that_is_written_is_known_and_measures_modules_that_are_there() -> None:
    written = {
        name
        for path in (ROOT / "benchmarks").glob("*.py")
        for name in re.findall(r'\bwrite\(\s*"(\w[^"]+)"', path.read_text("utf-8"))
    }
    assert written <= {*sections.SECTIONS}
    files = sections.files_here()
    for name, section in sections.SECTIONS.items():
        assert (ROOT / "benchmarks" / section.command.split()[0]).is_file()
        for pattern in section.measures:
            alone = section._replace(measures=(pattern,))
            nothing = section._replace(measures=())
            assert sections.modules_of(alone, files) != sections.modules_of(nothing, files), name


def test_a_section_is_of_older_code_from_the_change_of_a_module_it_measures_on(
    project: Path,
) -> None:
    files = sections.files_here()
    page = PAGE.format(sections.Stamp("abc", sections.modules_of(ONE, files)))
    assert every.marked(page, files, {}) == page
    elsewhere = {**files, "mixing2.py": "2", "graphs/engine/rag.py": "3"}
    assert every.marked(page, elsewhere, {}) == page
    for path in ("mixing/judges.py", "graphs/rag.py"):
        old = every.marked(page, {**files, path: "changed"}, {})
        assert "`abc`" in old
        assert "of older code" in old
        assert every.marked(old, files, {}) == page


def test_a_section_is_written_with_the_code_that_it_measured(project: Path) -> None:
    page = project / "page.md"
    report.write("one", "python one.py", "Figures.", page=page)
    report.write("one", "python one.py", "Other figures.", page=page)
    ((name, body),) = sections.sections_in(page.read_text())
    assert name == "one"
    assert sections.stamp_in(body).modules == sections.modules_of(ONE, report.FILES)


def test_a_section_of_a_time_before_that_is_of_the_commit_its_figures_came_with(
    project: Path,
) -> None:
    page = project / "page.md"
    tables = ("| 1 | 2 |", "| 1 | 3 |", "| one | 1 | 3 |")
    commits: list[str] = []
    sections.git("init", "-q")
    author = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    for place, table in enumerate(tables):
        (project / "src/moa/mixing/judges.py").write_text(f"A = {place}\n")
        page.write_text(PAGE.format(f"\n\n{table}"))
        sections.git("add", ".")
        sections.git(*author, "commit", "-qm", table)
        commits.append(sections.git("rev-parse", "--short=8", "HEAD").strip())
    stamps = every.stamps_by_history(page, page.read_text())
    assert stamps["one"].commit == commits[1]
    assert stamps["one"].modules != sections.modules_of(ONE, sections.files_here())
    sections.git("checkout", "-q", commits[1])
    assert stamps["one"].modules == sections.modules_of(ONE, sections.files_here())


def test_what_is_of_todays_code_is_not_due_until_its_modules_change(project: Path) -> None:
    assert every.due(["one"]) == ["one"]
    page = project / "page.md"
    modules = sections.modules_of(ONE, sections.files_here())
    page.write_text(PAGE.format(sections.Stamp("abc", modules)))
    assert every.due(["one"]) == []
    (project / "src/moa/mixing/judges.py").write_text("A = 2\n")
    assert every.due(["one"]) == ["one"]


def test_a_benchmark_that_failed_is_counted_and_the_next_ones_run(project: Path) -> None:
    assert every.run(["one", "one"], {"data": ["bad"]}, project / "kept") == 2
    assert (project / "ran").read_text().splitlines() == ["bad", "bad"]


def test_a_section_that_lacks_something_is_left_out_and_it_is_said_how_to_get_it(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert every.run(["one"], {"data": []}, project / "kept") == 0
    said = capsys.readouterr().out
    assert "one: skipped, for want of data" in said
    assert "--data DIR" in said
    assert not (project / "ran").exists()


def test_another_section_can_not_be_written_unseen(project: Path) -> None:
    with pytest.raises(SystemExit, match=r"sections\.py"):
        report.write("another", "python one.py", "Figures.", page=project / "page.md")


def test_each_table_of_figures_is_on_a_page() -> None:
    marks = re.compile("<!-- figures: (.+?) -->")
    pages = "".join(path.read_text("utf-8") for path in figures.PAGES)
    assert sorted(marks.findall(pages)) == sorted(marks.findall(figures.TABLES.read_text("utf-8")))


@pytest.mark.parametrize("path", figures.PAGES, ids=lambda path: path.name)
def test_the_figures_of_a_page_are_those_of_the_benchmarks(path: Path) -> None:
    written = path.read_text("utf-8")
    made = figures.with_figures(written, figures.MEASURED.read_text("utf-8"))
    assert written == made, "run python benchmarks/figures.py"


CELL = "0.42 / 0.940 (3/4)"


@pytest.mark.parametrize(
    ("how", "written"),
    [
        (".0%", "42 %"),
        ("second .1%", "94.0 %"),
        ("words", "0.42 / 0.940 (3/4)"),
        ("counts", "3 of 4"),
    ],
)
def test_a_figure_is_found_by_section_row_and_column(how: str, written: str) -> None:
    table = f"| set | n | right |\n| --- | --: | --: |\n| all | 9 | {CELL} |\n"
    page = f"<!-- begin pairs -->\n\n{table}\n<!-- end pairs -->\n"
    assert figures.figure(page, f"pairs > all > right > {how}") == written
    with pytest.raises(SystemExit, match="'wrong'"):
        figures.figure(page, f"pairs > all > wrong > {how}")


def test_pictures_that_are_drawn_for_pages_are_dark_where_their_reader_prefers_that() -> None:
    drawn = [path.read_text("utf-8") for path in (ROOT / "docs").glob("*.svg")]
    plots = [picture for picture in drawn if "Matplotlib" in picture]
    assert plots
    assert all("prefers-color-scheme: dark" in picture for picture in plots)
