"""Which host answers for a service of an account, and whether credentials may go there."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec

from aht_pipeline.credentials import is_loopback
from aht_pipeline.services import URL_VARIABLES
from aht_pipeline.source.errors import ApiError
from aht_pipeline.source.http import Http

_LIVEPERSON = (".liveperson.net", ".lpcloud.io")
_BASE_URI = re.compile(
    r"(?:(?:https?:)?//)?"
    r"(?P<host>(?P<name>[a-z0-9_-]+(?:\.[a-z0-9_-]+)*)|\[(?P<address>[0-9a-f:]+)\])"
    r"(?::80|(?P<port>:[1-9][0-9]{0,4}))?"  # 80 belongs to the http that is not used
    r"(?P<path>(?:/(?!\.\.?(?:/|$))[a-z0-9._~%-]*)*)",
    re.IGNORECASE | re.ASCII,
)
"""A host, and perhaps a scheme, a port and a path: with a user or a query in it, it is not the host that it seems."""


def resolve(http: Http, domain_api_url: str, account_id: str, service: str) -> str:
    """The base URL of a service of this account, as the Domain API says it.

    A host outside LivePerson's domains is refused: credentials would go there. A Domain API on this machine (a test
    server) may name another port of this machine.
    """
    url = f"{domain_api_url.rstrip('/')}/api/account/{quote(account_id, safe='')}/service/{service}/baseURI.json"
    named, _ = http.get(url, {"version": "1.0"}, lambda body: _base_uri(body, service), may_be_cached=True)
    if base := _BASE_URI.fullmatch(named):
        place = f"{base['host']}{base['port'] or ''}{base['path'].rstrip('/')}"
        if base["host"].lower().endswith(_LIVEPERSON):
            return f"https://{place}"
        if is_loopback(base["name"] or base["address"]) and is_loopback(urlsplit(domain_api_url).hostname):
            return f"{urlsplit(domain_api_url).scheme}://{place}"
    raise ApiError(
        f"{url}: the Domain API names {named!r} for {service}, which is no host under *{' or *'.join(_LIVEPERSON)}: no "
        f"credentials are sent there. If it is right, set {URL_VARIABLES[service]} to it"
    )


def _base_uri(body: bytes, service: str) -> str:
    """`{"service","account","baseURI"}`, or `{"baseURIs": [{…}, …]}` of one or all services."""
    reply: Any = msgspec.json.decode(body)
    entries = reply.get("baseURIs", [reply]) if isinstance(reply, dict) else []
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict) and entry.get("service") == service and isinstance(entry.get("baseURI"), str):
            uri: str = entry["baseURI"]
            return uri
    raise ApiError(f"the Domain API knows no service {service!r} for this account: check LIVEPERSON_ACCOUNT_ID")
