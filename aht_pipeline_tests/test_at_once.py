"""Several at once on one warehouse: serialised by day, or refused clearly; never doubled, never deadlocked."""

from __future__ import annotations

import random
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest

from aht_pipeline.days import Day
from aht_pipeline.normalize import SegmentBatch
from aht_pipeline.simulator import GeneratedTraffic, Simulator
from aht_pipeline.warehouse import (
    LoadResult,
    WarehouseError,
    downgrade,
    engine,
    load_day,
    require_current,
    upgrade,
)
from aht_pipeline_tests.loading import DAY, PULLED_AT, batch, facts, query, segment
from aht_pipeline_tests.outside import Outside, days_ago, of_account
from aht_pipeline_tests.test_dagster import running_ui
from aht_pipeline_tests.test_killed import assert_every_row_is_accounted_for

DAYS = 6
TWO_DAYS = (DAY, Day(DAY.date + timedelta(days=1), "UTC"))
ROUNDS, SEGMENTS = 12, 40


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator(GeneratedTraffic(segments_per_day=400)) as running:
        yield running


@pytest.fixture
def account(tmp_path: Path, simulator: Simulator, database_url: str) -> Outside:
    return of_account(tmp_path, simulator, database_url, start=days_ago(DAYS))


def at_once(account: Outside, *commands: tuple[object, ...]) -> list[subprocess.CompletedProcess[str]]:
    with ThreadPoolExecutor(len(commands)) as starters:
        return list(starters.map(lambda command: account.run(*command, exit_code=None), commands))


def expected(simulator: Simulator) -> int:
    return sum(len(simulator.traffic.day(days_ago(day))) for day in range(1, DAYS + 1))


def test_overlapping_loads_backfills_and_a_migration_end_in_the_truth(account: Outside, simulator: Simulator) -> None:
    with running_ui(account) as ui:
        backfills = [
            ui.launch_backfill(days_ago(DAYS), days_ago(2)),
            ui.launch_backfill(days_ago(DAYS - 1), days_ago(1)),
        ]
        done = at_once(
            account,
            ("load", "--from", days_ago(DAYS)),
            ("load", "--from", days_ago(DAYS - 2)),
            ("migrate",),
            ("load", "--from", days_ago(DAYS), "--to", days_ago(3)),
        )
        assert [one.returncode for one in done] == [0, 0, 0, 0], [one.stdout + one.stderr for one in done]
        assert [ui.backfill_ends(backfill) for backfill in backfills] == ["COMPLETED_SUCCESS"] * 2
        every_day = {str(days_ago(day)) for day in range(1, DAYS + 1)}
        assert ui.days("MATERIALIZED") == {"raw_agent_segments": every_day, "agent_segments": every_day}
        account.run("status", exit_code=0)
        assert_in_turn(ui.spans_of_steps(backfills))
    assert account.query("SELECT count(*), count(DISTINCT segment_id), max(revision) FROM aht.agent_segments") == [
        (expected(simulator), expected(simulator), 1)
    ]
    of_loads, of_backfills = DAYS + (DAYS - 2) + (DAYS - 2), (DAYS - 1) + (DAYS - 1)
    assert account.query("SELECT count(*), sum(inserted), sum(updated) FROM aht.loads") == [
        (of_loads + of_backfills, expected(simulator), 0)
    ]


def assert_in_turn(spans: list[tuple[float, float]]) -> None:
    """One was done before the next began."""
    assert len(spans) == 2
    (_, end_of_one), (start_of_next, _) = sorted(spans)
    assert end_of_one <= start_of_next


def test_loads_of_two_days_that_take_segments_from_each_other_end_in_the_newest_truth(database_url: str) -> None:
    """Each round, all segments are in one day's pull and then, restated, in the other's; both load at once."""
    upgrade(database_url)
    # Who finds a deadlock first loses it; the sooner, the shorter the test.
    warehouse = engine(database_url + "?options=-c%20deadlock_timeout%3D20ms")
    chance = random.Random(20261124)
    attempts = 0

    for a_round in range(ROUNDS):
        newest = PULLED_AT + timedelta(hours=a_round)
        both_have_begun = threading.Barrier(2)
        values = {day: [chance.randrange(1000) for _ in range(SEGMENTS)] for day in TWO_DAYS}
        last_day = chance.choice(TWO_DAYS)

        def load(day: Day) -> LoadResult:
            rows = [
                segment(number, end_time=day.window.start, total_handle_time_ms=values[day][number])  # noqa: B023
                for number in range(SEGMENTS)
            ]
            halves = [batch(*rows[: SEGMENTS // 2]), batch(*rows[SEGMENTS // 2 :])]
            if day != TWO_DAYS[0]:
                halves.reverse()

            def batches() -> Iterator[SegmentBatch]:
                nonlocal attempts
                attempts += 1
                yield halves[0]
                yield batch()  # what comes after it is made when the first is written
                with suppress(threading.BrokenBarrierError):  # the second time
                    both_have_begun.wait(5)  # noqa: B023
                    both_have_begun.abort()  # noqa: B023
                yield halves[1]

            pulled_at = newest if day == last_day else newest - timedelta(minutes=1)  # noqa: B023
            return load_day(warehouse, facts(*halves, day=day, pulled_at=pulled_at), batches)

        with ThreadPoolExecutor(2) as loaders:
            results = list(loaders.map(load, TWO_DAYS))

        assert [result.reported for result in results] == [SEGMENTS, SEGMENTS]
        assert query(
            warehouse, "SELECT end_time, total_handle_time_ms FROM aht.agent_segments ORDER BY segment_id"
        ) == [(last_day.window.start, value) for value in values[last_day]]
        assert_every_row_is_accounted_for(warehouse)
    assert attempts > 2 * ROUNDS  # the first two loads cross, one goes again; the later ones lock in the keys' order


def test_a_migration_beside_a_running_load(database_url: str) -> None:
    """One that needs no lock of the load's goes through; one that does gives up, and says who it waited for."""
    upgrade(database_url)
    downgrade(database_url, "0009")

    def batches() -> Iterator[SegmentBatch]:
        yield batch(segment(1))
        yield batch()  # what comes after it is made when the first is written
        upgrade(database_url)
        with pytest.raises(WarehouseError, match=r"aht_pipeline from .* holds RowExclusiveLock on aht\."):
            downgrade(database_url + "?options=-c%20lock_timeout%3D300ms", "base")
        yield batch(segment(2))

    warehouse = engine(database_url)
    assert load_day(warehouse, facts(reported=2), batches).inserted == 2
    require_current(warehouse)
    assert query(warehouse, "SELECT sum(segments)::int FROM reporting.agent_day") == [2]
