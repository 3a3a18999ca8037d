"""Loading: builds a graph or an agent by its name in moa.toml, or from a Python file."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import Annotated, Any, NamedTuple, Protocol, TypeGuard, runtime_checkable

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from moa.agents.base import AGENTS
from moa.agents.deciding import DecidingAgent
from moa.config.endpoints import Endpoints
from moa.config.faults import nearest
from moa.config.fields import Table, recipe_from_table, settings_below, table_fields
from moa.config.imports import SourceLoader, import_from_source
from moa.config.tables import Toml
from moa.config.trust import object_in
from moa.core._json import is_list, is_object, is_sequence, is_table
from moa.core.errors import ConfigError, MoaError
from moa.core.node import AnyNode
from moa.endpoints import Endpoint
from moa.graphs.engine.nodes import as_node
from moa.graphs.engine.types import is_node
from moa.graphs.fields import FromEndpoint
from moa.guards.guarded import Guarded

_GUARDS = "guards"
"""Key of a graph's table for its guards: before it, beside it and after it."""


@runtime_checkable
class _ListsEndpoints(Protocol):
    """A node that lists the endpoints it may ask."""

    def list_endpoints(self) -> list[Endpoint] | None: ...


class Measurement(BaseModel):
    """Scores of a graph and of one call to the same model, written by `benchmarks/recipes.py`."""

    model: str
    measure: str
    items: int
    plain: float
    """Score of one call, from 0 to 1."""
    graph: float
    calls: float
    """Calls of the graph per item."""
    verdict: str

    def __str__(self) -> str:
        verdict = self.verdict.replace("*", "")
        calls = "one call" if 0.95 <= self.calls < 1.05 else f"{self.calls:.1f} calls"
        return f"{self.measure} {self.plain:.2f} to {self.graph:.2f}, {calls}: {verdict}"


def read_measurements() -> dict[str, Measurement]:
    """Return the measurements of ready graphs, by name. Unmeasured graphs are left out."""
    text = resources.files("moa.config").joinpath("measured.json").read_text("utf-8")
    return TypeAdapter(dict[str, Measurement]).validate_json(text)


class Ready(NamedTuple):
    """A ready graph or agent, used by its name."""

    does: str
    """Short description, for listings."""
    made_by: FromEndpoint
    """Builds a recipe from its table, or an agent, from an endpoint if it asks one."""

    @property
    def settings(self) -> Mapping[str, FieldInfo]:
        """The fields that its table in moa.toml can set, by key."""
        below = settings_below(self.made_by.make) if self.made_by.make else {}
        return below | dict(table_fields(self.made_by))

    def build(self, table: Mapping[str, object], context: Table) -> AnyNode:
        """Build the node from its table.

        Raises:
            ConfigError: a key is unknown, or a value is wrong.
        """
        reader: TypeAdapter[AnyNode] = TypeAdapter(Annotated[Any, self.made_by])
        try:
            return reader.validate_python(table, context=context)
        except ValidationError as error:
            raise ConfigError(context.explain(error, Annotated[object, self.made_by])) from None


class _Ready(Mapping[str, Ready]):
    """Ready agents and graphs by name, imported when they are needed.

    A run imports only the module of that name. Listing, or looking up another name, imports all.
    """

    def __getitem__(self, name: str) -> Ready:
        if name not in AGENTS:
            for module in _modules():
                if module.endswith(f".{name}"):
                    importlib.import_module(module)
        if name not in AGENTS:
            _import_all()
        agent = AGENTS[name]
        return Ready(agent.does, FromEndpoint(agent.make, agent.tier))

    def __iter__(self) -> Iterator[str]:
        _import_all()
        return iter(sorted(AGENTS))

    def __len__(self) -> int:
        _import_all()
        return len(AGENTS)


_PACKAGES = ("moa.agents", "moa.guards", "moa.graphs", "moa.recipes")
"""Packages whose modules may define a ready agent or graph."""
_OF_LAYERS = (
    "moa.documents.preprocessor",
    "moa.chat.graph",
    "moa.documents.rag",
    "moa.documents.research",
    "moa.documents.summarize",
    "moa.inbox.support",
    "moa.routing.routed",
)
"""Modules of other packages that define a ready graph."""


@cache
def _modules() -> tuple[str, ...]:
    """Return the names of the modules that may define a ready agent or graph."""
    packages = [importlib.import_module(name) for name in _PACKAGES]
    module_lists = (iter_modules(package.__path__, f"{package.__name__}.") for package in packages)
    return (*(module.name for modules in module_lists for module in modules), *_OF_LAYERS)


@cache
def _import_all() -> None:
    for module in _modules():
        importlib.import_module(module)


READY: Mapping[str, Ready] = _Ready()


def load_graph(
    name: str,
    endpoints: Endpoints,
    options: Mapping[str, object] | None = None,
    *,
    around: tuple[str, ...] = (),
) -> AnyNode:
    """Build a ready agent or graph as moa.toml configures it, or load one from a file.

    Args:
        name: Name of a ready graph or agent, or `file.py:object`. The object is a node, or a
            function that returns one and takes these endpoints or nothing.
        endpoints: Endpoints to ask. Their configuration holds the tables.
        options: Settings that override those of its table. Keys that it doesn't have are ignored.
        around: Names of the graphs that contain it.

    Raises:
        ConfigError: there is no such name, file or object, its settings are wrong, or an endpoint
            that it needs is not configured.
    """
    target = object_in(name)
    if target is not None:
        file, attribute = target
        settings = endpoints.config.file
        if around and settings is not None:  # named in moa.toml, so relative to it
            file = settings.parent / file
        return _load_object(file, attribute, endpoints)
    if name.endswith(".py"):
        raise ConfigError(_explain_unnamed(Path(name), endpoints.config.folder))
    inside = (*around, name)

    def other(inner_name: str) -> AnyNode:
        if inner_name in inside:
            raise ConfigError(f"graphs.{name}: a {inner_name} can't stand in its own {inner_name}")
        try:
            return load_graph(inner_name, endpoints, around=inside)
        except ConfigError as error:
            if type(error) is not ConfigError:
                raise
            raise ConfigError(
                f"{name!r} runs {inner_name!r}, which can't be built: {error}"
            ) from error

    ready, table, guards = _find_ready(name, endpoints, options)
    node = ready.build(table, Table(name, endpoints, other))
    if guards is None:
        return node
    context = Table(f"{name}.{_GUARDS}", endpoints, other)
    guarded: type[Guarded[Any, Any]] = Guarded
    return recipe_from_table(guarded, {**guards, "node": node, "name": node.name}, context)


def _find_ready(
    name: str, endpoints: Endpoints, overrides: Mapping[str, object] | None
) -> tuple[Ready, Toml, Toml | None]:
    """Return a ready graph or agent, its settings, and the table of its guards."""
    tables = endpoints.config.graphs
    for table in tables:
        if target := object_in(table):
            raise ConfigError(
                f"[graphs.{table}]: a node of your own takes no settings from a table. Give them "
                f"in {target[0]}, where it is made"
            )
        if table not in READY:
            raise ConfigError(f"[graphs.{table}] is no ready graph{nearest(table, list(READY))}")
    ready = READY.get(name)
    if ready is None:
        raise ConfigError(
            f"there is no ready graph or agent {name!r} (moa graphs lists them, and one of your "
            f"own is given as file.py:object){nearest(name, list(READY))}"
        )
    settings = ready.settings.keys() if overrides else ()
    entries = {key: value for key, value in (overrides or {}).items() if key in settings}
    full_table = {**tables.get(name, {}), **entries}
    around: object = full_table.pop(_GUARDS, None)
    if isinstance(around, str | int | float):
        raise ConfigError(
            f'[graphs.{name}] guards: takes a list of names, such as ["pii"], not {around!r}'
        )
    if is_list(around):  # guards that mask run before the node, others beside it
        entries = {name: getattr(ready.make, "masks", False) for name, ready in AGENTS.items()}
        masks = [guard for guard in around if isinstance(guard, str) and entries.get(guard)]
        around = {"before": masks, "beside": [guard for guard in around if guard not in masks]}
    return ready, full_table, around if is_object(around) else None


def endpoint_names(node: object) -> frozenset[str] | None:
    """Return the names of the endpoints that a node may ask; see `endpoints_in`."""
    endpoints = endpoints_in(node)
    return None if endpoints is None else frozenset(endpoint.name for endpoint in endpoints)


def endpoints_in(node: object) -> list[Endpoint] | None:
    """Return the endpoints that a node may ask, except those that only a calibration reads.

    Return `None` if a node in it, at any depth, may ask any endpoint.
    """
    endpoints: list[Endpoint] = []
    for member in nodes_in(node):
        node_endpoints = member.list_endpoints() if isinstance(member, _ListsEndpoints) else None
        if node_endpoints is None:
            return None
        endpoints += node_endpoints
    return endpoints


def texts_to_encode(node: object) -> list[str]:
    """Return the texts that encoders read for any input; empty without encoders."""
    texts: list[str] = []
    for member in nodes_in(node):
        if isinstance(member, DecidingAgent):
            texts += member.texts_to_encode
    return texts


def nodes_in(node: object) -> Iterator[object]:
    """Yield a node and the nodes in it, at any depth. Functions are left out."""
    if is_node(node):
        yield node
        members: Callable[[], Iterable[object]] = getattr(node, "members", tuple)
        for member in members():
            yield from nodes_in(member)


def fingerprints(
    names: Iterable[str], endpoints: Endpoints, *, options: Mapping[str, object] | None = None
) -> dict[str, str]:
    """Return a fingerprint of everything that each node's answers depend on, by name.

    It covers the configuration's endpoints and graphs, the given settings, the files that these
    name, and your own node's file, but not what that file imports.

    Args:
        names: Names as in `load_graph`. Build the nodes first.
        endpoints: Endpoints to ask.
        options: Settings that override those of its table.
    """
    config = endpoints.config
    tables = config.model_dump(mode="json", include={"endpoints", "tiers", "graphs"})
    models = sorted([endpoint.name, endpoint.model] for endpoint in endpoints.used)
    files = {*files_in(config.graphs, config.file.parent if config.file else Path())}
    files |= {*files_in(options or {}, Path())}
    settings = {name: str(value) for name, value in (options or {}).items()}
    shared = [tables, models, settings, _digest_files(sorted(files))]
    targets = {name: object_in(name) for name in names}
    return {
        name: json.dumps([*shared, _digest_files([file[0]] if file else [])])
        for name, file in targets.items()
    }


_WRITTEN = ("index", "learn", "state", "store")
"""Keys of files that a graph itself writes, so they change with each run."""


def files_in(source: object, folder: Path) -> Iterator[Path]:
    """Yield the files and folders that tables name, except those that their graphs write."""
    if is_table(source):
        for key, value in source.items():
            if key not in _WRITTEN:
                yield from files_in(value, folder)
    elif is_sequence(source):
        for value in source:
            yield from files_in(value, folder)
    elif isinstance(source, str | Path) and str(source):
        target = object_in(str(source))
        path = folder / (target[0] if target else source)
        if os.path.exists(path):
            yield path


def _digest_files(paths: Iterable[Path]) -> list[tuple[str, str]]:
    """Return the path and SHA-256 of each file, and of all files in folders."""
    files = [
        file
        for path in paths
        for file in (sorted(path.rglob("*")) if path.is_dir() else [path])
        if file.is_file()
    ]
    return [(str(file), hashlib.sha256(file.read_bytes()).hexdigest()) for file in files]


def _load_object(file: Path, attribute: str, endpoints: Endpoints) -> AnyNode:
    """Return the node in a file, or the one that a function in it returns.

    The file is executed. The function takes the endpoints, or nothing.
    """
    location = f"{file}:{attribute}"
    module = _module(file, endpoints.config.folder)
    if not hasattr(module, attribute):
        names = [name for name, value in vars(module).items() if _is_runnable(name, value, module)]
        raise ConfigError(f"{file} has no {attribute!r}{nearest(attribute, names)}")
    work: object = getattr(module, attribute)
    if isinstance(work, type):
        raise ConfigError(
            f"{location} is a class: name an instance of it, or a function that makes one"
        )
    work = as_node(work)
    if callable(work) and not _is_node(work):
        parameters = [
            parameter
            for parameter in inspect.signature(work).parameters.values()
            if parameter.default is parameter.empty
            and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        ]
        if len(parameters) > 1:
            raise ConfigError(
                f"{location} takes {len(parameters)} arguments: give a node, such as async def "
                "f(request, context: RunContext), or a function of the endpoints, or of nothing, "
                "that returns one"
            )
        try:
            work = work(*([endpoints] if parameters else []))
        except MoaError:
            raise
        except Exception as error:
            raise _explain_error(f"{location} makes no node", error) from error
    if not _is_node(work):
        raise ConfigError(
            f"{location} is {type(work).__name__}, and no node: a node has a name and an "
            "asynchronous run. Give an agent, or what Graph.build returns"
        )
    return work


def _explain_unnamed(file: Path, project: Path) -> str:
    """Return the error message for a file without an object name. It lists the file's nodes."""
    module = _module(file, project)
    nodes = [
        name for name, value in vars(module).items() if not name.startswith("_") and _is_node(value)
    ]
    has = f" It has {', '.join(f'{file}:{name}' for name in nodes)}" if nodes else ""
    return f"{str(file)!r} is a file: name the node in it, as {file}:OBJECT.{has}"


def _module(file: Path, project: Path) -> ModuleType:
    if not file.is_file():
        raise ConfigError(f"there is no file {str(file)!r}")
    name = f"_moa_file_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file, loader=SourceLoader(name, str(file)))
    assert spec is not None, "it has a loader"
    assert spec.loader is not None, "it has a loader"
    module = importlib.util.module_from_spec(spec)
    folder = file.resolve().parent
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))  # it can import its neighbours, as a script can
    import_from_source(folder, project)
    sys.modules[spec.name] = module  # pydantic looks annotations up by module name
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise _explain_error(f"{file} can't be loaded", error) from error
    return module


def _explain_error(problem: str, error: Exception) -> ConfigError:
    message = f"{problem}: {type(error).__name__}: {error}"
    if isinstance(error, SyntaxError):  # it names its own place; the importer raised it
        return ConfigError(message)
    (*_, last) = traceback.extract_tb(error.__traceback__)
    return ConfigError(f"{message} ({last.filename}, line {last.lineno})")


def _is_runnable(name: str, value: object, module: ModuleType) -> bool:
    """Return True for a public node of a file, or a function that it defines."""
    is_defined = inspect.isfunction(value) and value.__module__ == module.__name__
    return not name.startswith("_") and (is_defined or _is_node(value))


def _is_node(value: object) -> TypeGuard[AnyNode]:
    return (
        not isinstance(value, type)
        and isinstance(getattr(value, "name", None), str)
        and inspect.iscoroutinefunction(getattr(value, "run", None))
    )
