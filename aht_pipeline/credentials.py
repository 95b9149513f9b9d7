"""What an account is known by to LivePerson, and whether a host is this machine, where alone http is safe for it."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field


@dataclass(frozen=True)
class ClientCredentialKeys:
    """OAuth 2.0: what an application is known by."""

    client_id: str
    client_secret: str = field(repr=False)


@dataclass(frozen=True)
class AppKeys:
    """OAuth 1.0: the app's key and the token it was given."""

    app_key: str
    app_secret: str = field(repr=False)
    access_token: str = field(repr=False)
    access_token_secret: str = field(repr=False)


def is_loopback(host: str | None) -> bool:
    """Whether this host name or address is this machine itself."""
    if host is None:
        return False
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
