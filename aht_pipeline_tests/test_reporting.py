"""Every view of the reports, worked out anew in pandas from the base tables, over random days in several time zones."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa

from aht_pipeline import warehouse as public
from aht_pipeline.days import Day, date_range, yesterday
from aht_pipeline.normalize import SegmentBatch
from aht_pipeline.source import Name, NameKind, NameList
from aht_pipeline.warehouse import (
    changed_days,
    load_day,
    mark_differing_days,
    record_refusal,
    refresh_rollups,
    store_names,
)
from aht_pipeline_tests.loading import ACCOUNT, Segment, batch, facts, load, load_each_day, query, reject, segment
from aht_pipeline_tests.outside import eventually

LONDON = "Europe/London"
CLOSED = ["closedByAgent", "closedByConsumer", "closedBySystem"]
TRANSFERRED = ["agentTransfer", "skillTransfer"]
END_REASONS = [*CLOSED, *TRANSFERRED, "backToQueue", "other", "ofTomorrow", None]

NAMED = {NameKind.AGENT: (7, 2**53 + 1), NameKind.SKILL: (2**40,), NameKind.GROUP: (7,)}
"""Of which ids names are known, in the account ACCOUNT alone."""

DOCUMENTED = re.findall(
    r"^```sql\n(.*?);\n^```",
    (Path(__file__).parents[1] / "docs" / "reporting.md").read_text("utf-8"),
    re.MULTILINE | re.DOTALL,
)
BY_DATE = ["skill_interval", "skill_day", "agent_day", "group_day", "agent_skill_day"]
AS_BI_TOOLS_ASK = [
    query.format(view=view)
    for view in BY_DATE
    for query in (
        "SELECT * FROM reporting.{view}",
        "SELECT * FROM reporting.{view} ORDER BY close_date DESC, segments DESC LIMIT 100",
        "SELECT date_trunc('month', close_date), sum(segments), sum(total_handle_time_seconds) / sum(segments) "
        "FROM reporting.{view} GROUP BY 1",
    )
]

ZONES_AND_DAYS = [
    ("UTC", date(2026, 3, 10)),
    ("Europe/London", date(2026, 3, 29)),
    ("Europe/London", date(2026, 10, 25)),
    ("America/New_York", date(2026, 3, 8)),
    ("America/New_York", date(2026, 11, 1)),
    ("America/Havana", date(2026, 11, 1)),  # it has two midnights
    ("Asia/Kathmandu", date(2026, 3, 10)),
]


@pytest.fixture
def warehouse(database_url: str) -> sa.Engine:
    public.upgrade(database_url)
    warehouse = public.engine(database_url)
    for kind, ids in NAMED.items():
        names = tuple(Name(one, name_of(kind, one), is_deleted=False) for one in ids)
        store_names(warehouse, ACCOUNT, NameList(kind, names, 0, None), facts().pulled_at)
    return warehouse


def name_of(kind: str, number: int) -> str:
    return f"The {kind} {number}"


def random_segments(zone: str, day: date, count: int, seed: int = 1) -> list[Segment]:
    """Segments that close on the day before, on it and after it, some on its edges and some begun the day before."""
    chance = random.Random(f"{zone} {day} {seed}")
    window = Day(day, zone).window
    made = []
    for number in range(count):
        end = window.start + timedelta(milliseconds=chance.randrange(-86_400_000, 2 * 86_400_000))
        if number < 4:
            end = (window.start, window.end, window.end - timedelta(milliseconds=1), window.start)[number]
        start = end - timedelta(milliseconds=chance.choice([0, 1, 60_000, 3_600_000, 30_000_000, 90_000_000]))
        made.append(
            segment(
                number + 1_000_000 * seed,
                conversation_id=f"conversation-{seed}-{chance.randrange(count // 2)}",
                start_time=start,
                end_time=end,
                agent_id=chance.choice([7, 2**31 + 1, 2**53 + 1]),
                employee_id=chance.choice([None, "00042"]),
                skill_id=chance.choice([None, 1, 2**40]),
                group_id=chance.choice([None, 7]),
                end_reason=chance.choice(END_REASONS),
                total_handle_time_ms=chance.choice([0, 0, 1, 499, 500, 501, chance.randrange(10_000_000)]),
            )
        )
    return made


def fill(warehouse: sa.Engine, zone: str, day: date) -> None:
    """Three days of one account, one of them not settled, and a second account beside it."""
    segments = random_segments(zone, day, 80)
    of_day = [one for one in segments if Day(day, zone).window.start <= one["end_time"] < Day(day, zone).window.end]
    load_each_day(warehouse, segments, zone, pulled_at=Day(day, zone).window.end + timedelta(hours=30))
    assert len(of_day) > 10
    load_each_day(
        warehouse,
        [one | {"segment_id": f"other:{one['segment_id']}"} for one in segments[:20]],
        "Asia/Tokyo",
        account_id="other",
    )


def restate(warehouse: sa.Engine, zone: str, day: date) -> None:
    """Another pull of the day: some values differ, and some of the day before closed on this day after all."""
    window = Day(day, zone).window
    known = query(
        warehouse,
        "SELECT segment_id, conversation_id, agent_id, end_time FROM aht.agent_segments "
        "WHERE account_id = :account ORDER BY segment_id",
        account=ACCOUNT,
    )
    moved = [row for row in known if row[3] < window.start][:10]
    changed = [row for row in known if window.start <= row[3] < window.end][:10]
    rows = [
        segment(0, segment_id=row[0], conversation_id=row[1], agent_id=row[2], total_handle_time_ms=number)
        | {"end_time": max(row[3], window.start), "start_time": window.start - timedelta(hours=1)}
        for number, row in enumerate([*moved, *changed])
    ]
    load(warehouse, batch(*rows), day=Day(day, zone), pulled_at=window.end + timedelta(hours=40))


# ------------------------------------------------------------------------------------------------------------ in pandas


def base(warehouse: sa.Engine) -> pd.DataFrame:
    """The segments with what every report needs of them."""
    with warehouse.connect() as connection:
        segments = connection.execute(sa.text("SELECT * FROM aht.agent_segments")).mappings()
        frame = pd.DataFrame([dict(one) for one in segments])
        loads = pd.read_sql(sa.text("SELECT * FROM aht.loads ORDER BY load_id"), connection)
    ids = ["agent_id", "skill_id", "group_id"]
    frame[ids] = pd.DataFrame({name: pd.array(frame[name].to_list(), dtype="Int64") for name in ids})
    zones = loads.groupby("account_id")["timezone"].last()
    settled = loads.groupby(["account_id", "day"])["settled"].any().to_dict()
    parts = []
    for account, rows in frame.groupby("account_id"):
        ours = rows.assign(zone=zones[account])
        for edge in ("start", "end"):
            moments = pd.to_datetime(ours[f"{edge}_time"], utc=True)
            ours[f"{edge}_time"] = moments
            ours[f"{edge}_time_local"] = moments.dt.tz_convert(zones[account]).dt.tz_localize(None)
        ours["close_date"] = ours["end_time_local"].dt.date
        parts.append(ours)
    together = pd.concat(parts)
    together["is_settled"] = [
        bool(settled.get(key, False)) for key in zip(together["account_id"], together["close_date"], strict=True)
    ]
    together["interval_start"] = together["end_time"].dt.floor("15min")
    together["ms"] = together["total_handle_time_ms"].astype("int64")
    return together


def sums(rows: pd.DataFrame) -> dict[str, Any]:
    reasons = rows["end_reason"].fillna("")
    closed, transfers = int(reasons.isin(CLOSED).sum()), int(reasons.isin(TRANSFERRED).sum())
    return {
        "segments": len(rows),
        "concluded_segments": closed + transfers,
        "closed_by_agent": int((reasons == "closedByAgent").sum()),
        "closed_by_consumer": int((reasons == "closedByConsumer").sum()),
        "closed_by_system": int((reasons == "closedBySystem").sum()),
        "transfers": transfers,
        "back_to_queue": int((reasons == "backToQueue").sum()),
        "zero_handle_segments": int((rows["ms"] == 0).sum()),
        "total_handle_time_seconds": rows["ms"].sum() / 1000,
        "avg_handle_time_seconds": rows["ms"].sum() / 1000 / len(rows),
    }


def rates(rows: pd.DataFrame) -> dict[str, Any]:
    summed = sums(rows)
    concluded, transfers = summed["concluded_segments"], summed["transfers"]
    return summed | {
        "close_rate": (concluded - transfers) / concluded if concluded else None,
        "transfer_rate": transfers / concluded if concluded else None,
        "median_handle_time_seconds": np.quantile(rows["ms"], 0.5) / 1000,
        "p90_handle_time_seconds": np.quantile(rows["ms"], 0.9) / 1000,
        "quantiles_n": len(rows),
    }


def by(frame: pd.DataFrame, keys: list[str], measure: Any) -> list[dict[str, Any]]:
    return [
        dict(zip(keys, values, strict=True)) | measure(rows) | {"is_settled": rows["is_settled"].iloc[0]}
        for values, rows in frame.groupby(keys, dropna=False)
    ]


def of_interval(frame: pd.DataFrame) -> list[dict[str, Any]]:
    rows = by(frame, ["account_id", "interval_start", "skill_id", "zone", "close_date"], sums)
    for row in rows:
        local = row["interval_start"].tz_convert(row.pop("zone"))
        row["interval_start_local"] = local.tz_localize(None)
        row["utc_offset_minutes"] = int(local.utcoffset() / timedelta(minutes=1))
    return rows


def of_segment(frame: pd.DataFrame) -> list[dict[str, Any]]:
    shown = frame.assign(
        handle_time_seconds=frame["ms"] / 1000,
        segment_duration_seconds=(frame["end_time"] - frame["start_time"]).dt.total_seconds(),
    )
    names = (
        "account_id close_date segment_id conversation_id agent_id employee_id skill_id group_id start_time end_time "
        "start_time_local end_time_local handle_time_seconds segment_duration_seconds end_reason quality_flags "
        "is_settled"
    )
    return [{str(name): value for name, value in row.items()} for row in shown[names.split()].to_dict("records")]


def named(rows: list[dict[str, Any]], **columns: NameKind) -> list[dict[str, Any]]:
    """The rows, and beside each of these ids its name: the id itself where none is known."""
    for row in rows:
        for column, kind in columns.items():
            one = plain(row[f"{column}_id"])
            is_known = row["account_id"] == ACCOUNT and one in NAMED[kind]
            row[f"{column}_name"] = name_of(kind, one) if is_known else None if one is None else str(one)
    return rows


def of_conversation(frame: pd.DataFrame, loads: set[tuple[str, date]]) -> list[dict[str, Any]]:
    rows = []
    for (account, conversation), parts in frame.groupby(["account_id", "conversation_id"]):
        last = parts.sort_values(["end_time", "start_time", "segment_id"]).iloc[-1]
        first, end = parts["start_time_local"].min().date(), last["close_date"]
        crossed = [first + timedelta(days=n) for n in range((end - first).days + 1)]
        reason = None if pd.isna(last["end_reason"]) else last["end_reason"]
        rows.append(
            {
                "account_id": account,
                "conversation_id": conversation,
                "first_start_time": parts["start_time"].min(),
                "last_end_time": last["end_time"],
                "close_date": end,
                "segments": len(parts),
                "agents": parts["agent_id"].nunique(),
                "skills": parts["skill_id"].nunique(),
                "transfers": sums(parts)["transfers"],
                "total_handle_time_seconds": parts["ms"].sum() / 1000,
                "last_end_reason": reason,
                "may_be_incomplete": reason not in CLOSED or any((account, day) not in loads for day in crossed),
            }
        )
    return rows


def of_transfers(frame: pd.DataFrame) -> list[dict[str, Any]]:
    counted: dict[Any, int] = {}
    for _, parts in frame.groupby(["account_id", "conversation_id"]):
        in_order = parts.sort_values(["start_time", "end_time", "segment_id"]).to_dict("records")
        for one, following in zip(in_order, [*in_order[1:], None], strict=True):
            if plain(one["end_reason"]) == "skillTransfer":
                to = plain(following["skill_id"]) if following else None
                key = (one["account_id"], one["close_date"], plain(one["skill_id"]), to, following is not None)
                counted[key] = counted.get(key, 0) + 1
    names = ("account_id", "close_date", "from_skill_id", "to_skill_id", "to_is_known", "transfers")
    return [dict(zip(names, (*key, count), strict=True)) for key, count in counted.items()]


def plain(value: Any) -> Any:
    """Nulls of every kind as None, moments in UTC, numbers rounded as the views round them or coarser."""
    if isinstance(value, list | np.ndarray):
        return list(value)
    if value is None or value is pd.NA or value is pd.NaT or value != value:
        return None
    if isinstance(value, pd.Timestamp):
        return value.to_pydatetime() if value.tzinfo is None else value.to_pydatetime().astimezone(UTC)
    return value


def assert_same(shown: list[dict[str, Any]], worked_out: list[dict[str, Any]]) -> None:
    def in_order(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        made = [{name: plain(value) for name, value in row.items()} for row in rows]
        return sorted(made, key=lambda row: [str(row[name]) for name in sorted(row) if _is_key(name)])

    shown, worked_out = in_order(shown), in_order(worked_out)
    assert len(shown) == len(worked_out)
    for one, other in zip(shown, worked_out, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            if name.endswith(("_seconds", "_rate")) and value is not None:
                assert float(value) == pytest.approx(other[name], abs=0.00051), (name, one, other)
            else:
                assert value == other[name], (name, one, other)


def _is_key(name: str) -> bool:
    return name.endswith(("_id", "_date", "_start", "_is_known"))


def assert_every_view_is_as_pandas_works_it_out(warehouse: sa.Engine) -> None:
    frame = base(warehouse)
    days = {(row[0], row[1]) for row in query(warehouse, "SELECT account_id, day FROM aht.loads WHERE settled")}
    agent, skill, group = NameKind
    expected = {
        "agent_segments": named(of_segment(frame), agent=agent, skill=skill, group=group),
        "skill_interval": named(of_interval(frame), skill=skill),
        "agent_day": named(by(frame, ["account_id", "close_date", "agent_id"], rates), agent=agent),
        "skill_day": named(by(frame, ["account_id", "close_date", "skill_id"], rates), skill=skill),
        "group_day": named(by(frame, ["account_id", "close_date", "group_id"], rates), group=group),
        "agent_skill_day": named(
            by(frame, ["account_id", "close_date", "agent_id", "skill_id"], sums), agent=agent, skill=skill
        ),
        "conversation_metrics": of_conversation(frame, days),
        "skill_transfers": named(of_transfers(frame), from_skill=skill, to_skill=skill),
    }
    for view, worked_out in expected.items():
        with warehouse.connect() as connection:
            shown = [dict(row) for row in connection.execute(sa.text(f"SELECT * FROM reporting.{view}")).mappings()]
        assert_same(shown, worked_out)


# ---------------------------------------------------------------------------------------------------------------- tests


@pytest.mark.parametrize(("zone", "day"), ZONES_AND_DAYS)
def test_every_view_says_what_pandas_works_out_before_during_and_after_a_refresh(
    warehouse: sa.Engine, zone: str, day: date
) -> None:
    fill(warehouse, zone, day)
    assert_every_view_is_as_pandas_works_it_out(warehouse)

    rolled_up = list(refresh_rollups(warehouse))
    assert len(rolled_up) >= 5
    assert changed_days(warehouse) == []
    assert_every_view_is_as_pandas_works_it_out(warehouse)

    restate(warehouse, zone, day)
    assert sorted(changed_days(warehouse)) == [(ACCOUNT, day - timedelta(days=1)), (ACCOUNT, day)]
    assert_every_view_is_as_pandas_works_it_out(warehouse)

    list(refresh_rollups(warehouse))
    assert_every_view_is_as_pandas_works_it_out(warehouse)


def test_the_reports_of_an_empty_warehouse_are_empty(warehouse: sa.Engine) -> None:
    assert list(refresh_rollups(warehouse)) == []
    views = query(warehouse, "SELECT relname FROM pg_class WHERE relnamespace = 'reporting'::regnamespace")
    assert len(views) >= 10
    for view in views:
        assert query(warehouse, f"SELECT count(*) FROM reporting.{view}") == [0]


def test_what_was_loaded_before_the_migration_is_reported_and_rolled_up(
    warehouse: sa.Engine, database_url: str
) -> None:
    load(warehouse, batch(segment(1), segment(2)))
    public.downgrade(database_url, "0002")

    public.upgrade(database_url)
    assert query(warehouse, "SELECT segments FROM reporting.agent_day") == [2]
    assert len(list(refresh_rollups(warehouse))) == 1
    assert query(warehouse, "SELECT segments FROM reporting.agent_day") == [2]

    public.downgrade(database_url, "0006")  # the rollups of before are taken over, there and back
    public.upgrade(database_url)
    assert changed_days(warehouse) == []
    assert query(warehouse, "SELECT segments FROM reporting.agent_day") == [2]


def test_a_reload_that_changes_nothing_leaves_nothing_to_roll_up(warehouse: sa.Engine) -> None:
    load(warehouse, batch(segment(1)))
    list(refresh_rollups(warehouse))

    load(warehouse, batch(segment(1)), pulled_at=facts().pulled_at + timedelta(hours=1))

    assert changed_days(warehouse) == []


def test_segments_that_someone_removes_by_hand_leave_the_reports(warehouse: sa.Engine) -> None:
    load(warehouse, batch(segment(1), segment(2)))
    list(refresh_rollups(warehouse))

    query(warehouse, "DELETE FROM aht.agent_segments WHERE segment_id LIKE '%1'")
    assert query(warehouse, "SELECT segments FROM reporting.agent_day") == [1]

    query(warehouse, "TRUNCATE aht.agent_segments")
    assert query(warehouse, "SELECT segments FROM reporting.agent_day") == []
    list(refresh_rollups(warehouse))
    assert query(warehouse, "SELECT count(*) FROM aht.daily_rollup") == [0]


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM aht.agent_segments WHERE segment_id LIKE '%1'",
        "UPDATE aht.agent_segments SET end_reason = 'closedBySystem' WHERE segment_id LIKE '%1'",
        "UPDATE aht.agent_segments SET total_handle_time_ms = total_handle_time_ms + 1 WHERE segment_id LIKE '%1'",
        "DELETE FROM aht.agent_segments",
        "DELETE FROM aht.daily_rollup WHERE grain = 'group'",
        "UPDATE aht.interval_rollup SET segments = segments + 1",
    ],
)
def test_what_was_changed_past_the_trigger_is_found_and_reported_right_from_then_on(
    warehouse: sa.Engine, change: str
) -> None:
    days = [Day(date(2026, 3, 10), "Asia/Kathmandu"), Day(date(2026, 3, 11), "Asia/Kathmandu")]
    for number, day in enumerate(days):
        closes = day.window.start + timedelta(minutes=1)
        load(warehouse, batch(*(segment(10 * number + n, end_time=closes) for n in (1, 2))), day=day)
    list(refresh_rollups(warehouse))
    assert mark_differing_days(warehouse, days[0].date) == []

    of_the_second = f"{' AND' if 'WHERE' in change else ' WHERE'}" + (
        f" close_date = '{days[1]}'" if "rollup" in change else f" end_time >= '{days[1].window.start}'"
    )
    query(warehouse, f"SET LOCAL session_replication_role = replica; {change}{of_the_second}")

    assert mark_differing_days(warehouse, days[1].date + timedelta(days=1)) == []
    assert mark_differing_days(warehouse, days[0].date) == [(ACCOUNT, days[1].date)]
    assert_every_view_is_as_pandas_works_it_out(warehouse)
    assert mark_differing_days(warehouse, days[0].date) == []
    list(refresh_rollups(warehouse))
    assert_every_view_is_as_pandas_works_it_out(warehouse)
    assert mark_differing_days(warehouse, days[0].date) == []


def test_two_audits_at_once_mark_a_day_once(warehouse: sa.Engine) -> None:
    load(warehouse, batch(segment(1)))
    list(refresh_rollups(warehouse))
    query(warehouse, "SET LOCAL session_replication_role = replica; DELETE FROM aht.agent_segments")
    (day,) = query(warehouse, "SELECT close_date FROM aht.interval_rollup")

    with ThreadPoolExecutor(1) as pool:
        with warehouse.begin() as first:
            first.execute(sa.text("SELECT aht.mark_differing_days(:day)"), {"day": day})
            second = pool.submit(mark_differing_days, warehouse, day)
            eventually(lambda: query(warehouse, "SELECT count(*) FROM pg_locks WHERE NOT granted") == [1])
        assert second.result() == [(ACCOUNT, day)]
    assert query(warehouse, "SELECT segments FROM reporting.agent_day") == []


def test_a_load_that_is_under_way_during_a_refresh_is_reported_when_it_commits(warehouse: sa.Engine) -> None:
    """Its marks are its own: the refresh, which cannot see its rows, must not take them away."""
    load(warehouse, batch(segment(1)))
    written, go = threading.Event(), threading.Event()

    def batches() -> Iterator[SegmentBatch]:
        yield batch(segment(1), segment(2))
        yield batch()  # what comes after it is made when the first is written
        written.set()
        assert go.wait(60)

    with ThreadPoolExecutor(1) as pool:
        try:
            later = facts(reported=2, pulled_at=facts().pulled_at + timedelta(hours=1))
            loading = pool.submit(load_day, warehouse, later, batches)
            assert written.wait(60)
            assert len(list(refresh_rollups(warehouse))) == 1
            assert query(warehouse, "SELECT segments FROM reporting.agent_day") == [1]
        finally:
            go.set()
        assert loading.result().inserted == 1

    assert query(warehouse, "SELECT segments FROM reporting.agent_day") == [2]
    list(refresh_rollups(warehouse))
    assert query(warehouse, "SELECT segments FROM reporting.agent_day") == [2]


def test_two_refreshes_at_once_roll_up_each_day_once(warehouse: sa.Engine) -> None:
    load_each_day(warehouse, random_segments("UTC", date(2026, 3, 10), 300), "UTC")

    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda _: list(refresh_rollups(warehouse)), range(2)))

    assert sorted(day for days in done for _, day in days) == [date(2026, 3, day) for day in (9, 10, 11)]
    assert_every_view_is_as_pandas_works_it_out(warehouse)


def test_a_reports_days_do_not_depend_on_the_readers_time_zone(warehouse: sa.Engine, database_url: str) -> None:
    fill(warehouse, LONDON, date(2026, 10, 25))
    reader = public.engine(database_url + "?options=-c%20timezone%3DPacific/Auckland")

    assert_every_view_is_as_pandas_works_it_out(reader)
    list(refresh_rollups(reader))
    assert_every_view_is_as_pandas_works_it_out(warehouse)


def test_a_reader_of_the_reports_needs_no_right_on_the_tables(warehouse: sa.Engine) -> None:
    load(warehouse, batch(segment(1, end_reason="skillTransfer")), day=Day(date(2026, 3, 10), LONDON))
    (database,) = query(warehouse, "SELECT current_database()")
    reader = f"reader_of_{database}"
    query(warehouse, f"CREATE ROLE {reader}; GRANT USAGE ON SCHEMA reporting TO {reader}")
    query(warehouse, f"GRANT SELECT ON ALL TABLES IN SCHEMA reporting TO {reader}")
    views = query(warehouse, "SELECT relname FROM pg_class WHERE relnamespace = 'reporting'::regnamespace")
    try:
        with warehouse.begin() as connection:
            connection.execute(sa.text(f"SET LOCAL ROLE {reader}"))
            for view in views:
                assert connection.execute(sa.text(f"SELECT * FROM reporting.{view}")).first() is not None
            with pytest.raises(public.WarehouseError, match="permission denied for schema aht"):
                connection.execute(sa.text("SELECT * FROM aht.agent_segments"))
    finally:
        query(warehouse, f"DROP OWNED BY {reader}; DROP ROLE {reader}")


def test_a_reader_reads_where_functions_are_not_for_everyone(database_url: str) -> None:
    """What a view calls, it calls with the rights of whoever reads it."""
    warehouse = public.engine(database_url)
    query(warehouse, "ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC")
    try:
        public.upgrade(database_url)
    finally:
        query(warehouse, "ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO PUBLIC")

    test_a_reader_of_the_reports_needs_no_right_on_the_tables(warehouse)


# ---------------------------------------------------------------------------------------------------- what is expected


@contextmanager
def server_with_jit() -> Iterator[str]:
    """The URL of an empty database of an installed server that compiles queries; skips where there is none."""
    installed = list(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not installed:
        pytest.skip("no Postgres is installed (Debian: apt install postgresql)")
    binaries = max(installed, key=lambda path: int(path.parts[-3])).parent
    user = "postgres" if os.geteuid() == 0 else None

    def run(program: str, *arguments: str) -> None:
        command = [str(binaries / program), "-D", str(data), *arguments]
        subprocess.run(command, user=user, group=user, check=True, stdout=subprocess.DEVNULL, cwd="/")

    with tempfile.TemporaryDirectory() as directory:
        data = Path(directory) / "data"
        if user:
            shutil.chown(directory, user, user)
        run("initdb", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync")
        settings = f"-c listen_addresses= -c unix_socket_directories={directory} -c fsync=off"
        run("pg_ctl", "start", "-w", "-s", "-l", f"{directory}/log", "-o", settings)
        try:
            url = f"postgresql+psycopg2://postgres@/postgres?host={directory}"
            if query(public.engine(url), "SELECT pg_jit_available()") != [True]:
                pytest.skip(f"the Postgres in {binaries} does not compile queries")
            yield url
        finally:
            run("pg_ctl", "stop", "-m", "immediate", "-s")


def fill_with_days_that_wait(warehouse: sa.Engine) -> None:
    """100,000 segments of ten days up to yesterday, rolled up, and three of the days changed since."""
    (today,) = query(warehouse, "SELECT (now() AT TIME ZONE 'UTC')::date")
    first = Day(today - timedelta(days=10), "UTC")
    for number in range(10):
        load(warehouse, batch(), day=Day(first.date + timedelta(days=number), "UTC"), pulled_at=first.window.start)
    load(warehouse, batch(segment(0, end_time=first.window.start)), day=first)
    others = ("employee_id", "pulled_at", "first_loaded_at", "updated_at", "revision")
    columns = f"account_id, group_id, start_time, total_handle_time_ms, {', '.join(others)}"
    query(
        warehouse,
        f"""
        INSERT INTO aht.agent_segments
            (segment_id, conversation_id, agent_id, skill_id, end_reason, end_time, {columns})
        SELECT segment_id || n, 'conversation ' || n / 2, agent_id + n % 301, skill_id + n % 12,
            CASE WHEN n % 5 = 0 THEN 'skillTransfer' ELSE end_reason END, end_time + n * interval '8.6 seconds',
            {columns}
        FROM aht.agent_segments, generate_series(1, 100000) AS n
        """,
    )
    assert len(list(refresh_rollups(warehouse))) == 10
    changed = Day(today - timedelta(days=3), "UTC").window.start
    query(
        warehouse,
        "UPDATE aht.agent_segments SET revision = 2 WHERE end_time >= :changed AND segment_id LIKE '%7'",
        changed=changed,
    )
    query(warehouse, "ANALYZE")
    assert len(changed_days(warehouse)) == 3


def assert_no_report_is_compiled(warehouse: sa.Engine) -> None:
    """Nor would be, where the server cannot: that goes by the estimated cost."""
    with warehouse.connect() as connection:

        def plan(statement: str) -> Any:
            (made,) = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}").scalar_one()
            return made

        connection.execute(sa.text("SET jit = on"))
        limit = connection.scalar(sa.text("SELECT current_setting('jit_above_cost')::float"))
        plans = {statement: plan(statement) for statement in (*DOCUMENTED, *AS_BI_TOOLS_ASK)}
        assert [what for what, made in plans.items() if "JIT" in made or made["Plan"]["Total Cost"] > limit] == []

        for view in ("changed_days", "changed_day_measures", "changed_interval_measures"):
            expected = plan(f"SELECT * FROM aht.{view}")["Plan"]["Plan Rows"]
            there_are = connection.scalar(sa.text(f"SELECT count(*) FROM aht.{view}"))
            assert there_are / 10 <= expected <= there_are * 10, view


def test_no_report_is_compiled_while_days_wait_to_be_rolled_up(warehouse: sa.Engine) -> None:
    """Compiling takes longer than the report."""
    fill_with_days_that_wait(warehouse)

    assert_no_report_is_compiled(warehouse)


def test_no_report_is_compiled_by_a_server_that_can() -> None:
    with server_with_jit() as url:
        public.upgrade(url)
        warehouse = public.engine(url)
        fill_with_days_that_wait(warehouse)

        assert_no_report_is_compiled(warehouse)


# ------------------------------------------------------------------------------------------------------------- coverage


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
