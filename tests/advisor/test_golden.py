"""What `moa choose` answers for ten tasks on given hardware, as recorded in `golden.json`.

Rankings and figures are held exactly, but for the last digits of a float, and at the prices of the
day they were recorded on. Where they are meant to change, record them anew, and read the
difference: `python -m advisor.test_golden` in `tests/`.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from moa import config
from moa.advisor.catalogue import models
from moa.cli.app import app
from moa.usage import Price

FILE = Path(__file__).with_name("golden.json")
NO_GPU = "--no-gpu --ram 16GB --cores 8"
L4 = "--gpu L4 --ram 64GB --cores 16"
GERMAN = "classify support tickets in German, 10k a day, at most 300 ms"
TASKS: dict[str, tuple[str, str]] = {
    "German tickets on one L4": (GERMAN, f"{L4} --no-api"),
    "German tickets on a processor, too slow": (GERMAN, f"{NO_GPU} --no-api"),
    "labels on two cores, with examples": (
        "classify mails, 2000 a day, 150 labelled examples",
        "--no-gpu --no-api --ram 23GB --cores 2",
    ),
    "a support bot on a desk": (
        "a support bot, 5k a day, real-time",
        "--gpu 'RTX 4090' --ram 64GB --cores 16 --no-api --hourly-usd 0.2",
    ),
    "essays by a vendor": ("", f"--job create --per-day 20 --api --vendor openai {NO_GPU}"),
    "risky labels at volume": (
        "",
        f"--job classify --stakes high --labelled 600 --per-day 200000 --api {L4}",
    ),
    "reasoning on eight H100s": (
        "scientific reasoning, high risk, 200 a day, private",
        "--output-tokens 8000 --gpu H100:8 --ram 1000GB --cores 64",
    ),
    "answers from documents, streamed": (
        "answer questions about our manuals, private, 50k a day",
        "--streamed --latency 3 --gpu A100 --ram 128GB --cores 16 --hourly-usd 2",
    ),
    "extraction offline on an edge board": (
        "extract fields in French offline, 500 a day",
        "--gpu 'Jetson Orin 8GB' --ram 8GB --cores 6 --usd-per-kwh 0.3",
    ),
    "essays on a small board, impossible": (
        "",
        "--job create --offline --no-gpu --ram 2GB --cores 4",
    ),
    "summaries within a dollar limit": (
        "summarise 3 pages, 1000 a day, $0.5 per thousand",
        "--api --no-gpu --ram 32GB --cores 8",
    ),
}
"""The text of each, and the options."""


def answered(text: str, options: str) -> dict[str, Any]:
    """Give what the command prints, as JSON and as text."""
    words = ["choose", text, *shlex.split(options)]
    line = CliRunner().invoke(app, [*words, "--json"])
    shown = CliRunner().invoke(app, words, env={"COLUMNS": "200"})
    rows = [row.rstrip() for row in shown.stdout.splitlines()]
    return {"code": line.exit_code, "json": read(line.stdout), "text": rows}


def read(text: str) -> dict[str, Any]:
    """Read JSON, with floats of nine digits."""
    return json.loads(text, parse_float=lambda digits: float(f"{float(digits):.9g}"))


def prices() -> dict[str, list[str | None]]:
    """Give what vendors charge a token for the models of the catalogue."""
    found: dict[str, list[str | None]] = {}
    for model in models().values():
        if model.vendor_model:
            price = model.price
            parts = (price.input, price.cached_input, price.output)
            found[model.vendor_model] = [None if it is None else str(it) for it in parts]
    return found


@pytest.fixture(autouse=True)
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Give what was recorded, with the prices of that day in place of today's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MOA_CACHE", str(tmp_path / "cache"))
    told = read(FILE.read_text())

    def price(model: str, vendor: object) -> Price:
        del vendor
        parts = [None if it is None else Decimal(it) for it in told["prices"][model]]
        return Price(input=parts[0], cached_input=parts[1], output=parts[2])

    monkeypatch.setattr(config, "published_price", price)
    models.cache_clear()  # a model keeps its price
    yield told["answers"]
    models.cache_clear()


@pytest.mark.parametrize("name", TASKS)
def test_the_answer_is_the_one_that_was_recorded(name: str, recorded: dict[str, Any]) -> None:
    assert answered(*TASKS[name]) == recorded[name]


if __name__ == "__main__":
    answers = {name: answered(*words) for name, words in TASKS.items()}
    told = {"prices": prices(), "answers": answers}
    FILE.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n")
