"""A warehouse that dies, is cut off, locked, read-only or full during a load: nothing half done, and told clearly."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa

from aht_pipeline import embedded
from aht_pipeline.warehouse import LoadResult, WarehouseError, engine, load_day, upgrade
from aht_pipeline_tests import loading
from aht_pipeline_tests.loading import batch, facts, segment

ROWS = 20_000
WHOLE = batch(*(segment(number) for number in range(ROWS)))


@dataclass(frozen=True)
class Server:
    """A server that may be killed: no other test's."""

    home: Path

    def url(self) -> str:
        return embedded.start(self.home).url("warehouse")

    def postmaster(self) -> psutil.Process:
        note = (self.home / "postgres" / "data" / "postmaster.pid").read_text()
        return psutil.Process(int(note.splitlines()[0]))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("faults") / "home"
    try:
        yield Server(home)
    finally:
        embedded.remove(home)


@pytest.fixture
def warehouse(server: Server) -> sa.Engine:
    """A migrated warehouse without a segment."""
    upgrade(server.url())
    with engine(server.url()).begin() as connection:
        connection.execute(sa.text("TRUNCATE aht.agent_segments, aht.loads, aht.rejected_segments"))
    return engine(server.url())


class Loading(threading.Thread):
    """A load of the whole batch that goes on while the test does its worst."""

    def __init__(self, warehouse: sa.Engine, lock_wait: timedelta = timedelta(seconds=60)) -> None:
        super().__init__()
        self.failure: Exception | None = None
        self.result: LoadResult | None = None
        self._warehouse = warehouse
        self._lock_wait = lock_wait

    def run(self) -> None:
        try:
            self.result = load_day(self._warehouse, facts(WHOLE), lambda: [WHOLE], self._lock_wait)
        except Exception as error:  # noqa: BLE001 - the test looks at it
            self.failure = error

    def failed(self) -> str:
        """Wait for the end, which must be a failure of ours."""
        self.join(60)
        assert isinstance(self.failure, WarehouseError), self.failure
        return str(self.failure)


def kill(process: psutil.Process) -> None:
    process.kill()
    process.wait(30)


def backend_of(warehouse: sa.Engine, condition: str) -> int | None:
    statement = f"SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND {condition} LIMIT 1"
    return next(iter(loading.query(warehouse, statement)), None)


def until(found: Callable[[], int | None]) -> int:
    give_up_at = time.monotonic() + 30
    while (pid := found()) is None:
        assert time.monotonic() < give_up_at, "the load never came to this"
    return pid


@contextmanager
def merge_held_up(warehouse: sa.Engine) -> Iterator[sa.Connection]:
    """A load comes to its merge, all rows copied, and waits there."""
    with warehouse.connect() as connection:
        connection.execute(sa.text("LOCK TABLE aht.agent_segments IN SHARE MODE"))
        yield connection
        connection.invalidate()


MERGING = "wait_event_type = 'Lock' AND query LIKE '%INSERT INTO aht.agent_segments%'"


def assert_nothing_was_loaded_and_the_next_load_is_whole(warehouse: sa.Engine) -> None:
    assert loading.query(warehouse, "SELECT count(*) FROM aht.agent_segments") == [0]
    assert loading.query(warehouse, "SELECT count(*) FROM aht.loads") == [0]
    assert load_day(warehouse, facts(WHOLE), lambda: [WHOLE]).inserted == ROWS
    assert loading.query(warehouse, "SELECT count(*), count(DISTINCT segment_id) FROM aht.agent_segments") == [
        (ROWS, ROWS)
    ]


def test_a_server_killed_in_the_middle_of_the_merge(server: Server, warehouse: sa.Engine) -> None:
    load = Loading(warehouse)
    with merge_held_up(warehouse):
        load.start()
        until(lambda: backend_of(warehouse, MERGING))
        kill(server.postmaster())
        said = load.failed() if _ended_by_the_kill(server) else ""
    assert "127.0.0.1" in said
    assert "password" not in said
    assert_nothing_was_loaded_and_the_next_load_is_whole(engine(server.url()))


def _ended_by_the_kill(server: Server) -> bool:
    """A new start waits for what the dead postmaster left, and ends it."""
    return bool(server.url())


def test_a_server_killed_in_the_middle_of_the_copy(server: Server, warehouse: sa.Engine) -> None:
    load = Loading(warehouse)
    load.start()
    copying = until(lambda: backend_of(warehouse, "query LIKE 'COPY pg_temp.staged_segments%' AND state = 'active'"))
    psutil.Process(copying).suspend()  # it stays where it is until it dies
    postmaster = server.postmaster()
    with engine(server.url()).connect() as connection:
        copied = connection.scalar(sa.text(f"SELECT tuples_processed FROM pg_stat_progress_copy WHERE pid = {copying}"))
    kill(postmaster)
    kill(psutil.Process(copying))
    load.failed()
    assert copied is not None
    assert copied < ROWS
    assert_nothing_was_loaded_and_the_next_load_is_whole(engine(server.url()))


def test_a_connection_that_is_cut(warehouse: sa.Engine) -> None:
    load = Loading(warehouse)
    with merge_held_up(warehouse):
        load.start()
        pid = until(lambda: backend_of(warehouse, MERGING))
        loading.query(warehouse, f"SELECT pg_terminate_backend({pid})")
        assert "connection" in load.failed()
    assert_nothing_was_loaded_and_the_next_load_is_whole(warehouse)


def test_a_table_that_someone_keeps_locked(warehouse: sa.Engine) -> None:
    load = Loading(warehouse, lock_wait=timedelta(seconds=0.5))
    with merge_held_up(warehouse):
        load.start()
        assert "lock timeout" in load.failed()
    assert_nothing_was_loaded_and_the_next_load_is_whole(warehouse)


def test_a_server_that_is_read_only(warehouse: sa.Engine) -> None:
    loading.query(warehouse, "ALTER DATABASE warehouse SET default_transaction_read_only = on")
    try:
        load = Loading(warehouse)
        load.start()
        assert "read-only transaction" in load.failed()
    finally:
        with warehouse.connect() as connection:
            connection.execute(sa.text("SET default_transaction_read_only = off"))
            connection.commit()
            connection.execute(sa.text("ALTER DATABASE warehouse RESET default_transaction_read_only"))
            connection.commit()
    assert_nothing_was_loaded_and_the_next_load_is_whole(warehouse)


@pytest.fixture
def small_disk(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A disk of two megabytes that the server may write."""
    data = (server.home / "postgres" / "data").resolve()
    mounted = data.parent / "small-disk"
    mounted.mkdir(exist_ok=True)
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(mounted)], capture_output=True, text=True, check=False
    )
    if mount.returncode != 0:
        pytest.skip(f"no small disk can be had here: {mount.stderr.strip()}")
    try:
        os.chown(mounted, data.stat().st_uid, data.stat().st_gid)
        yield mounted
    finally:
        subprocess.run(["umount", "--lazy", str(mounted)], check=True)


def test_a_disk_that_is_full(warehouse: sa.Engine, small_disk: Path) -> None:
    with warehouse.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text(f"CREATE TABLESPACE small LOCATION '{small_disk}'"))
        connection.execute(sa.text("ALTER TABLE aht.agent_segments SET TABLESPACE small"))
    try:
        load = Loading(warehouse)
        load.start()
        assert "No space left on device" in load.failed()
    finally:
        subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
        with warehouse.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sa.text("TRUNCATE aht.agent_segments"))
            connection.execute(sa.text("ALTER TABLE aht.agent_segments SET TABLESPACE pg_default"))
            connection.execute(sa.text("DROP TABLESPACE small"))
    assert_nothing_was_loaded_and_the_next_load_is_whole(warehouse)
