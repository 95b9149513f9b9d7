"""One bound for an answer as a whole, in time and in size, whichever part of it comes slowly or never ends."""

from __future__ import annotations

import io
import math
import socket
import time
from contextvars import ContextVar
from functools import cache
from http.client import HTTPConnection, HTTPResponse
from typing import Any, cast

import requests
from requests.adapters import HTTPAdapter

_MB = 2**20
_LARGEST = 64 * _MB  # a full page has about 0.2 MB, the names of 100,000 agents 10 MB

_over_at_s: ContextVar[float] = ContextVar("_over_at_s", default=math.inf)


class AnswerTooLarge(OSError):
    """It goes on beyond what any answer of LivePerson's holds."""

    def __init__(self) -> None:
        super().__init__(f"the answer has {_LARGEST // _MB} MB or more")


def end_answers_at(moment_s: float) -> None:
    """From now on, whatever this thread receives through a BoundedAdapter comes before this moment (monotonic clock).

    A time-out of a socket bounds each of its silences only: a byte every few seconds outlasts them all. When the moment
    has come, receiving raises TimeoutError (wrapped, as by requests).
    """
    _over_at_s.set(moment_s)


def read_whole(response: requests.Response) -> bytes:
    """The body, decoded. Raises AnswerTooLarge, also for a small one that would be a large one when decoded."""
    if "Content-Encoding" not in response.headers:  # one large read costs less than .content
        whole: bytes = response.raw.read(decode_content=True)
        return whole
    body: bytes = response.raw.read(_LARGEST, decode_content=True)
    if len(body) == _LARGEST:
        response.close()
        raise AnswerTooLarge
    return body


class BoundedAdapter(HTTPAdapter):
    """Its connections, plain, secured or through a proxy, obey `end_answers_at`; each URL keeps its first way."""

    def __init__(self, concurrency: int) -> None:
        super().__init__(pool_maxsize=concurrency + 2)
        self._pools: dict[str, Any] = {}  # finding one anew costs a page 15 us

    def get_connection_with_tls_context(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> Any:
        url = str(request.url).partition("?")[0]
        if url not in self._pools:
            pool: Any = super().get_connection_with_tls_context(request, *args, **kwargs)
            pool.ConnectionCls = _bounded(pool.ConnectionCls)
            self._pools[url] = pool
        return self._pools[url]

    def close(self) -> None:
        self._pools.clear()
        super().close()


class _BoundedReader(io.RawIOBase):
    """What comes through a socket, until the time is over or there is too much of it."""

    def __init__(self, connected: socket.socket) -> None:
        self._raw = connected.makefile("rb", buffering=0)
        self._socket = connected
        self._silence_s = connected.gettimeout() or math.inf
        self._over_at_s = _over_at_s.get()
        self._room = _LARGEST

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left_s = min(self._silence_s, self._over_at_s - time.monotonic())
        if left_s <= 0:
            raise TimeoutError("timed out")
        self._socket.settimeout(left_s)
        count = self._raw.readinto(buffer)
        self._room -= count or 0
        if self._room <= 0:
            raise AnswerTooLarge
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()

    def makefile(self, *_: Any) -> io.BufferedReader:
        """As of a socket, to be read from by an HTTPResponse."""
        return _Buffered(self)


class _Buffered(io.BufferedReader):
    def read(self, size: int | None = -1, /) -> bytes:
        if size and size > _LARGEST:  # room for it would be made first
            raise AnswerTooLarge
        return super().read(size)


class _BoundedResponse(HTTPResponse):
    def __init__(self, connected: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(cast("socket.socket", _BoundedReader(connected)), *args, **kwargs)


class _Bounded(HTTPConnection):
    response_class = _BoundedResponse


@cache
def _bounded(connection: type[HTTPConnection]) -> type[HTTPConnection]:
    if issubclass(connection, _Bounded):
        return connection
    return type(connection.__name__, (_Bounded, connection), {})
