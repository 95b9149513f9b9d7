"""Real call records as traffic: agents, services, hours and durations that no one made up, moved to recent days."""

from __future__ import annotations

import base64
import csv
import hashlib
import uuid
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import msgspec

from aht_pipeline.days import iso, to_millis
from aht_pipeline.errors import AhtError
from aht_pipeline.simulator.traffic import NONE, DaySegments, FiledRow, Segment, file_rows

DAYS_REACHED = 27
"""So many days before today are within the API's memory in every month and every time zone."""

_COLUMNS = ("date", "call_id", "service", "agent", "start", "end", "handle_seconds")


class CallsFileError(AhtError):
    """The file of call records cannot be used; the text names the line and what is wrong with it."""


@dataclass(frozen=True)
class CallSegment:
    """The one segment that a call becomes: what a warehouse should hold of it. Times are in UTC; it has no group."""

    segment_id: str
    conversation_id: str
    agent_id: int
    employee_id: str
    skill_id: int
    end_reason: str
    start_time: datetime
    end_time: datetime
    total_handle_time_ms: int


class CallTraffic:
    """The segments of `read_calls`, as traffic."""

    def __init__(self, segments: Iterable[CallSegment]) -> None:
        by_day: dict[date, list[FiledRow]] = defaultdict(list)
        for segment in segments:
            by_day[segment.end_time.date()].append(_filed(segment))
        self._days = {day: file_rows(rows) for day, rows in by_day.items()}
        self._quiet_day = file_rows([])

    def day(self, day: date) -> DaySegments:
        return self._days.get(day, self._quiet_day)


def read_calls(path: Path, account: str, today: date) -> list[CallSegment]:
    """The segments of a CSV with the columns date, call_id, service, agent, start, end, handle_seconds, and others.

    - The file's distinct dates, in order, are spread over the last 27 days before `today` (over as many days as there
      are dates, where they are fewer): date number i of D falls on day number `i * days // D`, in order.
    - A call keeps its times of day, taken as UTC. It is filed under its end; one that ends at an earlier time of day
      than it starts began on the day before.
    - `handle_seconds * 1000` is the total handle time, whatever start and end say.
    - `agentId` and `skillId` are 63-bit numbers made from the names of agent and service, the same everywhere;
      `employeeId` is the agent's name; `groupId` is -1; every call was `closedByAgent`.
    - `segmentId` and `conversationId` follow from account and call id alone.

    Raises CallsFileError, also for a call id that is there twice.
    """
    calls = _read(path)
    dates = sorted({call.date for call in calls})
    days = min(len(dates), DAYS_REACHED)
    moved_to = {
        original: today - timedelta(days=days) + timedelta(days=number * days // len(dates))
        for number, original in enumerate(dates)
    }
    return [_segment(call, account, moved_to[call.date]) for call in calls]


@dataclass(frozen=True)
class _Call:
    date: date
    call_id: str
    service: str
    agent: str
    start: time
    end: time
    handle_seconds: int


def _read(path: Path) -> list[_Call]:
    calls: dict[str, _Call] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            missing = [column for column in _COLUMNS if column not in (reader.fieldnames or ())]
            if missing:
                raise CallsFileError(f"{path} has no column {', '.join(missing)}: it needs {', '.join(_COLUMNS)}")
            for row in reader:
                call = _call(row, f"{path}, line {reader.line_num}")
                if call.call_id in calls:
                    raise CallsFileError(f"{path}, line {reader.line_num}: call id {call.call_id} is there twice")
                calls[call.call_id] = call
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CallsFileError(f"{path} cannot be read as CSV: {error}") from None
    return list(calls.values())


def _call(row: dict[str, str], place: str) -> _Call:
    try:
        return _Call(
            date=date.fromisoformat(row["date"]),
            call_id=row["call_id"],
            service=row["service"],
            agent=row["agent"],
            start=time.fromisoformat(row["start"]),
            end=time.fromisoformat(row["end"]),
            handle_seconds=int(row["handle_seconds"]),
        )
    except (ValueError, TypeError) as error:  # TypeError: the line is too short
        raise CallsFileError(f"{place}: {error}") from None


def _segment(call: _Call, account: str, day: date) -> CallSegment:
    conversation_id = str(uuid.uuid5(uuid.NAMESPACE_OID, call.call_id))
    agent_id = _number(f"agent {call.agent}")
    started_on = day if call.start <= call.end else day - timedelta(days=1)
    return CallSegment(
        segment_id=f"{account}:{agent_id}:{conversation_id}:{_key(call.call_id)}",
        conversation_id=conversation_id,
        agent_id=agent_id,
        employee_id=call.agent,
        skill_id=_number(f"service {call.service}"),
        end_reason="closedByAgent",
        start_time=datetime.combine(started_on, call.start, UTC),
        end_time=datetime.combine(day, call.end, UTC),
        total_handle_time_ms=call.handle_seconds * 1000,
    )


def _number(name: str) -> int:
    """A number from 2^62 to 2^63: one that a 64-bit float cannot hold."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest()) >> 2 | 1 << 62


def _key(call_id: str) -> str:
    digest = hashlib.blake2b(call_id.encode(), digest_size=16).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def _filed(segment: CallSegment) -> FiledRow:
    row = Segment(
        segment_id=segment.segment_id,
        start_time=iso(segment.start_time),
        start_time_l=to_millis(segment.start_time),
        end_time=iso(segment.end_time),
        end_time_l=to_millis(segment.end_time),
        conversation_id=segment.conversation_id,
        agent_id=segment.agent_id,
        employee_id=segment.employee_id,
        skill_id=segment.skill_id,
        group_id=NONE,
        end_reason=segment.end_reason,
        total_handle_time_millis=segment.total_handle_time_ms,
    )
    return FiledRow(
        json=msgspec.json.encode(row),
        close_ms=row.end_time_l,
        conversation=segment.conversation_id,
        agent=segment.agent_id,
        employee=segment.employee_id,
        skill=segment.skill_id,
    )
