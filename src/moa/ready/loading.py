"""Loading: a node from a Python file of the user's."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import cast

from moa.config import nearest
from moa.errors import ConfigError, MoaError
from moa.ready.entry import AnyNode
from moa.tiers import Endpoints


def loaded(file: Path, attribute: str, endpoints: Endpoints) -> AnyNode:
    """Give the node that a file holds, or that a function in it makes.

    Args:
        file: A Python file; it is executed.
        attribute: Name of a node, or of a function of the endpoints, or of nothing.
        endpoints: Given to a function that takes them.

    Raises:
        ConfigError: there is no such file or object, it is no node, or the file or the function
            raises.
        MoaError: the function raises it.
    """
    where = f"{file}:{attribute}"
    module = _module(file)
    if not hasattr(module, attribute):
        names = [name for name, value in vars(module).items() if _is_own(name, value, module)]
        raise ConfigError(f"{file} has no {attribute!r}{nearest(attribute, names)}")
    found: object = getattr(module, attribute)
    if isinstance(found, type):
        raise ConfigError(
            f"{where} is a class: name an instance of it, or a function that makes one"
        )
    if callable(found) and not _is_node(found):
        needed = [
            parameter
            for parameter in inspect.signature(found).parameters.values()
            if parameter.default is parameter.empty
            and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        ]
        if len(needed) > 1:
            raise ConfigError(
                f"{where} takes {len(needed)} arguments: give a node, or a function of the "
                "endpoints, or of nothing, that returns one"
            )
        try:
            found = found(*([endpoints] if needed else []))
        except MoaError:
            raise
        except Exception as error:
            raise _raised(f"{where} makes no node", error) from error
    if not _is_node(found):
        raise ConfigError(
            f"{where} is {type(found).__name__}, and no node: a node has a name and an "
            "asynchronous run. Give an agent, or what Graph.build returns"
        )
    return cast("AnyNode", found)


def _module(file: Path) -> ModuleType:
    if not file.is_file():
        raise ConfigError(f"there is no file {str(file)!r}")
    spec = importlib.util.spec_from_file_location(f"_moa_file_{file.stem}", file)
    assert spec is not None, "a .py file has a loader"
    assert spec.loader is not None, "a .py file has a loader"
    module = importlib.util.module_from_spec(spec)
    folder = str(file.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)  # so that it finds its neighbours, as a script does
    sys.modules[spec.name] = module  # pydantic looks annotations up by the name of their module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise _raised(f"{file} can't be loaded", error) from error
    return module


def _raised(what: str, error: Exception) -> ConfigError:
    (*_, last) = traceback.extract_tb(error.__traceback__)
    return ConfigError(
        f"{what}: {type(error).__name__}: {error} ({last.filename}, line {last.lineno})"
    )


def _is_own(name: str, value: object, module: ModuleType) -> bool:
    """Whether a file may have it to be run: a node, or a function that was not imported."""
    made = inspect.isfunction(value) and value.__module__ == module.__name__
    return not name.startswith("_") and (made or _is_node(value))


def _is_node(value: object) -> bool:
    return (
        not isinstance(value, type)
        and isinstance(getattr(value, "name", None), str)
        and inspect.iscoroutinefunction(getattr(value, "run", None))
    )
