"""`export`: what workforce planning gets, to the letter, and what it does not get."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from aht_pipeline import warehouse as public
from aht_pipeline.cli import main
from aht_pipeline.days import Day
from aht_pipeline.settings import Variables
from aht_pipeline.warehouse import refresh_rollups
from aht_pipeline_tests.loading import ACCOUNT, batch, load, load_each_day, query, segment
from aht_pipeline_tests.outside import Outside

ONE, OTHER = 4_100_000_001, 4_100_000_002
LONG_AFTER = timedelta(hours=30)  # of a day's end: a pull then settles it
PROFILES = [("generic",), ("genesys", "--offered-from-concluded"), ("injixo", "--offered-from-concluded")]


@dataclass
class Exporting:
    """A warehouse of days in one time zone, and the command that exports from it."""

    outside: Outside
    warehouse: sa.Engine

    def load(self, timezone: str, *segments: Any, pulled_after: timedelta = LONG_AFTER) -> None:
        last = max(one["end_time"] for one in segments)
        load_each_day(self.warehouse, segments, timezone, pulled_at=last + timedelta(days=1) + pulled_after)

    def run(self, *arguments: object, exit_code: int = 0, **variables: str) -> tuple[str, str]:
        """What is on stdout and on stderr: of the command in this process, or, with more variables, in its own."""
        if variables:
            done = self.outside.run("export", "--profile", *arguments, exit_code=exit_code, **variables)
            return done.stdout, done.stderr
        hidden = {name: None for name in os.environ if name.lower() in Variables.model_fields}
        environment = {**hidden, **self.outside.variables}
        result = CliRunner().invoke(main, ["export", "--profile", *map(str, arguments)], env=environment)
        assert result.exit_code == exit_code, result.output
        return result.stdout, result.stderr

    def lines(self, *arguments: object, exit_code: int = 0) -> list[str]:
        return self.run(*arguments, exit_code=exit_code)[0].splitlines()[1:]


@pytest.fixture
def exporting(tmp_path: Path, database_url: str) -> Exporting:
    public.upgrade(database_url)
    variables = {"WAREHOUSE_URL": database_url, "LIVEPERSON_ACCOUNT_ID": ACCOUNT, "AHT_START_DATE": "2026-03-01"}
    return Exporting(Outside(tmp_path, variables), public.engine(database_url))


@pytest.fixture
def reader(exporting: Exporting) -> Iterator[str]:
    """The URL of one who may read `reporting` and nothing else."""
    url = exporting.warehouse.url
    name = f"exporter_of_{url.database}"
    for statement in (
        f"CREATE ROLE {name} LOGIN PASSWORD 'secret'",
        f"GRANT USAGE ON SCHEMA reporting TO {name}",
        f"GRANT SELECT ON ALL TABLES IN SCHEMA reporting TO {name}",
    ):
        query(exporting.warehouse, statement)
    try:
        yield url.set(username=name, password="secret").render_as_string(hide_password=False)
    finally:
        query(exporting.warehouse, f"DROP OWNED BY {name}; DROP ROLE {name}")


def closed(number: int, at: str, seconds: float = 60, **values: Any) -> Any:
    """A segment that closed at this moment of UTC."""
    end = datetime.fromisoformat(at).replace(tzinfo=UTC)
    milliseconds = round(seconds * 1000)
    times = {"start_time": end - timedelta(hours=1), "end_time": end, "total_handle_time_ms": milliseconds}
    return segment(number, **{"skill_id": ONE, **times, **values})


def call_it(exporting: Exporting, skill: int, name: str) -> None:
    query(
        exporting.warehouse,
        "INSERT INTO aht.names (account_id, kind, id, name, is_deleted, first_seen_at, last_seen_at) "
        "SELECT :account, 'skill', :skill, :name, false, now(), now()",
        account=ACCOUNT,
        skill=skill,
        name=name,
    )


def a_day_of_every_kind() -> list[Any]:
    """Two skills and none, edges of quarters, a segment that did not conclude, and a quarter in which none did."""
    return [
        closed(1, "2026-03-10T12:00:00", 100.5),
        closed(2, "2026-03-10T12:14:59.999", 200, end_reason="skillTransfer"),
        closed(3, "2026-03-10T12:14:00", 1, end_reason="backToQueue"),
        closed(4, "2026-03-10T12:15:00", 0),
        closed(5, "2026-03-10T12:01:00", 33.333, skill_id=OTHER),
        closed(6, "2026-03-10T12:02:00", 8, skill_id=None),
        closed(7, "2026-03-10T23:59:00", 7, skill_id=OTHER, end_reason="backToQueue"),
    ]


# ------------------------------------------------------------------------------------------------------ to the letter


def test_generic_says_concluded_total_and_average_that_multiply_to_the_workload(exporting: Exporting) -> None:
    exporting.load("UTC", *a_day_of_every_kind())

    assert exporting.run("generic") == (
        "interval_start_utc,skill_id,concluded_segments,total_handle_time_seconds,avg_handle_time_seconds\n"
        "2026-03-10T12:00:00Z,4100000001,2,301.500,150.750\n"
        "2026-03-10T12:00:00Z,4100000002,1,33.333,33.333\n"
        "2026-03-10T12:00:00Z,,1,8.000,8.000\n"
        "2026-03-10T12:15:00Z,4100000001,1,0.000,0.000\n"
        "2026-03-10T23:45:00Z,4100000002,0,7.000,\n",
        "",
    )


def test_genesys_is_what_its_import_of_historical_data_reads(exporting: Exporting) -> None:
    exporting.load("UTC", *a_day_of_every_kind())

    assert exporting.run("genesys", "--offered-from-concluded") == (
        "Interval Start UTC Date,Queue,Media Type,Offered,Interactions Handled,Total Handle Time\n"
        "2026-03-10T12:00:00Z,4100000001,message,2,2,301.500\n"
        "2026-03-10T12:00:00Z,4100000002,message,1,1,33.333\n"
        "2026-03-10T12:00:00Z,none,message,1,1,8.000\n"
        "2026-03-10T12:15:00Z,4100000001,message,1,1,0.000\n"
        "2026-03-10T23:45:00Z,4100000002,message,0,0,7.000\n",
        "",
    )


def test_injixo_has_whole_seconds_and_the_accounts_clocks(exporting: Exporting) -> None:
    exporting.load("UTC", *a_day_of_every_kind())

    assert exporting.run("injixo", "--offered-from-concluded") == (
        "Queue;Date;Time;IncomingCalls;AnsweredCalls;AHT\n"
        "4100000001;10/03/2026;12:00;2;2;151\n"
        "4100000002;10/03/2026;12:00;1;1;33\n"
        "none;10/03/2026;12:00;1;1;8\n"
        "4100000001;10/03/2026;12:15;1;1;0\n"
        "4100000002;10/03/2026;23:45;0;0;\n",
        "",
    )


def test_the_hour_that_the_clocks_repeat_is_two_in_utc_and_one_on_the_accounts_clocks(exporting: Exporting) -> None:
    exporting.load(
        "Europe/London",
        closed(1, "2026-10-25T00:30:00", 10),  # 01:30 in summer
        closed(2, "2026-10-25T01:30:00", 20),  # 01:30 in winter
        closed(3, "2026-10-25T01:44:00", 60),
        closed(4, "2026-10-24T23:00:00", 5),  # the day's first moment
    )

    assert exporting.lines("generic") == [
        "2026-10-24T23:00:00Z,4100000001,1,5.000,5.000",
        "2026-10-25T00:30:00Z,4100000001,1,10.000,10.000",
        "2026-10-25T01:30:00Z,4100000001,2,80.000,40.000",
    ]
    assert exporting.lines("injixo", "--offered-from-concluded") == [
        "4100000001;25/10/2026;00:00;1;1;5",
        "4100000001;25/10/2026;01:30;3;3;30",
    ]


def test_a_zone_a_quarter_of_an_hour_off_keeps_its_own_midnight(exporting: Exporting) -> None:
    before, first = closed(1, "2026-03-09T18:14:59", 10), closed(2, "2026-03-09T18:15:00", 20)
    exporting.load("Asia/Kathmandu", before, first)
    of_the_tenth = ("--from", "2026-03-10", "--to", "2026-03-10")

    assert exporting.lines("generic", *of_the_tenth) == ["2026-03-09T18:15:00Z,4100000001,1,20.000,20.000"]
    assert exporting.lines("genesys", "--offered-from-concluded", *of_the_tenth) == [
        "2026-03-09T18:15:00Z,4100000001,message,1,1,20.000"
    ]
    assert exporting.lines("injixo", "--offered-from-concluded") == [
        "4100000001;09/03/2026;23:45;1;1;10",
        "4100000001;10/03/2026;00:00;1;1;20",
    ]


def test_the_export_adds_up_to_the_segments_whether_rolled_up_or_not(exporting: Exporting) -> None:
    start = datetime(2026, 3, 7, tzinfo=UTC)
    exporting.load(
        "Asia/Kathmandu",
        *(
            closed(
                number,
                (start + timedelta(seconds=997 * number)).isoformat()[:-6],
                number / 7,
                skill_id=(ONE, OTHER, None)[number % 3],
                end_reason=("closedByAgent", "agentTransfer", "backToQueue", None)[number % 4],
            )
            for number in range(300)
        ),
    )
    expected = query(
        exporting.warehouse,
        "SELECT count(*) FILTER (WHERE end_reason IN ('closedByAgent', 'agentTransfer')), "
        "sum(total_handle_time_ms) / 1000.0 FROM aht.agent_segments",
    )

    for _ in range(2):
        rows = list(csv.DictReader(io.StringIO(exporting.run("generic")[0])))
        assert [
            (
                sum(int(row["concluded_segments"]) for row in rows),
                sum(Decimal(row["total_handle_time_seconds"]) for row in rows),
            )
        ] == expected
        list(refresh_rollups(exporting.warehouse))


# ------------------------------------------------------------------------------------------------------ which days


@pytest.fixture
def with_a_gap(exporting: Exporting) -> Exporting:
    """Days 9, 10 and 13 of March are settled, 11 was never loaded, and 12 and 14 are provisional."""
    for day in (9, 10, 12, 13, 14):
        settles = LONG_AFTER if day in (9, 10, 13) else timedelta(hours=1)
        exporting.load("UTC", closed(day, f"2026-03-{day:02}T12:00:00"), pulled_after=settles - timedelta(hours=12))
    return exporting


def days(lines: list[str]) -> list[int]:
    return [int(line[8:10]) for line in lines]


def test_a_day_that_is_not_settled_is_named_and_left_out(with_a_gap: Exporting) -> None:
    stdout, told = with_a_gap.run("generic", "--from", "2026-03-10", "--to", "2026-03-14")

    assert days(stdout.splitlines()[1:]) == [10, 13]
    assert told.splitlines() == [
        "aht-pipeline: 2026-03-11 to 2026-03-12 are not settled, and not exported: see aht-pipeline status",
        "aht-pipeline: 2026-03-14 is not settled, and not exported: see aht-pipeline status",
    ]


def test_without_days_everything_from_the_first_to_the_last_settled_one_is_exported(with_a_gap: Exporting) -> None:
    stdout, told = with_a_gap.run("generic")

    assert days(stdout.splitlines()[1:]) == [9, 10, 13]
    assert "2026-03-11 to 2026-03-12 are not settled" in told
    assert "2026-03-14" not in told


def test_one_bound_is_enough(with_a_gap: Exporting) -> None:
    assert days(with_a_gap.lines("generic", "--to", "2026-03-10")) == [9, 10]
    assert days(with_a_gap.lines("generic", "--from", "2026-03-13")) == [13]
    stdout, told = with_a_gap.run("generic", "--from", "2026-03-20", exit_code=1)
    assert len(stdout.splitlines()) == 1
    assert "2026-03-20 is not settled" in told


def test_a_settled_day_without_segments_is_exported_as_nothing(exporting: Exporting) -> None:
    day = Day(date(2026, 3, 10), "UTC")
    load(exporting.warehouse, batch(), day=day, pulled_at=day.window.end + LONG_AFTER)

    assert exporting.lines("generic", "--from", "2026-03-10", "--to", "2026-03-10") == []


@pytest.mark.parametrize("arguments", PROFILES)
def test_where_nothing_is_settled_there_is_a_header_and_exit_code_1(
    exporting: Exporting, arguments: tuple[str, ...]
) -> None:
    stdout, told = exporting.run(*arguments, exit_code=1)

    assert len(stdout.splitlines()) == 1
    assert told == "aht-pipeline: no day is settled yet: see aht-pipeline status\n"


@pytest.mark.parametrize("arguments", PROFILES[1:])
def test_a_queue_has_the_name_of_the_skill_where_it_is_known(exporting: Exporting, arguments: tuple[str, ...]) -> None:
    exporting.load("UTC", closed(1, "2026-03-10T12:00:00"), closed(2, "2026-03-10T12:00:00", skill_id=OTHER))
    call_it(exporting, ONE, "Billing, general")

    of_its_id, of_its_name = exporting.lines(*arguments)

    assert str(OTHER) in of_its_id
    assert "Billing, general" in of_its_name
    assert str(ONE) not in of_its_name


def test_skills_of_the_same_name_are_one_queue(exporting: Exporting) -> None:
    exporting.load("UTC", *a_day_of_every_kind())
    call_it(exporting, ONE, "Billing")
    call_it(exporting, OTHER, "Billing")

    assert exporting.lines("genesys", "--offered-from-concluded") == [
        "2026-03-10T12:00:00Z,Billing,message,3,3,334.833",
        "2026-03-10T12:00:00Z,none,message,1,1,8.000",
        "2026-03-10T12:15:00Z,Billing,message,1,1,0.000",
        "2026-03-10T23:45:00Z,Billing,message,0,0,7.000",
    ]
    assert len(exporting.lines("generic")) == 5


def test_another_accounts_segments_are_not_exported(exporting: Exporting) -> None:
    exporting.load("UTC", closed(1, "2026-03-10T12:00:00"))
    ours = exporting.run("generic")
    load_each_day(
        exporting.warehouse,
        [closed(2, "2026-03-10T12:00:00"), closed(3, "2026-03-12T12:00:00")],
        "Asia/Tokyo",
        account_id="other",
        pulled_at=datetime(2026, 3, 20, tzinfo=UTC),
    )

    assert exporting.run("generic") == ours


# ------------------------------------------------------------------------------------------------ by whom, and how not


@pytest.mark.parametrize("arguments", PROFILES)
def test_one_who_may_only_read_the_reports_can_export(
    exporting: Exporting, reader: str, arguments: tuple[str, ...]
) -> None:
    exporting.load("Europe/London", *a_day_of_every_kind())

    assert exporting.run(*arguments, WAREHOUSE_URL=reader) == exporting.run(*arguments)


@pytest.mark.parametrize("arguments", PROFILES)
def test_the_readers_own_time_zone_changes_nothing(exporting: Exporting, arguments: tuple[str, ...]) -> None:
    exporting.load("Europe/London", *a_day_of_every_kind())

    assert exporting.run(*arguments, PGTZ="America/St_Johns") == exporting.run(*arguments)


@pytest.mark.parametrize("profile", ["genesys", "injixo"])
def test_what_was_offered_is_never_made_up_without_being_asked(exporting: Exporting, profile: str) -> None:
    exporting.load("UTC", closed(1, "2026-03-10T12:00:00"))

    stdout, told = exporting.run(profile, exit_code=2)

    assert stdout == ""
    assert f"{profile} wants to know what was offered, and LivePerson's API does not say" in told
    assert "--offered-from-concluded writes the segments that concluded" in told


def test_wrong_usage_exits_2_and_writes_nothing(exporting: Exporting) -> None:
    for arguments, cause in {
        ("generic", "--from", "2026-03-11", "--to", "2026-03-10"): "--from 2026-03-11 comes after --to 2026-03-10",
        ("generic", "--from", "yesterday"): "is no day",
        ("verint",): "'verint' is not one of 'generic', 'genesys', 'injixo'",
    }.items():
        stdout, told = exporting.run(*arguments, exit_code=2)
        assert stdout == ""
        assert cause in told


def test_exporting_from_a_home_that_is_not_there_makes_none_and_names_the_path(outside: Outside) -> None:
    done = outside.run("export", "--profile", "generic", exit_code=2)

    assert f"there is no warehouse at {outside.home}/demo: run `aht-pipeline demo` to make one" in done.stderr
    assert list(outside.directory.iterdir()) == []


def test_a_warehouse_without_the_reports_is_told_what_makes_them(exporting: Exporting) -> None:
    url = exporting.warehouse.url.render_as_string(hide_password=False)
    public.downgrade(url, "0002")

    stdout, told = exporting.run("generic", exit_code=2)

    assert stdout == ""
    assert "has no view reporting.skill_interval: run `aht-pipeline migrate`" in told
