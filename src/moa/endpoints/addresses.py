"""Addresses: what an address of HTTP is, how near it is, and how the way there is secured."""

from __future__ import annotations

import ipaddress
import os
import re
import sys
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from moa.errors import ConfigError

if TYPE_CHECKING:
    import ssl

_HOST = re.compile(rb"[\w.-]+")


def check_address(url: str, name: str, what: str = "base_url") -> None:
    """Refuse what no request can be sent to, and what would show a secret in an error.

    Raises:
        ConfigError: it is no address of HTTP, or holds a user name, a password or a query. `name`
            is that of the endpoint, and `what` the key that holds the address.
    """
    if "@" in url.partition("://")[2].partition("/")[0] or "?" in url:
        raise ConfigError(
            f"{name}: {what} holds a user name, a password or a query. Leave it out, and name the "
            "environment variable of a key by `api_key_env`"
        )
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        if ":" in host or host.rpartition(".")[2].isdecimal():
            ipaddress.ip_address(host)
        elif _HOST.fullmatch(host.encode("idna")) is None:
            raise ValueError("no name of a host")
        known = parts.scheme in ("http", "https") and parts.port != 0
    except ValueError:
        known = False
    if not known:
        raise ConfigError(
            f"{name}: {what}={url!r} is no address of HTTP. Correct it: it starts with http:// or "
            "https://, such as http://127.0.0.1:8000/v1"
        )


def is_loopback(url: str) -> bool:
    """Whether an address is one of this machine, where no proxy stands between."""
    host = urlsplit(url).hostname or ""
    try:
        address = ipaddress.ip_address(host)
        address = getattr(address, "ipv4_mapped", None) or address
        return address.is_loopback or address.is_unspecified
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def is_near(url: str) -> bool:
    """Whether an address is that of this machine, or of its own network."""
    host = urlsplit(url).hostname or ""
    try:
        return is_loopback(url) or ipaddress.ip_address(host).is_private
    except ValueError:
        return "." not in host or host.endswith((".local", ".lan", ".internal"))


def proxy_of(url: str, name: str) -> str | None:
    """Find the proxy that the environment names for an address; `None`: it is asked directly.

    Raises:
        ConfigError: the proxy of the endpoint of this name isn't asked in HTTP.
    """
    from urllib.request import getproxies, proxy_bypass

    parts, given = urlsplit(url), getproxies()
    proxy = given.get(parts.scheme) or given.get("all")
    excepted = _is_in(parts.hostname or "", given.get("no", ""))
    if not proxy or excepted or proxy_bypass(parts.netloc):
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    try:
        known = urlsplit(proxy).scheme in ("http", "https") and bool(urlsplit(proxy).hostname)
    except ValueError:
        known = False
    if not known:
        raise ConfigError(
            f"{name}: the proxy in $HTTP_PROXY, $HTTPS_PROXY or $ALL_PROXY can't be used: its "
            "address starts with http:// or https://, and SOCKS isn't spoken. Name another, or "
            "except this server by $NO_PROXY"
        )
    return proxy


def _is_in(host: str, networks: str) -> bool:
    """Whether a host is in a network of `$NO_PROXY`, such as 10.0.0.0/8."""
    for network in networks.split(","):
        with suppress(ValueError):
            if ipaddress.ip_address(host) in ipaddress.ip_network(network.strip(), strict=False):
                return True
    return False


def trusted(name: str) -> ssl.SSLContext:
    """Read the certificates that `$SSL_CERT_FILE` or `$SSL_CERT_DIR` names, or this machine's.

    Raises:
        ConfigError: what the environment names can't be read, for the endpoint of this name.
    """
    file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    try:
        return _certificates(file or None, folder or None)
    except OSError as error:
        raise ConfigError(
            f"{name}: the certificates in $SSL_CERT_FILE or $SSL_CERT_DIR can't be read: {error}"
        ) from error


@cache
def _certificates(file: str | None, folder: str | None) -> ssl.SSLContext:
    """Read them once: it takes 20 ms."""
    import ssl

    named = file or folder
    if not named and sys.platform in ("darwin", "win32"):
        import truststore

        return truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(file, folder) if named else context.load_default_certs()
    return context
