"""A warehouse that dies, is cut off, locked, silent, read-only or full in mid-load: nothing half done, told clearly."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from pathlib import Path
from typing import Any

import psutil
import pytest
import sqlalchemy as sa

from aht_pipeline import embedded
from aht_pipeline.normalize import SegmentBatch
from aht_pipeline.simulator import ExplicitTraffic, Simulator
from aht_pipeline.simulator import segment as row
from aht_pipeline.warehouse import (
    LoadResult,
    WarehouseError,
    day_records,
    downgrade,
    engine,
    load_day,
    loaded_timezone,
    record_refusal,
    rehearse_night,
    require_current,
    upgrade,
)
from aht_pipeline.warehouse.tables import agent_segments
from aht_pipeline_tests import loading
from aht_pipeline_tests.loading import ACCOUNT, DAY, PULLED_AT, batch, facts, segment
from aht_pipeline_tests.outside import COMMAND, Outside, days_ago, of_account
from aht_pipeline_tests.silence import Line, line_to

ROWS = 20_000
WHOLE = [
    batch(*(segment(number) for number in range(ROWS // 2))),
    batch(*(segment(number) for number in range(ROWS // 2, ROWS))),
]
IN_THE_SECOND_BATCH = segment(ROWS * 3 // 4)
LARGE = f'{{"note": "{"x" * 1500}"}}'


@dataclass(frozen=True)
class Server:
    """A server that may be killed: no other test's."""

    home: Path

    @property
    def running(self) -> embedded.EmbeddedServer:
        """Started again where it was killed."""
        return embedded.start(self.home)

    def url(self) -> str:
        return self.running.url("warehouse")

    def impatient_url(self) -> str:
        """One whose sessions wait for a lock only so long that the test sees it."""
        return self.url() + "?options=-c%20lock_timeout%3D300ms"

    @property
    def data(self) -> Path:
        return (self.home / "postgres" / "data").resolve()

    def kill(self) -> None:
        """The postmaster, that it starts nothing anew, and all its processes."""
        everyone = [self._postmaster, *self._postmaster.children()]
        for process in everyone:
            with suppress(psutil.NoSuchProcess):  # a child that saw its postmaster die
                process.kill()
        psutil.wait_procs(everyone, timeout=30)

    def kill_backend(self, pid: int) -> None:
        """One process; the postmaster then ends all the others, and recovers."""
        everyone = self._postmaster.children()
        psutil.Process(pid).kill()
        psutil.wait_procs(everyone, timeout=30)

    @property
    def _postmaster(self) -> psutil.Process:
        return psutil.Process(int((self.data / "postmaster.pid").read_text().splitlines()[0]))


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
        connection.execute(sa.text("TRUNCATE aht.agent_segments, aht.loads, aht.rejected_segments, aht.refused_days"))
    return engine(server.url())


class Loading(threading.Thread):
    """A load of two batches that goes on while the test does its worst."""

    def __init__(self, warehouse: sa.Engine, batches: list[SegmentBatch] = WHOLE) -> None:
        super().__init__(daemon=True)
        self.failure: Exception | None = None
        self.result: LoadResult | None = None
        self._warehouse = warehouse
        self._batches = batches
        self.start()

    def run(self) -> None:
        try:
            self.result = load_day(self._warehouse, facts(*self._batches), lambda: self._batches)
        except Exception as error:  # noqa: BLE001 - the test looks at it
            self.failure = error

    def failed(self, within_s: float = 60) -> str:
        """Wait for the end, which must be a failure of ours that names the place and keeps the password."""
        self.join(within_s)
        assert isinstance(self.failure, WarehouseError), self.failure
        assert_told(str(self.failure), self._warehouse.url)
        return str(self.failure)


def assert_told(said: str, url: sa.URL) -> None:
    assert f'{url.host}:{url.port}, database "warehouse"' in said
    assert url.password
    assert str(url.password) not in said


def session_that(warehouse: sa.Engine, condition: str) -> int | None:
    statement = f"SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND {condition} LIMIT 1"
    return next(iter(loading.query(warehouse, statement)), None)


def until(found: Callable[[], int | None]) -> int:
    give_up_at = time.monotonic() + 30
    while (pid := found()) is None:
        assert time.monotonic() < give_up_at, "it never came to this"
    return pid


@contextmanager
def in_mid_write(
    warehouse: sa.Engine, batches: list[SegmentBatch] = WHOLE, awaited: dict[str, Any] = IN_THE_SECOND_BATCH
) -> Iterator[tuple[Loading, int]]:
    """A load that waits where it comes to a row that another session may or may not commit; with its backend's process.

    Without other batches it has written its first one and half of its second.
    """
    with warehouse.connect() as rival:
        known = {"account_id": ACCOUNT, "pulled_at": PULLED_AT, "first_loaded_at": PULLED_AT, "updated_at": PULLED_AT}
        rival.execute(sa.insert(agent_segments).values(awaited | known | {"revision": 1}))
        load = Loading(warehouse, batches)
        writing = "wait_event = 'transactionid' AND query ~ 'pg_temp.staged_segments|COPY aht.agent_segments'"
        yield load, until(lambda: session_that(warehouse, writing))
        rival.invalidate()


@contextmanager
def held(warehouse: sa.Engine, *statements: str) -> Iterator[int]:
    """Another program's transaction that has done this and does not end; its process."""
    with engine(warehouse.url.render_as_string(False) + "?application_name=a_report").connect() as connection:
        for statement in statements:
            connection.execute(sa.text(statement))
        yield connection.scalar(sa.text("SELECT pg_backend_pid()"))
        connection.invalidate()  # there may be no server any more to roll it back


def assert_nothing_was_loaded_and_the_next_load_is_whole(warehouse: sa.Engine, loads_before: int = 0) -> None:
    for table, rows in (("agent_segments", 0), ("rejected_segments", 0), ("loads", loads_before)):
        assert loading.query(warehouse, f"SELECT count(*) FROM aht.{table}") == [rows]
    assert load_day(warehouse, facts(*WHOLE), lambda: WHOLE).inserted == ROWS
    assert loading.query(warehouse, "SELECT count(*), count(DISTINCT segment_id) FROM aht.agent_segments") == [
        (ROWS, ROWS)
    ]


# ------------------------------------------------------------------------------------------------------ killed and cut


@pytest.mark.parametrize("loads_before", [0, 1], ids=["first load", "merge"])
def test_a_server_killed_in_the_middle_of_the_merge(server: Server, warehouse: sa.Engine, loads_before: int) -> None:
    for _ in range(loads_before):
        load_day(warehouse, facts(batch()), lambda: [batch()])
    with in_mid_write(warehouse) as (load, _):
        written = loading.query(warehouse, "SELECT pg_relation_size('aht.agent_segments') / 8192")
        server.kill()
        load.failed()
    assert written[0] > ROWS // 2 / 40  # pages with the first batch's rows, at most 40 in each
    assert_nothing_was_loaded_and_the_next_load_is_whole(engine(server.url()), loads_before)


def test_a_server_killed_in_the_middle_of_a_copy_that_is_still_being_sent(server: Server, warehouse: sa.Engine) -> None:
    rows = sorted((segment(number, extra=LARGE) for number in range(ROWS)), key=itemgetter("segment_id"))
    with in_mid_write(warehouse, [batch(*rows)], rows[ROWS // 4]) as (load, copying):
        [copied] = loading.query(warehouse, f"SELECT tuples_processed FROM pg_stat_progress_copy WHERE pid = {copying}")
        assert 0 < copied < ROWS // 3  # the rest is more than any socket holds
        server.kill()
        load.failed()
    assert_nothing_was_loaded_and_the_next_load_is_whole(engine(server.url()))


def test_a_backend_that_is_killed(server: Server, warehouse: sa.Engine) -> None:
    with in_mid_write(warehouse) as (load, pid):
        server.kill_backend(pid)
        load.failed()
    assert_nothing_was_loaded_and_the_next_load_is_whole(engine(server.url()))  # as soon as it has recovered


def test_a_connection_that_is_cut(warehouse: sa.Engine) -> None:
    with in_mid_write(warehouse) as (load, pid):
        loading.query(warehouse, f"SELECT pg_terminate_backend({pid})")
        assert "terminating connection due to administrator command" in load.failed()
    assert_nothing_was_loaded_and_the_next_load_is_whole(warehouse)


def test_the_command_says_which_days_a_dead_server_left_and_loads_them_the_next_time(
    server: Server, warehouse: sa.Engine, tmp_path: Path
) -> None:
    noon = {day: datetime.combine(days_ago(day), datetime.min.time(), UTC) + timedelta(hours=12) for day in (3, 2, 1)}
    traffic = ExplicitTraffic(row(10 * day + number, noon[day]) for day in noon for number in range(5))
    held_row = "SELECT 1 FROM aht.agent_segments WHERE end_time::date = current_date - 2 FOR UPDATE"
    with Simulator(traffic) as simulator:
        account = of_account(tmp_path, simulator, server.url(), start=days_ago(3))
        account.run("load")
        for name in [row(10 * day + 1, noon[day])["segmentId"] for day in noon]:
            traffic.restate(name, totalHandleTimeMillis=1)
        with held(warehouse, held_row):
            load = _start(account, "load")
            until(
                lambda: session_that(
                    warehouse, "wait_event_type = 'Lock' AND query LIKE '%FROM pg_temp.staged_segments%'"
                )
            )
            server.kill()
            said, complained = load.communicate(timeout=120)
        assert load.returncode == 1
        assert f"{days_ago(3)}          5 segments: 0 new, 1 updated" in said
        assert f"{days_ago(2)}  failed: the warehouse at" in said
        assert f"{days_ago(1)}  failed: the warehouse at" in said
        assert f"2 failed: {days_ago(2)}, {days_ago(1)}" in complained
        assert "Traceback" not in said + complained
        for line in said.splitlines():
            if "failed:" in line:
                assert_told(line, warehouse.url)
        assert str(warehouse.url.password) not in said + complained

        server.url()
        account.run("load")
    assert loading.query(
        warehouse,
        "SELECT end_time::date - current_date, count(*), sum(revision - 1), min(total_handle_time_ms) "
        "FROM aht.agent_segments GROUP BY 1 ORDER BY 1",
    ) == [(-3, 5, 1, 1), (-2, 5, 1, 1), (-1, 5, 1, 1)]
    assert loading.query(warehouse, "SELECT sum(inserted), sum(updated) FROM aht.loads") == [(15, 3)]


def _start(account: Outside, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(COMMAND), *arguments],
        cwd=account.directory,
        env=account.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


# -------------------------------------------------------------------------------------------------- locks of others


@pytest.mark.parametrize(
    ("statement", "mode"),
    [
        ("LOCK TABLE aht.agent_segments IN ACCESS EXCLUSIVE MODE", "AccessExclusiveLock on aht.agent_segments"),
        ("LOCK TABLE aht.agent_segments IN SHARE MODE", "ShareLock on aht.agent_segments"),
        ("LOCK TABLE aht.rejected_segments IN ACCESS EXCLUSIVE MODE", "AccessExclusiveLock on aht.rejected_segments"),
        ("LOCK TABLE aht.loads IN EXCLUSIVE MODE", "ExclusiveLock on aht.loads"),
    ],
)
def test_a_table_that_someone_keeps_locked(server: Server, warehouse: sa.Engine, statement: str, mode: str) -> None:
    with held(warehouse, statement) as pid:
        said = Loading(engine(server.impatient_url())).failed()
    assert f"process {pid} of the server (a_report from 127.0.0.1, since 20" in said
    assert f"holds {mode}" in said
    assert "lock timeout" in said
    assert_nothing_was_loaded_and_the_next_load_is_whole(warehouse)


def test_a_row_that_someone_keeps_locked(server: Server, warehouse: sa.Engine) -> None:
    load_day(warehouse, facts(*WHOLE), lambda: WHOLE)
    restated = [batch(segment(number, total_handle_time_ms=1)) for number in range(10)]
    with held(warehouse, "SELECT 1 FROM aht.agent_segments WHERE segment_id LIKE '%00005' FOR UPDATE") as pid:
        said = Loading(engine(server.impatient_url()), restated).failed()
    assert f"process {pid} of the server (a_report from" in said
    assert "holds RowShareLock on aht.agent_segments" in said
    assert loading.query(warehouse, "SELECT sum(revision - 1)::int FROM aht.agent_segments") == [0]
    assert load_day(warehouse, facts(*restated), lambda: restated).updated == 10


def test_a_table_that_someone_else_queues_for(server: Server, warehouse: sa.Engine) -> None:
    """A long report stops nobody; whoever waits for it to end, to change the table, stops everybody."""
    with held(warehouse, "SELECT count(*) FROM aht.agent_segments"), engine(server.url()).connect() as other:
        pid = other.scalar(sa.text("SELECT pg_backend_pid()"))
        altering = threading.Thread(target=_refused, args=(other, "LOCK TABLE aht.agent_segments"))
        altering.start()
        until(lambda: session_that(warehouse, "wait_event_type = 'Lock' AND query LIKE 'LOCK%'"))
        said = Loading(engine(server.impatient_url())).failed()
        loading.query(warehouse, f"SELECT pg_cancel_backend({pid})")
        altering.join()
    assert f"process {pid} of the server (aht_pipeline from" in said
    assert "waits for AccessExclusiveLock on aht.agent_segments" in said
    assert_nothing_was_loaded_and_the_next_load_is_whole(warehouse)


def _refused(connection: sa.Connection, statement: str) -> None:
    with pytest.raises(WarehouseError, match="canceling statement due to user request"):
        connection.execute(sa.text(statement))


@pytest.mark.parametrize(
    "asked",
    [
        day_records,
        loaded_timezone,
        lambda warehouse, account: record_refusal(warehouse, account, DAY.date, "too old", PULLED_AT),
        lambda warehouse, _: require_current(warehouse),
    ],
    ids=["day_records", "loaded_timezone", "record_refusal", "require_current"],
)
def test_no_question_waits_for_ever(
    server: Server, warehouse: sa.Engine, asked: Callable[[sa.Engine, str], object]
) -> None:
    everything = "LOCK TABLE aht.loads, aht.refused_days, aht.alembic_version"
    with held(warehouse, everything) as pid, pytest.raises(WarehouseError, match=f"process {pid} .*AccessExclusive"):
        asked(engine(server.impatient_url()), ACCOUNT)


def test_a_migration_that_a_report_keeps_waiting(server: Server, warehouse: sa.Engine) -> None:
    with (
        held(warehouse, "SELECT count(*) FROM reporting.agent_day") as pid,
        pytest.raises(WarehouseError, match=f"process {pid} .*a_report.* AccessShareLock on (aht|reporting)\\."),
    ):
        downgrade(server.impatient_url(), "0001")
    require_current(warehouse)
    downgrade(server.url(), "0001")
    upgrade(server.url())


def test_a_migration_waits_for_another_one_no_longer_than_for_a_lock(server: Server, warehouse: sa.Engine) -> None:
    with (
        held(warehouse, f"SELECT pg_advisory_xact_lock({0x6168745F6D696772})"),
        pytest.raises(WarehouseError, match="lock timeout"),
    ):
        upgrade(server.impatient_url())


def test_waits_are_bounded_in_every_transaction_and_nothing_stays_on_the_session(warehouse: sa.Engine) -> None:
    with warehouse.connect() as connection:
        with connection.begin():
            assert connection.scalar(sa.text("SHOW lock_timeout")) == "1min"
        raw = connection.connection.driver_connection
        assert raw is not None
        with raw.cursor() as cursor:
            cursor.execute("SHOW lock_timeout")
            assert cursor.fetchone() == ("0",)


# -------------------------------------------------------------------------------------------------------------- silence


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="this system bounds silence in another way")
def test_both_ends_notice_when_the_other_falls_silent(warehouse: sa.Engine) -> None:
    with warehouse.begin() as connection:
        raw = connection.connection.driver_connection
        assert raw is not None
        with socket.socket(fileno=os.dup(raw.fileno())) as ours:
            options = [socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT]
            assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert [ours.getsockopt(socket.IPPROTO_TCP, option) for option in options] == [30, 10, 3, 60_000]
        names = ("tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count", "tcp_user_timeout")
        assert [connection.scalar(sa.text(f"SHOW {name}")) for name in names] == ["30", "10", "3", "60000"]


@pytest.fixture
def line(server: Server) -> Iterator[Line]:
    """A network between the loader and the server, which can fall silent."""
    with line_to(server.running.port) as line:
        yield line


@pytest.mark.long
def test_a_network_that_falls_silent_while_an_answer_is_awaited(warehouse: sa.Engine, line: Line) -> None:
    far = engine(warehouse.url.set(host=line.host, port=line.port).render_as_string(False))
    with in_mid_write(far) as (load, pid):
        line.fall_silent()
        load.failed(within_s=180)
        line.close()
        until(lambda: _is_gone(warehouse, pid))
    assert_nothing_was_loaded_and_the_next_load_is_whole(warehouse)


@pytest.mark.long
def test_a_network_that_falls_silent_while_rows_are_sent(warehouse: sa.Engine, line: Line) -> None:
    far = engine(warehouse.url.set(host=line.host, port=line.port).render_as_string(False))

    def batches() -> Iterator[SegmentBatch]:
        yield WHOLE[0]
        line.fall_silent()
        yield WHOLE[1]

    with pytest.raises(WarehouseError, match=r"timed out|timeout"):
        load_day(far, facts(*WHOLE), batches)
    line.close()
    until(lambda: 1 if session_that(warehouse, "datname = 'warehouse'") is None else None)
    assert_nothing_was_loaded_and_the_next_load_is_whole(warehouse)


def _is_gone(warehouse: sa.Engine, pid: int) -> int | None:
    return 1 if session_that(warehouse, f"pid = {pid}") is None else None


# ---------------------------------------------------------------------------------------------------- no room to write


def test_a_server_that_is_read_only(warehouse: sa.Engine) -> None:
    loading.query(warehouse, "ALTER DATABASE warehouse SET default_transaction_read_only = on")
    try:
        assert "read-only transaction" in Loading(warehouse).failed()
    finally:
        loading.query(warehouse, "SET TRANSACTION READ WRITE; ALTER DATABASE warehouse RESET ALL")
    assert_nothing_was_loaded_and_the_next_load_is_whole(warehouse)


def test_a_standby_is_known_by_a_rehearsal(server: Server, warehouse: sa.Engine) -> None:
    signal = server.data / "standby.signal"
    assert rehearse_night(warehouse) == warehouse.url.username
    embedded.stop(server.home)
    signal.touch()
    try:
        server.running  # noqa: B018 - started as a standby
        with pytest.raises(WarehouseError, match="standby, which only reads: WAREHOUSE_URL must name the primary"):
            rehearse_night(warehouse)
    finally:
        embedded.stop(server.home)
        signal.unlink()
        server.running  # noqa: B018


@pytest.fixture
def small_disk(server: Server, warehouse: sa.Engine) -> Iterator[Path]:
    """A disk of two megabytes that the server may write."""
    mounted = server.data.parent / "small-disk"
    mounted.mkdir(exist_ok=True)
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(mounted)], capture_output=True, text=True, check=False
    )
    if mount.returncode != 0:
        pytest.skip(f"no small disk can be had here: {mount.stderr.strip()}")
    try:
        os.chown(mounted, server.data.stat().st_uid, server.data.stat().st_gid)
        yield mounted
    finally:
        subprocess.run(["umount", "--lazy", str(mounted)], check=True)


def test_a_disk_that_is_full(warehouse: sa.Engine, small_disk: Path) -> None:
    _alone(
        warehouse,
        f"CREATE TABLESPACE small LOCATION '{small_disk}'",
        "ALTER TABLE aht.agent_segments SET TABLESPACE small",
    )
    try:
        assert "No space left on device" in Loading(warehouse).failed()
        assert loading.query(warehouse, "SELECT count(*) FROM aht.loads") == [0]
        loading.query(warehouse, "TRUNCATE aht.agent_segments")
        with suppress(OSError), (small_disk / "filler").open("wb", buffering=0) as filler:
            while filler.write(bytes(4096)):
                pass
        with pytest.raises(WarehouseError, match="No space left on device"):
            rehearse_night(warehouse)
        subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
        rehearse_night(warehouse)
        assert_nothing_was_loaded_and_the_next_load_is_whole(warehouse)
    finally:
        subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
        _alone(
            warehouse,
            "TRUNCATE aht.agent_segments",
            "ALTER TABLE aht.agent_segments SET TABLESPACE pg_default",
            "DROP TABLESPACE small",
        )


def _alone(warehouse: sa.Engine, *statements: str) -> None:
    """Each in no transaction but its own."""
    with warehouse.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for statement in statements:
            connection.execute(sa.text(statement))
