"""A clock that is off loads nothing, and what one that was ahead has left behind hides no later truth."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Any, NoReturn

import pytest
import sqlalchemy as sa

from aht_pipeline import warehouse as public
from aht_pipeline.archive import Archive, StoredPull
from aht_pipeline.clock import CLOCK_TOLERANCE, ClockOff, require_same_clock, when_read
from aht_pipeline.days import Day
from aht_pipeline.pipeline import Pipeline
from aht_pipeline.simulator import ExplicitTraffic, Misdated, Simulator
from aht_pipeline.simulator import segment as row
from aht_pipeline.source import DayPull, Name, NameKind, NameList
from aht_pipeline.warehouse import day_records
from aht_pipeline_tests.loading import ACCOUNT, DAY, PULLED_AT, batch, load, query, reject, segment
from aht_pipeline_tests.outside import COMMAND, YESTERDAY, Outside, days_ago, of_account

HOUR = timedelta(hours=1)
AHEAD = [3 * HOUR, 26 * HOUR, 48 * HOUR]
NEXT_DAY = Day(DAY.date + timedelta(days=1), DAY.timezone)

# -------------------------------------------------------------------------------------------------- a clock that is off


def test_two_clocks_are_one_up_to_what_ntp_may_leave() -> None:
    ours = datetime(2026, 3, 12, 3, 15, tzinfo=UTC)

    for theirs in (ours + CLOCK_TOLERANCE, ours - CLOCK_TOLERANCE):
        require_same_clock(ours, theirs, "Postgres")
    for ahead, told in ((182 * timedelta(minutes=1), "3 h 2 min ahead"), (-12 * timedelta(minutes=1), "12 min behind")):
        with pytest.raises(ClockOff, match=rf"that of Postgres 20.*: it is {told}.*NTP"):
            require_same_clock(ours, ours - ahead, "Postgres")


def test_an_answer_that_took_its_time_is_no_difference() -> None:
    asked_at = datetime(2026, 3, 12, 3, 15, tzinfo=UTC)
    answered_at = asked_at + HOUR

    for theirs in (asked_at, asked_at + HOUR / 2, answered_at):
        assert when_read(theirs, asked_at, answered_at) == theirs
    assert when_read(asked_at - HOUR, asked_at, answered_at) == asked_at
    assert when_read(answered_at + HOUR, asked_at, answered_at) == answered_at


class OffClock:
    """A warehouse whose server says another time than it is: what is set here is added in its very function."""

    def __init__(self, database_url: str) -> None:
        self.url = database_url
        self.warehouse = public.engine(database_url)
        query(
            self.warehouse,
            "SET LOCAL allow_system_table_mods = on; "
            "CREATE SCHEMA off; CREATE TABLE off.by AS SELECT interval '0' AS difference; "
            "ALTER FUNCTION pg_catalog.clock_timestamp() RENAME TO true_clock_timestamp; "
            "CREATE FUNCTION pg_catalog.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS "
            "'SELECT pg_catalog.true_clock_timestamp() + difference FROM off.by'",
        )

    def set(self, difference: timedelta) -> None:
        query(self.warehouse, "UPDATE off.by SET difference = :difference", difference=difference)


@pytest.fixture
def off_clock(database_url: str) -> OffClock:
    public.upgrade(database_url)
    return OffClock(database_url)


@pytest.mark.parametrize("difference", [-3 * HOUR, timedelta(minutes=5), -48 * HOUR])
def test_a_day_whose_clock_is_off_is_not_loaded(off_clock: OffClock, difference: timedelta) -> None:
    off_clock.set(difference)

    with pytest.raises(ClockOff, match="that of Postgres"):
        load(off_clock.warehouse, batch(segment(1)))

    assert query(off_clock.warehouse, "SELECT FROM aht.agent_segments UNION ALL SELECT FROM aht.loads") == []


def test_a_clock_that_steps_during_a_run_fails_the_day_that_it_hits_and_no_other(off_clock: OffClock) -> None:
    load(off_clock.warehouse, batch(segment(1)))
    off_clock.set(-3 * HOUR)
    with pytest.raises(ClockOff):
        load(off_clock.warehouse, batch(), day=NEXT_DAY)
    off_clock.set(timedelta(0))
    load(off_clock.warehouse, batch(), day=Day(DAY.date + timedelta(days=2), "UTC"))

    assert query(off_clock.warehouse, "SELECT day - :day FROM aht.loads ORDER BY 1", day=DAY.date) == [0, 2]


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    noon = datetime.combine(YESTERDAY, time(12, tzinfo=UTC))
    with Simulator(ExplicitTraffic(row(number, noon) for number in range(3))) as simulator:
        yield simulator


@pytest.mark.parametrize("arguments", [("load",), ("load", "--from", str(YESTERDAY), "--replay"), ("up",)])
def test_no_command_loads_by_a_clock_that_is_off(
    off_clock: OffClock, simulator: Simulator, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    account = of_account(tmp_path, simulator, off_clock.url, YESTERDAY)
    off_clock.set(-26 * HOUR)

    said = account.run(*arguments, exit_code=2)

    assert "26 h 0 min ahead" in said.stderr
    assert "NTP" in said.stderr
    assert query(off_clock.warehouse, "SELECT FROM aht.loads") == []


def run_by_another_clock(account: Outside, lead: str, *arguments: str) -> str:
    """What the command says on stderr, which is refused; the servers that it talks to keep their time."""
    if shutil.which("faketime") is None:
        pytest.skip("faketime is not installed (Debian: apt install faketime)")
    done = subprocess.run(
        ["faketime", "-f", lead, COMMAND, *arguments],
        cwd=account.directory,
        env=account.environment | {"FAKETIME_DONT_FAKE_MONOTONIC": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("lead", "told"),
    [
        ("+3h", "3 h 0 min ahead"),
        ("+26h", "26 h 0 min ahead"),
        ("+2d", "48 h 0 min ahead"),
        ("-3h", "3 h 0 min behind"),
    ],
)
def test_a_machine_whose_clock_is_off_loads_nothing(
    database_url: str, simulator: Simulator, tmp_path: Path, lead: str, told: str
) -> None:
    account = of_account(tmp_path, simulator, database_url, days_ago(3))

    assert told in run_by_another_clock(account, lead, "load")
    assert query(public.engine(database_url), "SELECT FROM aht.loads") == []


def test_a_clock_that_is_off_at_the_first_start_does_not_choose_the_first_day(outside: Outside) -> None:
    run_by_another_clock(outside, "+2d", "load")

    assert (outside.home / "demo" / "postgres").exists()
    assert not (outside.home / "demo" / "start-date").exists()


# -------------------------------------------------------------------------- what a clock that was ahead has left behind


@pytest.fixture
def warehouse(database_url: str) -> sa.Engine:
    public.upgrade(database_url)
    return public.engine(database_url)


def pulled(warehouse: sa.Engine, ahead: timedelta, *segments: Any, day: Day = DAY) -> datetime:
    """A load of these by a clock that is ahead of the present; its line calls the day settled. When it says it was."""
    load(warehouse, batch(*segments), day=day)
    return _antedate(warehouse, datetime.now(UTC) + ahead, day)


def _antedate(warehouse: sa.Engine, moment: datetime, day: Day = DAY) -> datetime:
    """Have the day's last load, and the rows that it brought, be by a clock that said this."""
    query(
        warehouse,
        "WITH line AS (UPDATE aht.loads SET pulled_at = :moment, loaded_at = :moment, settled = true WHERE load_id = "
        "(SELECT max(load_id) FROM aht.loads WHERE day = :day) RETURNING account_id, day) "
        "UPDATE aht.agent_segments AS segment SET pulled_at = :moment FROM line "
        "WHERE segment.account_id = line.account_id AND (end_time AT TIME ZONE 'UTC')::date = day",
        moment=moment,
        day=day.date,
    )
    return moment


def times(warehouse: sa.Engine) -> list[int]:
    return query(warehouse, "SELECT total_handle_time_ms FROM aht.agent_segments ORDER BY segment_id")


@pytest.mark.parametrize("ahead", AHEAD)
def test_a_correction_is_stored_though_the_row_was_pulled_in_the_future(warehouse: sa.Engine, ahead: timedelta) -> None:
    pulled(warehouse, ahead, segment(1), segment(2))

    corrected = load(warehouse, batch(segment(1, total_handle_time_ms=7), segment(2), segment(3)))

    assert (corrected.inserted, corrected.updated, corrected.unchanged) == (1, 1, 1)
    assert times(warehouse) == [7, 412_350, 412_350]


@pytest.mark.parametrize("ahead", AHEAD)
def test_a_segment_that_comes_back_from_a_day_of_the_future_is_taken(warehouse: sa.Engine, ahead: timedelta) -> None:
    pulled(warehouse, ahead, segment(1, end_time=NEXT_DAY.window.start), day=NEXT_DAY)
    load(warehouse, batch(segment(2)))

    assert load(warehouse, batch(segment(1), segment(2)), pulled_at=PULLED_AT + HOUR).updated == 1


def test_a_reject_of_the_future_is_resolved_and_met_again(warehouse: sa.Engine) -> None:
    broken = reject(f'{{"segmentId": "{segment(1)["segment_id"]}"}}')
    load(warehouse, batch(rejects=(broken,)), max_rejected_percent=100.0)
    _antedate(warehouse, datetime.now(UTC) + 26 * HOUR)

    load(warehouse, batch(segment(1)))
    assert query(warehouse, "SELECT FROM aht.rejected_segments WHERE resolved_at IS NULL") == []
    load(warehouse, batch(rejects=(broken,)), pulled_at=PULLED_AT + HOUR, max_rejected_percent=100.0)
    assert query(warehouse, "SELECT resolved_at FROM aht.rejected_segments") == [None]


def state(warehouse: sa.Engine) -> tuple[bool, list[Any]]:
    """Whether the day is settled, for the nights and in every report that says so."""
    reported = query(
        warehouse,
        "SELECT state = 'settled' FROM reporting.day_coverage WHERE day = :day "
        "UNION SELECT is_settled FROM reporting.agent_segments WHERE close_date = :day "
        "UNION SELECT is_settled FROM reporting.skill_interval WHERE close_date = :day "
        "UNION SELECT is_settled FROM reporting.agent_day WHERE close_date = :day "
        "UNION SELECT is_settled FROM reporting.skill_day WHERE close_date = :day "
        "UNION SELECT is_settled FROM reporting.group_day WHERE close_date = :day "
        "UNION SELECT is_settled FROM reporting.agent_skill_day WHERE close_date = :day "
        "UNION SELECT NOT may_be_incomplete FROM reporting.conversation_metrics WHERE close_date = :day",
        day=DAY.date,
    )
    return day_records(warehouse, ACCOUNT)[DAY.date].settled, reported


@pytest.mark.parametrize("ahead", AHEAD)
def test_a_day_that_only_a_line_from_the_future_settles_is_not_settled(warehouse: sa.Engine, ahead: timedelta) -> None:
    pulled(warehouse, ahead, segment(1))
    assert state(warehouse) == (False, [False])

    load(warehouse, batch(segment(1)))
    assert state(warehouse) == (True, [True])


def test_what_is_known_of_a_day_is_its_latest_load_that_is_not_from_the_future(warehouse: sa.Engine) -> None:
    load(warehouse, batch(segment(1)))
    pulled(warehouse, 26 * HOUR, segment(1), segment(2))

    record = day_records(warehouse, ACCOUNT)[DAY.date]

    assert (record.loaded, record.last_pulled_at, record.settled) == (1, PULLED_AT, True)
    assert query(warehouse, "SELECT loaded, pulled_at FROM reporting.day_coverage WHERE day = :day", day=DAY.date) == [
        (1, PULLED_AT)
    ]
    week_later = load(warehouse, batch(), day=Day(DAY.date + timedelta(days=7), "UTC"))
    assert week_later.weekday_volumes == (1,)


# ----------------------------------------------------------------- when that moment has come, and is no future any more

# The clock that was ahead said BAD, while it was before EARLY; the day is settled by what is pulled after SETTLES.
SETTLES = DAY.window.end + 24 * HOUR
EARLY, BAD, LATE = SETTLES - 2 * HOUR, SETTLES + HOUR, SETTLES + 2 * HOUR


@pytest.fixture
def belied(warehouse: sa.Engine) -> sa.Engine:
    """The day was loaded by a clock that was ahead, and then, at an earlier time, by one that was right."""
    future = pulled(warehouse, 3 * HOUR, segment(1), segment(2))
    query(warehouse, "UPDATE aht.loads SET archive_file = 'bad'")
    right = load(
        warehouse, batch(segment(1, total_handle_time_ms=7), segment(2)), pulled_at=EARLY, archive_file="early"
    )
    assert (right.updated, right.settled) == (1, False)
    query(
        warehouse,
        "UPDATE aht.loads SET loaded_at = CASE archive_file WHEN 'bad' THEN :bad ELSE :early END, "
        "pulled_at = CASE archive_file WHEN 'bad' THEN :bad ELSE pulled_at END; "
        "UPDATE aht.agent_segments SET pulled_at = :bad WHERE pulled_at = :future",
        bad=BAD,
        early=EARLY,
        future=future,
    )
    return warehouse


def test_it_still_settles_nothing(belied: sa.Engine) -> None:
    assert state(belied) == (False, [False])

    load(belied, batch(segment(1, total_handle_time_ms=7), segment(2)), pulled_at=LATE)
    assert state(belied) == (True, [True])


def test_its_pull_loaded_again_is_no_newer_than_before(belied: sa.Engine) -> None:
    again = load(belied, batch(segment(1), segment(2)), pulled_at=BAD, archive_file="bad")

    assert (again.updated, again.settled) == (0, False)
    assert times(belied) == [7, 412_350]
    assert state(belied) == (False, [False])


def test_a_replay_takes_the_pull_that_was_later_in_truth(belied: sa.Engine, tmp_path: Path) -> None:
    pipeline = Pipeline(ACCOUNT, Archive(str(tmp_path)), belied, connect=_no_api, max_rejected_percent=5.0)
    early, bad = kept(pipeline.archive, EARLY, "early"), kept(pipeline.archive, BAD, "bad")
    for file, name in ((early.file, "early"), (bad.file, "bad")):
        query(belied, "UPDATE aht.loads SET archive_file = :file WHERE archive_file = :name", file=file, name=name)

    assert pipeline.latest(DAY) == early


def _no_api() -> NoReturn:
    raise AssertionError("a replay asked the API")


def test_a_replay_by_a_clock_that_was_behind_belies_no_earlier_load(warehouse: sa.Engine) -> None:
    load(warehouse, batch(segment(1)))
    load(warehouse, batch(segment(1)))
    query(warehouse, "UPDATE aht.loads SET loaded_at = '2023-01-01' WHERE load_id = 2")

    assert state(warehouse) == (True, [True])
    assert load(warehouse, batch(segment(1, total_handle_time_ms=7))).updated == 1


@pytest.mark.parametrize(("pulled_at", "file"), [(EARLY, "early"), (BAD - HOUR / 2, "between")])
def test_a_pull_that_was_later_in_truth_corrects_its_rows(belied: sa.Engine, pulled_at: datetime, file: str) -> None:
    restated = [segment(number, total_handle_time_ms=9) for number in (1, 2)]

    assert load(belied, batch(*restated), pulled_at=pulled_at, archive_file=file).updated == 2
    assert times(belied) == [9, 9]


# ---------------------------------------------------------------------------- a pull that is dated in the future itself


@pytest.mark.parametrize("ahead", AHEAD)
def test_a_pull_from_the_future_is_loaded_as_the_oldest_and_settles_nothing(
    warehouse: sa.Engine, ahead: timedelta
) -> None:
    load(warehouse, batch(segment(1)))
    result = load(
        warehouse,
        batch(segment(1, total_handle_time_ms=7), segment(2)),
        pulled_at=datetime.now(UTC) + ahead,
    )

    assert (result.inserted, result.updated, result.settled) == (1, 0, False)
    assert query(warehouse, "SELECT pulled_at FROM aht.loads ORDER BY load_id") == [PULLED_AT, DAY.window.start]
    assert load(warehouse, batch(segment(2, total_handle_time_ms=8)), pulled_at=PULLED_AT + HOUR).updated == 1
    assert times(warehouse) == [412_350, 8]


def test_where_there_is_no_other_pull_it_is_loaded_and_any_other_wins(warehouse: sa.Engine) -> None:
    future = datetime.now(UTC) + 26 * HOUR

    assert not load(warehouse, batch(segment(1)), pulled_at=future).settled
    assert state(warehouse) == (False, [False])
    assert load(warehouse, batch(segment(1, total_handle_time_ms=7)), pulled_at=DAY.window.end).updated == 1


def kept(archive: Archive, pulled_at: datetime, content: str) -> StoredPull:
    pull = DayPull(
        account_id=ACCOUNT,
        day=DAY,
        pulled_at=pulled_at,
        reported=1,
        rows=1,
        content_sha256=content,
        requests=1,
        retries=0,
    )
    with archive.draft() as draft:
        draft.write(content.encode())
        return archive.keep(draft, pull)


@pytest.mark.parametrize("ahead", AHEAD)
def test_an_archived_pull_from_the_future_is_the_latest_only_where_there_is_no_other(
    tmp_path: Path, ahead: timedelta
) -> None:
    archive, now = Archive(str(tmp_path)), datetime.now(UTC)
    future = kept(archive, now + ahead, "future")
    assert archive.latest(ACCOUNT, DAY) == future

    older = kept(archive, PULLED_AT, "older")
    newer = kept(archive, now, "newer")
    assert archive.latest(ACCOUNT, DAY) == newer != older


def test_a_pull_that_equals_one_from_the_future_is_kept_beside_it(tmp_path: Path) -> None:
    archive = Archive(str(tmp_path))
    kept(archive, datetime.now(UTC) + 3 * HOUR, "equal")

    equal = kept(archive, PULLED_AT, "equal")

    assert equal.kept
    assert archive.latest(ACCOUNT, DAY) == equal


def test_names_that_were_read_in_the_future_are_replaced_by_those_of_now(warehouse: sa.Engine) -> None:
    def read(name: str, read_at: datetime) -> None:
        names = (Name(7, name, is_deleted=False),)
        public.store_names(warehouse, ACCOUNT, NameList(NameKind.SKILL, names, 0, name), read_at)

    read("of the future", datetime.now(UTC) + 26 * HOUR)
    read("of now", datetime.now(UTC))

    assert query(warehouse, "SELECT name FROM aht.names") == ["of now"]


# ----------------------------------------------------------------------------------------------------- what doctor says


def test_doctor_says_how_far_the_clocks_are_apart(off_clock: OffClock, simulator: Simulator, tmp_path: Path) -> None:
    account = of_account(tmp_path, simulator, off_clock.url, YESTERDAY)
    said = account.run("doctor").stdout
    assert re.search(r"ok     clock       within \d\.\d s of Postgres's", said)
    assert re.search(r"ok     API .*; its clock is ours within [01] s", said)

    simulator.set_faults(Misdated(3 * HOUR))
    assert re.search(
        r"FAULT  API .*this machine's clock is 3 h 0 min behind", account.run("doctor", exit_code=1).stdout
    )
    simulator.set_faults()
    off_clock.set(5 * HOUR)
    assert re.search(r"FAULT  clock .*it is 5 h 0 min behind", account.run("doctor", exit_code=1).stdout)

    nowhere = account.run("doctor", exit_code=1, WAREHOUSE_URL="postgresql://someone@127.0.0.1:1/nowhere").stdout
    assert "ok     clock       unknown" in nowhere
