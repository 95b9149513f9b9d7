"""Which segments exist: a day of them in a form that is quick to serve, and a data set that tests change as they go."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from aht_pipeline.days import from_millis, iso, to_millis

Ints = npt.NDArray[np.int64]
Texts = npt.NDArray[np.bytes_]
NONE = -1
"""How the API writes that a segment has no skill or no group."""


class Segment(msgspec.Struct, rename="camel", gc=False):
    """One row as the API writes it; an unset field is left out."""

    segment_id: str
    start_time: str
    start_time_l: int
    end_time: str
    end_time_l: int
    conversation_id: str
    agent_id: int
    employee_id: str | msgspec.UnsetType | None
    skill_id: int | msgspec.UnsetType
    group_id: int | msgspec.UnsetType
    end_reason: str
    total_handle_time_millis: int


@dataclass(frozen=True, eq=False)
class DaySegments:
    """The segments that close on one UTC day, newest close first, already rendered.

    json, starts: all rows joined by commas; row i is `json[starts[i] : starts[i + 1] - 1]`, a run of rows one slice.
    lateness: in [0, 1): the share of the server's lag after which a row appears.
    The other columns are what the API filters and sorts by: no value is -1 or empty.
    """

    json: bytes | bytearray
    starts: Ints
    close_ms: Ints
    lateness: npt.NDArray[np.float64]
    conversation: Texts
    agent: Ints
    employee: Texts
    skill: Ints
    group: Ints

    def __len__(self) -> int:
        return len(self.close_ms)


class Traffic(Protocol):
    """The segments of an account, filed by the UTC day of their close."""

    def day(self, day: date) -> DaySegments:
        """All segments that close on this UTC day, whether or not they have appeared yet."""


@dataclass(frozen=True)
class FiledRow:
    """One rendered row and what it is filed, filtered and sorted by."""

    json: bytes
    close_ms: int
    conversation: str = ""
    agent: int = NONE
    employee: str = ""
    skill: int = NONE
    group: int = NONE


def file_rows(rows: Sequence[FiledRow]) -> DaySegments:
    """Arrange the rows of one day for serving; rows that close in the same millisecond keep their order."""
    rows = sorted(rows, key=lambda row: -row.close_ms)
    lengths = np.fromiter((len(row.json) + 1 for row in rows), np.int64, len(rows))
    return DaySegments(
        json=b",".join(row.json for row in rows),
        starts=np.concatenate(([0], np.cumsum(lengths))).astype(np.int64),
        close_ms=np.fromiter((row.close_ms for row in rows), np.int64, len(rows)),
        lateness=np.fromiter((zlib.crc32(row.json) / 2**32 for row in rows), np.float64, len(rows)),
        conversation=np.array([row.conversation.encode() for row in rows], dtype=np.bytes_),
        agent=np.fromiter((row.agent for row in rows), np.int64, len(rows)),
        employee=np.array([row.employee.encode() for row in rows], dtype=np.bytes_),
        skill=np.fromiter((row.skill for row in rows), np.int64, len(rows)),
        group=np.fromiter((row.group for row in rows), np.int64, len(rows)),
    )


class ExplicitTraffic:
    """An explicit set of raw rows that tests may change at any time, from any thread.

    A row is a dict with the API's own field names, or the exact bytes to serve (any bytes: they are not looked into).
    It is filed under `close`, else under its `endTime`, and has a name: the one given, else its `segmentId`.
    """

    def __init__(self, rows: Iterable[Mapping[str, Any]] = ()) -> None:
        self._lock = threading.Lock()
        self._rows: dict[date, dict[str, FiledRow]] = {}
        self._raw: dict[str, tuple[date, Mapping[str, Any] | bytes]] = {}
        self._days: dict[date, DaySegments] = {}
        for row in rows:
            self.add(row)

    def add(self, row: Mapping[str, Any] | bytes, *, close: datetime | None = None, name: str | None = None) -> str:
        """File a row and return its name. Raises ValueError for a name that is taken, and for bytes without `close`."""
        filed = _filed(row, close)
        if name is None:
            name = row["segmentId"] if isinstance(row, Mapping) and "segmentId" in row else f"row {len(self._raw)}"
        with self._lock:
            if name in self._raw:
                raise ValueError(f"a row named {name!r} is there already: give the second one a name of its own")
            self._put(name, row, filed)
        return name

    def restate(self, name: str, *, close: datetime | None = None, **changes: Any) -> None:
        """Change fields of a row that is a dict, and file it anew under its (new) close."""
        with self._lock:
            _, row = self._raw[name]
            if isinstance(row, bytes):
                raise ValueError(f"row {name!r} is bytes: remove it and add another")
            row = {**row, **changes}
            filed = _filed(row, close)
            self._drop(name)
            self._put(name, row, filed)

    def remove(self, name: str) -> None:
        """Take a row away. Raises KeyError for a name that is not there."""
        with self._lock:
            self._drop(name)

    def row(self, name: str) -> Mapping[str, Any] | bytes:
        """The row of this name as it is now. Raises KeyError for a name that is not there."""
        with self._lock:
            return self._raw[name][1]

    def day(self, day: date) -> DaySegments:
        with self._lock:
            if day not in self._days:
                self._days[day] = file_rows(list(self._rows.get(day, {}).values()))
            return self._days[day]

    def _put(self, name: str, row: Mapping[str, Any] | bytes, filed: FiledRow) -> None:
        day = from_millis(filed.close_ms).date()
        self._raw[name] = (day, row)
        self._rows.setdefault(day, {})[name] = filed
        self._days.pop(day, None)

    def _drop(self, name: str) -> None:
        day, _ = self._raw.pop(name)
        del self._rows[day][name]
        self._days.pop(day, None)


def segment(number: int, close: datetime, *, account: str = "demo", **changes: Any) -> dict[str, Any]:
    """A believable raw row that closes then, after ten minutes, six of them handled; `changes` replace its fields."""
    conversation = f"0b6f0c0e-1111-4111-8111-{number:012x}"
    agent = 3_000_000_101 + number % 7
    start = close - timedelta(minutes=10)
    return {
        "segmentId": f"{account}:{agent}:{conversation}:{number:022d}",
        "startTime": iso(start),
        "startTimeL": to_millis(start),
        "endTime": iso(close),
        "endTimeL": to_millis(close),
        "conversationId": conversation,
        "agentId": agent,
        "employeeId": f"{agent % 100:05d}",
        "skillId": 4_100_000_001 + number % 3,
        "groupId": 510_001,
        "endReason": "closedByConsumer",
        "totalHandleTimeMillis": 360_000,
    } | changes


def _filed(row: Mapping[str, Any] | bytes, close: datetime | None) -> FiledRow:
    if isinstance(row, bytes):
        if close is None:
            raise ValueError("a row of bytes needs `close`: when it is filed")
        return FiledRow(row, to_millis(close))
    if close is None:
        close = datetime.fromisoformat(row["endTime"]).astimezone(UTC)
    return FiledRow(
        json=msgspec.json.encode(dict(row)),
        close_ms=to_millis(close),
        conversation=str(row.get("conversationId") or ""),
        agent=_whole(row.get("agentId")),
        employee=str(row.get("employeeId") or ""),
        skill=_whole(row.get("skillId")),
        group=_whole(row.get("groupId")),
    )


def _whole(value: object) -> int:
    """The value as a 64-bit number, or NONE: an ill-typed field can be served, but not filtered by."""
    text = str(value)
    return int(text) if text.isascii() and text.isdecimal() and int(text) < 2**63 else NONE
