"""Writes the sections that are of older code: `python benchmarks/all.py --data DIR --models FILE`.

It takes hours. A run can be stopped, and the same command goes on: a section that was written is no
longer of older code, and what was measured of the others stands in `--kept`. What lacks data or
models is left out, and said.

`--mark` measures nothing: it says in each section whether it is of older code, and writes the
figures of README.md and other pages from the sections.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import figures
from sections import (
    ROOT,
    SECTIONS,
    Section,
    Stamp,
    files_at,
    files_here,
    git,
    modules_of,
    section_of,
    sections_in,
    stamp_in,
    unstamped,
)

PAGES = ROOT / "docs"
VLLM = ROOT / ".vllm" / "served" / "moa.toml"
HOW = {
    "data": "--data DIR (or $MOA_DATA), a folder of labelled sets: in each a dev.jsonl with id, "
    "text and label. They are sentiment2_… and sentiment3_… (VADER, Hutto and Gilbert 2014), "
    "sms_spam (UCI), intent_banking10 and intent_banking77 (BANKING77), guard_injection (deepset, "
    "NotInject), reasoning_gsm8k (GSM8K), routing_gsm8k and routing_mmlu (RouteLLM's recorded "
    "answers), summarise_scitldr (SciTLDR) and rag_xquad (XQuAD, with corpus_dev.jsonl)",
    "models": "--models FILE…, GGUF files such as Qwen2.5-Coder-1.5B-Instruct, Q4_K_M",
    "served": "--served NAME@URL…, models that a server such as vLLM has; `moa up` starts one",
    "scores": "--scores FILE, a model's scores of film reviews; where there is none it is made by "
    "the model that $MOA_MODEL names",
    "vllm": "a vLLM in .vllm/: run `bash .ci/vllm`",
}
"""How to get what a section needs."""
UNKNOWN = Stamp("unknown", "unknown")


def lacks(section: Section, given: Mapping[str, Sequence[str]]) -> list[str]:
    """Name what a section needs and is not given."""
    return [name for name in HOW if f"{{{name}}}" in section.command and not given.get(name)]


def words_of(section: Section, given: Mapping[str, Sequence[str]], kept: Path) -> list[str]:
    """Write the command of a section for a shell without one."""
    known = {**given, "kept": [str(kept)]}
    words: list[str] = []
    for word in section.command.split():
        words += known[word[1:-1]] if word.startswith("{") else [word]
    return [sys.executable, f"benchmarks/{words[0]}", *words[1:]]


def due(names: Sequence[str]) -> list[str]:
    """Name the sections whose figures aren't of today's code."""
    files = files_here()
    stamps = {
        name: stamp_in(body)
        for path in PAGES.glob("*.md")
        for name, body in sections_in(path.read_text(encoding="utf-8"))
    }
    return [
        name
        for name in names
        if (stamps.get(name) or UNKNOWN).modules != modules_of(SECTIONS[name], files)
    ]


def run(names: Sequence[str], given: Mapping[str, Sequence[str]], folder: Path) -> int:
    """Run sections; give how many failed."""
    folder.mkdir(parents=True, exist_ok=True)
    failed, skipped = list[str](), dict[str, list[str]]()
    for name in names:
        section = SECTIONS[name]
        if missing := lacks(section, given):
            skipped[name] = missing
            continue
        own = f"{re.sub('[^a-z]+', '-', name)}-{modules_of(section, files_here())}"
        words = words_of(section, given, folder / own)
        print(f"== {name}: {' '.join(words)}", flush=True)
        if subprocess.run(words, cwd=ROOT, check=False).returncode:
            failed.append(name)
    for name, missing in skipped.items():
        print(f"== {name}: skipped, for want of {' and '.join(missing)}")
    for what in sorted({one for missing in skipped.values() for one in missing}):
        print(f"   {what}: {HOW[what]}")
    for name in failed:
        print(f"== {name}: FAILED; it is due again")
    return len(failed)


def marked(page: str, files: Mapping[str, str], first: Mapping[str, Stamp]) -> str:
    """Say in each section of a page whether it is of older code.

    Args:
        page: Its text.
        files: The files of `moa` as they are, with their hashes.
        first: Stamps of the sections that have none.
    """
    for name, body in sections_in(page):
        found = stamp_in(body) or first.get(name, UNKNOWN)
        old = found.modules != modules_of(section_of(name), files)
        begin = f"<!-- begin {name} -->"
        page = page.replace(begin + body, f"{begin}{found._replace(old=old)}{unstamped(body)}")
    return page


def stamps_by_history(path: Path, page: str) -> dict[str, Stamp]:
    """Stamp the sections without a stamp by the commit that their figures came with."""
    wanted = {name: _figures(body) for name, body in sections_in(page) if not stamp_in(body)}
    commits: dict[str, str] = {}
    relative = path.relative_to(ROOT).as_posix()
    for commit in git("log", "--format=%h", "--abbrev=8", "--", relative).split() if wanted else ():
        for name, body in sections_in(git("show", f"{commit}:{relative}")):
            if _figures(body) == wanted.get(name):
                commits[name] = commit  # the oldest one stays
    return {
        name: Stamp(commit, modules_of(section_of(name), files_at(commit)))
        for name, commit in commits.items()
    }


def _figures(body: str) -> list[str]:
    """List the numbers in the tables of a section, whatever words are around them."""
    rows = re.findall(r"^\|.*$", body, re.MULTILINE)
    return re.findall(r"\d[\d.,]*", " ".join(rows))


def mark() -> None:
    """Mark all sections of all pages, and write the figures of README and other pages."""
    files = files_here()
    for path in sorted(PAGES.glob("*.md")):
        page = path.read_text(encoding="utf-8")
        new = marked(page, files, stamps_by_history(path, page))
        if new != page:
            path.write_text(new, encoding="utf-8")
            print(f"marked {path.relative_to(ROOT)}")
    figures.main()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--mark", action="store_true", help="say which sections are of older code")
    parser.add_argument("--only", nargs="+", metavar="SECTION", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--again", action="store_true", help="also what is of today's code")
    parser.add_argument("--kept", type=Path, default=ROOT / ".benchmarks", help="parts of sections")
    parser.add_argument("--data", default=os.environ.get("MOA_DATA"), help="folder of the sets")
    parser.add_argument("--models", nargs="+", default=[], help="GGUF files")
    parser.add_argument("--served", nargs="+", default=[], help="NAME@URL of models on a server")
    parser.add_argument("--scores", help="a model's scores of film reviews")
    asked = parser.parse_args()
    if asked.mark:
        mark()
        return
    given = {
        "data": [asked.data] if asked.data else [],
        "models": [str(Path(model).absolute()) for model in asked.models],
        "served": asked.served,
        "scores": [asked.scores] if asked.scores else [],
        "vllm": [str(VLLM)] if VLLM.exists() else [],
    }
    try:
        names = [*asked.only] if asked.again else due([*asked.only])
        print(f"{len(names)} sections are to be measured: {', '.join(names)}", flush=True)
        raise SystemExit(min(1, run(names, given, asked.kept)))
    except KeyboardInterrupt:
        raise SystemExit("stopped; the same command goes on") from None


if __name__ == "__main__":
    main()
