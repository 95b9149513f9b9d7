"""Which host answers for a service of an account, and whether credentials may go there."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec

from aht_pipeline.credentials import is_loopback
from aht_pipeline.source.errors import ApiError
from aht_pipeline.source.http import Http

ACCOUNT_CONFIG = "accountConfigReadOnly"
AGENT_ACTIVITY = "agentActivityDomain"
SENTINEL = "sentinel"

_LIVEPERSON = ".liveperson.net"
_HOST = re.compile(r"(?:([a-z0-9.-]+)|\[([0-9a-f:]+)\])(:[0-9]+)?")
"""A name or address and a port: with a user, a path or a query in it, it is not the host that it seems to be."""


def resolve(http: Http, domain_api_url: str, account_id: str, service: str) -> str:
    """The base URL of a service of this account, as the Domain API says it.

    A host outside LivePerson's domain is refused: credentials would go there. A Domain API on this machine (a test
    server) may name another port of this machine.
    """
    url = f"{domain_api_url.rstrip('/')}/api/account/{quote(account_id, safe='')}/service/{service}/baseURI.json"
    host, _ = http.get(url, {"version": "1.0"}, lambda body: _base_uri(body, service))
    plain = _HOST.fullmatch(host.lower())
    name = plain and (plain[1] or plain[2])
    if name and name.endswith(_LIVEPERSON):
        return f"https://{host}"
    if is_loopback(name) and is_loopback(urlsplit(domain_api_url).hostname):
        return f"{urlsplit(domain_api_url).scheme}://{host}"
    raise ApiError(
        f"{url}: the Domain API names the host {host!r} for {service}, which is outside *{_LIVEPERSON}: no credentials "
        "are sent there. If it is right, set LIVEPERSON_API_URL to it"
    )


def _base_uri(body: bytes, service: str) -> str:
    """`{"service","account","baseURI"}`, or `{"baseURIs": [{…}, …]}` of one or all services."""
    reply: Any = msgspec.json.decode(body)
    entries = reply.get("baseURIs", [reply]) if isinstance(reply, dict) else []
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict) and entry.get("service") == service and isinstance(entry.get("baseURI"), str):
            uri: str = entry["baseURI"]
            return uri.removeprefix("https://").removeprefix("http://").strip("/")
    raise ApiError(f"the Domain API knows no service {service!r} for this account: check LIVEPERSON_ACCOUNT_ID")
