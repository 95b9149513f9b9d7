"""The pipeline's own process, killed at any moment: nothing half done, nothing in the way of the next load."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import random
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path

import dagster as dg
import psutil
import pytest
import sqlalchemy as sa

from aht_pipeline.archive import Archive
from aht_pipeline.days import Day
from aht_pipeline.pipeline import Pipeline
from aht_pipeline.simulator import ExplicitTraffic, Simulator, segment
from aht_pipeline.source import AhtApi
from aht_pipeline.warehouse import engine, upgrade
from aht_pipeline_tests.loading import query
from aht_pipeline_tests.outside import COMMAND, YESTERDAY, Outside, days_ago, of_account
from aht_pipeline_tests.reading import FAST, KEYS

DAYS = [Day(days_ago(3), "UTC"), Day(days_ago(2), "UTC"), Day(YESTERDAY, "UTC")]
SEGMENTS_A_DAY = 150

_loaders = multiprocessing.get_context("forkserver")  # a fork of it has everything imported, and no thread of ours
_loaders.set_forkserver_preload(["aht_pipeline.pipeline", "aht_pipeline_tests.test_killed"])


def load_all(warehouse_url: str, archive: Path, api_url: str) -> None:
    """A clean load of every day."""
    pipeline = Pipeline(
        "demo",
        Archive(str(archive)),
        engine(warehouse_url),
        lambda: AhtApi("demo", KEYS, api_url=api_url, page_size=40, pacing=FAST),
        max_rejected_percent=0,
    )
    for day in DAYS:
        pipeline.load(pipeline.read(pipeline.pull(day)))
    pipeline.close()


class Account:
    """What the API holds: it grows and is restated while loaders are killed."""

    def __init__(self, chance: random.Random) -> None:
        self.traffic = ExplicitTraffic()
        self._chance = chance
        self._names: list[str] = []
        for day in DAYS:
            for _ in range(SEGMENTS_A_DAY):
                self._add(day)

    def changes(self) -> None:
        """A new segment, and others restated, on every day: so that each load has something to do on each."""
        for day in DAYS:
            self._add(day)
        for name in self._chance.sample(self._names, 10):
            self.traffic.restate(name, totalHandleTimeMillis=self._chance.randrange(10**6))

    @property
    def truth(self) -> dict[str, tuple[datetime, int]]:
        rows = [row for name in self._names if isinstance(row := self.traffic.row(name), Mapping)]
        return {
            row["segmentId"]: (datetime.fromisoformat(row["endTime"]), row["totalHandleTimeMillis"]) for row in rows
        }

    def _add(self, day: Day) -> None:
        close = day.window.start + timedelta(seconds=self._chance.randrange(24 * 3600))
        self._names.append(self.traffic.add(segment(len(self._names), close)))


@contextmanager
def held_up(warehouse: sa.Engine, table: str) -> Iterator[Callable[[], bool]]:
    """No load can write into this table while this lasts; says whether one has come to it, and waits."""
    waiting = f"""
        SELECT count(*) FROM pg_locks
        WHERE NOT granted AND relation = '{table}'::regclass
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    """
    with warehouse.begin() as connection:
        connection.execute(sa.text(f"LOCK TABLE {table} IN SHARE MODE"))
        yield lambda: bool(query(warehouse, waiting)[0])


def until(holds: Callable[[], bool], alive: Callable[[], bool]) -> None:
    while not holds():
        assert alive(), "the load ended before it came to this"
        time.sleep(0.005)


# With all rows copied, and with all rows merged: what is left is the ledger's line, and the commit.
BEFORE_COMMIT = ("aht.agent_segments", "aht.loads")


@pytest.mark.parametrize(
    ("seed", "kills"), [(20261124, 52), pytest.param(20261125, 400, marks=pytest.mark.long)], ids=["52", "400"]
)
def test_a_load_that_is_killed_at_any_moment_leaves_nothing_in_the_way(
    database_url: str, tmp_path: Path, seed: int, kills: int
) -> None:
    upgrade(database_url)
    warehouse, archive = engine(database_url), tmp_path / "archive"
    chance = random.Random(seed)
    account = Account(chance)
    killed_at_random = 0
    killed_before_commit = dict.fromkeys(BEFORE_COMMIT, 0)

    with Simulator(account.traffic) as simulator:

        def start() -> BaseProcess:
            process = _loaders.Process(target=load_all, args=(database_url, archive, simulator.url))
            process.start()
            return process

        def load() -> None:
            whole = start()
            whole.join()
            assert whole.exitcode == 0

        load()  # this one also waits for the imports
        began = time.monotonic()
        load()
        lasts_s = time.monotonic() - began

        for attempt in range(kills):
            account.changes()
            if attempt % 4 == 3:
                table = BEFORE_COMMIT[attempt // 4 % 2]
                with held_up(warehouse, table) as waits:
                    loader = start()
                    until(waits, loader.is_alive)
                    loader.kill()
                    loader.join()
                killed_before_commit[table] += 1
            else:
                loader = start()
                loader.join(chance.uniform(0, lasts_s))
                killed_at_random += loader.is_alive()
                loader.kill()
                loader.join()
            assert_every_row_is_accounted_for(warehouse)

        assert min(killed_before_commit.values()) >= kills // 9
        assert killed_at_random >= kills // 3
        account.changes()
        load()

    assert_the_warehouse_is_the_truth(warehouse, account)
    _assert_nothing_is_left(warehouse)
    _assert_the_archive_is_whole(archive)


def test_a_command_that_is_killed_leaves_nothing_in_the_way(database_url: str, tmp_path: Path) -> None:
    warehouse, account = engine(database_url), Account(random.Random(20261126))
    with Simulator(account.traffic) as simulator:
        outside = of_account(tmp_path, simulator, database_url, start=DAYS[0].date)
        for table in BEFORE_COMMIT:
            account.changes()
            with held_up(warehouse, table) as waits, _command(outside, "load") as load:
                until(waits, partial(_runs, load))
                _kill(load)
            assert_every_row_is_accounted_for(warehouse)
        assert query(warehouse, "SELECT count(*) FROM aht.loads") == [0]
        assert _statuses(outside) == ["FAILURE", "STARTED"]  # the second load has ended the first one's run
        _add_a_run_of_an_earlier_up(outside)
        with outside.up():
            assert _statuses(outside) == ["FAILURE"] * 3
        outside.run("load")
        assert [day["state"] for day in outside.status()["days"]] == ["settled", "settled", "provisional"]

    assert_the_warehouse_is_the_truth(warehouse, account)
    _assert_nothing_is_left(warehouse)
    _assert_the_archive_is_whole(outside.home / "archive")


def _statuses(outside: Outside) -> list[str]:
    """Of all the runs that Dagster knows, oldest first."""
    with dg.DagsterInstance.from_config(str(outside.home / "dagster")) as instance:
        return [run.status.value for run in reversed(instance.get_runs())]


def _add_a_run_of_an_earlier_up(outside: Outside) -> None:
    with dg.DagsterInstance.from_config(str(outside.home / "dagster")) as instance:
        instance.add_run(dg.DagsterRun(job_name="__ASSET_JOB", status=dg.DagsterRunStatus.STARTED))


@contextmanager
def _command(outside: Outside, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    with (outside.directory / "said.txt").open("ab") as said:
        process = subprocess.Popen(
            [str(COMMAND), *arguments],
            cwd=outside.directory,
            env=outside.environment,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _runs(command: subprocess.Popen[bytes]) -> bool:
    return command.poll() is None


def _kill(command: subprocess.Popen[bytes]) -> None:
    """The command, and whatever it started."""
    everyone = [*psutil.Process(command.pid).children(recursive=True), psutil.Process(command.pid)]
    for process in everyone:
        process.kill()
    command.wait()


def assert_every_row_is_accounted_for(warehouse: sa.Engine) -> None:
    """Rows and ledger come together or not at all: each insert and each update of a row is in some load's line."""
    rows = "SELECT count(*)::int, coalesce(sum(revision - 1), 0)::int FROM aht.agent_segments"
    ledger = "SELECT coalesce(sum(inserted), 0)::int, coalesce(sum(updated), 0)::int FROM aht.loads"
    with warehouse.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        assert connection.execute(sa.text(rows)).one() == connection.execute(sa.text(ledger)).one()


def assert_the_warehouse_is_the_truth(warehouse: sa.Engine, account: Account) -> None:
    loaded = query(warehouse, "SELECT segment_id, end_time, total_handle_time_ms FROM aht.agent_segments")
    assert len(loaded) == len(account.truth)
    assert {segment_id: values for segment_id, *values in loaded} == {
        segment_id: list(values) for segment_id, values in account.truth.items()
    }
    assert_every_row_is_accounted_for(warehouse)


def _assert_nothing_is_left(warehouse: sa.Engine) -> None:
    assert query(warehouse, "SELECT relname FROM pg_class WHERE relpersistence = 't'") == []
    this = "(SELECT oid FROM pg_database WHERE datname = current_database())"
    others = f"SELECT locktype, mode FROM pg_locks WHERE database = {this} AND pid <> pg_backend_pid()"
    assert query(warehouse, others) == []
    assert query(warehouse, "SELECT count(*) FROM pg_prepared_xacts") == [0]


def _assert_the_archive_is_whole(folder: Path) -> None:
    """Every pull whose manifest is there is whole, also of a load that was killed; the newest is what was loaded."""
    manifests = sorted(folder.glob("*/*/*.manifest.json"))
    for manifest in manifests:
        pages = folder / json.loads(manifest.read_bytes())["file"]
        assert hashlib.sha256(pages.read_bytes()).hexdigest() == json.loads(manifest.read_bytes())["sha256"]
    archive = Archive(str(folder))
    for day in DAYS:
        stored = archive.latest("demo", day)
        assert stored is not None
        assert sum(page.count(b'"segmentId"') for page in archive.pages(stored)) == stored.pull.rows
    assert len(manifests) > len(DAYS)
