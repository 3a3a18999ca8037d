"""What stands around the code: the workflows, and what the site says to models."""

from __future__ import annotations

import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def pages() -> Any:
    spec = spec_from_file_location("pages", ROOT / ".ci" / "pages.py")
    assert spec
    assert spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def page(title: str, name: str, markdown: str) -> SimpleNamespace:
    file = SimpleNamespace(src_uri=name)
    return SimpleNamespace(
        title=title, file=file, markdown=markdown, children=None, is_page=True, is_homepage=False
    )


def test_each_action_is_one_that_nobody_can_exchange() -> None:
    used = [line for path in WORKFLOWS for line in re.findall(r"uses: (.*)", path.read_text())]
    assert used
    for action in used:
        assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), action


def test_no_workflow_holds_a_secret_and_only_the_one_that_publishes_may_sign() -> None:
    for path in WORKFLOWS:
        text = path.read_text()
        assert "secrets." not in text
        assert re.search(r"^permissions:\n  contents: read$", text, re.MULTILINE)
        assert text.count("id-token: write") == (path.name == "release.yml")


def test_the_list_for_models_has_each_page_of_the_navigation_with_what_it_is_about() -> None:
    start = page("moa", "index.md", "# moa\n\n![A picture](a.svg)\n\nIt *decides*. And more.")
    deep = page("Rows", "rows.md", "# Rows\n\n```bash\nmoa run\n```\n\nMany [rows](a.md): so\nfar.")
    bare = page("Names", "reference/names.md", "# Names\n\n::: moa.Agent")
    inner = SimpleNamespace(title="Inner", children=[deep], is_page=False)
    guide = SimpleNamespace(title="Guide", children=[inner, bare], is_page=False)
    config = SimpleNamespace(site_name="moa", site_description="Typed.", site_url=None)
    assert pages().llms(config, [start, guide]) == (
        "# moa\n\n> Typed.\n\n## Start\n\n- [moa](index.md): It *decides*.\n\n"
        "## Guide\n\n- [Rows](rows.md): Many rows: so far.\n- [Names](reference/names.md)\n"
    )


def test_the_markdown_of_a_page_lies_beside_the_page(tmp_path: Path) -> None:
    config = SimpleNamespace(
        site_name="moa", site_description="T.", site_url="https://a.example/", site_dir=tmp_path
    )
    start = page("moa", "index.md", "# moa\n\nIt decides.")
    start.is_homepage = True
    pages().on_page_context({}, page=start, config=config, nav=[start])
    assert (tmp_path / "index.md").read_text() == start.markdown
    assert "(https://a.example/index.md): It decides." in (tmp_path / "llms.txt").read_text()
