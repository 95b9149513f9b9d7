"""The AHT API of one account: one page of agent segments for a query, checked to be an answer to what was asked."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from urllib.parse import quote, urlsplit

from aht_pipeline.credentials import AppKeys, ClientCredentialKeys
from aht_pipeline.days import Window, from_millis
from aht_pipeline.pages import Page, Timeframe, read_moment_ms, read_page
from aht_pipeline.services import AGENT_ACTIVITY, SENTINEL, URL_VARIABLES
from aht_pipeline.source.auth import BearerToken, SignedByApp
from aht_pipeline.source.errors import ApiError, Refused
from aht_pipeline.source.hosts import resolve
from aht_pipeline.source.http import Authorisation, Http
from aht_pipeline.source.retries import Pacing

SORT_ORDERS = ("Date", "Conversation", "Agent", "Employee", "Skill", "Group")
"""What `sort` may be; the direction is not documented."""

_PERMISSION = (
    "check the credentials, and that the key has the permission Data > Workforce Management > Agent Activity API "
    "(in newer consoles: Agent Status Changes); the API is off until the account manager enables it"
)


@dataclass(frozen=True)
class SegmentQuery:
    """Which segments are asked for: closed in the window, both edges in, and matching every filter exactly."""

    window: Window
    conversation_id: str | None = None
    agent_id: str | None = None
    employee_id: str | None = None
    skill_id: str | None = None
    group_id: str | None = None
    sort: str | None = None

    def parameters(self) -> dict[str, str | int]:
        optional = {
            "ConversationId": self.conversation_id,
            "AgentId": self.agent_id,
            "EmployeeId": self.employee_id,
            "SkillId": self.skill_id,
            "GroupId": self.group_id,
            "sort": self.sort,
        }
        return {
            "fromMillis": self.window.start_ms,
            "toMillis": self.window.end_ms,
            **{name: value for name, value in optional.items() if value is not None},
        }


@dataclass(frozen=True)
class Reply:
    """One page as it came (`body`), read (`page`), and the HTTP requests that it took."""

    body: bytes
    page: Page
    requests: int


@dataclass(frozen=True)
class Reach:
    """How many rows of a window the API counts or pages through, and how that came out."""

    rows: int
    why: str


class AhtApi:
    """A connection to the AHT API of one account; resolves hosts and fetches a token at the first request.

    service_urls: the base URLs of services, by the Domain API's names of them, instead of those that it names.
    api_url: one base URL for AHT and all other services, likewise.
    source: names the caller to the API.
    page_size: segments a request; lowered for good when the API names a lower limit.
    reach: how far the API counts and pages, once it has been met by its limit; None before.
    concurrency: requests at once, over all days in flight.
    """

    def __init__(
        self,
        account_id: str,
        keys: ClientCredentialKeys | AppKeys,
        *,
        service_urls: Mapping[str, str] | None = None,
        api_url: str | None = None,
        domain_api_url: str = "https://api.liveperson.net",
        source: str = "aht_pipeline",
        page_size: int = 500,
        concurrency: int = 4,
        pacing: Pacing | None = None,
    ) -> None:
        self.account_id = account_id
        self.page_size = page_size
        self.concurrency = concurrency
        self.reach: Reach | None = None
        self._service_urls = service_urls or {}
        self._keys = keys
        self._api_url = api_url
        self._domain_api_url = domain_api_url
        self._source = source
        self.http = Http(concurrency, f"aht-pipeline/{version('aht-pipeline')}", pacing, self._variables())
        self._connecting = threading.RLock()
        self._authorisation: Authorisation | None = None
        self._connection: _Connection | None = None

    def __repr__(self) -> str:
        return f"AhtApi(account_id={self.account_id!r})"

    def close(self) -> None:
        self.http.close()

    @property
    def authorisation(self) -> Authorisation:
        """What signs the requests of this account, to each of its services."""
        with self._connecting:
            if self._authorisation is None:
                self._authorisation = self._authorise()
            return self._authorisation

    def url_of(self, service: str) -> str:
        """The base URL of a service of this account, by the Domain API's name of it."""
        if given := self._service_urls.get(service) or self._api_url:
            return given.rstrip("/")
        return resolve(self.http, self._domain_api_url, self.account_id, service)

    def page(
        self, query: SegmentQuery, offset: int, limit: int | None = None, abandon: threading.Event | None = None
    ) -> Reply:
        """One page of the query's segments from `offset` on, at most `limit` of them (the page size where None).

        Raises Refused for a 400, ApiError for any other answer that outlasts its retries or is not for this window.
        """
        connection = self._connected()
        while True:
            asked = min(limit or self.page_size, self.page_size)
            parameters = {"source": self._source, **query.parameters(), "limit": asked, "offset": offset}
            try:
                (body, page), requests = connection.http_get(parameters, _reader_for(query.window), abandon)
            except Refused as refused:
                lower = _lower_limit(refused.causes, asked)
                if lower is None:
                    raise
                self.page_size = min(self.page_size, lower)
            else:
                return Reply(body, page, requests)

    def learn_reach(self, rows: int, why: str) -> None:
        """Of no window more rows than these can be had: one that counts as many is split at once from now on."""
        if self.reach is None or rows < self.reach.rows:
            self.reach = Reach(rows, why)

    def _variables(self) -> dict[str, str]:
        """The variable that names each configured host."""
        named = {
            "LIVEPERSON_DOMAIN_API_URL": self._domain_api_url,
            "LIVEPERSON_API_URL": self._api_url,
            **{URL_VARIABLES[service]: url for service, url in self._service_urls.items()},
        }
        return {urlsplit(url).netloc: variable for variable, url in named.items() if url}

    def _connected(self) -> _Connection:
        with self._connecting:
            if self._connection is None:
                self._connection = self._connect()
            return self._connection

    def _authorise(self) -> Authorisation:
        if isinstance(self._keys, AppKeys):
            return SignedByApp(self._keys)
        account = quote(self.account_id, safe="")
        return BearerToken(f"{self.url_of(SENTINEL)}/sentinel/api/v2/account/{account}/app/token", self._keys)

    def _connect(self) -> _Connection:
        segments_url = f"{self.url_of(AGENT_ACTIVITY)}/api/account/{quote(self.account_id, safe='')}/agent-segments"
        return _Connection(self.http, segments_url, self.authorisation)


@dataclass(frozen=True)
class _Connection:
    http: Http
    segments_url: str
    authorisation: Authorisation

    def http_get(
        self,
        parameters: dict[str, str | int],
        read: Callable[[bytes], tuple[bytes, Page]],
        abandon: threading.Event | None,
    ) -> tuple[tuple[bytes, Page], int]:
        return self.http.get(
            self.segments_url,
            parameters,
            read,
            authorisation=self.authorisation,
            hint=_PERMISSION,
            abandon=abandon,
            as_sent=True,
        )


def _reader_for(window: Window) -> Callable[[bytes], tuple[bytes, Page]]:
    """Reads a body as a page, and refuses one of another window: a server that ignored it answers with its last day."""

    def read(body: bytes) -> tuple[bytes, Page]:
        page = read_page(body)
        answered = _seconds_of(page.timeframe) if page.timeframe else None
        asked = (window.start_ms // 1000, window.end_ms // 1000)
        if answered != asked:
            raise ApiError(
                f"asked for the segments closed from {window}, the API answered for {_told(page.timeframe)}: "
                "its answer is not used"
            )
        return body, page

    return read


def _seconds_of(timeframe: Timeframe) -> tuple[int, int] | None:
    """A timeframe in whole epoch seconds; its ISO texts win over its epochs, which contradict them in old samples."""
    start = _seconds(timeframe.startTime, timeframe.startTimeL)
    end = _seconds(timeframe.endTime, timeframe.endTimeL)
    return None if start is None or end is None else (start, end)


def _seconds(text: str | None, epoch: int | str | None) -> int | None:
    moment_ms = read_moment_ms(text, epoch)
    return None if moment_ms is None else moment_ms // 1000


def _told(timeframe: Timeframe | None) -> str:
    if timeframe is None or timeframe == Timeframe():
        return "a window that it does not name"
    seconds = _seconds_of(timeframe)
    with suppress(OverflowError):  # beyond every calendar
        if seconds is not None:
            return str(Window(from_millis(seconds[0] * 1000), from_millis(seconds[1] * 1000)))
    edges = (timeframe.startTime or timeframe.startTimeL, timeframe.endTime or timeframe.endTimeL)
    return " to ".join(str(edge)[:40] for edge in edges)


def _lower_limit(causes: tuple[str, ...], asked: int) -> int | None:
    """The limit that a 400's cause names (`limit: must be … 100`), where it is below what was asked."""
    for cause in causes:
        if re.match(r"\s*limit\b", cause):
            lower = [int(number) for number in re.findall(r"\d+", cause) if 0 < int(number) < asked]
            if lower:
                return max(lower)
    return None
