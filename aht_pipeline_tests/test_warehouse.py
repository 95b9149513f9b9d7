"""A day is loaded whole or not at all, once, by one session, and exactly as the API said it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
import sqlalchemy as sa

from aht_pipeline import warehouse as public
from aht_pipeline.days import Day
from aht_pipeline.normalize import SEGMENT_SCHEMA, SegmentBatch
from aht_pipeline.warehouse import (
    DayBusy,
    DayRecord,
    ForeignSegment,
    LedgerMismatch,
    OutsideDay,
    RejectedTooMany,
    WarehouseError,
    day_records,
    load_day,
    loaded_timezone,
    record_refusal,
)
from aht_pipeline.warehouse.merge import MERGE, create_stage, known_pages, plain_rows, stage
from aht_pipeline.warehouse.tables import SEGMENT_COLUMNS
from aht_pipeline_tests.loading import ACCOUNT, DAY, PULLED_AT, batch, facts, load, query, reject, segment

LATER = PULLED_AT + timedelta(days=1)
NEXT_DAY = Day(DAY.date + timedelta(days=1), DAY.timezone)


@pytest.fixture
def url(database_url: str) -> str:
    public.upgrade(database_url)
    return database_url


@pytest.fixture
def warehouse(url: str) -> sa.Engine:
    return public.engine(url)


def counts(warehouse: sa.Engine) -> tuple[int, int, int]:
    """Rows of segments, rejects, loads."""
    tables = ("agent_segments", "rejected_segments", "loads")
    one, two, three = (query(warehouse, f"SELECT count(*) FROM aht.{table}")[0] for table in tables)
    return one, two, three


def eventually(holds: Callable[[], bool]) -> None:
    for _ in range(2000):
        if holds():
            return
        time.sleep(0.01)
    raise AssertionError("it never came to that")


# ------------------------------------------------------------------------------------------------ what a load stores


def test_the_frames_columns_are_the_tables() -> None:
    arrow = {
        'TEXT COLLATE "C"': pa.string(),
        "TEXT": pa.string(),
        "BIGINT": pa.int64(),
        "TIMESTAMP WITH TIME ZONE": pa.timestamp("us", tz="UTC"),
        "TEXT[]": pa.list_(pa.string()),
        "JSONB": pa.string(),
    }

    dialect = public.engine("postgresql://").dialect

    assert [(field.name, field.type, field.nullable) for field in SEGMENT_SCHEMA] == [
        (column.name, arrow[column.type.compile(dialect)], column.nullable) for column in SEGMENT_COLUMNS
    ]


def test_a_first_load_stores_every_segment_and_enters_the_ledger(warehouse: sa.Engine) -> None:
    result = load(
        warehouse,
        batch(segment(1), segment(2), outside_day=1),
        batch(segment(3), rejects=(reject('{"segmentId": "broken"}'),)),
        requests=7,
        dagster_run_id="run-1",
        max_rejected_percent=50.0,
    )

    assert (result.inserted, result.updated, result.unchanged, result.rejected, result.outside_day) == (3, 0, 0, 1, 1)
    assert result.loaded == 3
    assert query(warehouse, "SELECT segment_id, account_id, revision FROM aht.agent_segments ORDER BY 1") == [
        (segment(number)["segment_id"], ACCOUNT, 1) for number in (1, 2, 3)
    ]
    assert query(
        warehouse,
        "SELECT DISTINCT pulled_at, first_loaded_at, updated_at FROM aht.agent_segments",
    ) == [(PULLED_AT, result.loaded_at, result.loaded_at)]
    assert query(
        warehouse,
        "SELECT load_id, account_id, day, timezone, window_start, window_end, pulled_at, loaded_at, dagster_run_id, "
        "requests, reported, inserted, updated, unchanged, rejected, outside_day, settled FROM aht.loads",
    ) == [
        (
            *(result.load_id, ACCOUNT, DAY.date, "UTC", DAY.window.start, DAY.window.end, PULLED_AT, result.loaded_at),
            *("run-1", 7, 5, 3, 0, 0, 1, 1, True),
        )
    ]


def test_a_first_load_that_meets_a_known_segment_loads_all_the_same(warehouse: sa.Engine) -> None:
    load(warehouse, batch(segment(3, end_time=NEXT_DAY.window.start)), day=NEXT_DAY)
    result = load(warehouse, batch(segment(1)), batch(segment(2), segment(3)), batch(segment(4)), pulled_at=LATER)
    assert (result.inserted, result.updated, result.unchanged) == (3, 1, 0)
    assert query(
        warehouse, "SELECT segment_id, end_time, pulled_at, revision FROM aht.agent_segments ORDER BY segment_id"
    ) == [
        (segment(number)["segment_id"], DAY.window.start + timedelta(hours=12), LATER, 2 if number == 3 else 1)
        for number in (1, 2, 3, 4)
    ]


def test_a_day_without_segments_is_loaded_too(warehouse: sa.Engine) -> None:
    result = load(warehouse, batch())

    assert (result.reported, result.loaded) == (0, 0)
    assert load(warehouse).reported == 0
    assert counts(warehouse) == (0, 0, 2)


def test_a_pull_before_late_data_could_all_be_there_settles_nothing(warehouse: sa.Engine) -> None:
    assert not load(warehouse, batch(), pulled_at=DAY.window.end + timedelta(hours=24)).settled
    assert load(warehouse, batch(), pulled_at=DAY.window.end + timedelta(hours=24, milliseconds=1)).settled


TEXTS = [
    "",
    " ",
    "NULL",
    "null",
    r"\N",
    r"\.",
    "a\n\\.\nb",
    "\\",
    'say "hello", he said',
    '"',
    "'; DROP TABLE aht.agent_segments; --",
    "one\ntwo\r\nthree\rfour\ttab",
    "00042",
    "1e5",
    "{}",
    "😀 Ünïcödé 日本語",
    "\u202eright to left\u202c שלום",
    "\ufeffbyte order mark",
    "\u00a0\u2028\x01\x7f",
    "%s %(name)s :name",
    None,
]


def test_every_text_comes_back_as_it_was_and_nothing_is_not_empty(warehouse: sa.Engine) -> None:
    load(warehouse, batch(*(segment(number, employee_id=text) for number, text in enumerate(TEXTS))))

    assert query(warehouse, "SELECT employee_id FROM aht.agent_segments ORDER BY segment_id") == TEXTS


def test_the_keys_are_told_apart_by_case_and_by_every_sign(warehouse: sa.Engine) -> None:
    ids = ["a", "A", "a ", " a", "ä", "a\u0308", "\\.", '"a"', "a\nb"]

    assert load(warehouse, batch(*(segment(0, segment_id=one) for one in ids))).inserted == len(ids)
    assert set(query(warehouse, "SELECT segment_id FROM aht.agent_segments")) == set(ids)


def test_numbers_and_times_come_back_exactly(warehouse: sa.Engine) -> None:
    values = {
        "agent_id": 2**63 - 1,
        "skill_id": -(2**63),
        "group_id": None,
        "end_reason": None,
        "start_time": datetime(1, 1, 1, tzinfo=UTC),
        "end_time": datetime(2026, 3, 10, 23, 59, 59, 999_999, tzinfo=UTC),
        "total_handle_time_ms": 0,
    }
    load(warehouse, batch(segment(1, **values)))

    # As text: Python's own times begin later in some zones.
    assert query(
        warehouse,
        "SELECT agent_id, skill_id, group_id, end_reason, (start_time AT TIME ZONE 'UTC')::text, end_time, "
        "total_handle_time_ms FROM aht.agent_segments",
    ) == [(2**63 - 1, -(2**63), None, None, "0001-01-01 00:00:00", values["end_time"], 0)]


def test_lists_and_added_fields_come_back_as_they_were(warehouse: sa.Engine) -> None:
    flags = [[], ["start_epoch_disagrees"], ["one", "two"], ["", "null", "a,b", '"', "\\", "{}", "a b", "\n"]]
    extras = [
        None,
        {},
        {"a": 'quote " comma , backslash \\ newline \n', "b": [1, {"c": None}]},
        {"n": 9007199254740993},
    ]
    load(
        warehouse,
        batch(
            *(
                segment(number, quality_flags=flag, extra=None if extra is None else json.dumps(extra))
                for number, (flag, extra) in enumerate(zip(flags, extras, strict=True))
            )
        ),
    )

    assert query(warehouse, "SELECT quality_flags, extra FROM aht.agent_segments ORDER BY segment_id") == list(
        zip(flags, extras, strict=True)
    )


# ---------------------------------------------------------------------------------------------- loading a day again


def stored(warehouse: sa.Engine) -> list[Any]:
    return query(warehouse, "SELECT * FROM aht.agent_segments ORDER BY segment_id")


def written(warehouse: sa.Engine) -> list[Any]:
    """Each row's place and the transactions that wrote or locked it."""
    return query(warehouse, "SELECT segment_id, ctid::text, xmin::text, xmax::text FROM aht.agent_segments ORDER BY 1")


def test_loading_the_same_again_writes_no_row(warehouse: sa.Engine) -> None:
    day = batch(*(segment(number, extra='{"b": 1, "a": 2}', quality_flags=["x"]) for number in range(50)), segment(99))
    load(warehouse, day)
    before = stored(warehouse), written(warehouse)

    result = load(warehouse, day, pulled_at=LATER)

    assert (result.inserted, result.updated, result.unchanged) == (0, 0, 51)
    assert (stored(warehouse), written(warehouse)) == before


RESTATED: dict[str, Any] = {
    "conversation_id": "another",
    "agent_id": 3_000_000_102,
    "employee_id": None,
    "skill_id": 4_100_000_002,
    "group_id": None,
    "end_reason": "closedBySystem",
    "start_time": datetime(2026, 3, 10, 11, 0, 0, 501_000, tzinfo=UTC),
    "end_time": datetime(2026, 3, 10, 12, 0, 0, 1000, tzinfo=UTC),
    "total_handle_time_ms": 1,
    "quality_flags": ["end_epoch_disagrees"],
    "extra": '{"added": 1}',
}


@pytest.mark.parametrize("column", [column.name for column in SEGMENT_COLUMNS if not column.primary_key])
def test_a_restated_segment_is_updated_and_its_neighbour_is_not(warehouse: sa.Engine, column: str) -> None:
    first = load(warehouse, batch(segment(1), segment(2)))

    second = load(warehouse, batch(segment(1, **{column: RESTATED[column]}), segment(2)), pulled_at=LATER)

    assert (second.inserted, second.updated, second.unchanged) == (0, 1, 1)
    assert query(
        warehouse,
        "SELECT revision, pulled_at, first_loaded_at, updated_at FROM aht.agent_segments ORDER BY segment_id",
    ) == [
        (2, LATER, first.loaded_at, second.loaded_at),
        (1, PULLED_AT, first.loaded_at, first.loaded_at),
    ]


def test_a_restated_value_is_the_one_that_is_stored(warehouse: sa.Engine) -> None:
    load(warehouse, batch(segment(1)))
    load(warehouse, batch(segment(1, total_handle_time_ms=7, skill_id=None, quality_flags=["x"])), pulled_at=LATER)

    assert query(warehouse, "SELECT total_handle_time_ms, skill_id, quality_flags FROM aht.agent_segments") == [
        (7, None, ["x"])
    ]


def test_an_older_pull_adds_what_is_missing_and_overwrites_nothing(warehouse: sa.Engine) -> None:
    load(warehouse, batch(segment(1, total_handle_time_ms=2)), pulled_at=LATER)
    before = stored(warehouse) + written(warehouse)

    result = load(warehouse, batch(segment(1, total_handle_time_ms=1), segment(2)), pulled_at=PULLED_AT)

    assert (result.inserted, result.updated, result.unchanged) == (1, 0, 1)
    assert stored(warehouse)[:1] + written(warehouse)[:1] == before


def test_an_older_pull_does_not_overwrite_what_a_newer_one_confirmed(warehouse: sa.Engine) -> None:
    load(warehouse, batch(segment(1)))
    load(warehouse, batch(segment(1)), pulled_at=LATER)
    before = stored(warehouse)

    result = load(warehouse, batch(segment(1, skill_id=None), segment(2)), pulled_at=LATER - timedelta(hours=1))

    assert (result.inserted, result.updated, result.unchanged) == (1, 0, 1)
    assert stored(warehouse)[:1] == before


def test_an_older_pull_of_a_day_does_not_fetch_back_a_segment_that_left_it(warehouse: sa.Engine) -> None:
    load(warehouse, batch(segment(1)))
    load(warehouse, batch(segment(1, end_time=NEXT_DAY.window.start)), day=NEXT_DAY, pulled_at=LATER)

    assert load(warehouse, batch(segment(1))).unchanged == 1
    assert query(warehouse, "SELECT end_time FROM aht.agent_segments") == [NEXT_DAY.window.start]


def test_the_same_pull_read_better_is_an_update(warehouse: sa.Engine) -> None:
    load(warehouse, batch(segment(1, employee_id="42")))

    assert load(warehouse, batch(segment(1, employee_id="00042"))).updated == 1


def test_a_kept_pull_read_better_is_an_update_though_a_later_one_that_was_equal_was_loaded(
    warehouse: sa.Engine,
) -> None:
    kept = facts().archive_file
    load(warehouse, batch(segment(1, employee_id="42")), pulled_at=LATER, archive_file=kept)

    assert load(warehouse, batch(segment(1, employee_id="00042")), archive_file=kept).updated == 1
    assert query(warehouse, "SELECT pulled_at FROM aht.agent_segments") == [LATER]


def test_a_segment_restated_into_another_day_moves_there(warehouse: sa.Engine) -> None:
    load(warehouse, batch(segment(1)))
    moved = segment(1, end_time=NEXT_DAY.window.start)

    assert load(warehouse, batch(moved), day=NEXT_DAY, pulled_at=LATER).updated == 1
    assert load(warehouse, batch(), pulled_at=LATER).reported == 0
    assert query(warehouse, "SELECT end_time FROM aht.agent_segments") == [NEXT_DAY.window.start]


# ------------------------------------------------------------------------------------------------------- the rejects


def rejects_of(warehouse: sa.Engine) -> list[Any]:
    return query(
        warehouse,
        "SELECT raw, reasons, day, first_seen_at, last_seen_at, resolved_at FROM aht.rejected_segments ORDER BY raw",
    )


def test_a_reject_is_kept_whole_with_when_it_was_first_and_last_seen(warehouse: sa.Engine) -> None:
    raw = '{"segmentId": "s\\u0000", "note": "quote \\" % :name 😀\\n"}'
    first = load(warehouse, batch(rejects=(reject(raw, "agentId: missing"),)), max_rejected_percent=100.0)
    again = batch(rejects=(reject(raw, "agentId: missing", 'endTime: "soon", not a time'),))
    second = load(warehouse, again, day=NEXT_DAY, pulled_at=LATER, max_rejected_percent=100.0)

    assert rejects_of(warehouse) == [
        (
            *(raw, ["agentId: missing", 'endTime: "soon", not a time'], NEXT_DAY.date),
            *(first.loaded_at, second.loaded_at, None),
        )
    ]


def test_a_reject_is_resolved_when_a_mended_row_of_its_segment_is_loaded(warehouse: sa.Engine) -> None:
    mended, other = json.dumps({"segmentId": segment(1)["segment_id"]}), json.dumps({"segmentId": "other"})
    strange = ("not JSON {", "[" * 100_000, "7", '{"segmentId": 5}', "{}")
    broken = batch(rejects=tuple(reject(raw) for raw in (mended, other, *strange)))
    load(warehouse, broken, max_rejected_percent=100.0)

    second = load(warehouse, batch(segment(1)), pulled_at=LATER)

    resolved = {raw: resolved_at for raw, *_, resolved_at in rejects_of(warehouse)}
    assert resolved == {mended: second.loaded_at, other: None} | dict.fromkeys(strange)

    load(warehouse, broken, pulled_at=LATER, max_rejected_percent=100.0)
    assert {resolved_at for *_, resolved_at in rejects_of(warehouse)} == {None}


@pytest.mark.parametrize("strange", ["NaN", "\\xff", "9" * 5_000, "[" * 300 + "]" * 300, '"\\ud800"'])
def test_a_reject_that_is_no_json_is_resolved_by_the_segment_that_its_id_names(
    warehouse: sa.Engine, strange: str
) -> None:
    broken = reject(f'{{"segmentId": "{segment(1)["segment_id"]}", "totalHandleTimeMillis": {strange}}}')
    load(warehouse, batch(rejects=(broken,)), max_rejected_percent=100.0)

    mended = load(warehouse, batch(segment(1)), pulled_at=LATER)

    assert [resolved_at for *_, resolved_at in rejects_of(warehouse)] == [mended.loaded_at]


def test_a_reject_that_is_still_in_the_pull_is_not_resolved(warehouse: sa.Engine) -> None:
    broken = reject(json.dumps({"segmentId": segment(1)["segment_id"]}))
    load(warehouse, batch(rejects=(broken,)), max_rejected_percent=100.0)

    load(warehouse, batch(segment(1), rejects=(broken,)), max_rejected_percent=100.0)

    assert [resolved_at for *_, resolved_at in rejects_of(warehouse)] == [None]


def test_a_reject_is_resolved_by_a_row_that_was_mended_into_another_day(warehouse: sa.Engine) -> None:
    broken = reject(json.dumps({"segmentId": segment(1)["segment_id"]}))
    load(warehouse, batch(rejects=(broken,)), max_rejected_percent=100.0)

    mended = load(warehouse, batch(segment(1, end_time=NEXT_DAY.window.start)), day=NEXT_DAY, pulled_at=LATER)

    assert [resolved_at for *_, resolved_at in rejects_of(warehouse)] == [mended.loaded_at]


def test_an_older_pull_neither_reopens_nor_resolves_a_reject(warehouse: sa.Engine) -> None:
    broken, good = batch(rejects=(reject(json.dumps({"segmentId": segment(1)["segment_id"]})),)), batch(segment(1))
    times = [PULLED_AT + timedelta(hours=number) for number in range(3)]

    def resolutions() -> list[datetime | None]:
        return [resolved_at for *_, resolved_at in rejects_of(warehouse)]

    load(warehouse, broken, pulled_at=times[0], max_rejected_percent=100.0)
    mended = load(warehouse, good, pulled_at=times[1])
    load(warehouse, broken, pulled_at=times[0], max_rejected_percent=100.0)
    assert resolutions() == [mended.loaded_at]

    load(warehouse, broken, pulled_at=times[2], max_rejected_percent=100.0)
    load(warehouse, good, pulled_at=times[1])
    assert resolutions() == [None]


def test_a_day_with_too_many_rejects_loads_nothing_and_says_why(warehouse: sa.Engine) -> None:
    good = batch(*(segment(number) for number in range(90)))
    bad = batch(
        rejects=tuple(
            reject(f"{{{number}}}", *["agentId: missing", "endTime: absent"][number % 2 :]) for number in range(10)
        )
    )

    with pytest.raises(
        RejectedTooMany, match=r"10 of the first 100 rows .*endTime: absent \(10\), agentId: missing \(5\)"
    ):
        load(warehouse, good, bad, max_rejected_percent=9.9)
    assert counts(warehouse) == (0, 0, 0)

    # The part of the day counts, not that of the rows so far.
    assert load(warehouse, bad, good, max_rejected_percent=10.0).rejected == 10


# ----------------------------------------------------------------------------------------------------- all or nothing


@pytest.mark.parametrize("reported", [2, 4])
def test_a_day_whose_rows_do_not_add_up_loads_nothing(warehouse: sa.Engine, reported: int) -> None:
    with pytest.raises(LedgerMismatch, match=f"{reported} segments were reported, but 3 rows"):
        load(
            warehouse,
            batch(segment(1), segment(2), rejects=(reject("{}"),)),
            reported=reported,
            max_rejected_percent=99.0,
        )

    assert counts(warehouse) == (0, 0, 0)


def test_a_fault_while_reading_the_day_loads_nothing(warehouse: sa.Engine) -> None:
    load(warehouse, batch(segment(1)))
    before = stored(warehouse)

    def batches() -> Iterator[SegmentBatch]:
        yield batch(segment(1, total_handle_time_ms=1), segment(2), rejects=(reject("{}"),))
        raise OSError("the archive is gone")

    with pytest.raises(OSError, match="the archive is gone"):
        load_day(warehouse, facts(reported=100, pulled_at=LATER), batches)

    assert counts(warehouse) == (1, 0, 1)
    assert stored(warehouse) == before


def test_a_server_that_ends_the_session_is_told_and_loads_nothing(warehouse: sa.Engine) -> None:
    def batches() -> Iterator[SegmentBatch]:
        yield batch(segment(1))
        query(
            warehouse,
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        yield batch(segment(2))

    with pytest.raises(WarehouseError, match="Check WAREHOUSE_URL"):
        load_day(warehouse, facts(reported=2), batches)

    assert counts(warehouse) == (0, 0, 0)


@pytest.fixture
def loader(warehouse: sa.Engine, url: str) -> Iterator[sa.Engine]:
    """A role that owns nothing and may do nothing yet."""
    (database,) = query(warehouse, "SELECT current_database()")
    role = f"loader_of_{database}"
    query(warehouse, f"CREATE ROLE {role} LOGIN PASSWORD 'secret'")
    yield public.engine(sa.make_url(url).set(username=role, password="secret").render_as_string(False))
    query(warehouse, f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_a_role_without_rights_is_told_which(loader: sa.Engine) -> None:
    with pytest.raises(WarehouseError, match="permission denied for schema aht"):
        load(loader, batch(segment(1)))


def test_a_loading_role_needs_no_more_than_to_read_add_and_change_rows(warehouse: sa.Engine, loader: sa.Engine) -> None:
    role = loader.url.username
    query(warehouse, f"GRANT USAGE ON SCHEMA aht TO {role}; GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA aht TO {role}")
    query(warehouse, f"GRANT UPDATE ON aht.agent_segments, aht.rejected_segments TO {role}")

    public.require_current(loader)
    broken = batch(segment(1), rejects=(reject(json.dumps({"segmentId": segment(2)["segment_id"]})),))
    load(loader, broken, max_rejected_percent=99.0)
    record_refusal(loader, ACCOUNT, NEXT_DAY.date, "too old", LATER)
    restated = load(loader, batch(segment(1, skill_id=None), segment(2)), pulled_at=LATER)

    assert (restated.inserted, restated.updated) == (1, 1)
    assert len(day_records(loader, ACCOUNT)) == 2


def test_a_segment_of_another_account_is_never_overwritten(warehouse: sa.Engine) -> None:
    load(warehouse, batch(segment(1)))
    before = stored(warehouse)

    for same_or_changed in (segment(1), segment(1, total_handle_time_ms=1)):
        with pytest.raises(ForeignSegment, match=f"{segment(1)['segment_id']} of account other .* account {ACCOUNT}"):
            load(warehouse, batch(segment(2), same_or_changed), account_id="other", pulled_at=LATER)

    assert stored(warehouse) == before
    assert counts(warehouse) == (1, 0, 1)


# ------------------------------------------------------------------------------------------------- loads side by side


@contextmanager
def loading(url: str, *first: SegmentBatch, **values: Any) -> Iterator[tuple[Future[Any], Callable[[], None]]]:
    """A load that stays inside its transaction after these batches, until it is let go."""
    reached, go = threading.Event(), threading.Event()

    def batches() -> Iterator[SegmentBatch]:
        yield from first
        yield batch()  # what comes after it is made when those are written
        reached.set()
        assert go.wait(60)

    engine = public.engine(url + "?application_name=the_first_loader")
    with ThreadPoolExecutor(1) as pool:
        try:
            future = pool.submit(load_day, engine, facts(*first, **values), batches)
            eventually(lambda: reached.is_set() or future.done())
            yield future, go.set
        finally:
            go.set()


def test_a_second_loader_of_a_day_waits_for_the_first(url: str, warehouse: sa.Engine) -> None:
    loads_seen_by_the_second: list[int] = []

    def batches() -> Iterator[SegmentBatch]:
        loads_seen_by_the_second.append(counts(warehouse)[2])
        yield batch(segment(1), segment(2))

    second_engine = public.engine(url + "?application_name=the_second_loader")
    with ThreadPoolExecutor(1) as pool, loading(url, batch(segment(1))) as (first, let_go):
        second = pool.submit(load_day, second_engine, facts(reported=2), batches)
        eventually(
            lambda: (
                query(
                    warehouse,
                    "SELECT count(*) FROM pg_stat_activity "
                    "WHERE application_name = 'the_second_loader' AND query LIKE '%pg_try_advisory_xact_lock%'",
                )
                == [1]
            )
        )
        let_go()

        assert first.result().inserted == 1
        assert (second.result().inserted, second.result().unchanged) == (1, 1)
    assert loads_seen_by_the_second == [1]


def test_a_loader_that_waited_long_enough_names_the_holder(url: str, warehouse: sa.Engine) -> None:
    with loading(url, batch(segment(1))):
        (pid,) = query(warehouse, "SELECT pid FROM pg_stat_activity WHERE application_name = 'the_first_loader'")

        with pytest.raises(DayBusy, match=rf"process {pid} .*the_first_loader from 127\.0\.0\.1, since 20"):
            load(warehouse, batch(segment(1)), lock_wait=timedelta(0))

    assert counts(warehouse) == (1, 0, 1)


@pytest.mark.parametrize("neighbour", [{"day": NEXT_DAY}, {"account_id": "other"}])
def test_another_day_and_another_account_are_loaded_meanwhile(
    url: str, warehouse: sa.Engine, neighbour: dict[str, Any]
) -> None:
    with loading(url, batch(segment(1))) as (first, _):
        close = neighbour.get("day", DAY).window.start
        assert load(warehouse, batch(segment(2, end_time=close)), lock_wait=timedelta(0), **neighbour).inserted == 1
        assert not first.done()


def test_a_segment_that_another_account_loads_meanwhile_is_not_overwritten(url: str, warehouse: sa.Engine) -> None:
    with ThreadPoolExecutor(1) as pool, loading(url, batch(segment(1))) as (first, let_go):
        second = pool.submit(load, warehouse, batch(segment(1)), account_id="other", pulled_at=LATER)
        eventually(lambda: query(warehouse, "SELECT count(*) FROM pg_locks WHERE NOT granted") == [1])
        let_go()

        assert first.result().inserted == 1
        with pytest.raises(ForeignSegment):
            second.result()
    assert query(warehouse, "SELECT account_id FROM aht.agent_segments") == [ACCOUNT]


def test_a_segment_that_a_newer_pull_of_another_day_loads_meanwhile_is_not_overwritten(
    url: str, warehouse: sa.Engine
) -> None:
    newer = batch(segment(1, end_time=NEXT_DAY.window.start))
    with ThreadPoolExecutor(1) as pool, loading(url, newer, day=NEXT_DAY, pulled_at=LATER) as (first, let_go):
        second = pool.submit(load, warehouse, batch(segment(1)))
        eventually(lambda: query(warehouse, "SELECT count(*) FROM pg_locks WHERE NOT granted") == [1])
        let_go()

        assert first.result().inserted == 1
        assert second.result().unchanged == 1
    assert query(warehouse, "SELECT end_time FROM aht.agent_segments") == [NEXT_DAY.window.start]


def test_rows_are_locked_in_the_order_of_their_key(warehouse: sa.Engine) -> None:
    """Else two loads that restate the same segments could each hold what the other waits for."""
    load(warehouse, batch(segment(1), segment(2)))
    backwards = [batch(segment(number, total_handle_time_ms=number)) for number in (2, 1)]

    with ThreadPoolExecutor(1) as pool, warehouse.connect() as rival:
        rival.execute(sa.text("SELECT 1 FROM aht.agent_segments WHERE segment_id LIKE '%1' FOR UPDATE"))
        waiting = pool.submit(load, warehouse, *backwards, pulled_at=LATER)
        eventually(lambda: query(warehouse, "SELECT count(*) FROM pg_locks WHERE NOT granted") == [1])

        assert query(
            warehouse, "SELECT 1 FROM aht.agent_segments WHERE segment_id LIKE '%2' FOR UPDATE SKIP LOCKED"
        ) == [1]
        rival.rollback()
        assert waiting.result().updated == 2


def test_a_load_that_loses_a_deadlock_is_tried_again(url: str, warehouse: sa.Engine) -> None:
    load(warehouse, batch(*(segment(number) for number in (1, 2, 3))))
    restated = batch(*(segment(number, total_handle_time_ms=number) for number in (1, 2, 3)))
    rounds: list[int] = []

    def batches() -> Iterator[SegmentBatch]:
        rounds.append(len(rounds))
        yield restated

    def hold(session: sa.Connection, number: int) -> None:
        session.execute(sa.text(f"SELECT 1 FROM aht.agent_segments WHERE segment_id LIKE '%{number}' FOR UPDATE"))

    with ThreadPoolExecutor(2) as pool, warehouse.connect() as rival, warehouse.connect() as third:
        # Who waits longest looks for the deadlock, and the one that finds it loses.
        rival.execute(sa.text("SET LOCAL deadlock_timeout = '1h'"))
        hold(rival, 3)
        hold(third, 2)
        impatient = public.engine(url + "?options=-c%20deadlock_timeout%3D10ms")
        loaded = pool.submit(load_day, impatient, facts(reported=3, pulled_at=LATER), batches)
        eventually(lambda: query(warehouse, "SELECT count(*) FROM pg_locks WHERE NOT granted") == [1])
        crossed = pool.submit(hold, rival, 1)
        eventually(lambda: query(warehouse, "SELECT count(*) FROM pg_locks WHERE NOT granted") == [2])
        third.rollback()
        crossed.result()
        rival.rollback()
        result = loaded.result()

    assert rounds == [0, 1]
    assert result.updated == 3
    assert query(warehouse, "SELECT total_handle_time_ms, revision FROM aht.agent_segments ORDER BY segment_id") == [
        (1, 2),
        (2, 2),
        (3, 2),
    ]
    assert counts(warehouse)[2] == 2


# -------------------------------------------------------------------------------------------------- how it is planned


@pytest.mark.parametrize("known_to_the_planner", ["nothing", "the table", "an empty table"])
@pytest.mark.parametrize("end", ["(0,0)", "(99,0)"], ids=["by the key alone", "where they lie, then by the key"])
def test_known_rows_are_never_found_by_a_scan_of_the_table_nor_each_by_a_scan_of_a_part_of_it(
    warehouse: sa.Engine, end: str, known_to_the_planner: str
) -> None:
    load(warehouse, batch(*(segment(number) for number in range(5000))))
    if known_to_the_planner != "nothing":
        query(warehouse, "ANALYZE aht.agent_segments")
    if known_to_the_planner == "an empty table":
        query(warehouse, "UPDATE pg_class SET reltuples = 0 WHERE oid = 'aht.agent_segments'::regclass")
    parameters = {"account_id": ACCOUNT, "pulled_at": LATER, "loaded_at": LATER, "may_change": True}
    parameters |= {"latest_credible": LATER, "not_credible": [LATER]}

    with warehouse.begin() as connection:
        create_stage(connection)
        stage(connection, plain_rows(batch(*(segment(number) for number in range(3000, 8000))).frame))
        explained = connection.execute(sa.text(f"EXPLAIN {MERGE.text}"), parameters | {"begin": "(0,0)", "end": end})
        plan = "\n".join(explained.scalars())

    assert "Tid Range Scan on agent_segments" in plan
    assert plan.count("Nested Loop") == 1  # the one of the probes
    assert "agent_segments_pkey" in plan
    assert "Seq Scan on agent_segments" not in plan


def test_the_pages_that_are_compared_whole_are_those_of_rows_that_lie_together(warehouse: sa.Engine) -> None:
    numbers = range(5000)
    load(warehouse, batch(*(segment(number) for number in numbers)))
    [pages] = query(warehouse, "SELECT max((ctid::text::point)[0])::int + 1 FROM aht.agent_segments")

    def pages_of(*staged: int) -> tuple[int, int]:
        with warehouse.begin() as connection:
            create_stage(connection)
            stage(connection, plain_rows(batch(*map(segment, staged)).frame))
            return known_pages(connection, len(staged))

    begin, end = pages_of(*numbers)
    assert 0 <= begin < pages / 20
    assert pages * 0.95 < end <= pages
    begin, end = pages_of(*numbers[1000:2000], *range(5000, 6000))
    assert pages / 5 - 2 < begin < end < pages * 2 / 5 + 2
    assert pages_of(0, 2500, 4999) == (0, 0)
    assert pages_of(5000) == (0, 0)


@pytest.mark.parametrize("lie_together", [True, False])
def test_whatever_became_of_known_rows_is_told_wherever_they_lie(warehouse: sa.Engine, lie_together: bool) -> None:
    """Equal, restated, moved to another day and back, held in a newer state, and new: all in one pull."""
    rows = {number: segment(number) for number in range(0, 2000, 1 if lie_together else 50)}
    others = [segment(number) for number in range(2000) if number not in rows]
    elsewhere = [number for number in rows if number % 300 == 0]
    newer = [number for number in rows if number % 300 == 100]
    restated = [number for number in rows if number % 300 == 200]
    new = range(5000, 5010)
    load(warehouse, batch(*others, *rows.values()))
    load(warehouse, batch(*(segment(n, end_time=NEXT_DAY.window.start) for n in elsewhere)), day=NEXT_DAY)
    load(warehouse, batch(*(segment(n, total_handle_time_ms=9) for n in newer)), pulled_at=LATER + timedelta(hours=1))

    again = {n: segment(n, total_handle_time_ms=1 if n in restated or n in newer else 412_350) for n in (*rows, *new)}
    result = load(warehouse, batch(*again.values()), pulled_at=LATER)

    assert result.inserted == len(new)
    assert result.updated == 0  # not the newest pull of the day
    result = load(warehouse, batch(*again.values()), pulled_at=LATER + timedelta(hours=2))
    assert (result.inserted, result.updated) == (0, len(elsewhere) + len(newer) + len(restated))
    held = query(warehouse, "SELECT segment_id, total_handle_time_ms FROM aht.agent_segments")
    assert {name: value for name, value in held if value != 412_350} == {
        segment(n)["segment_id"]: 1 for n in (*restated, *newer)
    }
    assert query(warehouse, "SELECT DISTINCT end_time FROM aht.agent_segments") == [segment(1)["end_time"]]


# ---------------------------------------------------------------------------------------------------------- the ledger


def test_what_is_known_of_the_days_is_their_latest_load_and_whether_any_settled_them(warehouse: sa.Engine) -> None:
    early = DAY.window.end
    load(warehouse, batch(segment(1)), pulled_at=LATER)
    load(warehouse, batch(segment(1), segment(2), rejects=(reject("{}"),)), pulled_at=early, max_rejected_percent=99.0)
    load(warehouse, batch(segment(3, end_time=early)), day=NEXT_DAY, pulled_at=NEXT_DAY.window.end)
    in_tokyo = Day(date(2026, 1, 1), "Asia/Tokyo")
    load(warehouse, batch(segment(4, end_time=in_tokyo.window.start)), account_id="other", day=in_tokyo)
    lost = date(2026, 1, 31)
    record_refusal(warehouse, ACCOUNT, lost, "fromMillis: too old", PULLED_AT)
    record_refusal(warehouse, ACCOUNT, lost, "fromMillis: too old", LATER)
    record_refusal(warehouse, ACCOUNT, NEXT_DAY.date, "fromMillis: too old", LATER)

    records = day_records(warehouse, ACCOUNT)

    assert list(records.items()) == [
        (lost, DayRecord(lost, None, None, None, False, None, PULLED_AT)),
        (DAY.date, DayRecord(DAY.date, 3, 2, 1, True, early, None)),
        (NEXT_DAY.date, DayRecord(NEXT_DAY.date, 1, 1, 0, False, NEXT_DAY.window.end, LATER)),
    ]
    assert [record.is_loaded for record in records.values()] == [False, True, True]


def test_a_segment_that_did_not_close_within_the_day_loads_nothing(warehouse: sa.Engine) -> None:
    before = segment(2, end_time=DAY.window.start - timedelta(milliseconds=1))
    after = segment(3, end_time=DAY.window.end)
    for outside in (before, after):
        with pytest.raises(OutsideDay, match=outside["segment_id"]):
            load(warehouse, batch(segment(1)), batch(segment(4), outside))
    assert query(warehouse, "SELECT count(*) FROM aht.agent_segments") == [0]


def test_late_is_what_is_new_or_changed_since_the_days_last_load(warehouse: sa.Engine) -> None:
    assert load(warehouse, batch(segment(1), segment(2))).late == 0
    changed = batch(segment(1), segment(2, total_handle_time_ms=1), segment(3))
    assert load(warehouse, changed, pulled_at=LATER).late == 2
    assert load(warehouse, changed, pulled_at=LATER).late == 0


def test_the_volumes_of_a_weekday_are_those_of_the_eight_weeks_before(warehouse: sa.Engine) -> None:
    def day(weeks_before: int, **values: Any) -> None:
        that = Day(DAY.date - timedelta(weeks=weeks_before), "UTC")
        close = that.window.start
        rows = [segment(100 * weeks_before + number, end_time=close) for number in range(weeks_before + 1)]
        load(warehouse, batch(*rows), day=that, **values)

    for weeks_before in (9, 8, 2, 0):
        day(weeks_before)
    day(2, pulled_at=LATER)
    other_weekday = Day(DAY.date - timedelta(days=8), "UTC")
    load(warehouse, batch(segment(1, end_time=other_weekday.window.start)), day=other_weekday)
    assert load(warehouse, batch()).weekday_volumes == (9, 3)
    assert load(warehouse, batch(), account_id="other").weekday_volumes == ()


def test_nothing_is_known_of_an_account_that_was_never_loaded(warehouse: sa.Engine) -> None:
    assert day_records(warehouse, ACCOUNT) == {}
    assert loaded_timezone(warehouse, ACCOUNT) is None


def test_the_zone_of_an_account_is_the_one_it_was_loaded_with(warehouse: sa.Engine) -> None:
    load(warehouse, batch(), day=Day(DAY.date, "Europe/London"))
    load(warehouse, batch(), day=Day(DAY.date, "Asia/Tokyo"), account_id="other")

    assert loaded_timezone(warehouse, ACCOUNT) == "Europe/London"
    assert loaded_timezone(warehouse, "other") == "Asia/Tokyo"


def test_the_ledger_itself_refuses_figures_that_do_not_add_up(warehouse: sa.Engine) -> None:
    load(warehouse, batch(segment(1)))

    with pytest.raises(sa.exc.IntegrityError, match="loads_reported_adds_up"):
        query(warehouse, "UPDATE aht.loads SET inserted = 2")
