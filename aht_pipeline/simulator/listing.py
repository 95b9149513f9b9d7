"""From a query and the traffic to the body of a 200: which segments, in which order, under which envelope."""

from __future__ import annotations

import operator
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import msgspec
import numpy as np
import numpy.typing as npt

from aht_pipeline.days import iso, to_millis
from aht_pipeline.simulator.query import Query
from aht_pipeline.simulator.traffic import DaySegments, Ints, Texts, Traffic

_WHOLE_NUMBER = re.compile(r"-1|0|[1-9][0-9]{0,18}")
_MILLISECONDS_TO_SECONDS = re.compile(rb'("(?:start|end)TimeL":\d+)\d{3}\b')


@dataclass(frozen=True)
class Style:
    """How the server writes its replies, where the documentation leaves room or contradicts itself.

    max_rows: never serves more rows than this, whatever limit it accepted; None: as many as asked.
    half_open: a segment that closes exactly at `to` is left out.
    pagination: False is the older form of the reply.
    epoch_in_seconds: `startTimeL` and `endTimeL` are seconds, everywhere.
    shuffle_ties: rows equal in the sorted field come in another order with every request.
    ignores_window: answers for its default window, the last 24 hours, whatever was asked.
    """

    max_rows: int | None = None
    half_open: bool = False
    pagination: bool = True
    epoch_in_seconds: bool = False
    shuffle_ties: bool = False
    ignores_window: bool = False


def listing(traffic: Traffic, query: Query, now: datetime, lag: timedelta, style: Style, address: str) -> bytes:
    """The reply's body. `address` is what its references repeat: the URL without paging and sort."""
    found = list(_matching(traffic, query, now, lag, half_open=style.half_open))
    count = sum(len(rows) for _, rows in found)
    size = query.limit if style.max_rows is None else min(query.limit, style.max_rows)
    if query.sort == "Date" and not style.shuffle_ties:
        segments = _page(found, query.offset, size)
    else:
        segments = _sorted_page(found, query.sort, query.offset, size, shuffle_ties=style.shuffle_ties)

    rows = b",".join(segments)
    parts = [b'{"timeframe":', msgspec.json.encode(_timeframe(query)), b',"segments":[', rows, b"]"]
    if style.pagination:
        parts += [b',"pagination":', msgspec.json.encode(_pagination(query, count, address))]
    body = b"".join([*parts, b"}"])
    return _MILLISECONDS_TO_SECONDS.sub(rb"\1", body) if style.epoch_in_seconds else body


_Found = list[tuple[DaySegments, range | Ints]]


def _matching(traffic: Traffic, query: Query, now: datetime, lag: timedelta, *, half_open: bool) -> _Found:
    """For each day that the window touches, newest first: its segments, and the places of those that match."""
    found: _Found = []
    for day in _days_newest_first(query.start, min(query.end, now)):
        segments = traffic.day(day)
        rows: range | Ints = _closed_within(segments, query, half_open=half_open)
        if not _all_have_appeared(day, now, lag):
            rows = np.asarray(rows, np.int64)
            appears_ms = segments.close_ms[rows] + segments.lateness[rows] * (lag / timedelta(milliseconds=1))
            rows = rows[appears_ms <= to_millis(now)]
        for name, value in query.filters:
            rows = np.asarray(rows, np.int64)
            rows = rows[_equals(segments, name, value)[rows]]
        if len(rows):
            found.append((segments, rows))
    return found


def _days_newest_first(start: datetime, end: datetime) -> Iterator[date]:
    first, last = start.astimezone(UTC).date(), end.astimezone(UTC).date()
    for days_back in range((last - first).days + 1):
        yield last - timedelta(days=days_back)


def _closed_within(segments: DaySegments, query: Query, *, half_open: bool) -> range:
    find_newest = bisect_right if half_open else bisect_left
    newest = find_newest(segments.close_ms, -to_millis(query.end), key=operator.neg)
    oldest = bisect_right(segments.close_ms, -to_millis(query.start), key=operator.neg)
    return range(newest, oldest)


def _all_have_appeared(day: date, now: datetime, lag: timedelta) -> bool:
    return now >= datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1) + lag


def _equals(segments: DaySegments, name: str, value: str) -> npt.NDArray[np.bool_]:
    column = _column(segments, name.removesuffix("Id"))
    if column.dtype.kind == "S":
        return np.equal(column, np.bytes_(value.encode()))
    written_as_the_api_does = _WHOLE_NUMBER.fullmatch(value) and int(value) < 2**63
    return np.equal(column, int(value)) if written_as_the_api_does else np.zeros(len(column), np.bool_)


def _column(segments: DaySegments, field: str) -> Ints | Texts:
    """What the API calls `Date`, `Conversation`, `Agent`, `Employee`, `Skill` or `Group`."""
    column: Ints | Texts = segments.close_ms if field == "Date" else getattr(segments, field.lower())
    return column


def _page(found: _Found, offset: int, size: int) -> list[bytes]:
    """Rows `offset` to `offset + size` of all, newest close first."""
    pieces = []
    for segments, rows in found:
        if offset < len(rows) and size > 0:
            taken = rows[offset : offset + size]
            pieces.append(_json_of(segments, taken))
            size -= len(taken)
        offset = max(0, offset - len(rows))
    return pieces


def _sorted_page(found: _Found, sort: str, offset: int, size: int, *, shuffle_ties: bool) -> list[bytes]:
    """The same by another field, ascending (the date descending); ties newest first, or in random order."""
    if not found:
        return []
    keys = np.concatenate([_column(segments, sort)[np.asarray(rows)] for segments, rows in found])
    if sort == "Date":
        keys = -keys
    among_equals = np.random.default_rng().random(len(keys)) if shuffle_ties else np.arange(len(keys))
    places = [(segments, row) for segments, rows in found for row in rows]
    order = np.lexsort((among_equals, keys))[offset : offset + size]
    return [_json_of(segments, [row]) for segments, row in (places[place] for place in order)]


def _json_of(segments: DaySegments, rows: range | Ints | list[int]) -> bytes:
    """These rows, joined by commas."""
    if isinstance(rows, range):
        return bytes(segments.json[segments.starts[rows.start] : segments.starts[rows.stop] - 1])
    return b",".join(segments.json[segments.starts[row] : segments.starts[row + 1] - 1] for row in rows)


def _timeframe(query: Query) -> dict[str, str | int]:
    return {
        "startTime": iso(query.start.replace(microsecond=0)),
        "endTime": iso(query.end.replace(microsecond=0)),
        "startTimeL": to_millis(query.start),
        "endTimeL": to_millis(query.end),
    }


def _pagination(query: Query, count: int, address: str) -> dict[str, object]:
    """The count and the links, with the documented oddities: `sortType` for `sort`, a `last` with a shortened limit."""
    last = max(0, (count - 1) // query.limit * query.limit)
    places = [("self", query.offset, query.limit)]
    if query.offset + query.limit < count:
        places.append(("next", query.offset + query.limit, query.limit))
    places += [("last", last, count - last), ("first", 0, query.limit)]
    return {
        "count": count,
        "references": [
            {"rel": rel, "href": f"{address}&offset={offset}&limit={limit}&sortType={query.sort.upper()}"}
            for rel, offset, limit in places
        ],
    }
