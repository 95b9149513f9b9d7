"""What a request for `agent-segments` asks: every documented parameter, its limits, and the causes of a 400."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from aht_pipeline.days import from_millis, iso, to_millis

FILTERS = ("ConversationId", "AgentId", "EmployeeId", "SkillId", "GroupId")
SORTS = ("Date", "Conversation", "Agent", "Employee", "Skill", "Group")
_SOURCE = re.compile(r"[a-zA-Z0-9_]+")
_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,18}")
_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_DEFAULT_SPAN, _LONGEST_SPAN = timedelta(hours=24), timedelta(days=7)


class BadQuery(Exception):
    """The request breaks a documented rule; `causes` are the lines of the 400's body."""

    def __init__(self, causes: list[str]) -> None:
        super().__init__("; ".join(causes))
        self.causes = causes


@dataclass(frozen=True)
class Query:
    """start, end: the earliest and the latest close time (aware)."""

    start: datetime
    end: datetime
    limit: int
    offset: int
    sort: str
    filters: tuple[tuple[str, str], ...]


def read_query(parameters: Mapping[str, str], now: datetime, max_limit: int) -> Query:
    """Read the parameters by the documentation's rules; others, or in another case, are ignored. Raises BadQuery."""
    causes: list[str] = []
    _check_source(parameters.get("source"), causes)
    limit = _number(parameters, "limit", min(100, max_limit), causes, least=1, most=max_limit)
    offset = _number(parameters, "offset", 0, causes, least=0)
    sort = parameters.get("sort", "Date")
    if sort not in SORTS:
        causes.append(f"sort: must be one of {', '.join(SORTS)}")
    start, end = _window(parameters, now, causes)
    if causes:
        raise BadQuery(causes)
    filters = tuple((name, parameters[name]) for name in FILTERS if name in parameters)
    return Query(start, end, limit, offset, sort, filters)


def asked_day(parameters: Mapping[str, str], now: datetime) -> date | None:
    """The UTC day in which the middle of the asked window lies; None where the window breaks a rule."""
    causes: list[str] = []
    start, end = _window(parameters, now, causes)
    return None if causes else (start + (end - start) / 2).astimezone(UTC).date()


def _check_source(source: str | None, causes: list[str]) -> None:
    if source is None or source == "":
        causes.append("source: is required")
        return
    if len(source) > 20:
        causes.append("source: must be at most 20 characters long")
    if not _SOURCE.fullmatch(source):
        causes.append('source: must match "^[a-zA-Z0-9_]+$"')


def _number(
    parameters: Mapping[str, str], name: str, default: int, causes: list[str], *, least: int, most: int | None = None
) -> int:
    text = parameters.get(name)
    if text is None:
        return default
    if not _WHOLE_NUMBER.fullmatch(text):
        causes.append(f"{name}: must be a whole number")
        return default
    if int(text) < least:
        causes.append(f"{name}: must be greater than or equal to {least}")
    if most is not None and int(text) > most:
        causes.append(f"{name}: must be less than or equal to {most}")
    return int(text)


def _window(parameters: Mapping[str, str], now: datetime, causes: list[str]) -> tuple[datetime, datetime]:
    misread: list[str] = []
    start_name, start = _edge(parameters, "from", misread)
    end_name, end = _edge(parameters, "to", misread)
    causes += misread
    if misread:
        return now, now
    if start is None:
        start = now - _DEFAULT_SPAN
    elif start < _a_month_before(now):
        causes.append(f"{start_name}: must be at most 1 month ago, not before {iso(_a_month_before(now))}")
    if end is None:
        end = min(now, start + _LONGEST_SPAN) if start < now else start
    elif end < start:
        causes.append(f"{end_name}: must not be before {start_name}")
    elif end - start > _LONGEST_SPAN:
        causes.append(f"{end_name}: must be at most 1 week after {start_name}")
    return start, end


def _edge(parameters: Mapping[str, str], name: str, causes: list[str]) -> tuple[str, datetime | None]:
    """One edge of the window and the parameter that gave it: `from` or `fromMillis`, `to` or `toMillis`."""
    text, millis = parameters.get(name), parameters.get(f"{name}Millis")
    if text is not None and millis is not None:
        causes.append(f"{name}: must not be given together with {name}Millis")
        return name, None
    if millis is not None:
        moment = _from_epoch(millis)
        if moment is None:
            causes.append(f"{name}Millis: must be epoch milliseconds")
        return f"{name}Millis", moment
    if text is None:
        return name, None
    moment = _from_text(text)
    if moment is None:
        causes.append(f"{name}: must be a date and time with an offset, by RFC 3339")
    return name, moment


def _from_epoch(text: str) -> datetime | None:
    if not _WHOLE_NUMBER.fullmatch(text):
        return None
    try:
        return from_millis(int(text))
    except OverflowError:
        return None


def _from_text(text: str) -> datetime | None:
    if not _RFC_3339.fullmatch(text):
        return None
    try:
        moment = datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return from_millis(to_millis(moment))


def _a_month_before(now: datetime) -> datetime:
    """The same time on the same day of the month before, or on that month's last day."""
    last_month = now.replace(day=1) - timedelta(days=1)
    return last_month.replace(day=min(now.day, last_month.day))
