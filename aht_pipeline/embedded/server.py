"""The life of a home's server: start or attach, stop, remove, and recovery from whatever was killed."""

from __future__ import annotations

import fcntl
import logging
import os
import shlex
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO
from urllib.parse import quote

import psutil
import psycopg2
from psycopg2 import sql

from aht_pipeline.embedded.data import SUPERUSER, delete_data, make_data
from aht_pipeline.embedded.place import EmbeddedError, Place, State, delete, foreseen
from aht_pipeline.embedded.programs import Account, binaries_for, run_logged

_HOST = "127.0.0.1"
_START_SECONDS = 120  # after a crash, about 1 GB of WAL may have to be replayed
_REMAINS_SECONDS = 5  # what was killed leaves processes that end by themselves, mostly at once

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EmbeddedServer:
    """A running server, which listens on 127.0.0.1 only. Its URLs are those of its superuser."""

    port: int
    password: str = field(repr=False)

    def url(self, database: str) -> str:
        """The `postgresql://` URL of one database, with the password in it: not for a log."""
        return f"postgresql://{SUPERUSER}:{self.password}@{_HOST}:{self.port}/{quote(database, safe='')}"


def start(
    home: Path, databases: Sequence[str] = ("warehouse", "dagster"), say: Callable[[str], None] = _logger.warning
) -> EmbeddedServer:
    """Start the home's server or attach to the one that runs; make what is absent: home, server, databases.

    Any number of processes may call this at once and get the same server. It outlives all of them.
    say: takes one line where something is not as one would expect: data outside the home, another port than before.
    """
    place = Place.of(home)
    with foreseen(place):
        place.make()
        with place.lock():
            server = _running(place)
            if server is None:
                with place.open_log() as log:
                    _clear_remains(place, log)
                    if not place.has_data:
                        make_data(place, log, say)
                    server = _launch(place, log, say)
            _create_absent(server, databases)
            return server


def attach(home: Path) -> EmbeddedServer | None:
    """The home's server if it runs (after a wait, if it just starts or stops), else None. Makes and writes nothing."""
    place = Place.of(home)
    with foreseen(place):
        return _running(place)


def stop(home: Path) -> bool:
    """Stop the home's server and wait until it is down: sessions are cut, commits stay. False where none ran."""
    place = Place.of(home)
    with foreseen(place):
        if not place.state_file.exists():
            return False
        with place.lock():
            postmaster = _postmaster(place)
            if postmaster is None:
                return False
            # Fast; where that hangs, without a checkpoint; at last by force. The next start recovers what is committed.
            for way, seconds in ((signal.SIGINT, 60), (signal.SIGQUIT, 10), (signal.SIGKILL, 10)):
                with suppress(ProcessLookupError):
                    os.kill(postmaster.pid, way)
                if _within(seconds, lambda: _postmaster(place) is None):
                    return True
            raise EmbeddedError(f"the embedded Postgres server (process {postmaster.pid}) cannot be stopped")


def exists(home: Path) -> bool:
    """Whether a server was ever made in this home, running or not."""
    place = Place.of(home)
    with foreseen(place):
        return place.state_file.exists()


def remove(home: Path) -> None:
    """Stop the home's server and delete it with all its data, also where these lie outside the home."""
    stop(home)
    place = Place.of(home)
    with foreseen(place):
        delete_data(place)
        delete(place.directory)


@dataclass(frozen=True)
class _Postmaster:
    pid: int
    port: int
    status: str  # "starting", "ready" or "stopping"


def _postmaster(place: Place) -> _Postmaster | None:
    """The live postmaster of the data, by the note it keeps there; None where that is absent, stale or foreign."""
    try:
        note = (place.data / "postmaster.pid").read_text().splitlines()
        pid = int(note[0])
        if f"cluster_name={place.cluster_name}" not in psutil.Process(pid).cmdline():
            return None
    except (FileNotFoundError, NotADirectoryError, IndexError, ValueError, psutil.Error):
        return None
    if len(note) < 8:  # it writes the note bit by bit
        return _Postmaster(pid, 0, "starting")
    return _Postmaster(pid, int(note[3]), note[7].strip())


def _running(place: Place) -> EmbeddedServer | None:
    """The server that answers, after a wait while it starts or stops."""
    for _ in _polls(_START_SECONDS):
        postmaster = _postmaster(place)
        if postmaster is None:
            return None
        if postmaster.status == "ready":
            return EmbeddedServer(postmaster.port, place.read_state().password)
    raise EmbeddedError(
        f"the embedded Postgres server has been starting or stopping for {_START_SECONDS} s; see {place.log}"
    )


def _clear_remains(place: Place, log: IO[bytes]) -> None:
    """See to it that what was killed has left no process, nor a note that names a foreign or a dead one.

    Every process of a server or of its making holds the log open and, with it, the lock taken here: also one in another
    container, whose process id would mean nothing to us.
    """
    if not _within(_REMAINS_SECONDS, lambda: _try_lock(log)):
        for process in psutil.process_iter(["cmdline"]) if place.has_data else ():
            # A long statement, for one, does not notice that the postmaster is dead.
            if " ".join(process.info["cmdline"] or ()).startswith(f"postgres: {place.cluster_name}: "):
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        if not _within(_REMAINS_SECONDS, lambda: _try_lock(log)):
            raise EmbeddedError(
                f"processes of an earlier embedded Postgres server, perhaps in another container, still use "
                f"{place.data}: end them and start again"
            )
    for note in (place.data / "postmaster.pid", *place.data.glob(".s.PGSQL.*")):
        note.unlink(missing_ok=True)


def _launch(place: Place, log: IO[bytes], say: Callable[[str], None]) -> EmbeddedServer:
    """Start the server on the port it had, or on another one if that is taken, and wait until it answers."""
    state, account = place.read_state(), Account.of(place.data)
    pg_ctl = str(binaries_for(account, place.data.parent) / "pg_ctl")
    for retry in (True, False):
        port = state.port if state.port and _is_free(state.port) else _bound(0)
        if port != state.port:
            if state.port:
                say(f"port {state.port} is taken by another program: the embedded Postgres server uses {port}")
            state = State(state.password, port)
            place.write_state(state)
        # The socket's directory is relative to the data: the path of a socket is limited to about 100 bytes.
        settings = (f"listen_addresses={_HOST}", "unix_socket_directories=.", f"cluster_name={place.cluster_name}")
        options = shlex.join(["-p", str(port), *(word for setting in settings for word in ("-c", setting))])
        command = [pg_ctl, "start", "--silent", "--wait", f"--timeout={_START_SECONDS}", "-o", options]
        try:
            run_logged(place, command, place.data, account, log)
            break
        except EmbeddedError:
            if not retry or _is_free(port):
                raise  # else the port was taken between our look and the server's
    server = _running(place)
    if server is None:
        raise EmbeddedError(f"the embedded Postgres server ended right after its start; see {place.log}")
    return server


def _create_absent(server: EmbeddedServer, databases: Sequence[str]) -> None:
    with closing(_connected(server)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("select datname from pg_database")
            present = {name for (name,) in cursor.fetchall()}
            for name in databases:
                if name not in present:
                    cursor.execute(sql.SQL("create database {}").format(sql.Identifier(name)))


def _connected(server: EmbeddedServer) -> psycopg2.extensions.connection:
    """A connection; after a wait where one of its processes was killed, for then the server recovers by itself."""
    for _ in _polls(_START_SECONDS):
        try:
            # require_auth: the password is never given to a server that does not prove to know it.
            return psycopg2.connect(server.url("postgres"), connect_timeout=30, require_auth="scram-sha-256")
        except psycopg2.OperationalError as error:
            if "the database system is " not in str(error):  # starting up, in recovery mode, not accepting connections
                raise
    raise EmbeddedError(
        f"the embedded Postgres server on port {server.port} does not recover within {_START_SECONDS} s"
    )


def _is_free(port: int) -> bool:
    with suppress(OSError):
        return _bound(port) == port
    return False


def _bound(port: int) -> int:
    """The port, if a server could listen on it; for 0 any such port. Raises OSError."""
    with socket.socket() as probe:
        # As Postgres does: else connections of its last run that linger in TIME_WAIT make the port seem taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((_HOST, port))
        return int(probe.getsockname()[1])


def _try_lock(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _within(seconds: float, holds: Callable[[], bool]) -> bool:
    """Whether this holds within so many seconds; returns as soon as it does."""
    return any(holds() for _ in _polls(seconds))


def _polls(seconds: float) -> Iterator[None]:
    deadline = time.monotonic() + seconds
    yield
    while time.monotonic() < deadline:
        time.sleep(0.02)
        yield
