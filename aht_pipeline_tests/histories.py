"""Histories of an account: what its API comes to say of some segments, and what is pulled and loaded meanwhile.

What a row should become is written out here, beside how it is sent, from the API's documentation alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from types import MappingProxyType
from typing import Any

from aht_pipeline.simulator import (
    Cut,
    Empty,
    ErrorStatus,
    Fault,
    HtmlError,
    Reset,
    RevokeTokens,
    Style,
    When,
    WrongCount,
    segment,
)

HOUR_MS = 3_600_000
LEFT_OUT = object()

CALENDARS = (
    ("UTC", date(2026, 2, 27)),
    ("Europe/Berlin", date(2026, 3, 28)),  # 23 hours on the 29th
    ("America/New_York", date(2026, 10, 30)),  # 25 hours on 1 November
    ("America/Santiago", date(2026, 9, 4)),  # the 6th has no midnight
    ("Asia/Kathmandu", date(2025, 12, 30)),
)
"""Zones, and a first day from which three to five days meet what is special there."""

GOOD: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = MappingProxyType(
    {
        "plain": ({}, {}),
        "no work": ({"totalHandleTimeMillis": 0}, {"total_handle_time_ms": 0}),
        "much work": (
            {"totalHandleTimeMillis": 600_001},
            {"total_handle_time_ms": 600_001, "quality_flags": ["handle_time_exceeds_duration"]},
        ),
        "employee null": ({"employeeId": None}, {"employee_id": None}),
        "employee empty": ({"employeeId": ""}, {"employee_id": None}),
        "employee left out": ({"employeeId": LEFT_OUT}, {"employee_id": None}),
        "another employee": ({"employeeId": "0007"}, {"employee_id": "0007"}),
        "no skill": ({"skillId": -1}, {"skill_id": None}),
        "another skill": ({"skillId": 2**62 + 1}, {"skill_id": 2**62 + 1}),
        "group null": ({"groupId": None}, {"group_id": None}),
        "agent in digits": ({"agentId": "3000000999"}, {"agent_id": 3_000_000_999}),
        "another conversation": ({"conversationId": 'moved, "here"\n'}, {"conversation_id": 'moved, "here"\n'}),
        "new reason": ({"endReason": "closedByTheMoon"}, {"end_reason": "closedByTheMoon"}),
        "no reason": ({"endReason": LEFT_OUT}, {"end_reason": None}),
        "new field": (
            {"mood": {"of": ["agent", None, 9007199254740993]}},
            {"extra": {"mood": {"of": ["agent", None, 9007199254740993]}}},
        ),
        "two new fields": ({"a": 1.5, "é": "ü"}, {"extra": {"a": 1.5, "é": "ü"}}),
        "epoch of 1970": ({"startTimeL": 5}, {"quality_flags": ["start_epoch_disagrees"]}),
        "no epoch": ({"endTimeL": LEFT_OUT}, {}),
        "epoch alone": ({"endTime": None}, {"quality_flags": ["end_time_from_epoch"]}),
    }
)
"""Ways to send a segment: what is other than in the plain row, and what is other in the columns then."""

POISONED: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "agent left out": {"agentId": LEFT_OUT},
        "agent ill-typed": {"agentId": "nobody"},
        "conversation empty": {"conversationId": ""},
        "end ill-typed": {"endTime": "soon"},
        "no start": {"startTime": None, "startTimeL": None},
        "NaN": {"totalHandleTimeMillis": float("nan")},
        "fraction": {"totalHandleTimeMillis": 1.5},
        "NUL": {"endReason": "a\0b"},
        "NUL in a new field": {"mood": "a\0b"},
        "half a surrogate pair": {"employeeId": "\ud83d"},
        "id left out": {"segmentId": LEFT_OUT},
        "id empty": {"segmentId": ""},
        "id with NUL": {"segmentId": "a\0b"},
        "id with half a surrogate pair": {"segmentId": "\ud83d"},
    }
)
"""Ways to send a segment that no table can hold."""

FAULTS: Mapping[str, tuple[Fault, ...]] = MappingProxyType(
    {
        "none": (),
        "429 twice": (ErrorStatus(429, when=When(first=2)),),
        "500 on the second": (ErrorStatus(500, when=When(after=1, first=1)),),
        "every third reset": (Reset(When(every=3)),),
        "cut off": (Cut(when=When(every=2)),),
        "no JSON": (Cut(as_json=True, when=When(first=1)),),
        "HTML": (HtmlError(when=When(after=2, first=1)),),
        "token revoked": (RevokeTokens(When(after=1, first=1)),),
        "an empty page": (Empty(when=When(after=1, first=1)),),
        "a wrong count": (WrongCount(1, When(first=1)),),
        "wrong counts for ever": (WrongCount(1),),
        "403 from the second on": (ErrorStatus(403, when=When(after=1)),),
        "500 for ever": (ErrorStatus(500),),
    }
)


@dataclass(frozen=True)
class Say:
    """From now on the API says this of a segment, whatever it said before.

    It closes `ms` after the midnight that begins day number `day`; `version` is of GOOD or POISONED.
    """

    number: int
    day: int
    ms: int
    version: str = "plain"
    copies: int = 1


@dataclass(frozen=True)
class Drop:
    """The API speaks of a segment no more."""

    number: int


Change = Say | Drop


@dataclass(frozen=True)
class Read:
    """A day is pulled, and loaded if `load`; just before request `k` of the pull (from 0) the API changes its mind."""

    day: int
    fault: str = "none"
    meanwhile: tuple[tuple[int, Change], ...] = ()
    load: bool = True


@dataclass(frozen=True)
class Replay:
    """A pull made before is loaded: the day's one so many before its last, or its first."""

    day: int
    back: int


@dataclass(frozen=True)
class ReplayLatest:
    """What the archive holds as the day's latest pull is loaded."""

    day: int


Event = Say | Drop | Read | Replay | ReplayLatest


@dataclass(frozen=True)
class History:
    timezone: str
    first_day: date
    days: int
    page_size: int
    max_limit: int
    concurrency: int
    style: Style
    max_rejected_percent: float
    events: tuple[Event, ...]


@dataclass(frozen=True)
class Sent:
    """A row as the API sends it, and what it means.

    segment_id: None where it has no usable one. columns: as they should be stored; None for a poisoned row.
    """

    raw: bytes
    close: datetime
    segment_id: str | None
    columns: dict[str, Any] | None = field(compare=False)

    @property
    def key(self) -> object:
        """Two rows with one key are one segment: without a usable id it is the content that counts."""
        return self.raw if self.segment_id is None else self.segment_id


def sent(number: int, close: datetime, version: str) -> Sent:
    plain = segment(number, close)
    changes, meant = GOOD[version] if version in GOOD else (POISONED[version], None)
    row = {name: value for name, value in {**plain, **changes}.items() if value is not LEFT_OUT}
    raw = json.dumps(row, separators=(",", ":")).encode()
    segment_id = None if "segmentId" in changes else plain["segmentId"]
    if meant is None:
        return Sent(raw, close, segment_id, None)
    columns = {
        "segment_id": segment_id,
        "account_id": "demo",
        "conversation_id": plain["conversationId"],
        "agent_id": plain["agentId"],
        "employee_id": plain["employeeId"],
        "skill_id": plain["skillId"],
        "group_id": plain["groupId"],
        "end_reason": plain["endReason"],
        "start_time": close - timedelta(minutes=10),
        "end_time": close,
        "total_handle_time_ms": plain["totalHandleTimeMillis"],
        "quality_flags": [],
        "extra": None,
    }
    return Sent(raw, close, segment_id, {**columns, **meant})


def raw_rows(page: bytes) -> list[bytes]:
    """The rows of a reply, each exactly as it stands there; also those that only a lenient reader takes for JSON."""
    text = page.decode()
    at = text.index('"segments":[') + len('"segments":[')
    rows = []
    while text[at] != "]":
        _, end = json.JSONDecoder().raw_decode(text, at)
        rows.append(text[at:end].encode())
        at = end + (text[end] == ",")
    return rows
