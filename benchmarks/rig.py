"""What every benchmark stands on: a Postgres server, simulators in processes of their own, rounds and counters."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import psycopg2

from aht_pipeline import embedded
from aht_pipeline.simulator import GeneratedTraffic
from aht_pipeline.warehouse import upgrade
from aht_pipeline_tests.outside import COMMAND, TODAY, Outside, days_ago
from benchmarks.api import Api, fetch
from benchmarks.figures import check

ACCOUNT = "demo"
START = days_ago(28)
"""The start date of every account: the days it can be loaded with are those that the API remembers."""

_TEMPLATE = "migrated"


@dataclass(frozen=True)
class Written:
    """What some work wrote into a warehouse. wal_mb: write-ahead log, 10^6 bytes; dead_tuples: left in the segments."""

    seconds: float
    wal_mb: float
    dead_tuples: int


class Rig:
    """A Postgres server and a directory, both gone in the end. rounds: samples of each side; smoke: tiny sizes."""

    def __init__(self, server: embedded.EmbeddedServer, directory: Path, rounds: int, *, smoke: bool) -> None:
        self.directory = directory
        self.rounds = rounds
        self.smoke = smoke
        self._server = server
        self._numbers = count(1)
        self._has_dagster = False
        self._administer(f"CREATE DATABASE {_TEMPLATE}")
        upgrade(server.url(_TEMPLATE))

    def size(self, full: int, *, smoke: int) -> int:
        return smoke if self.smoke else full

    def alternate(self, sides: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
        """Every side once a round, each round beginning with another one; what each returned (seconds, mostly)."""
        samples: dict[str, list[float]] = {name: [] for name in sides}
        names = list(sides)
        for number in range(self.rounds):
            turned = number % len(names)
            for name in names[turned:] + names[:turned]:
                samples[name].append(sides[name]())
        return samples

    @contextmanager
    def database(self) -> Iterator[str]:
        """The URL of a new, migrated, empty warehouse; dropped afterwards."""
        name = f"bench_{next(self._numbers)}"
        self._administer(f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE}")
        try:
            yield self._server.url(name)
        finally:
            self._administer(f"DROP DATABASE {name} WITH (FORCE)")

    @contextmanager
    def account(self, api: Api, **variables: str) -> Iterator[Outside]:
        """A user's environment with a warehouse and an archive of its own, both empty, beside the rig's one AHT_HOME.

        So Dagster's instance is one that was used before, as a user's is.
        """
        with self.database() as url, tempfile.TemporaryDirectory(dir=self.directory) as archive:
            settings = {
                "WAREHOUSE_URL": url,
                "AHT_START_DATE": str(START),
                "AHT_HOME": str(self.directory / "home"),
                "AHT_ARCHIVE_URL": archive,
            }
            yield Outside(self.directory, {**api.variables, **settings, **variables})

    def warm_dagster(self, api: Api, day: date) -> None:
        """Have the rig's Dagster instance made, which the first `load` of a home does and no other."""
        if not (self._has_dagster or self.smoke):
            with self.account(api) as account:
                account.run("load", "--from", day, "--to", day)
            self._has_dagster = True

    @contextmanager
    def simulator(self, days: Sequence[date], segments: int, *options: str) -> Iterator[Api]:
        """The AHT API in a process of its own, with about so many segments over these days in all, made and warm.

        Nothing closes before the first of the days.
        """
        per_weekday = _segments_per_weekday(days, segments)
        command = [str(COMMAND), "simulator", "--segments", str(per_weekday), "--days", str((TODAY - days[0]).days)]
        process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True)
        assert process.stdout
        try:
            api = Api.told_by(process.stdout.readline())
            for day in days:
                for _ in fetch(api, day):
                    pass
            yield api
        finally:
            process.terminate()
            process.wait()
            process.stdout.close()

    def checkpoint(self) -> None:
        """Let no side pay for what was written before it."""
        self._administer("CHECKPOINT")

    def postgres_version(self) -> str:
        return str(query(self._server.url("postgres"), "SHOW server_version")[0][0])

    def _administer(self, statement: str) -> None:
        query(self._server.url("postgres"), statement)


@contextmanager
def open_rig(rounds: int, *, smoke: bool) -> Iterator[Rig]:
    cache_directory().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="run-", dir=cache_directory()) as name:
        directory = Path(name)
        home = directory / "server"
        try:
            yield Rig(embedded.start(home, (), say=lambda _: None), directory, rounds, smoke=smoke)
        finally:
            embedded.remove(home)


def cache_directory() -> Path:
    """Where the other loaders are installed, and where everything of a run lies: on a disk, as /tmp need not be."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "aht-pipeline-benchmarks"


def query(url: str, statement: str) -> list[Any]:
    """The rows of one statement, outside any transaction block."""
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []


def psql(url: str, *commands: str) -> float:
    """Run psql with these commands, each a transaction of its own; how long it took, in seconds."""
    given = [argument for command in commands for argument in ("-c", command)]
    program = [str(embedded.binaries() / "psql"), "-d", url, "-X", "-q", "-v", "ON_ERROR_STOP=1", *given]
    return seconds(lambda: subprocess.run(program, check=True, stdout=subprocess.DEVNULL))


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def written(url: str, work: Callable[[], object]) -> Written:
    """Do this work, and say what it wrote into the warehouse. Nothing else may be going on in the server."""
    wal_before, dead_before = _counters(url)
    took = seconds(work)
    wal, dead = _counters(url)
    return Written(took, (wal - wal_before) / 1e6, dead - dead_before)


def peak_memory_mb(account: Outside, *arguments: object) -> float:
    """Run `aht-pipeline` and return the most memory that its process held, in 10^6 bytes."""
    # Asked of a small process in between: a child's figure begins with the memory of the process that forked it.
    inner = [sys.executable, "-c", _PEAK, str(COMMAND), *map(str, arguments)]
    done = subprocess.run(inner, env=account.environment, cwd=account.directory, stdout=subprocess.PIPE, check=True)
    peak = int(done.stdout.split()[-1])
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


_PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def weekdays(number: int) -> list[date]:
    """The last weekdays in a row, at least two days old, so that they are settled."""
    for back in range(2, 9):
        days = [days_ago(back + before) for before in reversed(range(number))]
        if all(day.weekday() < 5 for day in days):
            return days
    raise ValueError(f"there are no {number} weekdays in a row")


def loaded(url: str) -> int:
    """How many segments the warehouse holds."""
    return int(query(url, "SELECT count(*) FROM aht.agent_segments")[0][0])


def check_loaded(url: str, segments: int, who: str) -> None:
    held = loaded(url)
    check(held == segments, f"{who} loaded {held} of {segments} segments")


def _segments_per_weekday(days: Sequence[date], segments: int) -> int:
    """Weekends have less traffic, and no two days the same."""
    probe = GeneratedTraffic(segments_per_day=100_000)
    return round(segments * 100_000 / sum(probe.count(day) for day in days))


def _counters(url: str) -> tuple[int, int]:
    """Bytes of write-ahead log ever written, and dead tuples in the segments, once every other session has reported."""
    give_up_at = time.monotonic() + 10
    others = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
        "AND backend_type = 'client backend'"
    )
    while query(url, others)[0][0] and time.monotonic() < give_up_at:
        time.sleep(0.01)
    rows = query(
        url,
        "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint, n_dead_tup "
        "FROM pg_stat_user_tables WHERE relid = 'aht.agent_segments'::regclass",
    )
    return int(rows[0][0]), int(rows[0][1])


def yesterday_and_before(number: int) -> list[date]:
    """So many days up to yesterday, oldest first."""
    return [TODAY - timedelta(days=back) for back in range(number, 0, -1)]
