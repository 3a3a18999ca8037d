"""What mkdocs makes of the pages: a site without what only holds in the repository, and `llms.txt`.

`llms.txt` (llmstxt.org) lists the pages of the navigation for models, which read their Markdown: it
lies beside the pages that are made of it, under the name that it has here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

_MARKS = re.compile(r"^(```python) \{[^}\n]*\}$", re.MULTILINE)
"""How `tests/test_docs.py` is told which model a block needs."""
_OUTSIDE = re.compile(r"\[((?:`[^`]*`|[^\]`])+)\]\(\.\./[^)]*\)")
"""A link to a file that is no page."""
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
_NO_PROSE = ("#", "```", "!", "<", "|", ":::", "-", "[!")
"""How blocks begin that don't say what a page is about."""


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Take out the marks of blocks, and links to files that are no pages; mkdocs calls it."""
    if page.file.src_uri.startswith("reference/"):
        return markdown
    return _OUTSIDE.sub(r"\1", _MARKS.sub(r"\1", markdown))


def on_page_context(context: Any, page: Any, config: Any, nav: Any, **_: Any) -> Any:
    """Write the Markdown of a page, and `llms.txt` with the first one; mkdocs calls it."""
    site = Path(config.site_dir)
    _write(site / page.file.src_uri, page.markdown)
    if page.is_homepage:
        _write(site / "llms.txt", llms(config, nav))
    return context


def llms(config: Any, nav: Iterable[Any]) -> str:
    """List the pages of a site under the headings of its navigation, each with what it is about."""
    lines = [f"# {config.site_name}", "", f"> {config.site_description}"]
    alone = [item for item in nav if not item.children]
    for heading, items in (("Start", alone), *((i.title, [i]) for i in nav if i.children)):
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
