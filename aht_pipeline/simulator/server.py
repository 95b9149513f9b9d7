"""HTTP on the loopback: one answer for each request, sent whole, cut short or not at all."""

from __future__ import annotations

import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any

from aht_pipeline.errors import AhtError
from aht_pipeline.simulator.exchange import Reply, Sent

HOST = "127.0.0.1"
Answer = Callable[[str, str, str, str, str, bytes], Reply]
"""From a request's method, target, Host, Authorization, If-Match and body to its reply."""

_LOOKS_FOR_STOP_S = 0.02
_STATUSES = frozenset(HTTPStatus)


class PortTakenError(AhtError):
    """The port cannot be listened on."""


class LoopbackServer(ThreadingHTTPServer):
    """Listens on 127.0.0.1 from the moment it is made (port 0: any free one), a thread for each connection."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, answer: Answer) -> None:
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        try:
            super().__init__((HOST, port), partial(_Handler, answer))
        except OSError as error:
            raise PortTakenError(
                f"the simulator cannot listen on {HOST}:{port} ({error.strerror}): choose another port"
            ) from None
        serve = partial(self.serve_forever, poll_interval=_LOOKS_FOR_STOP_S)
        threading.Thread(target=serve, name="aht-simulator", daemon=True).start()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def stop(self) -> None:
        """Close the port and every connection."""
        self.shutdown()
        self.server_close()
        self._close_connections()

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

    def _close_connections(self) -> None:
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

    def __init__(self, answer: Answer, *args: Any) -> None:
        self._answer = answer
        super().__init__(*args)

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Silent: `Simulator.requests` is the log."""

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        host, authorization, if_match = (self.headers.get(name, "") for name in ("Host", "Authorization", "If-Match"))
        reply = self._answer(self.command, self.path, host, authorization, if_match, body)
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
            f"Date: {self.date_time_string(time.time() + reply.dated_off.total_seconds())}",
            f"Content-Type: {reply.content_type}",
            f"Content-Length: {len(reply.body)}",
            *(f"{name}: {value}" for name, value in reply.headers),
        ]
        body = reply.body
        if reply.sent is Sent.SHORT:
            body = body[: len(body) // 2]
            self.close_connection = True
        sent = "\r\n".join([*head, "", ""]).encode()
        if reply.byte_every_s:
            self._trickle(sent, body, reply)
        else:
            self.wfile.write(sent + body)

    def _trickle(self, head: bytes, body: bytes, reply: Reply) -> None:
        at_once, slowly = (b"", head + body) if reply.trickles_from_head else (head, body)
        self.wfile.write(at_once)
        for byte in slowly:
            self.wfile.write(bytes((byte,)))
            time.sleep(reply.byte_every_s)

    def _reset(self) -> None:
        self.close_connection = True
        linger_not = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_not)
        socket.close(self.connection.detach())


def _phrase(status: int) -> str:
    return HTTPStatus(status).phrase if status in _STATUSES else "Unknown"
