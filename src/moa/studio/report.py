"""Report: the page with its data in one file, which opens anywhere and loads nothing.

The page's security policy allows only the script with its hash. The data is JSON without `<`, so
that no text in it can close its block.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from pathlib import Path

from moa.core._files import dump_json, save_text, to_jsonable
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
"""Modules, each after those that it imports. No two define the same top-level name."""
_IMPORT = re.compile(r"^import .*?;\n", re.MULTILINE)
_EXPORT = re.compile(r"^export ", re.MULTILINE)
ROWS = 1000
"""Default maximum of rows in a file."""


def write_report(view: View, path: Path, *, rows: int = ROWS) -> int:
    """Write the page with its data to one file.

    Args:
        view: Data of the page. Its `texts` says whether texts of rows are included.
        path: The file.
        rows: Maximum rows in it, the most urgent first. Statistics cover all rows.

    Returns:
        Number of rows in it.

    Raises:
        ConfigError: the file can't be written.
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
    """Return the page as HTML with the data in it."""
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
    """Return JSON that is safe inside HTML: it can't open or close a tag."""
    text = dump_json(to_jsonable(data))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _inline(name: str) -> str:
    """Return a module without imports and exports, to be joined into one script."""
    source = (STATIC / name).read_text("utf-8")
    return _EXPORT.sub("", _IMPORT.sub("", source))


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
