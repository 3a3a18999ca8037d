"""The site that mkdocs makes of the pages: examples as pages, pictures in both schemes, `llms.txt`.

`llms.txt` (llmstxt.org) lists the pages of the navigation for models, which read their Markdown: it
lies beside the pages that are made of it, under the name that it has here.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_MARKS = re.compile(r"^(```python) \{[^}\n]*\}$", re.MULTILINE)
"""How `tests/test_docs.py` is told which model a block needs."""
_EXAMPLE = re.compile(r"\]\(\.\./examples/([\w/]+)\.(?:py|ipynb)\)")
"""A link to an example, which has a page of its own."""
_OUTSIDE = re.compile(r"\[((?:`[^`]*`|[^\]`])+)\]\(\.\./[^)]*\)")
"""A link to a file that is no page."""
_DRAWN = re.compile(r"!\[[^\]]*\]\(data:[^)]*\)\n*")
"""A picture that a notebook holds itself, which no model reads as text."""
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
_NO_PROSE = ("#", "```", "!", "<", "|", ":::", "-", "[!")
"""How blocks begin that don't say what a page is about."""
_PICTURE = re.compile(r"!\[([^\]]*)\]\(([\w/.-]+)-(?:light|dark)\.png\)")
"""A picture that was taken in both schemes."""
_DOCS = re.compile(r"\]\(\.\./docs/([^)]*)\)")
"""A link of an example to a page."""


def examples(root: Path = ROOT) -> dict[str, str]:
    """Make a page of Markdown of each example and of each project of `moa new`.

    Returns:
        The pages, by their addresses under `docs`.
    """
    folder, projects = root / "examples", root / "src/moa/cli/templates"
    pages: dict[str, str] = {}
    for path in sorted(folder.rglob("*.py")):
        pages[f"examples/{path.relative_to(folder).with_suffix('.md')}"] = _of_script(path)
    for path in sorted(folder.glob("*.ipynb")):
        pages[f"examples/{path.stem}.md"] = _of_notebook(path)
    for path in sorted(projects.glob("*/graph.py")):
        pages[f"examples/projects/{path.parent.name}.md"] = _of_project(path.parent)
    return pages


def _fenced(language: str, text: str) -> str:
    fence = "`" * (1 + max([2, *map(len, re.findall(r"`+", text))]))
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def _of_script(path: Path) -> str:
    source = path.read_text(encoding="utf-8")
    title = (ast.get_docstring(ast.parse(source)) or path.stem).splitlines()[0].rstrip(".")
    return f"# {title}\n\n`{path.relative_to(ROOT)}`\n\n{_fenced('python', source)}\n"


def _of_project(folder: Path) -> str:
    readme = (folder / "README.md").read_text(encoding="utf-8").rstrip()
    begin = f"`moa new {folder.name} DIR` makes this project."
    title, _, rest = readme.partition("\n")
    parts = [title, begin, rest.strip()]
    for name, language in (("graph.py", "python"), ("moa.toml", "toml")):
        parts += [f"## {name}", _fenced(language, (folder / name).read_text(encoding="utf-8"))]
    return "\n\n".join(parts) + "\n"


def _of_notebook(path: Path) -> str:
    parts: list[str] = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
        elif source.strip():
            parts.append(_fenced("python", source))
            parts += [text for output in cell["outputs"] if (text := _of_output(output))]
    text = _DOCS.sub(r"](../\1)", "\n\n".join(parts))
    return re.sub(r"\[([^\]]+)\]\(\.\./(?:benchmarks|src|examples)/[^)]*\)", r"\1", text) + "\n"


def _of_output(output: dict[str, Any]) -> str:
    """Show what a cell gave: a picture if it is one, else its text."""
    data = output.get("data", {})
    if "image/png" in data:
        return f"![Output](data:image/png;base64,{''.join(data['image/png']).strip()})"
    text = "".join(output.get("text", data.get("text/plain", "")))
    return _fenced("text", text) if text.strip() else ""


def on_files(files: Any, config: Any, **_: Any) -> Any:
    """Add the pages of the examples; mkdocs calls it."""
    from mkdocs.structure.files import File

    for address, text in examples().items():
        files.append(File.generated(config, address, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Make of a page of the repository one of the site; mkdocs calls it."""
    if page.file.src_uri.startswith(("reference/", "examples/")):
        return markdown
    text = _EXAMPLE.sub(r"](examples/\1.md)", _MARKS.sub(r"\1", markdown))
    return _OUTSIDE.sub(r"\1", _PICTURE.sub(_in_both_schemes, text))


def _in_both_schemes(picture: re.Match[str]) -> str:
    """Show the picture that suits the reader's scheme: material hides the other."""
    said, name = picture.groups()
    return "".join(f"![{said}]({name}-{one}.png#only-{one})" for one in ("light", "dark"))


def on_page_context(context: Any, page: Any, config: Any, nav: Any, **_: Any) -> Any:
    """Write the Markdown of a page, and `llms.txt` with the first one; mkdocs calls it."""
    site = Path(config.site_dir)
    _write(site / page.file.src_uri, _DRAWN.sub("", page.markdown))
    if page.file.src_uri == "index.md":
        _write(site / "llms.txt", llms(config, nav))
    return context


def llms(config: Any, nav: Iterable[Any]) -> str:
    """List the pages of a site under the headings of its navigation, each with what it is about."""
    lines = [f"# {config.site_name}", "", f"> {config.site_description}"]
    alone = [item for item in nav if not item.children]
    headed = [(item.title, [item]) for item in nav if item.children]
    for heading, items in ([("Start", alone)] if alone else []) + headed:
        lines += ["", f"## {heading}", ""]
        for page in (page for item in items for page in _pages(item)):
            about = summary(page.markdown)
            url = f"{config.site_url or ''}{page.file.src_uri}"
            lines.append(f"- [{page.title}]({url})" + (f": {about}" if about else ""))
    return "\n".join(lines) + "\n"


def _pages(item: Any) -> Iterator[Any]:
    """Give the pages under a heading, however deep; links to elsewhere are none."""
    if item.is_page:
        yield item
    for child in item.children or ():
        yield from _pages(child)


def summary(markdown: str) -> str:
    """Give the first sentence of a page."""
    blocks = (block.strip() for block in markdown.split("\n\n"))
    prose = next((block for block in blocks if block and not block.startswith(_NO_PROSE)), "")
    text = _LINK.sub(r"\1", " ".join(prose.split()))
    return re.split(r"(?<=[.?]) ", text, maxsplit=1)[0].rstrip(":")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
