"""Which command writes each section, and which modules of `moa` it measures.

A section of a page says which commit it measured, and a hash of these modules as they were then,
docstrings and comments aside: where that is another hash today, the section is of older code, and
`all.py --mark` says so in it.
"""

from __future__ import annotations

import ast
import hashlib
import io
import re
import subprocess
import tarfile
import tokenize
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
SOURCE = "src/moa"
WRITTEN = ("config/measured.json",)
"""Files in it that a benchmark writes its figures to; what they hold is no code."""


class Section(NamedTuple):
    """A section of a page."""

    command: str
    """Words after `python benchmarks/`. `{data}`, `{models}`, `{served}` and `{vllm}` stand for
    what `all.py` is given, and `{kept}` for a file of this section and these modules."""
    measures: tuple[str, ...]
    """Files and folders in `src/moa`, as patterns. What every run goes through, such as contexts
    and budgets, is named where its own cost is measured."""


CALLS = ("core", "endpoints", "graphs/engine", "agents", "graphs/mixing")
VECTORS = ("decisions", "local")
DECIDING = ("agents", "decisions", "endpoints", "local")
GUARDS = ("guards", "decisions", "endpoints", "local")
SUPPORT = (*DECIDING, "guards", "documents/checks.*", "inbox")
RECIPES = (
    "agents",
    "chat",
    "decisions",
    "documents",
    "endpoints",
    "graphs",
    "recipes",
    "routing",
)
CHOICES = tuple(
    f"{room}/{name}.py"
    for room, name in (
        ("recipes", "best_of_n"),
        ("recipes", "choose_best"),
        ("graphs", "mixture"),
        ("graphs", "self_consistency"),
    )
)

SECTIONS: Mapping[str, Section] = {
    "overhead": Section("overhead.py --repeats 5", (*CALLS, "graphs/mixture.py")),
    "decisions": Section("decisions.py --data {data} --resume {kept}", DECIDING),
    "routing": Section(
        "trust.py --data {data} --steps routing --resume {kept}",
        ("routing", "core/numbers.py", "guards/arithmetic.py", "decisions/regression.py"),
    ),
    "injection guard": Section("guards.py --data {data} --steps injection", GUARDS),
    "injected lines": Section("guards.py --data {data} --steps lines", (*GUARDS, "agents")),
    "calibration": Section(
        "trust.py --data {data} --steps calibration --resume {kept}",
        ("decisions", "endpoints", "local"),
    ),
    "documents": Section("documents.py --data {data} --steps search", ("documents", *VECTORS)),
    "mixtures": Section("mixtures.py --repeats 3", (*CALLS, "graphs/mixture.py")),
    "serving": Section("serving.py --config {vllm} --repeats 5", ("core", "endpoints", "vllm")),
    "summaries": Section(
        "summaries.py --data {data}",
        ("documents/summarize.py", "documents/sentences.py", "agents/prompts.py", *VECTORS),
    ),
    "mixing": Section(
        "mixing.py --data {data} --steps embedded",
        ("graphs/mixing", "agents", "endpoints", "evals", *CHOICES),
    ),
    "mixing, simulated": Section(
        "mixing.py --steps simulated",
        (
            "graphs/mixing",
            "agents",
            "evals",
            "testing.py",
            "recipes/debate.py",
            "recipes/judges.py",
            *CHOICES,
        ),
    ),
    "bounds": Section("trust.py --steps bounds", ("decisions/guarantee.py", "decisions/bounds.py")),
    "support": Section("support.py --slm {models} --chat {models} --json {kept}", SUPPORT),
    "filters": Section("filters.py --models {models} --json {kept}", DECIDING),
    "encoder": Section("encoder.py --data {data}", VECTORS),
    "encoder speed": Section("encoder.py speed", VECTORS),
    "learning": Section(
        "trust.py --steps learning --data {data} --scores {scores}",
        ("decisions", "endpoints", "local"),
    ),
    "models": Section("models.py --data {data} --models {models} --resume {kept}", DECIDING),
    "recipes": Section(
        "recipes.py --data {data} --model {models} --concurrency 8 --json {kept}", RECIPES
    ),
    "long recipes": Section(
        "recipes.py --data {data} --model {models} --concurrency 8 --json {kept} --long", RECIPES
    ),
    "adaptation": Section(
        "adaptation.py --data {data} --models {models} --resume {kept}", DECIDING
    ),
    "tools": Section("tools.py --model {served} --json {kept}", ("agents", "endpoints")),
    "spam guard": Section("guards.py --data {data} --steps spam", GUARDS),
    "pacing": Section("pacing.py --seconds 5", ("endpoints",)),
    "heads": Section("heads.py support", VECTORS),
    "pairs": Section("pairs.py --data {data}", VECTORS),
    "promise": Section(
        "promise_simulated.py --streams 100 --kept {kept}",
        ("decisions/guarantee.py", "decisions/audit.py", "learning/epochs.py"),
    ),
    "documents-asked": Section(
        "documents.py --data {data} --models {models} --steps asked --kept {kept}",
        ("agents", "documents", "endpoints"),
    ),
    "support replies": Section("support_replies.py --file {models} --json {kept}", SUPPORT),
    "support danger": Section("support_danger.py", (*VECTORS, "inbox")),
    "questions": Section("questions.py --models built-in {models} --json {kept}", DECIDING),
    "promise shown": Section(
        "promise.py --data {data} --kept {kept}",
        ("learning", *VECTORS),
    ),
    "promise drift": Section(
        "promise_drift.py --streams 100", ("decisions/drift.py", "learning/looks.py")
    ),
    "businesses": Section("businesses.py --kept {kept}", SUPPORT),
    "inbox": Section("inbox.py", (*SUPPORT, "evals/labelling.py", "evals/learning.py")),
    "server": Section("server.py", ("core", "serving", "endpoints")),
    "tracing": Section("tracing.py", CALLS),
    "studio": Section(
        "studio_scale.py --kept {kept}", ("studio/*.py", "studio/static", "rows", "cli/studio.py")
    ),
    "faults": Section("faults.py", ("core", "endpoints")),
    "attacks": Section("attacks.py --repeats 5", ("core", "serving", "endpoints", "studio/*.py")),
}

_STAMP = re.compile(
    r"\n\nMeasured at commit `(?P<commit>[^`]*)`, modules `(?P<modules>\w+)`(?P<old>, \*\*of older"
    r" code\*\*)?\."
)


class Stamp(NamedTuple):
    """What a section says of the code that it measured."""

    commit: str
    modules: str
    """Hash of them."""
    old: bool = False
    """Whether the section says that it is of older code."""

    def __str__(self) -> str:
        old = ", **of older code**" if self.old else ""
        return f"\n\nMeasured at commit `{self.commit}`, modules `{self.modules}`{old}."


def section_of(name: str) -> Section:
    """Find a section; one with a detail behind a comma may be a kind of the one before it."""
    found = SECTIONS.get(name) or SECTIONS.get(name.partition(",")[0])
    if found is None:
        raise SystemExit(f"add the section {name!r} to SECTIONS in benchmarks/sections.py")
    return found


def sections_in(page: str) -> Iterator[tuple[str, str]]:
    """Give the name of each section of a page, and what stands between its marks."""
    for found in re.finditer(r"<!-- begin (.+?) -->(.*?)<!-- end \1 -->", page, re.DOTALL):
        yield found[1], found[2]


def stamp_in(body: str) -> Stamp | None:
    """Read what a section says of the code that it measured."""
    found = _STAMP.match(body)
    return found and Stamp(found["commit"], found["modules"], bool(found["old"]))


def unstamped(body: str) -> str:
    """Take that out of a section."""
    return _STAMP.sub("", body, count=1)


def modules_of(section: Section, files: Mapping[str, str]) -> str:
    """Hash the modules that a section measures: their paths, and what stands in them."""
    measured = sorted(path for path in files.keys() - {*WRITTEN} if _any(path, section.measures))
    lines = "".join(f"{path} {files[path]}\n" for path in measured)
    return hashlib.sha256(lines.encode()).hexdigest()[:12]


def _any(path: str, patterns: tuple[str, ...]) -> bool:
    """Whether a path is one of some files, or in one of some folders; `*` is no slash."""
    return any(
        path.startswith(f"{pattern}/")
        or (fnmatchcase(path, pattern) and path.count("/") == pattern.count("/"))
        for pattern in patterns
    )


def files_here() -> dict[str, str]:
    """Give the files of `moa` in this folder, with hashes of what they do."""
    source = ROOT / SOURCE
    paths = (path for path in source.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {
        (name := path.relative_to(source).as_posix()): hash_of(name, path.read_bytes())
        for path in paths
    }


def files_at(commit: str) -> dict[str, str]:
    """Give the files of `moa` in a commit, with hashes of what they do."""
    words = ["git", "archive", commit, SOURCE]
    packed = subprocess.run(words, cwd=ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        files = {one.name: archive.extractfile(one) for one in archive if one.isfile()}
        return {
            (name := path.removeprefix(f"{SOURCE}/")): hash_of(name, file.read())
            for path, file in files.items()
            if file is not None
        }


def hash_of(name: str, data: bytes) -> str:
    """Hash a file; of Python, without docstrings, comments and empty lines."""
    lines = data.splitlines()
    if name.endswith(".py"):
        said = {
            line
            for node in ast.walk(ast.parse(data))
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
        }
        for token in tokenize.tokenize(io.BytesIO(data).readline):
            if token.type == tokenize.COMMENT:
                number, column = token.start
                text = lines[number - 1].decode()
                lines[number - 1] = text[:column].rstrip().encode()
        lines = [
            line for number, line in enumerate(lines, 1) if number not in said and line.strip()
        ]
    return hashlib.sha256(b"\n".join(lines)).hexdigest()


def commit_here() -> str:
    """Name the commit of this folder, and whether `moa` has changes; `unknown` without git."""
    try:
        commit = git("rev-parse", "--short=8", "HEAD").strip()
        return f"{commit}-dirty" if git("status", "--porcelain", "--", SOURCE) else commit
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def git(*words: str) -> str:
    """Ask git about this folder."""
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout
