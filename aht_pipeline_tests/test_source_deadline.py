"""A request has one bound as a whole: whichever part of its answer trickles or never ends, it is over in time."""

from __future__ import annotations

import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from aht_pipeline.simulator import Endpoint, Trickle, When
from aht_pipeline.source import AhtApi, ApiError, NameKind, SegmentQuery, read_names
from aht_pipeline_tests.proxies import Proxy, trusted_tls
from aht_pipeline_tests.reading import APP_KEYS, DAY, FAST, Reading, rows_of

BYTE_BY_BYTE = timedelta(milliseconds=40)
SHORT = replace(FAST, attempt_s=0.5)
LONG_ENOUGH_S = 20  # for four attempts of half a second on a busy machine

Serve = Callable[[socket.socket], None]


@pytest.fixture
def reading() -> Iterator[Reading]:
    with ExitStack() as closing:
        yield Reading(closing)


def ask(api: AhtApi) -> int:
    return api.page(SegmentQuery(DAY.window), 0).requests


@contextmanager
def serving(serve: Serve, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """A server that reads one request of each connection and answers it with `serve`. Gives its URL."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer(connection: socket.socket) -> None:
        with suppress(OSError), connection:
            secured = tls.wrap_socket(connection, server_side=True) if tls else connection
            secured.recv(65536)
            serve(secured)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def for_ever(head: bytes, again: bytes, pause_s: float = BYTE_BY_BYTE.total_seconds()) -> Serve:
    def serve(connection: socket.socket) -> None:
        connection.sendall(head)
        while True:
            connection.sendall(again)
            time.sleep(pause_s)

    return serve


@pytest.mark.parametrize("from_head", [False, True], ids=["of the body", "of all"])
class TestATrickle:
    def test_that_passes_is_outlasted(self, reading: Reading, from_head: bool) -> None:
        sim = reading.simulator(rows_of(DAY, 5), faults=[Trickle(BYTE_BY_BYTE, from_head, When(first=2))])

        assert ask(reading.api(sim, pacing=SHORT)) == 3

    @pytest.mark.parametrize("on", [Endpoint.SEGMENTS, Endpoint.TOKEN, Endpoint.DOMAIN])
    def test_that_stays_ends_in_time_and_is_told(self, reading: Reading, on: Endpoint, from_head: bool) -> None:
        sim = reading.simulator([], faults=[Trickle(BYTE_BY_BYTE, from_head, When(on=on))])
        began = time.monotonic()

        with pytest.raises(ApiError, match=r"no whole answer within . s; given up at attempt 4: try again later"):
            ask(reading.api(sim, pacing=SHORT, api_url=None, domain_api_url=sim.url))

        assert time.monotonic() - began < LONG_ENOUGH_S

    def test_of_names_ends_in_time(self, reading: Reading, from_head: bool) -> None:
        sim = reading.simulator([], faults=[Trickle(BYTE_BY_BYTE, from_head, When(on=Endpoint.SKILLS))])

        with pytest.raises(ApiError, match=r"skills.*no whole answer within"):
            read_names(reading.api(sim, pacing=SHORT), NameKind.SKILL)

    def test_ends_with_the_time_for_all_attempts(self, reading: Reading, from_head: bool) -> None:
        sim = reading.simulator([], faults=[Trickle(BYTE_BY_BYTE, from_head)])
        began = time.monotonic()

        with pytest.raises(ApiError, match="no whole answer within 1 s; given up at attempt 1"):
            ask(reading.api(sim, pacing=replace(FAST, total_s=1)))

        assert time.monotonic() - began < LONG_ENOUGH_S


ENDLESS = {
    "silence": for_ever(b"", b"", 0.1),
    "an endless status line": for_ever(b"HTTP/1.1 200 ", b"K"),
    "endless headers": for_ever(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
    "endless continuing": for_ever(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "endless chunks": for_ever(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "an endless chunk": for_ever(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFF\r\n", b" "),
    "a body without a length": for_ever(b"HTTP/1.1 200 OK\r\n\r\n", b" "),
    "a refusal that trickles": for_ever(b"HTTP/1.1 403 No\r\nContent-Length: 1000\r\n\r\n", b"x"),
}


@pytest.mark.parametrize("serve", ENDLESS.values(), ids=ENDLESS)
def test_an_answer_that_never_ends_is_a_passing_fault(reading: Reading, serve: Serve) -> None:
    began = time.monotonic()

    with serving(serve) as url, pytest.raises(ApiError, match=r"no whole answer within .*given up at attempt 4"):
        ask(reading.api(url, APP_KEYS, pacing=SHORT))

    assert time.monotonic() - began < LONG_ENOUGH_S


def test_a_trickle_over_tls_ends_in_time(reading: Reading, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with (
        serving(ENDLESS["endless headers"], trusted_tls(tmp_path, monkeypatch)) as url,
        pytest.raises(ApiError, match=r"no whole answer within .*given up at attempt 4"),
    ):
        ask(reading.api(url, APP_KEYS, pacing=SHORT))


def test_a_trickle_through_a_proxy_ends_in_time(
    reading: Reading, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with serving(ENDLESS["endless chunks"], trusted_tls(tmp_path, monkeypatch)) as url, Proxy() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        with pytest.raises(ApiError, match=r"no whole answer within .*given up at attempt 4"):
            ask(reading.api(url, APP_KEYS, pacing=SHORT))

    assert proxy.asked_for == [url.removeprefix("https://")] * 4


def test_a_trickle_of_the_proxy_itself_ends_in_time(reading: Reading, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(ENDLESS["an endless status line"]) as proxy_url:
        monkeypatch.setenv("HTTPS_PROXY", proxy_url)
        with pytest.raises(ApiError, match=r"no whole answer within .*given up at attempt 4"):
            ask(reading.api("https://va.example.test", APP_KEYS, pacing=SHORT))


def test_a_server_that_does_not_secure_the_connection_is_given_up_in_time(reading: Reading) -> None:
    with serving(ENDLESS["silence"]) as url, pytest.raises(ApiError, match="given up at attempt 4"):
        ask(reading.api(url.replace("http:", "https:"), APP_KEYS, pacing=SHORT))


def test_a_slow_and_steady_page_is_read(reading: Reading) -> None:
    sim = reading.simulator(rows_of(DAY, 1), faults=[Trickle(timedelta(milliseconds=1))])

    assert ask(reading.api(sim, pacing=replace(FAST, attempt_s=60, read_timeout_s=5))) == 1


def too_large(head: str, body: bytes) -> Serve:
    def serve(connection: socket.socket) -> None:
        connection.sendall(f"HTTP/1.1 200 OK\r\n{head}\r\n\r\n".encode())
        for _ in range(70):
            connection.sendall(body)

    return serve


def bomb() -> Serve:
    """200 MB of blanks in 0.2 MB."""
    packer = zlib.compressobj(wbits=31)
    packed = b"".join(packer.compress(b" " * 2**20) for _ in range(200)) + packer.flush()
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(packed)}\r\n\r\n"
    return lambda connection: connection.sendall(head.encode() + packed)


@pytest.mark.parametrize(
    "serve",
    [
        too_large(f"Content-Length: {2**40}", b" " * 2**20),
        too_large("Transfer-Encoding: chunked", b"100000\r\n" + b" " * 2**20 + b"\r\n"),
        too_large("Transfer-Encoding: chunked", b"FFFFFFFFFF\r\n" + b" " * 2**20),
        too_large("Connection: close", b" " * 2**20),
        bomb(),
    ],
    ids=["with a length", "in chunks", "in one chunk", "without a length", "packed"],
)
def test_an_answer_that_is_too_large_is_not_taken_in(reading: Reading, serve: Serve) -> None:
    with serving(serve) as url, pytest.raises(ApiError, match=r"the answer has 64 MB or more; given up at attempt 2"):
        ask(reading.api(url, APP_KEYS, pacing=replace(FAST, after_faults_s=(0.01,))))


def test_a_packed_page_is_read(reading: Reading) -> None:
    def packed(connection: socket.socket) -> None:
        edges = (DAY.window.start_ms, DAY.window.end_ms)
        body = b'{"segments":[],"timeframe":{"startTimeL":%d,"endTimeL":%d}}' % edges
        packer = zlib.compressobj(wbits=31)
        content = packer.compress(body) + packer.flush()
        head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(content)}\r\n\r\n"
        connection.sendall(head.encode() + content)

    with serving(packed) as url:
        assert ask(reading.api(url, APP_KEYS)) == 1
