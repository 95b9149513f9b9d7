"""APIs to read from, right ones and wrong ones, and a place for the pages: what the tests of the source need."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from aht_pipeline.credentials import AppKeys, ClientCredentialKeys
from aht_pipeline.days import Day, from_millis, iso
from aht_pipeline.simulator import Credentials, ExplicitTraffic, Simulator, Traffic, segment
from aht_pipeline.source import AhtApi, Pacing

DAY = Day(date(2026, 3, 10), "UTC")
NOW = datetime(2026, 3, 15, 12, tzinfo=UTC)
FAST = Pacing(after_faults_s=(0.01, 0.01, 0.01), after_429_s=0.01, longest_429_s=0.02, read_timeout_s=20)

ACCEPTED = Credentials()
KEYS = ClientCredentialKeys(ACCEPTED.client_id, ACCEPTED.client_secret)
APP_KEYS = AppKeys(ACCEPTED.app_key, ACCEPTED.app_secret, ACCEPTED.access_token, ACCEPTED.access_token_secret)

Row = dict[str, Any]


class Pages:
    """A sink in memory."""

    def __init__(self) -> None:
        self.kept: list[bytes] = []

    def write(self, page: bytes) -> None:
        self.kept.append(page)

    def mark(self) -> int:
        return len(self.kept)

    def rewind(self, mark: int) -> None:
        del self.kept[mark:]

    @property
    def rows(self) -> list[Any]:
        return [row for page in self.kept for row in json.loads(page)["segments"]]

    @property
    def ids(self) -> list[str]:
        return ids(self.rows)


def rows_of(day: Day, count: int) -> list[Row]:
    """So many segments that close one after the other, evenly over the day, oldest first."""
    step = (day.window.end - day.window.start) / (count + 1)
    return [segment(number, whole_second(day.window.start + step * (number + 1))) for number in range(count)]


def whole_second(moment: datetime) -> datetime:
    return moment.replace(microsecond=0)


def ids(rows: Iterable[Row]) -> list[str]:
    return [row["segmentId"] for row in rows]


@dataclass(frozen=True)
class Asked:
    """One request as a `Scripted` server got it; `at` is the wall clock's time, names of headers are in lower case."""

    method: str
    path: str
    query: dict[str, str]
    authorization: str
    body: str
    at: float = field(default_factory=time.time)
    headers: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def window(self) -> tuple[datetime, datetime]:
        return from_millis(int(self.query["fromMillis"])), from_millis(int(self.query["toMillis"]))


@dataclass(frozen=True)
class Answer:
    body: object
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


class Scripted:
    """A server for what the simulator does not do: `answer` decides on every request, but for a token by default."""

    def __init__(
        self,
        answer: Callable[[Asked], Answer],
        token: Callable[[Asked], Answer] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.asked: list[Asked] = []
        grant = token or (lambda _: Answer({"access_token": "a-token-of-the-script", "expires_in": 3600}))

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(handler) -> None:  # noqa: N805 - `self` is the server
                url = urlsplit(handler.path)
                asked = Asked(
                    method=handler.command,
                    path=url.path,
                    query=dict(parse_qsl(url.query)),
                    authorization=handler.headers.get("Authorization", ""),
                    body=handler.rfile.read(int(handler.headers.get("Content-Length", 0))).decode(),
                    headers={name.lower(): value for name, value in handler.headers.items()},
                )
                self.asked.append(asked)
                reply = (grant if url.path.endswith("/app/token") else answer)(asked)
                body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
                handler.send_response(reply.status)
                for name, value in {"Content-Length": str(len(body)), **reply.headers}.items():
                    handler.send_header(name, value)
                handler.end_headers()
                handler.wfile.write(body)

            do_POST = do_GET  # noqa: N815 - http.server's name

            def log_message(handler, *_: object) -> None:  # noqa: N805
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._scheme = "https" if tls else "http"
        if tls:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._server.server_address[1]}"

    @property
    def asked_for_segments(self) -> list[Asked]:
        return [asked for asked in self.asked if asked.path.endswith("/agent-segments")]

    @property
    def asked_for_tokens(self) -> list[Asked]:
        return [asked for asked in self.asked if asked.path.endswith("/app/token")]

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def reply(asked: Asked, rows: list[Row], **envelope: Any) -> Answer:
    """A reply for the window that was asked for; without `pagination` it is the older form."""
    start, end = asked.window
    return Answer({"timeframe": {"startTime": iso(start), "endTime": iso(end)}, "segments": rows} | envelope)


@dataclass(frozen=True)
class Shown:
    """What a page shows: from `offset` on, so many `rows` of those that the window holds."""

    offset: int
    rows: int
    held: int


class Windowed:
    """Answers for a `Scripted` server: the rows closed in the window that is asked for, newest first, a page of them.

    pagination: from what a page shows to what stands under `pagination`; without it the true count.
    """

    def __init__(self, rows: Iterable[Row], pagination: Callable[[Shown], Any] = lambda page: {"count": page.held}):
        self._rows = sorted(rows, key=lambda row: -row["endTimeL"])
        self._pagination = pagination

    def __call__(self, asked: Asked) -> Answer:
        start_ms, end_ms = int(asked.query["fromMillis"]), int(asked.query["toMillis"])
        inside = [row for row in self._rows if start_ms <= row["endTimeL"] <= end_ms]
        offset = int(asked.query["offset"])
        page = inside[offset : offset + int(asked.query["limit"])]
        return reply(asked, page, pagination=self._pagination(Shown(offset, len(page), len(inside))))


class Reading:
    """Opens servers and the API on them, and closes all of it at the end of a test."""

    def __init__(self, closing: ExitStack) -> None:
        self._closing = closing

    def simulator(self, traffic: Traffic | list[Row], **options: Any) -> Simulator:
        served = ExplicitTraffic(traffic) if isinstance(traffic, list) else traffic
        return self._closing.enter_context(Simulator(served, **({"now": lambda: NOW} | options)))

    def scripted(self, answer: Callable[[Asked], Answer], token: Callable[[Asked], Answer] | None = None) -> Scripted:
        server = Scripted(answer, token)
        self._closing.callback(server.stop)
        return server

    def api(
        self, server: Simulator | Scripted | str, keys: ClientCredentialKeys | AppKeys = KEYS, **options: Any
    ) -> AhtApi:
        url = server if isinstance(server, str) else server.url
        chosen: dict[str, Any] = {"api_url": url, "pacing": FAST} | options
        api = AhtApi("demo", keys, **chosen)
        self._closing.callback(api.close)
        return api


def hours(day: Day, count: float) -> datetime:
    """This long after the day's start."""
    return day.window.start + timedelta(hours=count)
