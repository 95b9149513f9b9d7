"""The simulator itself: the API's endpoints, what goes wrong with them, and what was asked of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from types import TracebackType
from typing import Literal, Self
from urllib.parse import parse_qsl

from aht_pipeline.simulator.authorisation import Credentials, Gatekeeper
from aht_pipeline.simulator.directory import Directory
from aht_pipeline.simulator.exchange import Endpoint, Reply, Request, json_reply, not_found
from aht_pipeline.simulator.faults import ArmedFaults, Fault, strike
from aht_pipeline.simulator.generated import GeneratedTraffic
from aht_pipeline.simulator.listing import Style, listing
from aht_pipeline.simulator.observation import RequestLog, RequestRecord
from aht_pipeline.simulator.query import BadQuery, asked_day, read_query
from aht_pipeline.simulator.server import HOST, LoopbackServer
from aht_pipeline.simulator.traffic import Traffic

_SERVICES = ("agentActivityDomain", "accountConfigReadOnly", "sentinel")
_LISTS = {"users": Endpoint.USERS, "skills": Endpoint.SKILLS, "agentGroups": Endpoint.GROUPS}
_WINDOW = ("from", "fromMillis", "to", "toMillis")


class Simulator:
    """A local AHT API on 127.0.0.1, from `start` (or `with`) to `stop`.

    traffic: the segments there are; `lag`: each appears after its close and a delay of its own between 0 and this.
    directory: what agents, skills and groups are called; without one, those of the traffic.
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
        directory: Directory | None = None,
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
        self.directory = directory or _directory_of(traffic)
        self.credentials = credentials or Credentials()
        self.style = style or Style()
        self._gatekeeper = Gatekeeper(self.credentials, token_lifetime_s, expires_in)
        self._lag = lag
        self._max_limit = max_limit
        self._shape = {True: one_service, False: all_services}
        self._base_uri = base_uri
        self._now = now
        self._port = port
        self._log = RequestLog()
        self._faults = ArmedFaults(faults)
        self._server: LoopbackServer | None = None

    def start(self) -> Self:
        self._server = LoopbackServer(self._port, self._answer)
        self._port = self._server.port
        return self

    def stop(self) -> None:
        """Close the port and every connection; does nothing when it is not running."""
        if self._server is not None:
            self._server.stop()
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
        return f"{HOST}:{self._port}"

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
        self._faults = ArmedFaults(faults)

    def _answer(self, method: str, target: str, host: str, authorization: str, if_match: str, body: bytes) -> Reply:
        started = time.monotonic()
        request = self._request(method, target, host, authorization, if_match, body)
        in_flight = self._log.begin(request)
        reply = Reply(500)
        try:
            answer = partial(self._right_answer, request)
            for fault in reversed(self._faults.striking(request, in_flight)):
                answer = partial(strike, fault, request, answer, self.revoke_tokens)
            reply = answer()
        finally:
            self._log.end(request, reply, started, in_flight)
        return reply

    def _request(self, method: str, target: str, host: str, authorization: str, if_match: str, body: bytes) -> Request:
        path, _, query = target.partition("?")
        parameters = tuple(parse_qsl(query, keep_blank_values=True))
        endpoint, account, service = _endpoint(path)
        return Request(
            method=method,
            host=host,
            path=path,
            query=query,
            parameters=parameters,
            authorization=authorization,
            if_match=if_match,
            body=body,
            endpoint=endpoint,
            account=account,
            service=service,
            day=asked_day(dict(parameters), self._now()) if endpoint is Endpoint.SEGMENTS else None,
        )

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
        if refusal := self._gatekeeper.refusal(request):
            return refusal
        return self._segments(request) if request.endpoint is Endpoint.SEGMENTS else self.directory.answer(request)

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


def _directory_of(traffic: Traffic) -> Directory:
    return Directory(agents=traffic.agents) if isinstance(traffic, GeneratedTraffic) else Directory()


def _endpoint(path: str) -> tuple[Endpoint, str, str]:
    """Which endpoint a path names, the account in it, and the service (empty where there is none)."""
    match path.split("/"):
        case ["", "api", "account", account, "agent-segments"]:
            return Endpoint.SEGMENTS, account, ""
        case ["", "api", "account", account, "configuration", "le-users", list_] if list_ in _LISTS:
            return _LISTS[list_], account, ""
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
