"""A network that can fall silent: packets vanish, and neither end is told; what no proxy on one machine can play."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Address

import pytest

# A network of this process: one that was killed may have left its own behind.
_OURS, _FARS = (str(IPv4Address("10.213.0.0") + 4 * (os.getpid() % 2**14) + end) for end in (1, 2))


@dataclass
class Line:
    """Connections to `host:port` reach the server, until the line falls silent."""

    host: str
    port: int
    _cable: str
    _far_ends: list[socket.socket] = field(default_factory=list)

    def fall_silent(self) -> None:
        """As where the other machine lost its power."""
        _ip("link", "set", self._cable, "address", "02:00:00:00:00:99")  # answers find nobody
        _ip("neigh", "replace", _FARS, "lladdr", "02:00:00:00:00:66", "nud", "permanent", "dev", self._cable)

    def close(self) -> None:
        """End what the server still sees of it."""
        for end in self._far_ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@contextmanager
def line_to(port: int) -> Iterator[Line]:
    """A line to this port of 127.0.0.1; skips the test where no network can be made."""
    space = f"aht{os.getpid()}"
    cable, other_end = f"{space}a", f"{space}b"
    if os.geteuid() != 0 or subprocess.run(["ip", "netns", "add", space], capture_output=True, check=False).returncode:
        pytest.skip("no network can be made here: it takes root and `ip netns`")
    try:
        _ip("link", "add", cable, "type", "veth", "peer", "name", other_end, "netns", space)
        _ip("addr", "add", f"{_OURS}/30", "dev", cable)
        _ip("link", "set", cable, "up")
        _ip("-n", space, "addr", "add", f"{_FARS}/30", "dev", other_end)
        _ip("-n", space, "link", "set", other_end, "up")
        listener = _listening_in(space)
        line = Line(_FARS, listener.getsockname()[1], cable)
        threading.Thread(target=_serve, args=(listener, port, line._far_ends), daemon=True).start()
        try:
            yield line
        finally:
            line.close()
            listener.close()
    finally:
        subprocess.run(["ip", "link", "del", cable], check=False)
        _ip("netns", "del", space)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def _listening_in(space: str) -> socket.socket:
    """A socket belongs to the network in which its thread made it, whoever uses it afterwards."""
    made: list[socket.socket] = []

    def listen() -> None:
        with open(f"/run/netns/{space}") as network:  # noqa: PTH123 - a handle, not a file to read
            if ctypes.CDLL(None, use_errno=True).setns(network.fileno(), 0) != 0:
                return
        made.append(socket.create_server((_FARS, 0)))

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    if not made:
        pytest.skip("no network can be entered here")
    return made[0]


def _serve(listener: socket.socket, port: int, far_ends: list[socket.socket]) -> None:
    with suppress(OSError):
        while True:
            near, _ = listener.accept()
            far = socket.create_connection(("127.0.0.1", port))
            far_ends.append(far)
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=_forward, args=(source, sink), daemon=True).start()


def _forward(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
