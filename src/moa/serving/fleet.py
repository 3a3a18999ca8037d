"""Fleet: the servers of a configuration, brought up and taken down."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from moa.config import Config, nearest
from moa.errors import ConfigError, EndpointError, EndpointUnavailable, MoaError
from moa.servers import ServerFolder, ServerState, local_url
from moa.serving.launching import Launched, launch, stop, until_ready
from moa.serving.planning import chosen
from moa.serving.spec import ServerSpec

Tell = Callable[[ServerSpec, str, bool], None]
"""Called with what a server that comes up said last, and whether another started it."""


@dataclass(frozen=True, slots=True)
class Up:
    """A server that is up."""

    launched: Launched
    state: ServerState
    waited_s: float

    def words(self) -> str:
        """Say it in words."""
        spec = self.launched.spec
        how = f"ready after {self.waited_s:.0f} s"
        if self.launched.joined:
            how = "was up" if self.waited_s < 1 else f"was coming up already, and is {how}"
        return f"{spec.name}: {how}, {spec.model} at {local_url(spec.port)}"


def start(specs: Sequence[ServerSpec], *, done: Callable[[Launched], None]) -> None:
    """Start servers, all at once, and wait for none.

    Args:
        specs: What is started.
        done: Called for each that is started.

    Raises:
        ConfigError: one can't be started; the others are.
        EndpointUnavailable: several can't be.
    """
    failed: dict[str, MoaError] = {}
    for spec in specs:
        try:
            done(launch(spec))
        except MoaError as error:
            failed[_placed(spec)] = error
    _tell_of(failed, of=len(specs))


async def bring_up(
    specs: Sequence[ServerSpec],
    *,
    timeout_s: float,
    tell: Tell,
    done: Callable[[Up], None],
) -> None:
    """Start servers, and wait until they are ready.

    Those that share a GPU, or have none, start one after another, since each looks at how much
    memory is free. One that fails, or takes too long, keeps none of the others from it. Where the
    wait is cancelled, what this call started is stopped.

    Args:
        specs: What is started.
        timeout_s: Seconds for each. One that takes longer goes on in the background.
        tell: Called with the last line of each log.
        done: Called for each that is ready.

    Raises:
        ConfigError: one can't be started.
        EndpointUnavailable: one did not come up, or several are not up, and why each.
    """
    started: list[Launched] = []
    failed: dict[str, MoaError] = {}

    async def one(spec: ServerSpec) -> Up:
        since = time.monotonic()
        launched = launch(spec)
        started.append(launched)
        state = await until_ready(
            launched,
            timeout_s=timeout_s,
            tell=lambda line: tell(spec, line, launched.joined),
        )
        return Up(launched, state, time.monotonic() - since)

    async def in_turn(shared: Sequence[ServerSpec]) -> None:
        for spec in shared:
            try:
                up = await one(spec)
            except MoaError as error:
                failed[_placed(spec)] = error
            else:
                done(up)

    by_gpu: dict[str, list[ServerSpec]] = {}
    for spec in specs:
        by_gpu.setdefault(spec.env.get("CUDA_VISIBLE_DEVICES", ""), []).append(spec)
    try:
        outcomes = await asyncio.gather(*map(in_turn, by_gpu.values()), return_exceptions=True)
    except asyncio.CancelledError:
        own = [launched.folder for launched in started if not launched.joined]
        await asyncio.gather(*map(stop, own))
        raise
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    _tell_of(failed, of=len(specs))


def _placed(spec: ServerSpec) -> str:
    return f"{spec.name} on port {spec.port}"


def _tell_of(failed: Mapping[str, MoaError], *, of: int) -> None:
    """Raise what went wrong: one error as it is, several as one that names each."""
    if len(failed) == 1:
        raise next(iter(failed.values()))
    if failed:
        causes = [
            f"  {server}: {error.message if isinstance(error, EndpointError) else error}"
            for server, error in failed.items()
        ]
        raise EndpointUnavailable(
            "\n".join((f"{len(failed)} of {of} servers are not up", *causes)), endpoint="moa up"
        )


async def take_down(
    config: Config, names: Iterable[str], *, everything: bool = False
) -> dict[str, bool]:
    """Stop servers, and wait until nothing of them is left.

    Args:
        config: What is configured.
        names: Of endpoints, also of ones that ran before the configuration was changed; none: all
            that are configured.
        everything: Whether all servers on this machine are stopped, also those of others.

    Returns:
        For each, by name and port, whether it ran.

    Raises:
        ConfigError: there is no such server.
        EndpointUnavailable: something of one is left.
    """
    folders = _meant(config, tuple(names), everything=everything)
    stopped = await asyncio.gather(*map(stop, folders.values()))
    return dict(zip(folders, stopped, strict=True))


def _meant(config: Config, names: Sequence[str], *, everything: bool) -> dict[str, ServerFolder]:
    kept = {folder: state for folder in ServerFolder.all() if (state := folder.read())}
    if everything:
        return {_called(state): folder for folder, state in kept.items()}
    known = {state.name for state in kept.values()}
    gone = [name for name in names if name not in config.endpoints]
    for name in gone:
        if name not in known:
            raise ConfigError(f"there is no server {name!r}{nearest(name, [*config.served])}")
    found = {
        _called(state): folder
        for folder, state in kept.items()
        if state.name in gone or (not config.served and not names)
    }
    still = [name for name in names if name not in gone]
    for name in chosen(config, still) if still or (not names and config.served) else ():
        for port in config.endpoints[name].vllm.ports:
            folder = ServerFolder.of(port)
            state = folder.read()
            if state is None or state.name == name:  # else it is another's
                found[f"{name} on port {port}"] = folder
    return found


def _called(state: ServerState) -> str:
    return f"{state.name} on port {state.port}"
