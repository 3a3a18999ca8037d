"""moa keys: API keys of a server, with what each may run and spend."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from moa.cli import options, screen
from moa.core.errors import ConfigError

if TYPE_CHECKING:
    from moa.serving.keys import Key
    from moa.serving.limits import KeyUsage

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="Name of the key: letters, digits, - and _.")
]


@dataclass(frozen=True, kw_only=True)
class KeyOptions:
    """The graphs and limits of a key; see `moa.serving.limits.Limits`."""

    graphs: Annotated[
        str | None,
        typer.Option("--graphs", metavar="A,B", help="What it may run; default: all."),
    ] = None
    usd_per_day: Annotated[
        float | None, typer.Option("--usd-per-day", min=0, help="US dollars a day, UTC.")
    ] = None
    usd_per_month: Annotated[
        float | None, typer.Option("--usd-per-month", min=0, help="US dollars a month, UTC.")
    ] = None
    calls_per_day: Annotated[
        int | None,
        typer.Option("--calls-per-day", min=0, help="Calls to models a day; a run makes several."),
    ] = None
    calls_per_month: Annotated[
        int | None, typer.Option("--calls-per-month", min=0, help="Calls to models a month.")
    ] = None
    requests_per_minute: Annotated[
        int | None,
        typer.Option(
            "--requests-per-minute", min=1, help="Maximum runs started within 60 seconds."
        ),
    ] = None
    parallel: Annotated[
        int | None, typer.Option("--parallel", min=1, metavar="N", help="Maximum parallel runs.")
    ] = None

    @property
    def settings(self) -> dict[str, object]:
        """All of it, as a key keeps it."""
        names = None if self.graphs is None else [name.strip() for name in self.graphs.split(",")]
        if names is not None and not all(names):
            raise ConfigError(f"--graphs takes names, separated by commas; got {self.graphs!r}")
        return {**asdict(self), "graphs": names}


def new(
    name: Name,
    *,
    keys: options.NeededKeys = "keys.toml",
    allowed: KeyOptions,
    quiet: options.Quiet = False,
) -> None:
    """Make a key, and print its secret once: only its hash is stored.

    Running servers accept it at once. Parallel calls can't exceed a limit, even on several servers
    that share the keys. Under a limit in dollars, endpoints without a known price aren't asked.

    Runs and spending belong to the key's name. To change its secret, revoke it, and make a key of
    the same name.

        moa keys new alice --usd-per-day 5 --requests-per-minute 60
        moa keys new shop --graphs support,sentiment --calls-per-month 100000 --parallel 8
        moa serve support --keys keys.toml
    """
    from moa.serving.keys import key_store, new_secret

    secret = new_secret()
    key = _key(name, secret, allowed.settings)
    with key_store(keys) as store:
        store.add(key)
    screen.results_console().print(secret, soft_wrap=True)
    location = keys if "://" not in keys else "the database"
    screen.notes().print(
        f"This is the key of {name}; it can't be shown again. It is kept as a hash in {location}. "
        "Send it as Authorization: Bearer, or give it to a client of OpenAI's as api_key"
    )


def _key(name: str, secret: str, settings: dict[str, object]) -> Key:
    """Make a key, or say in a `ConfigError` which option is wrong."""
    from pydantic import ValidationError

    from moa.serving.keys import Key, digest

    try:
        return Key.model_validate({"name": name, "sha256": digest(secret), **settings})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        if first["loc"] == ("name",):
            raise ConfigError(
                f"a key is named by at most 64 letters, digits, - and _, and not {name!r:.80}"
            ) from error
        raise ConfigError(f"{first['loc'][0]}: {first['msg']}") from error


def revoke(
    name: Name, *, keys: options.NeededKeys = "keys.toml", quiet: options.Quiet = False
) -> None:
    """Revoke a key: servers refuse it at once, and its runs make no further call.

    moa keys revoke alice
    """
    from moa.serving.keys import key_store

    with key_store(keys) as store:
        store.remove(name)
    screen.details().print(f"{name} is revoked")


def list_keys(*, keys: options.NeededKeys = "keys.toml", as_json: options.AsJson = False) -> None:
    """List the keys: their limits, and their spending today and this month, UTC.

    Reservations of runs in flight don't count as spent. With --json one line per key.

        moa keys list
        moa keys list --json | jq .today.usd
    """
    from moa.serving.keys import keys_and_ledger

    store, ledger = keys_and_ledger(keys)
    with ledger:
        ledger.charge_the_dead()
        usages = [(key, ledger.usage_of(key.name)) for key in store.all().values()]
    if as_json:
        for key, usage in usages:
            screen.json_line(_line(key, usage))
        return
    head = ("name", "runs", "today", "this month", "a minute", "at once")
    rows = [_row(key, usage) for key, usage in usages]
    screen.results_console().print(screen.make_table(head, rows) if rows else "there are no keys")


def _line(key: Key, usage: KeyUsage) -> dict[str, object]:
    sums = {"today": usage.day, "month": usage.month, "in_flight": usage.held}
    return {
        "name": key.name,
        "graphs": key.graphs,
        "limits": key.limits,
        **{
            name: {"calls": total.calls, "usd": float(total.usd), "unpriced_calls": total.unpriced}
            for name, total in sums.items()
        },
        "runs": usage.runs,
        "left": usage.remaining(key),
    }


def _row(key: Key, usage: KeyUsage) -> tuple[str, ...]:
    day = _format_spending(usage.day.calls, key.calls_per_day, usage.day.usd, key.usd_per_day)
    month = _format_spending(
        usage.month.calls, key.calls_per_month, usage.month.usd, key.usd_per_month
    )
    of_runs = "" if key.parallel is None else f" of {key.parallel}"
    rate = "" if key.requests_per_minute is None else f"{key.requests_per_minute}"
    graphs = "all" if key.graphs is None else ", ".join(key.graphs)
    return key.name, graphs, day, month, rate, f"{usage.runs}{of_runs}"


def _format_spending(calls: int, max_calls: int | None, usd: object, dollars: object) -> str:
    of_calls = "" if max_calls is None else f" of {max_calls}"
    of_usd = "" if dollars is None else f" of {dollars:g}"
    return f"{calls}{of_calls} calls, US$ {usd:g}{of_usd}"
