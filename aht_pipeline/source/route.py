"""How requests leave this machine: the proxy and the certificate authorities that the environment names for a host."""

from __future__ import annotations

import importlib.util
import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from requests.utils import get_environ_proxies, select_proxy
from urllib3.exceptions import LocationParseError
from urllib3.util import parse_url

from aht_pipeline.errors import SettingsError

_AUTHORITIES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
_SOCKS = {"socks4", "socks4a", "socks5", "socks5h"}


@dataclass(frozen=True)
class Proxy:
    """What passes requests on. url: without user and password. variable: which one names it."""

    url: str
    variable: str

    @property
    def is_socks(self) -> bool:
        return urlsplit(self.url).scheme in _SOCKS

    def __str__(self) -> str:
        return f"the proxy {self.url}, which {self.variable} names,"


@dataclass(frozen=True)
class Route:
    """The way to one host.

    proxies, verify: as requests takes them. authorities_variable: which one names the file of authorities, if any.
    """

    proxies: dict[str, str]
    verify: bool | str
    proxy: Proxy | None = None
    authorities_variable: str | None = None


def route_to(url: str) -> Route:
    """The way to the host of this URL; plain http stays on this machine, and goes through no proxy.

    Raises SettingsError, naming the variable, where what it names cannot be used.
    """
    if urlsplit(url).scheme == "http":
        return Route({}, verify=True)
    authorities = next((name for name in _AUTHORITIES if os.environ.get(name)), None)
    verify = _bundle(authorities) if authorities else True
    proxies = get_environ_proxies(url)
    named = select_proxy(url, proxies)
    if not named:
        return Route({}, verify, authorities_variable=authorities)
    variable = _variable_of(named, "https" if "https" in proxies else "all")
    whole = named if "://" in named else f"http://{named}"
    return Route({"https": whole}, verify, _proxy(whole, variable), authorities)


def _bundle(variable: str) -> str:
    """The file or folder of certificate authorities that a variable names."""
    path = os.environ[variable]
    try:
        if not Path(path).is_dir():
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
    except OSError as error:
        reason = "it holds no certificate" if isinstance(error, ssl.SSLError) else error.strerror
        raise SettingsError(
            f"{variable}: {path} cannot be used as the certificate authorities to trust: {reason}. Name a file of "
            "certificates in PEM, or unset it"
        ) from None
    return path


def _proxy(whole: str, variable: str) -> Proxy:
    try:
        url = parse_url(whole)
    except LocationParseError:
        url = None
    if url is None or not url.host or url.path not in (None, "", "/") or url.query or url.fragment:
        raise SettingsError(  # its value may hold a password
            f"{variable}: cannot be read as the URL of a proxy, like http://user:password@host:port; in a user or a "
            "password write @ as %40, / as %2F, # as %23, ? as %3F, : as %3A and % as %25"
        )
    if url.scheme not in {"http", "https", *_SOCKS}:
        raise SettingsError(f"{variable}: names a proxy of the kind {url.scheme}://: use http, https or socks5h")
    if url.scheme in _SOCKS and importlib.util.find_spec("socks") is None:
        raise SettingsError(
            f"{variable}: names a SOCKS proxy, for which a package is missing: pip install 'requests[socks]', or "
            "unset it"
        )
    return Proxy(f"{url.scheme}://{url.netloc}", variable)


def _variable_of(named: str, kind: str) -> str:
    """The variable that names this proxy, as it is spelled in the environment."""
    spelled = [name for name, value in os.environ.items() if name.lower() == f"{kind}_proxy" and value == named]
    return min(spelled, key=str.isupper, default=f"this system's settings, {kind} proxy,")
