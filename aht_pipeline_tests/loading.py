"""Days to load: segments, batches and loads with as few words as a test needs."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd
import pyarrow as pa
import sqlalchemy as sa

from aht_pipeline.days import Day
from aht_pipeline.normalize import SEGMENT_SCHEMA, Reject, SegmentBatch
from aht_pipeline.warehouse import LoadFacts, LoadResult, load_day

ACCOUNT = "12345678"
DAY = Day(date(2026, 3, 10), "UTC")
PULLED_AT = datetime(2026, 3, 12, 3, 15, tzinfo=UTC)

Segment = dict[str, Any]


def segment(number: int, **values: Any) -> Segment:
    """A plain segment with this number in its id, closed at noon of DAY."""
    return {
        "segment_id": f"12345678:3000000101:conversation:{number:06d}",
        "conversation_id": f"conversation-{number}",
        "agent_id": 3_000_000_101,
        "employee_id": "00042",
        "skill_id": 4_100_000_001,
        "group_id": 510_001,
        "end_reason": "closedByAgent",
        "start_time": datetime(2026, 3, 10, 11, 0, 0, 500_000, tzinfo=UTC),
        "end_time": datetime(2026, 3, 10, 12, tzinfo=UTC),
        "total_handle_time_ms": 412_350,
        "quality_flags": [],
        "extra": None,
    } | values


def reject(raw: str, *reasons: str) -> Reject:
    return Reject(raw, hashlib.sha256(raw.encode()).hexdigest(), reasons or ("agentId: missing",))


def batch(*segments: Segment, rejects: tuple[Reject, ...] = (), outside_day: int = 0) -> SegmentBatch:
    frame = pa.Table.from_pylist(list(segments), schema=SEGMENT_SCHEMA).to_pandas(types_mapper=pd.ArrowDtype)
    return SegmentBatch(frame, rejects, outside_day, frozenset(), frozenset())


def facts(*batches: SegmentBatch, **values: Any) -> LoadFacts:
    """The facts of a pull that these batches make up, in an archived file of its own."""
    pulled_at = values.get("pulled_at", PULLED_AT)
    known: dict[str, Any] = {
        "account_id": ACCOUNT,
        "day": DAY,
        "pulled_at": pulled_at,
        "reported": sum(len(one.frame) + len(one.rejects) + one.outside_day for one in batches),
        "requests": 1,
        "archive_file": f"account=12345678/day=2026-03-10/{pulled_at:%Y%m%dT%H%M%S}.jsonl.zst",
        "archive_sha256": "0" * 64,
        "dagster_run_id": None,
        "max_rejected_percent": 5.0,
    }
    return LoadFacts(**(known | values))


def load(
    warehouse: sa.Engine, *batches: SegmentBatch, lock_wait: timedelta = timedelta(seconds=60), **values: Any
) -> LoadResult:
    return load_day(warehouse, facts(*batches, **values), lambda: batches, lock_wait)


def load_each_day(warehouse: sa.Engine, segments: Iterable[Segment], timezone: str, **values: Any) -> None:
    """Load these segments, each with the day of this zone on which it closed."""
    days = defaultdict(list)
    for one in segments:
        days[one["end_time"].astimezone(ZoneInfo(timezone)).date()].append(one)
    for closed, of_the_day in sorted(days.items()):
        load(warehouse, batch(*of_the_day), day=Day(closed, timezone), **values)


def query(warehouse: sa.Engine, statement: str, **parameters: Any) -> list[Any]:
    """The rows of a query; where it has one column, its values."""
    with warehouse.begin() as connection:
        result = connection.execute(sa.text(statement), parameters)
        if not result.returns_rows:
            return []
        return list(result.scalars()) if len(result.keys()) == 1 else [tuple(row) for row in result]
