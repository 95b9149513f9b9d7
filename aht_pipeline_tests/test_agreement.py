"""A day is the same for Postgres, which reports it, and for us, who load it; else nothing is loaded."""

from __future__ import annotations

import os
import struct
import zoneinfo
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from aht_pipeline import warehouse as public
from aht_pipeline.days import Day
from aht_pipeline.errors import SettingsError
from aht_pipeline.home import open_warehouse
from aht_pipeline.settings import read_settings
from aht_pipeline.simulator import ExplicitTraffic, Simulator
from aht_pipeline.simulator import segment as row
from aht_pipeline.warehouse import require_same_days
from aht_pipeline_tests.loading import ACCOUNT, batch, load, query
from aht_pipeline_tests.outside import YESTERDAY, Outside, days_ago

SUMMER = date(2026, 7, 1)


@pytest.fixture
def zones(tmp_path: Path) -> Iterator[str]:
    """What PYTHONTZPATH says: a zone that Postgres does not know, one by other rules, and one by other rules soon."""
    folder = tmp_path / "zones"
    before = zoneinfo.TZPATH

    def rules_of(name: str) -> bytes:
        return next(Path(path, name) for path in before if Path(path, name).exists()).read_bytes()

    for name, rules in {
        "Moon/Tranquility": rules_of("Asia/Kabul"),
        "Europe/Oslo": rules_of("America/New_York"),
        "Africa/Abidjan": utc_until(datetime.now(UTC) + timedelta(days=60)),
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(rules)
    path = [str(folder), *before]
    zoneinfo.reset_tzpath(path)
    zoneinfo.ZoneInfo.clear_cache()
    yield os.pathsep.join(path)
    zoneinfo.reset_tzpath(before)
    zoneinfo.ZoneInfo.clear_cache()


def utc_until(change: datetime) -> bytes:
    """A file of time zone information (RFC 8536): UTC until then, an hour more from then on."""
    kinds = struct.pack(">lbb", 0, 0, 0) + struct.pack(">lbb", 3600, 0, 0) + b"X\0\0\0"

    def header(changes: int) -> bytes:
        return b"TZif2" + bytes(15) + struct.pack(">6l", 0, 0, 0, changes, 2, 4)

    moment = struct.pack(">q", int(change.timestamp()))
    return header(0) + kinds + header(1) + moment + b"\1" + kinds + b"\n<X>-1\n"


def refusal_of(warehouse: sa.Engine, timezone: str) -> str | None:
    """What is said of the zone in the years that are known well enough to everyone."""
    try:
        with warehouse.connect() as connection:
            require_same_days(connection, date(2019, 1, 1), date(2021, 12, 31), timezone)
    except SettingsError as refusal:
        return str(refusal)
    return None


@pytest.mark.parametrize(
    "timezone",
    [
        *("UTC", "Europe/London", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe", "Antarctica/Troll"),
        *("America/Havana", "Atlantic/Azores"),  # a day of theirs has two midnights
        *("America/Santiago", "Asia/Beirut"),  # a day of theirs has none
        *("Pacific/Apia", "Etc/GMT+12", "EST5EDT"),
    ],
)
def test_a_zone_that_both_know_by_the_same_rules_is_accepted(database_url: str, timezone: str) -> None:
    assert refusal_of(public.engine(database_url), timezone) is None


def test_a_zone_that_postgres_does_not_know_is_refused_with_one_that_it_knows(database_url: str, zones: str) -> None:
    refusal = refusal_of(public.engine(database_url), "Moon/Tranquility") or ""

    assert "AHT_TIMEZONE is Moon/Tranquility, which the warehouse's Postgres does not know" in refusal
    assert "Set it to Asia/Kabul" in refusal


def test_a_zone_that_postgres_knows_by_other_rules_is_refused_with_a_day_that_differs(
    database_url: str, zones: str
) -> None:
    refusal = refusal_of(public.engine(database_url), "Europe/Oslo") or ""

    assert "2019-01-01 begins at 2018-12-31T23:00:00Z for the warehouse's Postgres" in refusal
    assert "at 2019-01-01T05:00:00Z here" in refusal
    assert "Set it to America/New_York" in refusal


def test_a_name_that_postgres_takes_for_an_abbreviation_is_refused(database_url: str) -> None:
    """To it CET is winter time, all the year."""
    refusal = refusal_of(public.engine(database_url), "CET") or ""

    assert "2019-04-01 begins at 2019-03-31T23:00:00Z for the warehouse's Postgres" in refusal


def test_each_day_is_compared_before_it_is_loaded(database_url: str, zones: str) -> None:
    public.upgrade(database_url)
    warehouse = public.engine(database_url)

    for timezone in ("CET", "Moon/Tranquility"):
        with pytest.raises(SettingsError, match="AHT_TIMEZONE"):
            load(warehouse, batch(), day=Day(SUMMER, timezone), pulled_at=datetime(2026, 7, 3, tzinfo=UTC))

    assert query(warehouse, "SELECT FROM aht.loads") == []


@pytest.fixture
def account(database_url: str, tmp_path: Path, zones: str) -> Iterator[Outside]:
    noon = datetime.combine(YESTERDAY, time(12, tzinfo=UTC))
    with Simulator(ExplicitTraffic([row(1, noon)])) as simulator:
        variables = {"WAREHOUSE_URL": database_url, "AHT_START_DATE": str(days_ago(2)), "PYTHONTZPATH": zones}
        yield Outside(tmp_path, simulator.variables | variables)


@pytest.mark.parametrize("timezone", ["Moon/Tranquility", "Europe/Oslo", "CET"])
def test_migrate_load_and_doctor_refuse_such_a_zone_before_any_row(account: Outside, timezone: str) -> None:
    refused = f"AHT_TIMEZONE is {timezone}"

    assert refused in account.run("migrate", exit_code=2, AHT_TIMEZONE=timezone).stderr
    assert account.query("SELECT to_regnamespace('aht')") == [(None,)]
    public.upgrade(account.variables["WAREHOUSE_URL"])
    assert refused in account.run("load", exit_code=2, AHT_TIMEZONE=timezone).stderr
    assert account.query("SELECT FROM aht.loads") == []
    doctor = account.run("doctor", exit_code=1, AHT_TIMEZONE=timezone).stdout
    assert [line.split()[:2] for line in doctor.splitlines() if "FAULT" in line] == [["FAULT", "days"]]


def test_a_difference_that_is_yet_to_come_forbids_the_zone_until_days_are_loaded_by_it(
    database_url: str, zones: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    variables = {"AHT_TIMEZONE": "Africa/Abidjan", "AHT_START_DATE": str(days_ago(2)), "WAREHOUSE_URL": database_url}
    for name, value in (variables | {"LIVEPERSON_ACCOUNT_ID": ACCOUNT}).items():
        monkeypatch.setenv(name, value)
    public.upgrade(database_url)

    with pytest.raises(SettingsError, match="AHT_TIMEZONE is Africa/Abidjan"):
        open_warehouse(read_settings())

    load(public.engine(database_url), batch(), day=Day(days_ago(2), "Africa/Abidjan"))
    open_warehouse(read_settings())


def test_without_an_account_no_zone_is_in_question(database_url: str, tmp_path: Path) -> None:
    outside = Outside(
        tmp_path, {"WAREHOUSE_URL": database_url, "AHT_START_DATE": str(YESTERDAY), "AHT_TIMEZONE": "CET"}
    )

    outside.run("migrate")
