"""The simulated API as a plain HTTP client meets it: the pages of a day, fetched one after the other and not read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from http.client import HTTPConnection
from urllib.parse import urlencode, urlsplit

from aht_pipeline.days import Day

_COUNT = re.compile(rb'"pagination":\{"count":(\d+)')
_PAGE_SIZE = 500


@dataclass(frozen=True)
class Api:
    """A simulator that serves. variables: what points the pipeline at it."""

    variables: dict[str, str]

    @classmethod
    def told_by(cls, line: str) -> Api:
        """From the line that `aht-pipeline simulator` prints."""
        return cls(dict(re.findall(r"(LIVEPERSON_\w+)=(\S+)", line)))

    @property
    def url(self) -> str:
        return self.variables["LIVEPERSON_API_URL"]

    @property
    def account(self) -> str:
        return self.variables["LIVEPERSON_ACCOUNT_ID"]

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc


def fetch(api: Api, day: date) -> Iterator[bytes]:
    """The pages of a UTC day, over one connection. Only the first is looked into, for the count."""
    connection = HTTPConnection(api.host)
    try:
        headers = {"Authorization": f"Bearer {_token(connection, api)}"}
        window = Day(day, "UTC").window
        offset, count = 0, 1
        while offset < count:
            asked = {
                "source": "bench",
                "fromMillis": window.start_ms,
                "toMillis": window.end_ms,
                "limit": _PAGE_SIZE,
                "offset": offset,
            }
            path = f"/api/account/{api.account}/agent-segments?{urlencode(asked)}"
            page = _answer(connection, "GET", path, None, headers)
            if offset == 0:
                found = _COUNT.search(page)
                count = int(found[1]) if found else 0
            yield page
            offset += _PAGE_SIZE
    finally:
        connection.close()


def count_of(api: Api, day: date) -> int:
    """How many segments the API reports for a day."""
    found = _COUNT.search(next(fetch(api, day)))
    return int(found[1]) if found else 0


def _token(connection: HTTPConnection, api: Api) -> str:
    form = urlencode(
        {
            "grant_type": "client_credentials",
            "client_id": api.variables["LIVEPERSON_CLIENT_ID"],
            "client_secret": api.variables["LIVEPERSON_CLIENT_SECRET"],
        }
    )
    path = f"/sentinel/api/v2/account/{api.account}/app/token"
    answer = _answer(connection, "POST", path, form, {"Content-Type": "application/x-www-form-urlencoded"})
    return str(json.loads(answer)["access_token"])


def _answer(connection: HTTPConnection, method: str, path: str, body: str | None, headers: dict[str, str]) -> bytes:
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    answer = response.read()
    if response.status != 200:
        raise ConnectionError(f"{method} {path}: {response.status} {answer[:200]!r}")
    return answer
