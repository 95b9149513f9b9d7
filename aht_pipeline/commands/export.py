"""`export`: handle time by skill and quarter of an hour, of settled days, as the CSV that workforce planning takes."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import click
import sqlalchemy as sa

from aht_pipeline.commands.configured import configured
from aht_pipeline.coverage import ranges
from aht_pipeline.days import date_range, iso
from aht_pipeline.errors import SettingsError
from aht_pipeline.home import look_at_reports

_ROWS_AT_ONCE = 10_000

# Only views of the schema reporting: the role that exports need be no more than a reader.
_coverage = sa.table("day_coverage", sa.column("account_id"), sa.column("day"), sa.column("state"), schema="reporting")
_skill_interval = sa.table(
    "skill_interval",
    *map(sa.column, ("account_id", "close_date", "interval_start", "interval_start_local", "skill_id", "skill_name")),
    *map(sa.column, ("concluded_segments", "total_handle_time_seconds")),
    schema="reporting",
)


@dataclass(frozen=True)
class _Interval:
    """A skill's quarter of an hour; start and skill as the profile wants them."""

    start: datetime
    skill: int | str | None
    concluded: int
    seconds: Decimal

    def average(self, digits: int) -> str:
        """Times `concluded` it is the workload; empty where nothing concluded."""
        return f"{self.seconds / self.concluded:.{digits}f}" if self.concluded else ""


@dataclass(frozen=True)
class _Profile:
    """What one receiver wants to read. has_offered: a column of it is what LivePerson does not say."""

    header: str
    delimiter: str
    start: sa.ColumnElement[datetime]
    skill: sa.ColumnElement[Any]
    has_offered: bool
    row: Callable[[_Interval], Sequence[object]]


def _generic(one: _Interval) -> Sequence[object]:
    return iso(one.start), one.skill, one.concluded, one.seconds, one.average(3)


def _genesys(one: _Interval) -> Sequence[object]:
    return iso(one.start), one.skill, "message", one.concluded, one.concluded, one.seconds


def _injixo(one: _Interval) -> Sequence[object]:
    day, time = one.start.strftime("%d/%m/%Y"), one.start.strftime("%H:%M")
    return one.skill, day, time, one.concluded, one.concluded, one.average(0)


# Two skills may be called the same, and a queue may have one row for a quarter of an hour.
_queue = sa.func.coalesce(_skill_interval.c.skill_name, "none")

_PROFILES = {
    "generic": _Profile(
        "interval_start_utc,skill_id,concluded_segments,total_handle_time_seconds,avg_handle_time_seconds",
        delimiter=",",
        start=_skill_interval.c.interval_start,
        skill=_skill_interval.c.skill_id,
        has_offered=False,
        row=_generic,
    ),
    "genesys": _Profile(
        "Interval Start UTC Date,Queue,Media Type,Offered,Interactions Handled,Total Handle Time",
        delimiter=",",
        start=_skill_interval.c.interval_start,
        skill=_queue,
        has_offered=True,
        row=_genesys,
    ),
    "injixo": _Profile(
        "Queue;Date;Time;IncomingCalls;AnsweredCalls;AHT",
        delimiter=";",
        start=_skill_interval.c.interval_start_local,
        skill=_queue,
        has_offered=True,
        row=_injixo,
    ),
}


def run_export(profile: str, first: date | None, last: date | None, offered_from_concluded: bool) -> int:
    """0 when a day is exported, 1 when none is settled. Days of the range that are not settled are named and left out.

    Without `first` the range begins with the first settled day, without `last` it ends with the last one.
    """
    wanted = _PROFILES[profile]
    if first and last and first > last:
        raise SettingsError(f"--from {first} comes after --to {last}")
    if wanted.has_offered and not offered_from_concluded:
        raise SettingsError(_NO_OFFERED.format(profile=profile))
    settings = configured()
    account = settings.require_account()
    with look_at_reports(settings).connect() as connection:
        settled = _settled_days(connection, account)
        asked = _range(settled, first, last)
        exported = sorted(settled.intersection(asked))
        _write(connection, account, wanted, exported)
    if not asked:
        click.echo("aht-pipeline: no day is settled yet: see aht-pipeline status", err=True)
    not_settled = sorted(set(asked).difference(exported))
    for begin, end in ranges(not_settled):
        span = f"{begin} is" if begin == end else f"{begin} to {end} are"
        click.echo(f"aht-pipeline: {span} not settled, and not exported: see aht-pipeline status", err=True)
    return 0 if exported else 1


_NO_OFFERED = """\
{profile} wants to know what was offered, and LivePerson's API does not say. --offered-from-concluded writes the \
segments that concluded (closed or transferred) in its place, as it does for what was handled: nobody who gave up \
waiting is in it, and each part of a transferred conversation counts."""


def _settled_days(connection: sa.Connection, account: str) -> set[date]:
    days = sa.select(_coverage.c.day).where(_coverage.c.account_id == account, _coverage.c.state == "settled")
    return set(connection.execute(days).scalars())


def _range(settled: set[date], first: date | None, last: date | None) -> list[date]:
    """The days asked for; none where no bound is given and nothing is settled."""
    known = {*settled, *filter(None, (first, last))}
    return list(date_range(first or min(known), last or max(known))) if known else []


def _write(connection: sa.Connection, account: str, profile: _Profile, days: Sequence[date]) -> None:
    """The header and a row for each skill's interval of these days, in UTF-8, lines ending with a line feed."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", newline="\n")  # whatever the locale says
    sys.stdout.write(f"{profile.header}\n")
    lines = csv.writer(sys.stdout, delimiter=profile.delimiter, lineterminator="\n")
    intervals = connection.execution_options(yield_per=_ROWS_AT_ONCE).execute(_intervals(account, profile, days))
    for start, skill, concluded, seconds in intervals:
        lines.writerow(profile.row(_Interval(start, skill, concluded, seconds)))
    sys.stdout.flush()


def _intervals(account: str, profile: _Profile, days: Sequence[date]) -> sa.Select[Any]:
    """The fields of _Interval. On the account's clocks the two quarters that a repeated hour has become one."""
    column = _skill_interval.c
    return (
        sa.select(
            profile.start,
            profile.skill,
            sa.func.sum(column.concluded_segments),
            sa.func.sum(column.total_handle_time_seconds),
        )
        .where(column.account_id == account, column.close_date.in_(days))
        .group_by(profile.start, profile.skill)
        .order_by(profile.start, profile.skill)
    )
