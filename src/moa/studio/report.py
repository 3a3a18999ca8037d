"""Report: the page with its data in one file, which opens anywhere and loads nothing.

Its script runs since the policy of the page names the hash of exactly that script; data is JSON
without `<`, so that no text in it can end its block.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from pathlib import Path

from moa._files import dump_json, save_text, to_jsonable
from moa.studio.data import Can, Query
from moa.studio.sources import View

STATIC = Path(__file__).parent / "static"
_MODULES = (
    "dom.js",
    "data.js",
    "rows.js",
    "threshold.js",
    "graph.js",
    "row.js",
    "question.js",
    "live.js",
    "app.js",
)
"""In the order in which one needs the other; no two use the same name at their top."""
_IMPORT = re.compile(r"^import .*?;\n", re.MULTILINE)
_EXPORT = re.compile(r"^export ", re.MULTILINE)
ROWS = 1000
"""Rows in a file, unless told otherwise."""


def write_report(view: View, path: Path, *, rows: int = ROWS) -> int:
    """Write the page with its data into one file.

    Args:
        view: What it shows; its `texts` say whether texts of rows are in it.
        path: The file.
        rows: Rows in it at most, those that are to be looked at first; figures are of all.

    Returns:
        How many rows are in it.

    Raises:
        ConfigError: it can't be written.
    """
    row_page = view.book.find(Query(limit=rows), texts=view.texts)
    sample = len(row_page.rows) if len(row_page.rows) < row_page.total else None
    data = {
        "overview": view.overview(sample=sample).model_copy(update={"can": Can()}),
        "rows": row_page.rows,
        "details": {str(row.place): view.detail(row.place) for row in row_page.rows},
    }
    save_text(path, page(data, title=view.source.name), private=True)
    return len(row_page.rows)


def page(data: object, *, title: str) -> str:
    """Write the page around data."""
    script = "\n".join(_inline(name) for name in _MODULES)
    style = (STATIC / "studio.css").read_text("utf-8")
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    head = f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n<style>{style}</style>'
    block = f'<script type="application/json" id="data">{escape_json(data)}</script>'
    document = (STATIC / "index.html").read_text("utf-8")
    document = document.replace('<link rel="stylesheet" href="studio.css">', head)
    document = document.replace("<title>moa studio</title>", f"<title>{html.escape(title)}</title>")
    return document.replace(
        '<script type="module" src="app.js"></script>',
        f'{block}\n<script type="module">{script}</script>',
    )


def escape_json(data: object) -> str:
    """Write JSON that is safe inside HTML: it can neither open nor close a tag."""
    text = dump_json(to_jsonable(data))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _inline(name: str) -> str:
    """Return a module as a part of one script, after those that it imports."""
    source = (STATIC / name).read_text("utf-8")
    return _EXPORT.sub("", _IMPORT.sub("", source))


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
