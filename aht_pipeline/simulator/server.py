"""The simulator itself: the API's endpoints over HTTP on the loopback, and what was asked of them."""

from __future__ import annotations

import socket
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import parse_qsl

from aht_pipeline.errors import AhtError
from aht_pipeline.simulator.authorisation import Credentials, Gatekeeper
from aht_pipeline.simulator.exchange import Endpoint, Reply, Request, Sent, json_reply, not_found
from aht_pipeline.simulator.faults import Fault, strike
from aht_pipeline.simulator.listing import Style, listing
from aht_pipeline.simulator.query import BadQuery, asked_day, read_query
from aht_pipeline.simulator.traffic import Traffic

_HOST = "127.0.0.1"
_SERVICES = ("agentActivityDomain", "sentinel")
_LOOKS_FOR_STOP_S = 0.02
_REQUESTS_KEPT = 100_000
_STATUSES = frozenset(HTTPStatus)


class PortTakenError(AhtError):
    """The simulator's port is in use."""


@dataclass(frozen=True)
class RequestRecord:
    """One request that was answered.

    query: as it was sent, without the `?`. status: None where the connection was reset.
    started_s, took_s: seconds since the simulator began, and until the reply was ready to send.
    in_flight: requests for segments under way when it came, itself included (0 for other requests).
    with_credentials: whether it carried an Authorization header or a form.
    """

    method: str
    path: str
    query: str
    endpoint: Endpoint
    status: int | None
    started_s: float
    took_s: float
    in_flight: int
    with_credentials: bool

    @property
    def parameters(self) -> dict[str, str]:
        return dict(parse_qsl(self.query, keep_blank_values=True))


class Simulator:
    """A local AHT API on 127.0.0.1, from `start` (or `with`) to `stop`.

    traffic: the segments there are; `lag`: each appears after its close and a delay of its own between 0 and this.
    faults: what goes wrong; they nest in this order, the first outermost.
    style: how replies are written. max_limit: the greatest `limit` that is accepted.
    one_service, all_services: the shape of the Domain API's two answers. base_uri: what it answers (None: this server).
    now: the time by which segments close, appear and are forgotten; tokens and signatures go by the real clock.
    port: 0 for any free one, which it keeps when it is stopped and started again. `start` raises PortTakenError.
    """

    def __init__(
        self,
        traffic: Traffic,
        account: str = "demo",
        *,
        credentials: Credentials | None = None,
        token_lifetime_s: float = 3600,
        expires_in: Literal["number", "string", "absent"] = "number",
        lag: timedelta = timedelta(0),
        faults: Sequence[Fault] = (),
        style: Style | None = None,
        max_limit: int = 500,
        one_service: Literal["object", "list"] = "object",
        all_services: Literal["object", "list"] = "list",
        base_uri: str | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        port: int = 0,
    ) -> None:
        self.traffic = traffic
        self.account = account
        self.credentials = credentials or Credentials()
        self.style = style or Style()
        self._gatekeeper = Gatekeeper(self.credentials, token_lifetime_s, expires_in)
        self._lag = lag
        self._max_limit = max_limit
        self._shape = {True: one_service, False: all_services}
        self._base_uri = base_uri
        self._now = now
        self._port = port
        self._log = _Log()
        self._faults = _ArmedFaults(faults)
        self._server: _Server | None = None

    def start(self) -> Self:
        try:
            self._server = _Server((_HOST, self._port), partial(_Handler, self))
        except OSError as error:
            raise PortTakenError(
                f"the simulator cannot listen on {_HOST}:{self._port} ({error.strerror}): choose another port"
            ) from None
        self._port = self._server.server_address[1]
        serve = partial(self._server.serve_forever, poll_interval=_LOOKS_FOR_STOP_S)
        threading.Thread(target=serve, name="aht-simulator", daemon=True).start()
        return self

    def stop(self) -> None:
        """Close the port and every connection; does nothing when it is not running."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server.close_connections()
            self._server = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def host(self) -> str:
        """Host and port, without a scheme: what the Domain API answers."""
        if self._port == 0:
            raise RuntimeError("the simulator has not been started")
        return f"{_HOST}:{self._port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    @property
    def variables(self) -> dict[str, str]:
        """The environment that points the pipeline at this simulator, its secret included."""
        return {
            "LIVEPERSON_API_URL": self.url,
            "LIVEPERSON_ACCOUNT_ID": self.account,
            "LIVEPERSON_CLIENT_ID": self.credentials.client_id,
            "LIVEPERSON_CLIENT_SECRET": self.credentials.client_secret,
        }

    @property
    def requests(self) -> list[RequestRecord]:
        """The last 100,000 requests, in the order of their replies."""
        return self._log.records()

    @property
    def segment_requests(self) -> list[RequestRecord]:
        """Those for segments."""
        return [record for record in self.requests if record.endpoint is Endpoint.SEGMENTS]

    @property
    def in_flight(self) -> int:
        """Requests for segments under way."""
        return self._log.in_flight

    @property
    def max_in_flight(self) -> int:
        """The most requests for segments under way at once."""
        return self._log.max_in_flight

    def forget_requests(self) -> None:
        """Begin `requests` and `max_in_flight` anew."""
        self._log.clear()

    def revoke_tokens(self) -> None:
        """Refuse every token granted so far."""
        self._gatekeeper.revoke_tokens()

    def set_faults(self, *faults: Fault) -> None:
        """Replace the faults from the next request on; their counts begin anew."""
        self._faults = _ArmedFaults(faults)

    def answer(self, request: Request) -> Reply:
        """Answer one request, faults included."""
        started = time.monotonic()
        in_flight = self._log.begin(request)
        reply = Reply(500)
        try:
            answer = partial(self._right_answer, request)
            for fault in reversed(self._faults.striking(request, in_flight)):
                answer = partial(strike, fault, answer, self.revoke_tokens)
            reply = answer()
        finally:
            self._log.end(request, reply, started, in_flight)
        return reply

    def request(self, method: str, target: str, host: str, authorization: str, body: bytes) -> Request:
        """Take a request's line, headers and body apart."""
        path, _, query = target.partition("?")
        parameters = tuple(parse_qsl(query, keep_blank_values=True))
        endpoint, account, service = _endpoint(path)
        day = asked_day(dict(parameters), self._now()) if endpoint is Endpoint.SEGMENTS else None
        return Request(method, host, path, query, parameters, authorization, body, endpoint, account, service, day)

    def _right_answer(self, request: Request) -> Reply:
        if request.endpoint is Endpoint.UNKNOWN:
            return not_found(f"the path {request.path}")
        if request.method != ("POST" if request.endpoint is Endpoint.TOKEN else "GET"):
            return json_reply(405, {"message": f"{request.method} is not allowed here"})
        if request.account != self.account:
            return not_found(f"the account {request.account}")
        if request.endpoint is Endpoint.TOKEN:
            return self._gatekeeper.grant(request)
        if request.endpoint is Endpoint.DOMAIN:
            return self._domains(request.service)
        return self._gatekeeper.refusal(request) or self._segments(request)

    def _domains(self, service: str) -> Reply:
        entries = [
            {"service": name, "account": self.account, "baseURI": self._base_uri or self.host}
            for name in _SERVICES
            if service in ("", name)
        ]
        if not entries:
            return not_found(f"the service {service}")
        return json_reply(200, entries[0] if self._shape[service != ""] == "object" else {"baseURIs": entries})

    def _segments(self, request: Request) -> Reply:
        now = self._now()
        parameters = dict(request.parameters)
        if self.style.ignores_window:
            parameters = {name: value for name, value in parameters.items() if name not in _WINDOW}
        try:
            query = read_query(parameters, now, self._max_limit)
        except BadQuery as bad:
            return json_reply(400, {"causes": bad.causes, "message": "The request is not valid"})
        return Reply(200, listing(self.traffic, query, now, self._lag, self.style, _address(request)))


_WINDOW = ("from", "fromMillis", "to", "toMillis")


def _endpoint(path: str) -> tuple[Endpoint, str, str]:
    """Which endpoint a path names, the account in it, and the service (empty where there is none)."""
    match path.split("/"):
        case ["", "api", "account", account, "agent-segments"]:
            return Endpoint.SEGMENTS, account, ""
        case ["", "sentinel", "api", "v2", "account", account, "app", "token"]:
            return Endpoint.TOKEN, account, ""
        case ["", "api", "account", account, "service", "baseURI.json"]:
            return Endpoint.DOMAIN, account, ""
        case ["", "api", "account", account, "service", service, "baseURI.json"]:
            return Endpoint.DOMAIN, account, service
    return Endpoint.UNKNOWN, "", ""


def _address(request: Request) -> str:
    """The URL that the references of a reply repeat: always http, and a `+` as it is."""
    kept = "&".join(f"{name}={value}" for name, value in request.parameters if name not in ("offset", "limit", "sort"))
    return f"http://{request.host}{request.path}?{kept}"


class _Log:
    """What was asked, and how much of it at once."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._records: deque[RequestRecord] = deque(maxlen=_REQUESTS_KEPT)
        self.in_flight = 0
        self.max_in_flight = 0

    def begin(self, request: Request) -> int:
        if request.endpoint is not Endpoint.SEGMENTS:
            return 0
        with self._lock:
            self.in_flight += 1
            self.max_in_flight = max(self.max_in_flight, self.in_flight)
            return self.in_flight

    def end(self, request: Request, reply: Reply, started: float, in_flight: int) -> None:
        """Before the reply goes out: a client that sends its next request on receiving this one is not two at once."""
        record = RequestRecord(
            method=request.method,
            path=request.path,
            query=request.query,
            endpoint=request.endpoint,
            status=None if reply.sent is Sent.RESET else reply.status,
            started_s=started - self._began,
            took_s=time.monotonic() - started,
            in_flight=in_flight,
            with_credentials=bool(request.authorization or request.body),
        )
        with self._lock:
            self._records.append(record)
            if request.endpoint is Endpoint.SEGMENTS:
                self.in_flight -= 1

    def records(self) -> list[RequestRecord]:
        with self._lock:
            return list(self._records)

    def clear(self) -> None:
        with self._lock:
            self._records.clear()
            self.max_in_flight = self.in_flight


class _ArmedFaults:
    """The faults, each with its own count of the requests that match it."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self._lock = threading.Lock()
        self._faults = tuple(faults)
        self._matched = [0] * len(self._faults)

    def striking(self, request: Request, in_flight: int) -> list[Fault]:
        striking = []
        with self._lock:
            for place, fault in enumerate(self._faults):
                if fault.when.matches(request, in_flight):
                    self._matched[place] += 1
                    if fault.when.picks(self._matched[place]):
                        striking.append(fault)
        return striking


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], handler: Callable[..., _Handler]) -> None:
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(address, handler)

    def server_bind(self) -> None:
        TCPServer.server_bind(self)  # HTTPServer's own looks the host's name up, which can take seconds

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a client that goes away is no error here
            super().handle_error(request, client_address)

    def close_connections(self) -> None:
        """End the idle ones too: a stopped server answers nobody."""
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # it has ended already


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __init__(self, simulator: Simulator, *args: Any) -> None:
        self._simulator = simulator
        super().__init__(*args)

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Silent: `Simulator.requests` is the log."""

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        request = self._simulator.request(
            self.command, self.path, self.headers.get("Host", ""), self.headers.get("Authorization", ""), body
        )
        reply = self._simulator.answer(request)
        try:
            self._send(reply)
        except ConnectionError:  # the client has gone
            self.close_connection = True

    def _send(self, reply: Reply) -> None:
        if reply.sent is Sent.RESET:
            self._reset()
            return
        head = [
            f"HTTP/1.1 {reply.status} {_phrase(reply.status)}",
            f"Date: {self.date_time_string()}",
            f"Content-Type: {reply.content_type}",
            f"Content-Length: {len(reply.body)}",
            *(f"{name}: {value}" for name, value in reply.headers),
        ]
        body = reply.body
        if reply.sent is Sent.SHORT:
            body = body[: len(body) // 2]
            self.close_connection = True
        self.wfile.write("\r\n".join([*head, "", ""]).encode() + body)

    def _reset(self) -> None:
        self.close_connection = True
        linger_not = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_not)
        socket.close(self.connection.detach())


def _phrase(status: int) -> str:
    return HTTPStatus(status).phrase if status in _STATUSES else "Unknown"
