"""Vault: what was taken out of one request, by placeholder. It ends with the request."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import NoReturn

from pydantic import SecretStr

from moa.errors import ConfigError

PLACEHOLDER = re.compile(r"\[[A-Z][A-Z0-9_]*_[0-9]+\]")
"""What a placeholder looks like. In square brackets: HTML, XML and JSON leave them alone."""
QUOTED = "QUOTED"
"""The kind of a text that looked like a placeholder before any was made."""


class Vault:
    """Keeps secrets by their placeholders. Nothing shows what is in it, and it can't be copied.

    The same secret has the same placeholder.

    Args:
        others: Vaults of the same request, whose placeholders it doesn't make again.
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
        """Keep a secret, and give what stands for it.

        Raises:
            ConfigError: the vault is closed.
        """
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
        """Put the secrets back in the place of their placeholders, letter by letter.

        Raises:
            ConfigError: the vault is closed.
        """
        self._check()
        return PLACEHOLDER.sub(self._secret, text)

    def holds(self, made: str) -> bool:
        """Whether a placeholder is one of this vault."""
        return made in self._secrets

    def is_begun(self, tail: str) -> bool:
        """Whether a text that begins with a bracket may go on as a placeholder of this vault."""
        return any(made.startswith(tail) for made in self._secrets)

    def close(self) -> None:
        """Forget everything."""
        self._secrets.clear()
        self._by_secret.clear()
        self._open = False

    def _secret(self, found: re.Match[str]) -> str:
        kept = self._secrets.get(found[0])
        return found[0] if kept is None else kept.get_secret_value()

    def _check(self) -> None:
        if not self._open:
            raise ConfigError(
                "the vault is closed: its request is over, and what it kept is forgotten"
            )
