"""What was asked of the simulator, and how much of it at once."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass
from urllib.parse import parse_qsl

from aht_pipeline.simulator.exchange import Endpoint, Reply, Request, Sent

_REQUESTS_KEPT = 100_000


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


class RequestLog:
    """The last 100,000 requests; nothing in it is secret."""

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
