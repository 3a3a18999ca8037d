"""Vault: what was taken out of one request, by placeholder. It ends with the request."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import NoReturn

from pydantic import SecretStr

from moa.errors import ConfigError

PLACEHOLDER = re.compile(r"\\?\[ ?([A-Za-z](?:[A-Za-z0-9]|\\?_)*\\?_[0-9]+) ?\\?\]")
"""What a placeholder looks like. In square brackets: HTML, XML and JSON leave them alone. Models
write some in small letters, or escape them for Markdown."""
QUOTED = "QUOTED"
"""The kind of a text that looked like a placeholder before any was made."""


class Vault:
    """Keeps secrets by their placeholders. Nothing shows what is in it, and it can't be copied.

    The same secret has the same placeholder. Those of `others`, vaults of the same request, are not
    made again. Once it is closed it raises `ConfigError`.
    """

    __slots__ = ("_by_secret", "_counts", "_open", "_secrets")

    def __init__(self, others: Sequence[Vault] = ()) -> None:
        self._secrets: dict[str, SecretStr] = {}
        self._by_secret: dict[SecretStr, str] = {}
        self._counts: Counter[str] = Counter()
        for other in others:
            self._counts |= other._counts
        self._open = True

    def __repr__(self) -> str:
        return f"Vault({len(self._secrets)} kept)" if self._open else "Vault(closed)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a vault can't be copied or pickled: it ends with its request")

    def placeholder(self, kind: str, secret: str) -> str:
        """Keep a secret, and give what stands for it."""
        self._check()
        kept = SecretStr(secret)
        known = self._by_secret.get(kept)
        if known is not None:
            return known
        self._counts[kind] += 1
        made = f"[{kind}_{self._counts[kind]}]"
        self._secrets[made] = kept
        self._by_secret[kept] = made
        return made

    def restore(self, text: str) -> str:
        """Put the secrets back in the place of their placeholders, letter by letter."""
        self._check()
        return PLACEHOLDER.sub(self._secret, text)

    def altered(self, text: str) -> set[str]:
        """Find its placeholders that stand in a text so that they can't be restored.

        What looks like one by chance is among them, such as `email 1`.
        """
        if not self._secrets:
            return set()
        kinds = "|".join(re.escape(kind).replace("_", r"[\W_]{1,3}") for kind in self._counts)
        alike = re.compile(rf"(?:{kinds})[\W_]{{1,3}}[0-9]+(?!\w)", re.IGNORECASE)
        found = alike.findall(PLACEHOLDER.sub("", text))
        made = {"[" + re.sub(r"[\W_]+", "_", one).upper() + "]" for one in found}
        return made & self._secrets.keys()

    def holds(self, placeholder: str) -> bool:
        """Whether a placeholder is one of this vault."""
        return _made(placeholder) in self._secrets

    def is_begun(self, tail: str) -> bool:
        """Whether what a text ends in may go on as a placeholder of this vault."""
        begun = _made(tail)
        return any(made.startswith(begun) and len(tail) <= 2 * len(made) for made in self._secrets)

    def close(self) -> None:
        """Forget everything."""
        self._secrets.clear()
        self._by_secret.clear()
        self._open = False

    def _secret(self, found: re.Match[str]) -> str:
        kept = self._secrets.get(_made(found[0]))
        return found[0] if kept is None else kept.get_secret_value()

    def _check(self) -> None:
        if not self._open:
            raise ConfigError(
                "the vault is closed: its request is over, and what it kept is forgotten"
            )


def _made(placeholder: str) -> str:
    """Write a placeholder, or the start of one, as it was made."""
    return placeholder.replace("\\", "").replace(" ", "").upper()
