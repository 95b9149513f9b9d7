"""Several at once on one warehouse: serialised by day, or refused clearly; never doubled, never deadlocked."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from aht_pipeline.simulator import GeneratedTraffic, Simulator
from aht_pipeline_tests.outside import Outside, days_ago, of_account

DAYS = 6


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


def test_overlapping_loads_and_a_migration_end_in_the_truth(account: Outside, simulator: Simulator) -> None:
    done = at_once(
        account,
        ("load", "--from", days_ago(DAYS)),
        ("load", "--from", days_ago(DAYS - 2)),
        ("migrate",),
        ("load", "--from", days_ago(DAYS), "--to", days_ago(3)),
    )
    assert [one.returncode for one in done] == [0, 0, 0, 0], [one.stdout + one.stderr for one in done]
    assert account.query("SELECT count(*), count(DISTINCT segment_id), max(revision) FROM aht.agent_segments") == [
        (expected(simulator), expected(simulator), 1)
    ]
    assert account.query("SELECT count(*), sum(inserted), sum(updated) FROM aht.loads") == [
        (DAYS + (DAYS - 2) + (DAYS - 2), expected(simulator), 0)
    ]


def test_a_load_beside_the_running_daemon_shows_in_its_instance(account: Outside, simulator: Simulator) -> None:
    with account.up():
        account.run("load", "--from", days_ago(DAYS))
        account.run("status", exit_code=0)
    assert account.query("SELECT count(*) FROM aht.agent_segments") == [(expected(simulator),)]
