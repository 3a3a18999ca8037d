"""The page of moa studio: its example is recorded, and its pictures in the docs are taken.

python benchmarks/studio.py learn           # what decides the intents of the run, with a guarantee
python benchmarks/studio.py record          # the run that ships with the page
python benchmarks/studio.py pictures        # docs/studio/*.png; takes Chromium and selenium
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import hmac
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from messages import DATA, Row, read
from moa.config.endpoints import Endpoints
from moa.config.loading import load_graph
from moa.config.tables import Config
from moa.core._files import dump_json
from moa.core.usage import Amount
from moa.endpoints import DecisionRequest
from moa.endpoints.dialects import OPENAI, published_price
from moa.endpoints.json_answers import prompt_of
from moa.learning.labelled import normalise_text
from moa.learning.labelled_graph import agents_of

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "src/moa/studio/example"
MESSAGES = "support_guarantee"
"""Labelled messages that no head was fitted to: one half is learned from and tested on, the other
half is shown."""
BESIDE = "support_learn", 300
"""The messages that the shipped heads are fitted to, and how many of them are learned from too."""
PICTURES = ROOT / "docs/studio"
DESKTOP, PHONE = (1360, 850), (390, 844)


PRICED, WRITTEN, BYTES_A_TOKEN = "gpt-5-mini", 5, 4
"""The hosted model whose price is counted, tokens of a label, and bytes of a prompt a token."""


def parted() -> tuple[list[Row], list[Row]]:
    """Part the messages into those that are learned from, and those that are shown.

    A keyed hash of their texts draws them, so that nobody chooses.
    """
    messages = drawn(read(DATA / f"{MESSAGES}.jsonl"))
    half = len(messages) // 2
    return messages[:half], messages[half:]


def drawn(rows: list[Row]) -> list[Row]:
    """Put rows into an order that only a keyed hash of their texts decides."""

    def place(row: Row) -> bytes:
        return hmac.digest(MESSAGES.encode(), normalise_text(row["text"]).encode(), hashlib.sha256)

    return sorted(rows, key=place)


def learn() -> None:
    """Learn the intents, and test their guarantee.

    Each run is one more look at the same messages, which moa learn counts, and makes stricter.
    """
    source, most = BESIDE
    beside = [{**row, "chosen": True} for row in drawn(read(DATA / f"{source}.jsonl"))[:most]]
    asked = ("id", "subject", "text", "intent", "chosen")
    rows = [{key: row[key] for key in asked if key in row} for row in (*parted()[0], *beside)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        labelled, learned = folder / "labelled.jsonl", folder / "learned.json"
        write_lines(labelled, rows)
        if (EXAMPLE / f"{learned.name}.gz").exists():
            unpack(learned)
        options = ("--minutes", "60", "--no-write")
        run_moa("learn", labelled, "--graph", "support", "--out", learned, *options)
        pack(learned, learned.read_text("utf-8"))


def record() -> None:
    """Run the graph support, with what was learned, on the messages that are shown."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        messages, run, spans = (folder / f"{one}.jsonl" for one in ("in", "run", "spans"))
        write_lines(messages, parted()[1])
        unpack(folder / "learned.json")
        config = folder / "moa.toml"
        config.write_text('[graphs.support]\nlearned = "learned.json"\n', "utf-8")
        options = ("--trace-texts", "whole", "--concurrency", "1", "--config", config)
        run_moa("run", "support", messages, "--out", run, "--trace", spans, *options)
        pack(run, priced(run.read_text("utf-8")))
        pack(spans, spans.read_text("utf-8"))


def pack(path: Path, content: str) -> None:
    """Keep what a file says as a part of the example."""
    EXAMPLE.mkdir(exist_ok=True)
    with gzip.GzipFile(EXAMPLE / f"{path.name}.gz", "wb", mtime=0) as packed:
        packed.write(content.encode())


def unpack(path: Path) -> None:
    """Write the part of the example that has the name of a file."""
    path.write_bytes(gzip.decompress((EXAMPLE / f"{path.name}.gz").read_bytes()))


def write_lines(path: Path, rows: Iterable[Row]) -> None:
    """Write the rows of a file."""
    path.write_text("".join(f"{dump_json(row)}\n" for row in rows), "utf-8")


def run_moa(*words: str | Path) -> None:
    """Run a command of moa."""
    subprocess.run([sys.executable, "-m", "moa", *map(str, words)], check=True)


def priced(lines: str) -> str:
    """Say what the decisions of each row would have cost, had they been asked of a hosted model.

    Nobody is asked: the prompts are written as they would be, and their bytes counted.
    """
    agents = agents_of(load_graph("support", Endpoints(Config())))
    price = published_price(PRICED, OPENAI)
    made: list[str] = []
    for line in lines.splitlines():
        row = json.loads(line)
        decided = (row["output"] or {}).get("decisions") or {}
        asked = [
            question
            for name, agent in agents.items()
            if decided.get(name) is not None
            for question in agent.questions
            if question.name == name
        ]
        prompts = [prompt_of(DecisionRequest(row["input"]["text"], [one])) for one in asked]
        written = [message.content for prompt in prompts for message in prompt.messages]
        read = sum(len(content.encode()) for content in written) // BYTES_A_TOKEN
        spent = Amount(calls=len(asked), input_tokens=read, output_tokens=WRITTEN * len(asked))
        how = (
            f"{len(asked)} questions, {read} tokens of input at {BYTES_A_TOKEN} bytes a token, "
            f"{WRITTEN} of output each, at the published price of {PRICED}; nobody was asked"
        )
        cost = price.of(spent)
        row["usage"]["llm_alone_estimate"] = {"cost": float(cost or 0), "how": how}
        made.append(f"{dump_json(row)}\n")
    return "".join(made)


@contextmanager
def chromium(size: tuple[int, int], *, dark: bool = False) -> Iterator[Any]:
    """Start a headless Chromium of the distribution."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    profile = tempfile.mkdtemp()
    options = webdriver.ChromeOptions()
    for flag in (
        *("headless", "no-sandbox", "disable-gpu", "no-first-run", "hide-scrollbars"),
        *("disable-background-networking", "disable-component-update", "disable-sync"),
        f"user-data-dir={profile}",
        f"window-size={size[0]},{size[1]}",
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    try:
        driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False},
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        yield driver
    finally:
        driver.quit()
        shutil.rmtree(profile, ignore_errors=True)


VIEWS = {
    "rows": "",
    "row": "document.querySelector('.body .row:nth-child(2)').click()",
    "threshold": "location.hash = 'threshold'",
    "graph": "location.hash = 'graph'",
    "live": "location.hash = 'live'",
}


def pictures(address: str | None, out: Path, only: list[str]) -> None:
    """Take a picture of each view, light and dark, wide and narrow."""
    out.mkdir(parents=True, exist_ok=True)
    with served(address) as page:
        for width, size in (("desktop", DESKTOP), ("phone", PHONE)):
            for dark in (False, True):
                with chromium(size, dark=dark) as driver:
                    for name, script in VIEWS.items():
                        file = out / f"{name}-{width}-{'dark' if dark else 'light'}.png"
                        if only and file.stem not in only:
                            continue
                        driver.get(page)
                        driver.refresh()
                        wait_for(driver, ".body .row")
                        driver.execute_script(script)
                        time.sleep(0.6)
                        save(driver, file)
                        for entry in driver.get_log("browser"):
                            print(file.name, entry["message"])


def save(driver: Any, file: Path) -> None:
    """Save what is seen, in few colours, so that the file is small."""
    import io

    from PIL import Image

    seen = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
    seen.quantize(128, dither=Image.Dither.NONE).save(file, optimize=True)


def wait_for(driver: Any, selector: str, *, within_s: float = 20) -> None:
    """Wait until something is on the page."""
    end = time.monotonic() + within_s
    while not driver.find_elements("css selector", selector):
        if time.monotonic() > end:
            raise SystemExit(f"nothing is {selector} on the page: {driver.page_source[:2000]}")
        time.sleep(0.05)


@contextmanager
def served(address: str | None) -> Iterator[str]:
    """Start the studio on its example."""
    if address:
        yield address
        return
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "moa", "studio", "--no-open", "--port", "8099"]
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            print(process.stdout.readline())
            yield "http://127.0.0.1:8099/studio/"
        finally:
            process.terminate()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("learn", "record", "pictures"))
    parser.add_argument("--address", help="A studio that runs already.")
    parser.add_argument("--out", type=Path, default=PICTURES)
    parser.add_argument("--only", nargs="*", default=[])
    given = parser.parse_args()
    if given.what == "learn":
        learn()
    elif given.what == "record":
        record()
    else:
        pictures(given.address, given.out, given.only)


if __name__ == "__main__":
    main()
