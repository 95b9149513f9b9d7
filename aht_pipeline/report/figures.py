"""What the page shows, read from the views of `reporting` alone, as whoever may read only these can."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from aht_pipeline.days import Day, date_range

BINS_A_DECADE = 8
"""Bars of the distribution for each factor of ten."""

_SUMS = (
    "coalesce(sum(segments), 0)::bigint AS segments, coalesce(sum(concluded_segments), 0)::bigint AS concluded, "
    "coalesce(sum(transfers), 0)::bigint AS transfers, coalesce(sum(zero_handle_segments), 0)::bigint AS zero_handle, "
    "coalesce(sum(total_handle_time_seconds), 0)::float AS handle_seconds"
)
_OF_THE_DAYS = "WHERE account_id = :account_id AND close_date BETWEEN :first AND :last"

_TIMEZONE = sa.text("SELECT timezone FROM reporting.account_timezone WHERE account_id = :account_id")
_COVERAGE = sa.text(
    "SELECT day, state FROM reporting.day_coverage WHERE account_id = :account_id AND day BETWEEN :first AND :last"
)
_BY_DAY = sa.text(f"SELECT close_date AS day, {_SUMS} FROM reporting.skill_day {_OF_THE_DAYS} GROUP BY 1")  # noqa: S608
_BY_QUARTER = sa.text(
    "SELECT (extract(epoch FROM interval_start_local::time) / 60)::int AS minute, "  # noqa: S608
    f"{_SUMS} FROM reporting.skill_interval {_OF_THE_DAYS} GROUP BY 1 ORDER BY 1"
)
_DISTRIBUTION = sa.text(
    "SELECT floor(log(handle_time_seconds) * :bins_a_decade)::int AS bin, count(*) AS segments "
    "FROM reporting.agent_segments WHERE account_id = :account_id AND end_time >= :start AND end_time < :end "
    "AND handle_time_seconds > 0 GROUP BY 1 ORDER BY 1"
)


def _by(what: str) -> sa.TextClause:
    """Sums of the days, beside quantiles of the segments: those of days cannot be put together."""
    return sa.text(
        f"""
        SELECT sums.*, quantiles.of_all[1] AS median_seconds, quantiles.of_all[2] AS p90_seconds
        FROM (
            SELECT {what}_id AS id, {what}_name AS name, {_SUMS}
            FROM reporting.{what}_day {_OF_THE_DAYS}
            GROUP BY 1, 2
        ) AS sums
        JOIN (
            SELECT {what}_id AS id,
                percentile_cont(ARRAY[0.5, 0.9]) WITHIN GROUP (ORDER BY handle_time_seconds) AS of_all
            FROM reporting.agent_segments
            WHERE account_id = :account_id AND end_time >= :start AND end_time < :end
            GROUP BY 1
        ) AS quantiles ON quantiles.id IS NOT DISTINCT FROM sums.id
        ORDER BY segments DESC, sums.id
        """  # noqa: S608
    )


@dataclass(frozen=True)
class Measures:
    """Sums over some segments, from which every average and rate is worked out."""

    segments: int = 0
    concluded: int = 0
    transfers: int = 0
    zero_handle: int = 0
    handle_seconds: float = 0.0

    @property
    def average_seconds(self) -> float | None:
        return self.handle_seconds / self.segments if self.segments else None

    @property
    def transfer_rate(self) -> float | None:
        return self.transfers / self.concluded if self.concluded else None


@dataclass(frozen=True)
class DayFigures:
    """One day; state: of `reporting.day_coverage`."""

    day: date
    state: str
    measures: Measures


@dataclass(frozen=True)
class QuarterFigures:
    """All days' segments that closed in one quarter of an hour of the clock; minute: since midnight, local."""

    minute: int
    measures: Measures


@dataclass(frozen=True)
class KeyFigures:
    """One skill, group or agent over all days. id: None for segments without one; name: the id where none is known."""

    id: int | None
    name: str | None
    measures: Measures
    median_seconds: float
    p90_seconds: float


@dataclass(frozen=True)
class Bin:
    """Segments with a handle time from `start_seconds` up to, not including, `end_seconds`."""

    start_seconds: float
    end_seconds: float
    segments: int


@dataclass(frozen=True)
class Figures:
    """All of the page. made_at: when it was read (UTC); the distribution leaves out handle times of 0."""

    account_id: str
    timezone: str
    made_at: datetime
    days: tuple[DayFigures, ...]
    quarters: tuple[QuarterFigures, ...]
    skills: tuple[KeyFigures, ...]
    groups: tuple[KeyFigures, ...]
    agents: tuple[KeyFigures, ...]
    distribution: tuple[Bin, ...]

    @property
    def total(self) -> Measures:
        return Measures(
            segments=sum(day.measures.segments for day in self.days),
            concluded=sum(day.measures.concluded for day in self.days),
            transfers=sum(day.measures.transfers for day in self.days),
            zero_handle=sum(day.measures.zero_handle for day in self.days),
            handle_seconds=sum(day.measures.handle_seconds for day in self.days),
        )

    def days_that_are(self, *states: str) -> list[date]:
        return [day.day for day in self.days if day.state in states]


def read_figures(
    warehouse: sa.Engine, account_id: str, timezone: str, first: date, last: date, now: datetime
) -> Figures:
    """The figures of these days, both in, of the account's zone. A day that nothing is known of is `missing`."""
    parameters = {
        "account_id": account_id,
        "first": first,
        "last": last,
        "start": Day(first, timezone).window.start,
        "end": Day(last, timezone).window.end,
        "bins_a_decade": BINS_A_DECADE,
    }
    with warehouse.connect() as connection:

        def rows(query: sa.TextClause) -> Sequence[Any]:
            return connection.execute(query, parameters).all()

        states = {row.day: row.state for row in rows(_COVERAGE)}
        measures = {row.day: _measures(row) for row in rows(_BY_DAY)}
        skills, groups, agents = (
            tuple(
                KeyFigures(row.id, row.name, _measures(row), row.median_seconds, row.p90_seconds)
                for row in rows(_by(what))
            )
            for what in ("skill", "group", "agent")
        )
        return Figures(
            account_id=account_id,
            timezone=timezone,
            made_at=now,
            days=tuple(
                DayFigures(day, states.get(day, "missing"), measures.get(day, Measures()))
                for day in date_range(first, last)
            ),
            quarters=tuple(QuarterFigures(row.minute, _measures(row)) for row in rows(_BY_QUARTER)),
            skills=skills,
            groups=groups,
            agents=agents,
            distribution=tuple(
                Bin(10 ** (row.bin / BINS_A_DECADE), 10 ** ((row.bin + 1) / BINS_A_DECADE), row.segments)
                for row in rows(_DISTRIBUTION)
            ),
        )


def reported_timezone(warehouse: sa.Engine, account_id: str) -> str | None:
    """The zone of the account's days; None where none is loaded."""
    with warehouse.connect() as connection:
        return connection.execute(_TIMEZONE, {"account_id": account_id}).scalar_one_or_none()


def last_days(last: date, count: int) -> tuple[date, date]:
    """So many days that end with this one."""
    return last - timedelta(days=count - 1), last


def _measures(row: Any) -> Measures:
    return Measures(row.segments, row.concluded, row.transfers, row.zero_handle, row.handle_seconds)
