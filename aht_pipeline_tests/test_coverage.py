"""Which days a night reads, over clock changes too; which are about to be lost; and what is a usual day."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest

from aht_pipeline.coverage import State, day_states, days_in_memory, days_of_the_night, gaps, usual_volume_from
from aht_pipeline.days import Day, date_range
from aht_pipeline.warehouse import DayRecord

START = date(2026, 3, 1)


def loaded(day: date, *, settled: bool = True) -> DayRecord:
    return DayRecord(day, 5, 5, 0, settled, datetime(2026, 3, 31, tzinfo=UTC), None)


def refused(day: date) -> DayRecord:
    return DayRecord(day, None, None, None, False, None, datetime(2026, 3, 31, tzinfo=UTC))


@pytest.mark.parametrize(
    ("timezone", "now", "yesterday"),
    [
        ("Europe/London", datetime(2026, 3, 28, 23, 59, tzinfo=UTC), date(2026, 3, 27)),
        ("Europe/London", datetime(2026, 3, 29, 23, 0, tzinfo=UTC), date(2026, 3, 29)),  # a day of 23 hours has ended
        ("Europe/London", datetime(2026, 10, 25, 23, 59, tzinfo=UTC), date(2026, 10, 24)),
        ("Europe/London", datetime(2026, 10, 26, 0, 0, tzinfo=UTC), date(2026, 10, 25)),  # one of 25 hours has
        ("America/New_York", datetime(2026, 3, 9, 3, 59, tzinfo=UTC), date(2026, 3, 7)),
        ("America/New_York", datetime(2026, 3, 9, 4, 0, tzinfo=UTC), date(2026, 3, 8)),
        ("America/New_York", datetime(2026, 11, 2, 5, 0, tzinfo=UTC), date(2026, 11, 1)),
        ("Asia/Kathmandu", datetime(2026, 3, 9, 18, 14, tzinfo=UTC), date(2026, 3, 8)),
        ("Asia/Kathmandu", datetime(2026, 3, 9, 18, 15, tzinfo=UTC), date(2026, 3, 9)),
    ],
)
def test_a_night_reads_to_the_last_complete_day_of_the_accounts_zone(
    timezone: str, now: datetime, yesterday: date
) -> None:
    start = yesterday - timedelta(days=9)
    records = {day: loaded(day) for day in date_range(start, yesterday)}
    night = days_of_the_night(day_states(records, start, timezone, now), 3, now)
    assert night == [yesterday - timedelta(days=2), yesterday - timedelta(days=1), yesterday]


def test_a_night_reads_what_is_missing_or_not_settled_and_leaves_the_lost_alone() -> None:
    now = datetime(2026, 4, 5, 3, 15, tzinfo=UTC)
    days = list(date_range(START, date(2026, 4, 4)))
    records = {day: loaded(day) for day in days}
    del records[days[10]]
    records[days[12]] = loaded(days[12], settled=False)
    records[days[8]] = refused(days[8])
    records[days[0]] = loaded(days[0], settled=False)  # 34 days ago: the API has forgotten it
    del records[days[1]]  # lost by its age
    states = day_states(records, START, "UTC", now)
    assert days_of_the_night(states, 2, now) == [days[10], days[12], *days[-2:]]
    assert [state.day.date for state in states if state.state is State.LOST] == [days[1], days[8]]
    assert days_in_memory(states, now)[0] == date(2026, 3, 9)  # 28 days before its midnight have not gone by


def test_the_week_reads_settled_days_too_and_the_night_leaves_them() -> None:
    now = datetime(2026, 4, 5, 3, 15, tzinfo=UTC)
    days = list(date_range(START, date(2026, 4, 4)))
    states = day_states({day: loaded(day) for day in days}, START, "UTC", now)
    assert days_in_memory(states, now) == days[8:]
    assert days_of_the_night(states, 2, now) == days[-2:]


def test_a_gap_is_told_a_week_before_it_may_be_lost_and_not_earlier() -> None:
    missing = Day(START, "UTC")
    a_week_before = missing.may_be_lost_after - timedelta(days=7)
    for now, is_told in ((a_week_before, False), (a_week_before + timedelta(seconds=1), True)):
        records = {day: loaded(day) for day in date_range(START + timedelta(days=1), date(2026, 4, 30))}
        found = gaps(day_states(records, START, "UTC", now), now)
        assert bool(found.soon_lost) is is_told
        assert not found.lost


@pytest.mark.parametrize(
    ("volumes", "least"),
    [
        ([100, 100, 100], None),  # too few to say
        ([100, 100, 100, 100], 70),  # a tenth of the median is the least distance
        ([100, 60, 140, 100, 100, 20], 12),  # the usual distance of 20, as a standard deviation, three times
        ([1, 0, 9, 100], 0),
        ([0, 0, 0, 0], 0),
    ],
)
def test_the_least_usual_volume_of_a_weekday(volumes: list[int], least: int | None) -> None:
    assert usual_volume_from(volumes) == least
