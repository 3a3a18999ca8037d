"""Imports: the modules beside a program that it imports, found without executing anything.

What is found by its source has to run by it, too: Python would rather run a file in `__pycache__`,
which need not come from that source.
"""

from __future__ import annotations

import ast
import os
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    SourceFileLoader,
)
from itertools import chain
from pathlib import Path
from types import CodeType

_SUFFIXES = (".py", ".pyc", ".pyd", ".so")


class SourceLoader(SourceFileLoader):
    """Loads a module from its source, and never from a file in `__pycache__`."""

    def get_code(self, fullname: str) -> CodeType:
        """Compile the source."""
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


_roots = set[str]()
"""Real paths of the folders whose modules are imported from their sources."""


def import_from_source(*folders: Path) -> None:
    """Import modules in folders, and in packages below them, from their sources from now on.

    It is for the folders that `local_modules` searches, in whatever spelling Python knows them.
    """
    if not _roots:
        sys.path_hooks.insert(0, _finder_of)
    _roots.update(map(os.path.realpath, folders))
    for path in filter(_is_from_source, [*sys.path_importer_cache]):
        del sys.path_importer_cache[path]


def _finder_of(path: str) -> FileFinder:
    if not _is_from_source(path):
        raise ImportError  # Python asks its next hook
    return FileFinder(
        path, (ExtensionFileLoader, EXTENSION_SUFFIXES), (SourceLoader, SOURCE_SUFFIXES)
    )


def _is_from_source(path: str) -> bool:
    # The folder of a package is spelled as the entry of `sys.path` in which it was found, and may
    # be a link out of that. Python's own library, or an environment, may lie below a program's.
    place = Path(path).absolute()
    folders = (Path(entry).absolute() for entry in sys.path)
    entries = [folder for folder in folders if place.is_relative_to(folder)]
    deepest = max(entries, key=lambda entry: len(entry.parts), default=place)
    return os.path.realpath(deepest) in _roots


def local_modules(programs: Iterable[Path], folder: Path) -> list[Path]:
    """List the files that programs may import, at any depth, from their folders or the project's.

    Code may import more at run time, by names that it makes. A module of an installed package isn't
    listed, nor what it imports.

    Args:
        programs: Files of Python, which are not listed. Other programs import nothing.
        folder: The folder of the project.
    """
    left = [path.resolve() for path in programs if path.suffix == ".py"]
    roots = [*dict.fromkeys([*(path.parent for path in left), folder.resolve()])]
    found, modules, modules_in = set(left), list[Path](), cache(_modules_in)
    while left:
        file = left.pop()
        for level, names in _names_in(file):
            # The first dot is the module's folder, also for an `__init__.py`.
            for start in file.parents[level - 1 : level] if level else roots:
                new = [path for path in _files_of(start, names, modules_in) if path not in found]
                found.update(new)
                modules += new
                left += new
    return sorted(modules)


def _names_in(file: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield what a module imports: the number of leading dots, and the names between dots."""
    if file.suffix != ".py":
        return
    try:
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return  # Python can't import it either
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((0, name.name.split(".")) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module.split(".") if node.module else []
            yield from ((node.level, [*module, name.name]) for name in node.names)


def _files_of(
    folder: Path, names: Sequence[str], modules_in: Callable[[Path], Mapping[str, list[Path]]]
) -> Iterator[Path]:
    """Yield the files of a module and of the packages around it.

    Where a name has several, such as `x.py` and `x/__init__.py`, all are: a new one may hide the
    others.
    """
    for name in names:
        if name == "*":  # `__all__` of the package may name any of its modules and packages
            yield from chain.from_iterable(modules_in(folder).values())
            for inner in _folders_in(folder):
                yield from modules_in(inner).get("__init__", ())
            return
        yield from modules_in(folder).get(name, ())
        folder = folder / name
        yield from modules_in(folder).get("__init__", ())


def _modules_in(folder: Path) -> Mapping[str, list[Path]]:
    """Return the files in a folder that can be imported, by name; none if it is no folder."""
    modules = defaultdict[str, list[Path]](list)
    with suppress(OSError):
        for path in folder.iterdir():
            if path.suffix in _SUFFIXES:
                modules[path.name.partition(".")[0]].append(path)
    return modules


def _folders_in(folder: Path) -> list[Path]:
    """Return the folders in a folder; none if it is no folder."""
    with suppress(OSError):
        return [path for path in folder.iterdir() if path.is_dir()]
    return []
