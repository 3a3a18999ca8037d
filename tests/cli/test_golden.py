"""What commands print and write on small inputs is what was recorded, times aside.

Record anew by removing a file of `tests/cli/golden` and running this; then read the difference.
"""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path

import pytest
from command import moa, written
from routing import rows as routing_rows

from moa.config.endpoints import Endpoints
from moa.core.usage import Price
from moa.testing import SimulatedEndpoint

from .test_learn import TASK, endpoint, rows

PRICE = Price(input=Decimal(1), output=Decimal(2))
GOLDEN = Path(__file__).parent / "golden"
GRAPH = """
from moa import Agent, Graph, Text
from moa.core.node import Dropped, Reply
from moa.testing import SimulatedEndpoint
from moa.core.usage import Price

def answer(text):
    return "too bad" if "fail" in text else f"re: {text.splitlines()[1]}"

large = SimulatedEndpoint(
    name="large", tier="llm", rule=answer, tokens=(1000, 100), price=Price(input=1000, output=0)
)
g = Graph("mails", Text)
reply = g.add(Agent(large, "Answer.", name="write"), g.input.map(lambda m: m.text))

async def checked(reply: Reply) -> Reply | Dropped:
    if "too bad" in reply.text:
        raise ValueError("I can't take this")
    return Dropped(reason="a joke") if "joke" in reply.text else reply

graph = g.build(g.add(checked, reply))
"""
CONFIG = """[endpoints.large]
tier = "llm"
model = "m"
input_price = 1
output_price = 2
base_url = "https://example.com/v1"
"""
SOME = '{"id": "a", "input": {"id": "a", "text": "one"}}\n'
MAILS = '{"id": "a", "text": "one"}\n{"text": "a joke"}\n{\n{"text": "fail"}\n{"id": "e"}\n'
FITTED = {"calibrated", "learn", "recheck", "eval", "compare", "fit"}
SPAM = ("--task", "Is this message spam?")
COMMANDS = {
    "run table": ("run", "graph.py:graph", "mails.jsonl", "--concurrency", "1"),
    "run json": ("run", "graph.py:graph", "mails.jsonl", "--json", "--concurrency", "1"),
    "run text": ("run", "sentiment", "--text", "Lovely 0.9", "--config", "none.toml"),
    "run resumed": ("run", "graph.py:graph", "mails.jsonl", "--out", "some.jsonl", "--resume"),
    "run refused": ("run", "graph.py:graph", "mails.jsonl", "--out", "some.jsonl"),
    "decide": ("decide", "new.jsonl", *SPAM, "--labels", "ham,spam", "--out", "out.jsonl"),
    "decide calibrated": ("decide", "new.jsonl", "--calibration", "c.json", "--json"),
    "learn": ("learn", "a.jsonl", *SPAM, "--out", "new.json"),
    "recheck": ("learn", "b.jsonl", "--recheck", "c.json", "--out", "again.json"),
    "eval": ("eval", "c.json", "b.jsonl", "--report", "out.json"),
    "eval json": ("eval", "c.json", "b.jsonl", "--json"),
    "compare": ("compare", "b.jsonl", "--designs", "slm,llm", *SPAM, "--labels", "ham,spam"),
    "label by llm": ("label", "c.json", "new.jsonl", "--by-llm"),
    "route fit": ("route", "fit", "routing.jsonl", "--out", "r.json"),
    "route score": ("route", "score", "router.json", "few.jsonl", "--out", "out.jsonl"),
    "route eval": ("route", "eval", "router.json", "routing.jsonl"),
    "route eval json": ("route", "eval", "router.json", "routing.jsonl", "--json"),
    "draw": ("draw", "graph.py:graph"),
    "index": ("index", "manuals", "--out", "manuals.index", "--words"),
    "models list": ("models", "list", "--tier", "slm", "--kind", "decision"),
    "models add": ("models", "add", "laya", "--config", "new.toml"),
    "status": ("status", "--config", "none.toml"),
    "down": ("down", "--all"),
}


@pytest.fixture(autouse=True)
def inputs(folder: Path, no_encoders: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOA_CACHE", str(folder / "cache"))
    large = SimulatedEndpoint(name="large", tier="llm", rule=endpoint().rule, price=PRICE)
    monkeypatch.setenv("MOA_CONFIG", "moa.toml")
    monkeypatch.setattr("moa.cli.screen._SAID_EVERY_S", 3600.0)  # a slow machine says more
    monkeypatch.setattr(Endpoints, "slm", endpoint())
    monkeypatch.setattr(Endpoints, "llm", large)
    Path("moa.toml").write_text(CONFIG)
    Path("none.toml").touch()
    Path("graph.py").write_text(GRAPH)
    Path("mails.jsonl").write_text(MAILS)
    Path("some.jsonl").write_text(SOME)
    for name, found in (
        ("a", rows(300)),
        ("b", rows(120, seed=1)),
        ("new", [{key: row[key] for key in ("id", "text")} for row in rows(4, seed=3)]),
        ("routing", routing_rows(60, seed=4)),
        ("few", routing_rows(3, seed=4)),
    ):
        written(f"{name}.jsonl", found)
    Path("router.json").write_text((GOLDEN.parents[1] / "golden" / "router.json").read_text())
    Path("manuals").mkdir()
    Path("manuals", "filter.md").write_text("# Filter\n\nChange the filter each month.\n")


def still(name: str, text: str) -> str:
    """Leave out what differs from run to run; of fitted things, all figures, pinned elsewhere."""
    if name.split()[-1] in FITTED or name.split()[0] in FITTED:
        return re.sub(r"[ ─]{2,}", "  ", re.sub(r"\d[\d.,e-]*\d|\d", "#", text))
    text = re.sub(r'"((?:\w+_)?seconds)": [^,}\n]+', r'"\1": 0', text)
    # The last bits of a figure depend on the machine's arithmetic.
    text = re.sub(r"\b\d\.\d{13,}(?!\d|e)", lambda found: f"{float(found[0]):.12g}", text)
    text = re.sub(r"\d+\.\d (items/s)", r"0.0 \1", text)
    text = re.sub(r"\d+\.\d+( mean| median| at the 95th| ms)", r"0.00\1", text)
    return re.sub(r"(?m)\d+\.\d( +(?:US\$ \S+|unknown)) *$", r"0.0\1", text)


def made() -> str:
    """Give what the files hold that were made or changed, rows in the order of their ids."""
    found = ""
    for file in ("out.jsonl", "some.jsonl", "labelled.jsonl", "moa.toml", "new.toml", "out.json"):
        text = Path(file).read_text() if Path(file).exists() else ""
        if text and text not in (CONFIG, SOME):
            lines = text.splitlines()
            found += "\n".join(
                (f"-- {file}", *(sorted(lines) if file.endswith("jsonl") else lines), "")
            )
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_prints_and_writes_what_it_did(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if "c.json" in COMMANDS[name]:
        moa("learn", "a.jsonl", *TASK, "--out", "c.json")
        capsys.readouterr()
    code = moa(*COMMANDS[name])
    out, err = capsys.readouterr()
    found = still(name, f"-- stdout\n{out}-- stderr\n{err}{made()}")
    found = f"exit code {code}\n{re.sub(' +$', '', found, flags=re.MULTILINE)}"
    golden = GOLDEN / f"{name}.txt"
    if not golden.exists():
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(found)
    assert found == golden.read_text()
