"""What Postgres and this machine must agree on before anything is loaded: what time it is, and when a day begins.

Reports file segments under days by Postgres's own time zones; loads, and what the API is asked for, by Python's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import sqlalchemy as sa
from psycopg2 import errors

from aht_pipeline.clock import require_same_clock, when_read
from aht_pipeline.days import Day, date_range, iso
from aht_pipeline.errors import SettingsError

_OLDEST_RULES = date(1970, 1, 1)  # from here on, the time zone database keeps apart whatever was ever different
_SAMPLED = 5  # of so many days one shows a rule: no clock was ever changed for less


def begins_at(day: str, moment: str, timezone: str = ":timezone") -> str:
    """SQL that tells whether the day begins at this moment: it, and nothing before it, is filed under that day.

    So the first of two midnights, and the moment at which clocks leap over midnight, are found as Python finds them.
    """
    return (
        f"(({moment} AT TIME ZONE {timezone})::date >= {day} "
        f"AND (({moment} - interval '1 microsecond') AT TIME ZONE {timezone})::date < {day})"
    )


_DIFFERING = sa.text(
    f"""
    SELECT day, begins, day::timestamp AT TIME ZONE :timezone AS begins_there
    FROM unnest(CAST(:days AS date[]), CAST(:begins AS timestamptz[])) AS ours (day, begins)
    WHERE NOT {begins_at("day", "begins")}
    ORDER BY day
    LIMIT 1
    """  # noqa: S608
)

_SAME_RULES = sa.text(
    f"""
    SELECT name
    FROM pg_timezone_names
    WHERE NOT EXISTS (
        SELECT
        FROM unnest(CAST(:days AS date[]), CAST(:begins AS timestamptz[])) AS ours (day, begins)
        WHERE NOT {begins_at("day", "begins", "name")}
    )
    ORDER BY right(:timezone, length(name)) <> name, name NOT LIKE '_%/_%', name
    """  # noqa: S608
)


def require_same_time(connection: sa.Connection) -> timedelta:
    """How far our clock is ahead of Postgres's. Raises ClockOff where they differ by minutes."""
    asked_at = datetime.now(UTC)
    theirs: datetime = connection.execute(sa.text("SELECT clock_timestamp()")).scalar_one()
    ours = when_read(theirs, asked_at, datetime.now(UTC))
    require_same_clock(ours, theirs, "Postgres")
    return ours - theirs


def require_same_days(connection: sa.Connection, first: date, last: date, timezone: str) -> None:
    """Raise SettingsError unless every day from `first` to `last` begins and ends for Postgres as it does for us."""
    with telling_of_zone(connection, timezone):
        differing = connection.execute(
            _DIFFERING, _begins(date_range(first, last + timedelta(days=1)), timezone)
        ).first()
    if differing is not None:
        raise _other_rules(
            connection,
            timezone,
            f"by whose rules {differing.day} begins at {iso(differing.begins_there)} for the warehouse's Postgres, and "
            f"at {iso(differing.begins)} here: reports would file segments under other days than they are loaded with",
        )


@contextmanager
def telling_of_zone(connection: sa.Connection, timezone: str) -> Iterator[None]:
    """Turn Postgres's refusal of the time zone into a SettingsError."""
    try:
        yield
    except sa.exc.DBAPIError as error:
        if not isinstance(error.orig, errors.InvalidParameterValue):
            raise
        raise _other_rules(
            connection, timezone, "which the warehouse's Postgres does not know: its reports would fail"
        ) from None


def _other_rules(connection: sa.Connection, timezone: str, what: str) -> SettingsError:
    with connection.engine.connect() as another:  # the first one's transaction may have failed
        known = another.execute(_SAME_RULES, _begins(_samples(), timezone)).scalars().all()
    name = next(filter(_is_known, known), None)
    choice = f"Set it to {name}, which has the same rules" if name else "Set it to a name that has one meaning for both"
    return SettingsError(
        f"AHT_TIMEZONE is {timezone}, {what}. {choice}, or bring the time zones (tzdata) of the server and of this "
        "machine to the same release"
    )


def _samples() -> Iterable[date]:
    until = datetime.now(UTC).date() + timedelta(days=366)
    return list(date_range(_OLDEST_RULES, until))[::_SAMPLED]


def _begins(days: Iterable[date], timezone: str) -> dict[str, str]:
    """The parameters of the queries above."""
    begins = {day: Day(day, timezone).window.start for day in days}
    return {
        "days": f"{{{','.join(map(str, begins))}}}",
        "begins": f"{{{','.join(map(iso, begins.values()))}}}",
        "timezone": timezone,
    }


def _is_known(timezone: str) -> bool:
    try:
        ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError):
        return False
    return True
