"""`segments`: what the API holds now for a window and filters, as JSON lines."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from aht_pipeline.commands.configured import configured
from aht_pipeline.days import Window, from_millis, to_millis
from aht_pipeline.errors import SettingsError
from aht_pipeline.home import open_api
from aht_pipeline.pages import content_keys, read_page
from aht_pipeline.source import SegmentQuery, prove

_LONGEST = timedelta(days=7)  # of one request's window


@dataclass(frozen=True)
class Filters:
    """Exact matches; None for any."""

    conversation: str | None
    agent: str | None
    employee: str | None
    skill: str | None
    group: str | None
    sort: str | None


def run_segments(first: datetime | None, last: datetime | None, filters: Filters) -> None:
    """Print the segments, each once and as the API sent it, only when they are proved to be all."""
    settings = configured()
    end = _moment(last, settings.timezone) if last else datetime.now(UTC)
    start = _moment(first, settings.timezone) if first else end - timedelta(hours=24)
    if start >= end:
        raise SettingsError(f"--from ({start}) must come before --to ({end})")
    if not settings.demo:
        settings.require_keys()
    seen: set[int] = set()  # a segment on the edge of two windows comes twice
    with open_api(settings) as api:
        for window in _weeks(start, end):
            query = SegmentQuery(
                window,
                conversation_id=filters.conversation,
                agent_id=filters.agent,
                employee_id=filters.employee,
                skill_id=filters.skill,
                group_id=filters.group,
                sort=filters.sort,
            )
            with _Lines() as lines:
                prove(api, query, lines)
                for page in map(read_page, lines):
                    for segment, key in zip(page.segments, content_keys(page).tolist(), strict=True):
                        if key not in seen:
                            seen.add(key)
                            sys.stdout.buffer.write(bytes(segment) + b"\n")  # as sent, also what is no UTF-8


class _Lines:
    """A PageSink on an unnamed file: one page a line."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, page: bytes) -> None:
        self._file.write(page.replace(b"\n", b" ").replace(b"\r", b" ") + b"\n")

    def mark(self) -> int:
        return self._file.tell()

    def rewind(self, mark: int) -> None:
        self._file.seek(mark)
        self._file.truncate()

    def __iter__(self) -> Iterator[bytes]:
        self._file.seek(0)
        return iter(self._file)


def _moment(given: datetime, timezone: str) -> datetime:
    """In UTC and whole milliseconds; a time without an offset is of the account's zone."""
    aware = given if given.tzinfo else given.replace(tzinfo=ZoneInfo(timezone))
    try:
        moment = from_millis(to_millis(aware.astimezone(UTC)))
        _ = moment - _LONGEST
    except OverflowError:
        raise SettingsError(f"{given} is too far away: no segment closed then") from None
    return moment


def _weeks(start: datetime, end: datetime) -> Iterator[Window]:
    """The newest first, as the API sorts; it takes windows of at most a week."""
    while start < end:
        earlier = max(start, end - _LONGEST)
        yield Window(earlier, end)
        end = earlier
