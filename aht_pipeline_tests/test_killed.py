"""The pipeline's own process, killed at any moment: nothing half done, nothing in the way of the next load."""

from __future__ import annotations

import multiprocessing
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import sqlalchemy as sa

from aht_pipeline.archive import Archive
from aht_pipeline.days import Day
from aht_pipeline.pipeline import Pipeline
from aht_pipeline.simulator import ExplicitTraffic, Simulator, segment
from aht_pipeline.source import AhtApi
from aht_pipeline.warehouse import engine, upgrade
from aht_pipeline_tests.outside import YESTERDAY, days_ago
from aht_pipeline_tests.reading import FAST, KEYS

DAYS = [Day(days_ago(3), "UTC"), Day(days_ago(2), "UTC"), Day(YESTERDAY, "UTC")]
SEGMENTS_A_DAY = 150
AT_RANDOM, BEFORE_COMMIT = 40, 12

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
        pipeline.load(pipeline.pull(day))
    pipeline.close()


@pytest.fixture
def traffic() -> ExplicitTraffic:
    rows = ExplicitTraffic()
    for number, day in enumerate(DAYS):
        for position in range(SEGMENTS_A_DAY):
            close = day.window.start + timedelta(minutes=9 * position, seconds=1)
            rows.add(segment(1000 * number + position, close), name=f"{number} {position}")
    return rows


@pytest.fixture
def simulator(traffic: ExplicitTraffic) -> Iterator[Simulator]:
    with Simulator(traffic) as running:
        yield running


@contextmanager
def held_up(warehouse: sa.Engine) -> Iterator[Callable[[], bool]]:
    """No load can write while this lasts; says whether one has come to its merge, its rows copied, and waits."""
    with warehouse.begin() as connection:
        connection.execute(sa.text("LOCK TABLE aht.agent_segments IN SHARE MODE"))

        def waits() -> bool:
            with warehouse.connect() as other:
                found = other.scalar(
                    sa.text(
                        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
                        "AND datname = current_database() AND query LIKE '%INSERT INTO aht.agent_segments%'"
                    )
                )
            return bool(found)

        yield waits


def test_a_load_that_is_killed_at_any_moment_leaves_nothing_in_the_way(
    traffic: ExplicitTraffic, simulator: Simulator, database_url: str, tmp_path: Path
) -> None:
    upgrade(database_url)
    warehouse, archive = engine(database_url), tmp_path / "archive"
    chance = random.Random(20261124)

    def start() -> BaseProcess:
        process = _loaders.Process(target=load_all, args=(database_url, archive, simulator.url))
        process.start()
        return process

    def restate_some() -> None:
        for _ in range(5):
            name = f"{chance.randrange(len(DAYS))} {chance.randrange(SEGMENTS_A_DAY)}"
            traffic.restate(name, totalHandleTimeMillis=chance.randrange(10**6))

    lasts_s = 0.0
    for _ in range(2):  # the first one also waits for the imports
        began = time.monotonic()
        whole = start()
        whole.join()
        assert whole.exitcode == 0
        lasts_s = time.monotonic() - began

    killed_at_work = killed_before_commit = 0
    for attempt in range(AT_RANDOM + BEFORE_COMMIT):
        restate_some()
        if attempt % 4 == 3 and killed_before_commit < BEFORE_COMMIT:
            with held_up(warehouse) as waits:
                loader = start()
                while not waits():
                    assert loader.is_alive(), "the load ended before its merge"
                    time.sleep(0.005)
                loader.kill()
                loader.join()
            killed_before_commit += 1
        else:
            loader = start()
            loader.join(chance.uniform(0, lasts_s))
            killed_at_work += loader.is_alive()
            loader.kill()
            loader.join()
    assert killed_before_commit >= 10
    assert killed_at_work >= AT_RANDOM // 2

    restate_some()
    last = start()
    last.join()
    assert last.exitcode == 0
    _assert_the_warehouse_is_the_truth(warehouse, traffic)
    _assert_nothing_is_left(warehouse, archive)


def _assert_the_warehouse_is_the_truth(warehouse: sa.Engine, traffic: ExplicitTraffic) -> None:
    expected = {
        row["segmentId"]: row["totalHandleTimeMillis"]
        for number in range(len(DAYS))
        for position in range(SEGMENTS_A_DAY)
        if isinstance(row := traffic.row(f"{number} {position}"), Mapping)
    }
    with warehouse.connect() as connection:
        loaded = connection.execute(sa.text("SELECT segment_id, total_handle_time_ms FROM aht.agent_segments")).all()
        wrong = connection.scalar(
            sa.text(
                "SELECT count(*) FROM aht.loads "
                "WHERE reported <> inserted + updated + unchanged + rejected + outside_day OR reported <> :a_day"
            ),
            {"a_day": SEGMENTS_A_DAY},
        )
    assert len(loaded) == len(expected) == len(DAYS) * SEGMENTS_A_DAY
    assert {row.segment_id: row.total_handle_time_ms for row in loaded} == expected
    assert wrong == 0


def _assert_nothing_is_left(warehouse: sa.Engine, archive: Path) -> None:
    with warehouse.connect() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM pg_class WHERE relpersistence = 't'")) == 0
        locks = sa.text(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' "
            "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        assert connection.scalar(locks) == 0
    kept = Archive(str(archive))
    for day in DAYS:
        stored = kept.latest("demo", day)
        assert stored is not None
        assert list(kept.pages(stored))
