"""A day is what the account's calendar says, to the millisecond, also when the clocks change."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from itertools import pairwise

import pytest

from aht_pipeline.days import Day, Window, date_range, from_millis, iso, to_millis, yesterday

MILLISECOND = timedelta(milliseconds=1)
MIDNIGHT = datetime(2026, 3, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    ("day", "zone", "start", "length_h"),
    [
        (date(2026, 3, 10), "UTC", datetime(2026, 3, 10, tzinfo=UTC), 24),
        (date(2026, 3, 10), "Asia/Kathmandu", datetime(2026, 3, 9, 18, 15, tzinfo=UTC), 24),
        (date(2026, 3, 29), "Europe/London", datetime(2026, 3, 29, tzinfo=UTC), 23),
        (date(2026, 10, 25), "Europe/London", datetime(2026, 10, 24, 23, tzinfo=UTC), 25),
        (date(2026, 4, 5), "Australia/Lord_Howe", datetime(2026, 4, 4, 13, tzinfo=UTC), 24.5),
        (
            date(2026, 3, 28),
            "Asia/Beirut",
            datetime(2026, 3, 27, 22, tzinfo=UTC),
            24,
        ),  # midnight of the 29th is left out
        (date(2026, 3, 29), "Asia/Beirut", datetime(2026, 3, 28, 22, tzinfo=UTC), 23),
        (date(2026, 11, 1), "America/Havana", datetime(2026, 11, 1, 4, tzinfo=UTC), 25),  # it has two midnights
    ],
)
def test_a_day_begins_and_ends_at_midnight_of_its_zone(day: date, zone: str, start: datetime, length_h: float) -> None:
    window = Day(day, zone).window

    assert window == Window(start, start + timedelta(hours=length_h))


@pytest.mark.parametrize("zone", ["UTC", "Europe/London", "America/Havana", "Asia/Beirut", "Africa/Cairo"])
def test_the_days_of_a_year_leave_no_gap_and_no_overlap(zone: str) -> None:
    windows = [Day(day, zone).window for day in date_range(date(2026, 1, 1), date(2027, 1, 1))]

    assert all(window.start < window.end for window in windows)
    assert all(day.end == following.start for day, following in pairwise(windows))


def test_a_day_is_settled_once_it_was_read_more_than_a_day_after_its_end() -> None:
    day = Day(date(2026, 3, 10), "UTC")
    day_after_end = datetime(2026, 3, 12, tzinfo=UTC)

    assert not day.is_settled_by(day_after_end)
    assert day.is_settled_by(day_after_end + MILLISECOND)


def test_the_api_memory_of_a_day_fades_in_three_steps() -> None:
    day = Day(date(2026, 3, 10), "UTC")
    in_doubt_from = datetime(2026, 4, 7, tzinfo=UTC)

    assert not day.memory_in_doubt(in_doubt_from)
    assert day.memory_in_doubt(in_doubt_from + MILLISECOND)
    assert day.may_be_lost_after == datetime(2026, 4, 7, tzinfo=UTC)
    assert day.is_lost_after == datetime(2026, 4, 11, tzinfo=UTC)


@pytest.mark.parametrize(
    ("zone", "now", "expected"),
    [
        ("UTC", datetime(2026, 3, 10, 0, 0, tzinfo=UTC), date(2026, 3, 9)),
        ("UTC", datetime(2026, 3, 9, 23, 59, tzinfo=UTC), date(2026, 3, 8)),
        ("Asia/Tokyo", datetime(2026, 3, 9, 15, 0, tzinfo=UTC), date(2026, 3, 9)),
        ("America/New_York", datetime(2026, 3, 10, 3, 59, tzinfo=UTC), date(2026, 3, 8)),
    ],
)
def test_yesterday_is_the_last_complete_day_of_the_zone(zone: str, now: datetime, expected: date) -> None:
    assert yesterday(zone, now) == expected
    assert Day(expected, zone).window.end <= now


def test_a_range_of_dates_holds_both_its_ends() -> None:
    assert [*date_range(date(2026, 2, 27), date(2026, 3, 1))] == [
        date(2026, 2, 27),
        date(2026, 2, 28),
        date(2026, 3, 1),
    ]
    assert [*date_range(date(2026, 3, 1), date(2026, 3, 1))] == [date(2026, 3, 1)]
    assert [*date_range(date(2026, 3, 2), date(2026, 3, 1))] == []


@pytest.mark.parametrize(
    "length", [2 * MILLISECOND, 999 * MILLISECOND, timedelta(seconds=1), timedelta(seconds=1.5), timedelta(hours=23)]
)
@pytest.mark.parametrize("start", [MIDNIGHT, MIDNIGHT + 700 * MILLISECOND])
def test_the_halves_of_a_window_meet_inside_it(start: datetime, length: timedelta) -> None:
    window = Window(start, start + length)

    halves = window.halves()

    assert halves is not None
    assert window.start == halves[0].start < halves[0].end == halves[1].start < halves[1].end == window.end


def test_the_halves_meet_on_a_whole_second_where_there_is_one() -> None:
    halves = Window(MIDNIGHT, MIDNIGHT + timedelta(seconds=5)).halves()

    assert halves is not None
    assert halves[0].end == MIDNIGHT + timedelta(seconds=2)


def test_halving_ends_at_a_millisecond() -> None:
    window: Window | None = Day(date(2026, 3, 10), "UTC").window
    steps = 0
    while window and (halves := window.halves()):
        window, steps = halves[1], steps + 1

    assert window is not None
    assert window.end_ms - window.start_ms == 1
    assert steps < 40
    assert Window(MIDNIGHT, MIDNIGHT).halves() is None


@pytest.mark.parametrize("epoch_ms", [0, -1, 1_767_225_600_000, 1_767_225_600_001, 4_102_444_799_999, 2**53 // 1000])
def test_milliseconds_are_exact_both_ways(epoch_ms: int) -> None:
    assert to_millis(from_millis(epoch_ms)) == epoch_ms


def test_a_moment_is_told_in_utc_whatever_its_zone() -> None:
    at_noon = datetime(2026, 3, 10, 12, tzinfo=timezone(timedelta(hours=2)))

    assert iso(at_noon) == "2026-03-10T10:00:00Z"
    assert iso(at_noon + 40 * MILLISECOND) == "2026-03-10T10:00:00.040000Z"
    assert to_millis(at_noon) == to_millis(at_noon.astimezone(UTC))
    assert str(Window(at_noon, at_noon + MILLISECOND)) == "2026-03-10T10:00:00Z to 2026-03-10T10:00:00.001000Z"
