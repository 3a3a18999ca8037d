"""Measures the page of moa studio, and moa report, with 100,000 rows.

python benchmarks/studio_scale.py               # takes Chromium and selenium
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from kept import Kept
from report import table, write
from studio import DESKTOP, EXAMPLE, chromium, wait_for

PORT = 8098
WORDS = ("invoice", "order 4", "refund please", "77777", "Kopfhörer", "nothing has this")
"""What is searched for: frequent, rare, and absent."""
STEPS = 40
"""Steps by which the list is scrolled."""
LABELLED = 1000
"""Rows whose right labels are known."""
Measured = tuple[str, str]
"""What was measured, and how much it is."""


def make_rows(path: Path, rows: int) -> None:
    """Write rows of a run: those of the example again and again, each with an id and text of its
    own.
    """
    with gzip.open(EXAMPLE / "run.jsonl.gz", "rt", encoding="utf-8") as file:
        labelled = [json.loads(line) for line in file]
    plain: list[str] = []
    for row in labelled:
        row["id"], row["input"]["text"] = "row-NUMBER", f"{row['input']['text']} (NUMBER)"
        known = ("subject", "text")
        given = {name: value for name, value in row["input"].items() if name in known}
        plain.append(f"{json.dumps({**row, 'input': given}, ensure_ascii=False)}\n")
    right = [f"{json.dumps(row, ensure_ascii=False)}\n" for row in labelled]
    with path.open("w", encoding="utf-8") as out:
        for number in range(rows):
            lines = right if number < LABELLED else plain
            out.write(lines[number % len(lines)].replace("NUMBER", str(number)))


def ask(path: str, body: Mapping[str, object] | None = None) -> Any:
    """Ask the studio's server."""
    address = f"http://127.0.0.1:{PORT}/studio/api/{path}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address, data, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as response:
        return json.load(response)


def cpu_ms(process: subprocess.Popen[bytes]) -> float:
    """Give the CPU time that a process has taken so far, of all its threads."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return 1000 * (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def each(values: list[float]) -> str:
    """Write the median, and the largest."""
    return f"{statistics.median(values):.0f} ({max(values):.0f})"


@contextmanager
def studio(file: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start the studio on a file."""
    command = [sys.executable, "-m", "moa", "studio", str(file), "--no-open", "--quiet"]
    process = subprocess.Popen([*command, "--port", str(PORT)], cwd=file.parent)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def until_ready() -> None:
    """Wait until the rows are read."""
    while True:
        try:
            if ask("state")["ready"]:
                return
        except OSError:  # it doesn't listen yet
            pass
        time.sleep(0.1)


def peak_mib(process: subprocess.Popen[bytes]) -> int:
    """Give the largest memory that a process had."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024


def measure_server(file: Path, rows: int) -> Mapping[str, list[Measured]]:
    """Measure the server, and the page in a browser."""
    deep = [{"offset": rows * k // 10, "limit": 100} for k in range(10)]
    searched = [{"search": word} for word in WORDS]
    filtered = [{"tag": tag} for tag in ("doubt", "quarantine", "slow", "corrected")]
    filtered += [{"question": "intent", "label": "refund"}, {"queue": "refunds"}, {"node": 1}]
    with studio(file) as process:

        def spent(done: Callable[[], object]) -> float:
            before = cpu_ms(process)
            done()
            return cpu_ms(process) - before

        def queries(asked: Sequence[Mapping[str, object]]) -> str:
            return each([spent(lambda one=one: ask(f"rows?{urlencode(one)}")) for one in asked])

        read = spent(until_ready)
        overviews = [spent(lambda: ask("overview")) for _ in range(2)]
        place = ask("rows?limit=1")["rows"][0]["place"]
        label = {"place": place, "question": "intent", "label": "refund"}
        found = [
            (f"all rows are read ({file.stat().st_size / 2**20:.0f} MiB)", f"{read:.0f}"),
            ("figures, curves and graph: at first, again", "{:.0f}, {:.0f}".format(*overviews)),
            ("a hundred rows, anywhere in the list", queries(deep)),
            ("a search, the first one the longest", queries(searched)),
            ("a filter", queries(filtered)),
            ("a row that is opened", f"{spent(lambda: ask(f'rows/{place}')):.0f}"),
            ("a label", f"{spent(lambda: ask('labels', label)):.0f}"),
        ]
        page = in_browser(f"http://127.0.0.1:{PORT}/studio/")
        found.append(("peak memory, MiB", str(peak_mib(process))))
    return {"of the server": found, "of the page": page}


SCROLL = """
const [steps, done] = arguments;
const grid = document.querySelector('.grid');
let step = 0;
grid.scrollTop = 0;
function tick() {
  if (step >= steps) return done();
  step += 1;
  grid.scrollTop += 240;
  requestAnimationFrame(tick);
}
requestAnimationFrame(tick);
"""
JUMP = """
const [share, done] = arguments;
const grid = document.querySelector('.grid');
grid.scrollTop = share * (grid.scrollHeight - grid.clientHeight);
function look() {
  const rows = [...grid.querySelectorAll('.body .row')];
  const seen = rows.some((row) => Math.abs(parseFloat(row.style.top) - grid.scrollTop) < 200);
  return seen ? done() : requestAnimationFrame(look);
}
requestAnimationFrame(look);
"""
CHANGE = """
const [kind, value, done] = arguments;
const note = document.querySelector('.note');
new MutationObserver((_, observer) => {
  observer.disconnect();
  requestAnimationFrame(done);
}).observe(note, {childList: true, characterData: true, subtree: true});
if (kind === 'search') {
  const input = document.querySelector('.bar input[type=search]');
  input.value = value;
  input.dispatchEvent(new Event('input'));
} else {
  document.querySelectorAll('.rows .chips button')[value].click();
}
"""


def in_browser(address: str) -> list[Measured]:
    """Measure the page: opened, scrolled, searched and filtered."""
    with chromium(DESKTOP) as driver:
        driver.set_script_timeout(120)
        driver.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})

        def metric(name: str) -> float:
            found = driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
            return next(one["value"] for one in found if one["name"] == name)

        def spent(script: str, *given: object) -> float:
            before = metric("TaskDuration")
            driver.execute_async_script(script, *given)
            return 1000 * (metric("TaskDuration") - before)

        driver.get(address)
        wait_for(driver, ".body .row", within_s=300)
        opened = 1000 * metric("TaskDuration")
        scrolled = spent(SCROLL, STEPS) / STEPS
        jumps = [spent(JUMP, share / 10) for share in (5, 9, 1, 7, 10)]
        searches = [spent(CHANGE, "search", word) for word in WORDS]
        driver.execute_async_script(CHANGE, "search", "")
        filters = [spent(CHANGE, "tag", chip) for chip in (1, 2, 0)]
        return [
            ("first rows", f"{opened:.0f}"),
            ("a step of 240 pixels while it is scrolled", f"{scrolled:.1f}"),
            ("a jump anywhere in the list", each(jumps)),
            ("a search, until its rows are seen", each(searches)),
            ("a filter, until its rows are seen", each(filters)),
            ("memory of its scripts, MiB", f"{metric('JSHeapUsedSize') / 2**20:.0f}"),
        ]


def measure_report(file: Path, rows: int) -> Mapping[str, list[Measured]]:
    """Measure the report of a file."""
    del rows
    out = file.with_suffix(".html")
    command = [sys.executable, "-m", "moa", "report", str(file), "--texts", "--out", str(out)]
    process = subprocess.Popen([*command, "--of", "support", "--quiet"], cwd=file.parent)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"moa report failed: {status}")
    page = in_browser(out.as_uri())
    measured = [
        ("the file is written", f"{1000 * (usage.ru_utime + usage.ru_stime):.0f}"),
        ("peak memory of that, MiB", f"{usage.ru_maxrss // 1024}"),
        ("size of the file, MiB", f"{out.stat().st_size / 2**20:.1f}"),
        *page,
    ]
    return {"of the report": measured}


PARTS: Mapping[str, Callable[[Path, int], Mapping[str, list[Measured]]]] = {
    "server": measure_server,
    "report": measure_report,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=[*PARTS])
    parser.add_argument("--kept", type=Path, help="a file of what is measured already")
    parser.add_argument("--dry", action="store_true", help="print, and write no section")
    given = parser.parse_args()
    kept = Kept(given.kept)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "run.jsonl"
        for part in given.parts:
            if part not in kept.found:
                if not file.exists():
                    make_rows(file, given.rows)
                kept.keep(part, PARTS[part](file, given.rows))
    tables = {of: rows for part in PARTS for of, rows in kept.found.get(part, {}).items()}
    body = "\n\n".join(table((f"CPU time {of}", "ms"), rows) for of, rows in tables.items())
    if given.dry or kept.found.keys() != PARTS.keys():
        print(body)
    else:
        write("studio", "python benchmarks/studio_scale.py", f"{ABOUT}\n\n{body}")


ABOUT = f"""## Studio

The page of `moa studio` with 100,000 rows: those of its example again and again, each with an id
and a text of its own; {LABELLED:,} have right labels. CPU time, which other programs hardly change:
of the server, and of the main thread of the page in Chromium, which draws 60 times a second as long
as a step takes less than 16 ms. Several requests: median (largest). The report has the 1,000 rows
to look at first, with their texts."""


if __name__ == "__main__":
    main()
