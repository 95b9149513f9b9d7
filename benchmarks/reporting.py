"""Reports over a year of 100,000 segments a day, rolled up, and while a day waits to be rolled up again.

The year is made in the database, from the rows of one day. Each figure is one query, read to its last row.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta

import sqlalchemy as sa

from aht_pipeline.warehouse import engine, refresh_rollups
from benchmarks import big_table, rig
from benchmarks.figures import Figure, at_most, check
from benchmarks.rig import Rig

_QUERIES = {
    "every skill on every day": "SELECT * FROM reporting.skill_day",
    "handle time by agent": "SELECT agent_id, sum(segments), sum(total_handle_time_seconds) / sum(segments) "
    "FROM reporting.agent_day GROUP BY agent_id",
    "every group on every day": "SELECT * FROM reporting.group_day",
    "volume and handle time by weekday and quarter of an hour": "SELECT extract(isodow FROM interval_start_local), "
    "interval_start_local::time, sum(segments), sum(total_handle_time_seconds) / sum(segments) "
    "FROM reporting.skill_interval GROUP BY 1, 2",
    "the quarters of one day": "SELECT * FROM reporting.skill_interval WHERE close_date = '{last}'",
    "the segments of one day": "SELECT count(*), sum(handle_time_seconds) FROM reporting.agent_segments "
    "WHERE end_time >= '{last}Z' AND end_time < '{last}Z'::timestamptz + interval '1 day'",
}


def measure(bench: Rig, say: Callable[[str], None]) -> list[Figure]:
    days = 365 if not bench.smoke else 5
    with big_table.sampled_day(bench, bench.size(100_000, smoke=500)) as sample:
        url, last = sample.url, sample.original.pull.day.date
        first = last - timedelta(days=days - 1)
        rows = days * sample.original.pull.reported
        say(f"making {rows:,} segments of {days} days")
        _make_days(url, first, days)
        warehouse = engine(url)
        say(f"rolling {days} days up")
        took = rig.seconds(lambda: check(len(list(refresh_rollups(warehouse))) == days, "not every day was rolled up"))
        rig.query(url, "VACUUM (ANALYZE)")
        figures = [
            at_most(
                2, "s a day", f"rolling up days of {rows // days:,} segments", "two seconds", [took / days], timed=True
            ),
            *_figures(bench, warehouse, last, rows, "rolled up"),
        ]
        noon = f"'{last} 12:00Z'"
        in_an_hour = f"end_time BETWEEN {noon} AND {noon}::timestamptz + interval '1 hour'"
        rig.query(url, f"UPDATE aht.agent_segments SET revision = 2 WHERE {in_an_hour}")
        return figures + _figures(bench, warehouse, last, rows, "the last day changed since")


def _figures(bench: Rig, warehouse: sa.Engine, last: date, rows: int, state: str) -> list[Figure]:
    with warehouse.connect() as connection:
        reported = connection.scalar(sa.text("SELECT sum(segments) FROM reporting.agent_day"))
        check(reported == rows, f"{reported} of {rows} segments are reported")

        def seconds_of(query: str) -> float:
            return rig.seconds(lambda: connection.execute(sa.text(query.format(last=last))).all())

        return [
            at_most(
                1,
                "s",
                f"{what}, a year of {rows:,} segments, {state}",
                "one second",
                [seconds_of(query) for _ in range(bench.rounds)],
                timed=True,
            )
            for what, query in _QUERIES.items()
        ]


def _make_days(url: str, first: date, days: int) -> None:
    """The sample's rows on each of these days, with ids of their own, and a settled load for each."""
    kept = ", ".join(name for name in big_table.OTHERS if name not in ("start_time", "end_time"))
    # Its key is made at the end, from all ids at once: a year of random ids, one by one, would take hours.
    rig.query(url, "ALTER TABLE aht.agent_segments DROP CONSTRAINT agent_segments_pkey")
    for number in range(days):
        day = first + timedelta(days=number)
        rig.query(
            url,
            f"INSERT INTO aht.agent_segments (segment_id, start_time, end_time, {kept}) "
            f"SELECT {big_table.NEW_ID}, start_time + shift, end_time + shift, {kept} FROM sample, "
            f"(SELECT make_interval(days => '{day}' - min(end_time::date)) AS shift FROM sample) AS shifted",
        )
        if number % 30 == 0:  # from then on, new rows fill holes in old pages, as in any warehouse
            rig.query(url, "VACUUM aht.agent_segments")
    rig.query(url, "ALTER TABLE aht.agent_segments ADD CONSTRAINT agent_segments_pkey PRIMARY KEY (segment_id)")
    columns = "account_id, timezone, dagster_run_id, archive_file, archive_sha256, requests"
    counts = "reported, inserted, updated, unchanged, rejected, outside_day"
    rig.query(
        url,
        f"INSERT INTO aht.loads ({columns}, day, window_start, window_end, pulled_at, loaded_at, {counts}, settled) "
        f"SELECT {columns}, new, new, new + interval '1 day', now(), now(), 0, 0, 0, 0, 0, 0, true FROM aht.loads, "
        f"generate_series('{first}'::timestamptz, '{first + timedelta(days=days - 1)}'::timestamptz, '1 day') AS new",
    )
