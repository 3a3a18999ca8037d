"""What of the pages only holds in the repository, taken out for the site that mkdocs makes."""

from __future__ import annotations

import re
from typing import Any

_MARKS = re.compile(r"^(```python) \{[^}\n]*\}$", re.MULTILINE)
"""How `tests/test_docs.py` is told which model a block needs."""
_OUTSIDE = re.compile(r"\[((?:`[^`]*`|[^\]`])+)\]\(\.\./[^)]*\)")
"""A link to a file that is no page."""


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Take out the marks of blocks, and links to files that are no pages; mkdocs calls it."""
    if page.file.src_uri.startswith("reference/"):
        return markdown
    return _OUTSIDE.sub(r"\1", _MARKS.sub(r"\1", markdown))
