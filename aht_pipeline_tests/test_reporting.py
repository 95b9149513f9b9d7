"""The reports say what Python works out from the same segments, day by day in the account's own time zone."""

from __future__ import annotations

import random
from collections import defaultdict
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa

from aht_pipeline import warehouse as public
from aht_pipeline.days import Day, date_range, yesterday
from aht_pipeline.warehouse import record_refusal
from aht_pipeline_tests.loading import ACCOUNT, Segment, batch, load, load_each_day, query, reject, segment

LONDON = "Europe/London"
CLOCKS_GO_FORWARD, CLOCKS_GO_BACK = date(2026, 3, 29), date(2026, 10, 25)


@pytest.fixture
def warehouse(database_url: str) -> sa.Engine:
    public.upgrade(database_url)
    return public.engine(database_url)


def segments_around(day: date, count: int) -> list[Segment]:
    """Segments that close within three days, with some on the very edges of the middle one."""
    chance = random.Random(day.toordinal())
    window = Day(day, LONDON).window
    moments = [
        window.start,
        window.start - timedelta(microseconds=1),
        window.end,
        window.end - timedelta(microseconds=1),
    ]
    moments += [window.start + timedelta(seconds=chance.randrange(-86_400, 2 * 86_400)) for _ in range(count)]
    return [
        segment(
            day.toordinal() * 1000 + number,
            end_time=moment,
            agent_id=chance.randrange(3),
            skill_id=chance.choice([None, 1, 2]),
            group_id=chance.choice([None, 7]),
            total_handle_time_ms=chance.randrange(1_000_000),
        )
        for number, moment in enumerate(moments)
    ]


def expected(segments: list[Segment], zone: str, by: str) -> list[Any]:
    handle_times_ms = defaultdict(list)
    for one in segments:
        close_date = one["end_time"].astimezone(ZoneInfo(zone)).date()
        handle_times_ms[close_date, one[by]].append(one["total_handle_time_ms"])
    return [
        (close_date, key, len(found), seconds(sum(found), 1), seconds(sum(found), len(found)))
        for (close_date, key), found in sorted(handle_times_ms.items(), key=lambda item: (item[0][0], str(item[0][1])))
    ]


def seconds(total_ms: int, count: int) -> Decimal:
    return (Decimal(total_ms) / 1000 / count).quantize(Decimal("0.001"), ROUND_HALF_UP)


def report(warehouse: sa.Engine, view: str, by: str, account: str = ACCOUNT) -> list[Any]:
    rows = query(
        warehouse,
        f"SELECT close_date, {by}, segments, total_handle_time_seconds, avg_handle_time_seconds "
        f"FROM reporting.{view} WHERE account_id = :account",
        account=account,
    )
    return sorted(rows, key=lambda row: (row[0], str(row[1])))


@pytest.mark.parametrize(
    ("view", "by"), [("agent_day", "agent_id"), ("skill_day", "skill_id"), ("group_day", "group_id")]
)
def test_each_report_sums_the_accounts_own_days_across_the_change_of_clocks(
    warehouse: sa.Engine, view: str, by: str
) -> None:
    segments = segments_around(CLOCKS_GO_FORWARD, 200) + segments_around(CLOCKS_GO_BACK, 200)
    load_each_day(warehouse, segments, LONDON)
    of_another = [one | {"segment_id": f"other:{one['segment_id']}"} for one in segments]
    load_each_day(warehouse, of_another, "Asia/Tokyo", account_id="other")

    assert report(warehouse, view, by) == expected(segments, LONDON, by)
    assert report(warehouse, view, by, "other") == expected(segments, "Asia/Tokyo", by)


def test_a_reports_days_do_not_depend_on_the_readers_time_zone(warehouse: sa.Engine, database_url: str) -> None:
    segments = segments_around(CLOCKS_GO_BACK, 50)
    load_each_day(warehouse, segments, LONDON)
    reader = public.engine(database_url + "?options=-c%20timezone%3DPacific/Auckland")

    assert report(reader, "agent_day", "agent_id") == expected(segments, LONDON, "agent_id")


def test_coverage_shows_every_day_since_the_first_with_its_state(warehouse: sa.Engine) -> None:
    (now,) = query(warehouse, "SELECT now()")
    last = yesterday(LONDON, now)
    refused, first, settled, provisional = (last - timedelta(days=age) for age in (45, 50, 40, 1))

    def at(day: date) -> Day:
        return Day(day, LONDON)

    record_refusal(warehouse, ACCOUNT, first, "too old", now)
    record_refusal(warehouse, ACCOUNT, refused, "too old", now)
    record_refusal(warehouse, ACCOUNT, provisional, "told wrongly", now)
    one, two = (segment(number, end_time=at(settled).window.start) for number in (1, 2))
    load(warehouse, batch(one), day=at(settled), pulled_at=at(settled).window.end + timedelta(hours=25))
    again = at(settled).window.end + timedelta(hours=1)
    rejected = batch(one, two, rejects=(reject("{}"),))
    load(warehouse, rejected, day=at(settled), pulled_at=again, max_rejected_percent=99.0)
    load(warehouse, batch(), day=at(provisional), pulled_at=at(provisional).window.end)

    shown: dict[date, Any] = {
        day: row
        for day, *row in query(
            warehouse,
            "SELECT day, state, reported, loaded, rejected, pulled_at, lost_after "
            "FROM reporting.day_coverage ORDER BY day",
        )
    }

    assert list(shown) == list(date_range(first, last))
    assert shown.pop(settled) == ["settled", 3, 2, 1, again, None]
    assert shown.pop(provisional) == ["provisional", 0, 0, 0, at(provisional).window.end, None]
    for day, row in shown.items():
        is_lost = day in (first, refused) or now > at(day).is_lost_after
        assert row == ["lost" if is_lost else "missing", None, None, None, None, at(day).may_be_lost_after]
    assert {row[0] for row in shown.values()} == {"lost", "missing"}


def test_coverage_knows_an_account_of_which_every_day_was_refused(warehouse: sa.Engine) -> None:
    (now,) = query(warehouse, "SELECT now()")
    record_refusal(warehouse, ACCOUNT, yesterday("UTC", now), "too old", now)

    assert query(warehouse, "SELECT state FROM reporting.day_coverage") == ["lost"]


def test_a_reader_of_the_reports_needs_no_right_on_the_tables(warehouse: sa.Engine) -> None:
    load(warehouse, batch(segment(1)), day=Day(date(2026, 3, 10), LONDON))
    (database,) = query(warehouse, "SELECT current_database()")
    reader = f"reader_of_{database}"
    query(warehouse, f"CREATE ROLE {reader}; GRANT USAGE ON SCHEMA reporting TO {reader}")
    query(warehouse, f"GRANT SELECT ON ALL TABLES IN SCHEMA reporting TO {reader}")
    try:
        with warehouse.begin() as connection:
            connection.execute(sa.text(f"SET LOCAL ROLE {reader}"))
            for view in ("agent_day", "skill_day", "group_day", "day_coverage"):
                assert connection.execute(sa.text(f"SELECT * FROM reporting.{view}")).first() is not None
            with pytest.raises(public.WarehouseError, match="permission denied for schema aht"):
                connection.execute(sa.text("SELECT * FROM aht.agent_segments"))
    finally:
        query(warehouse, f"DROP OWNED BY {reader}; DROP ROLE {reader}")


def test_the_reports_are_read_as_of_now(warehouse: sa.Engine) -> None:
    moment = datetime(2026, 7, 1, 23, 30, tzinfo=UTC)
    load(warehouse, batch(segment(1, end_time=moment)), day=Day(date(2026, 7, 2), LONDON))
    load(warehouse, batch(segment(1, end_time=moment), segment(2, end_time=moment)), day=Day(date(2026, 7, 2), LONDON))

    assert query(warehouse, "SELECT close_date, segments FROM reporting.agent_day") == [(date(2026, 7, 2), 2)]
