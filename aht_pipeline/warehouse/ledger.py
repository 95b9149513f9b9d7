"""What the warehouse knows of an account's days: which are loaded, from which pull, and which the API refused.

A pull by a clock that was ahead says that it is newer than it is. So a line of the ledger whose pull cannot have begun
when it says (migration 0009) settles no day, and counts as older than any other.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from aht_pipeline.clock import CLOCK_TOLERANCE, require_same_clock, when_read
from aht_pipeline.days import Day
from aht_pipeline.warehouse.agreement import begins_at, require_same_days, telling_of_zone
from aht_pipeline.warehouse.tables import loads, refused_days

_RECORDS = sa.text(
    """
    SELECT day, reported, loaded, rejected, coalesce(settled, false) AS settled, pulled_at, refused_at
    FROM (
        SELECT DISTINCT ON (load.day)
            load.day, load.reported, load.inserted + load.updated + load.unchanged AS loaded, load.rejected,
            load.pulled_at, bool_or(credible.settled) OVER (PARTITION BY load.day) AS settled
        FROM aht.loads AS load
        LEFT JOIN aht.credible_loads AS credible USING (load_id)
        WHERE load.account_id = :account_id
        ORDER BY load.day, credible.load_id DESC NULLS LAST, load.load_id DESC
    ) AS latest
    FULL JOIN (SELECT day, refused_at FROM aht.refused_days WHERE account_id = :account_id) AS refused USING (day)
    ORDER BY day
    """
)

_STANDING = sa.text(
    f"""
    SELECT
        server.now AS server_now,
        {begins_at("CAST(:day AS date)", "CAST(:window_start AS timestamptz)")}
            AND {begins_at("CAST(:day AS date) + 1", "CAST(:window_end AS timestamptz)")} AS is_same_day,
        max(load.pulled_at) FILTER (WHERE load.archive_file = :archive_file AND is_credible) AS confirmed,
        max(load.pulled_at) FILTER (WHERE load.archive_file <> :archive_file AND is_credible) AS other,
        coalesce(array_agg(load.pulled_at) FILTER (WHERE NOT is_credible), '{{}}') AS not_credible,
        count(load.load_id) = 0 AS is_first
    FROM (SELECT clock_timestamp() AS now) AS server
    LEFT JOIN (
        SELECT load.load_id, load.pulled_at, load.archive_file, credible.load_id IS NOT NULL AS is_credible
        FROM aht.loads AS load
        LEFT JOIN aht.credible_loads AS credible USING (load_id)
        WHERE load.account_id = :account_id AND load.day = :day
    ) AS load ON true
    GROUP BY server.now
    """  # noqa: S608
)


_VOLUMES = sa.text(
    """
    SELECT DISTINCT ON (load.day) load.reported
    FROM aht.loads AS load
    LEFT JOIN aht.credible_loads AS credible USING (load_id)
    WHERE load.account_id = :account_id
        AND load.day IN (SELECT CAST(:day AS date) - 7 * weeks FROM generate_series(1, 8) AS weeks)
    ORDER BY load.day, credible.load_id DESC NULLS LAST, load.load_id DESC
    """
)


_DOUBTFUL_FILES = sa.text(
    """
    SELECT load.archive_file
    FROM aht.loads AS load
    LEFT JOIN aht.credible_loads AS credible USING (load_id)
    WHERE load.account_id = :account_id
    GROUP BY load.archive_file
    HAVING count(credible.load_id) = 0
    """
)


@dataclass(frozen=True)
class DayRecord:
    """What is known of a day that was loaded or refused.

    reported, loaded, rejected: of the latest load; None when the day was never loaded.
    settled: whether any load of the day was.
    last_pulled_at: when the pull of the latest load began (UTC); None when the day was never loaded.
    refused_at: when the API first refused the day as older than its memory (UTC); None when it did not.
    """

    date: date
    reported: int | None
    loaded: int | None
    rejected: int | None
    settled: bool
    last_pulled_at: datetime | None
    refused_at: datetime | None

    @property
    def is_loaded(self) -> bool:
        return self.loaded is not None


@dataclass(frozen=True)
class Standing:
    """Where a pull stands among the loads of its day.

    as_of: when the API last said what the pull holds (UTC): a later one that was equal was loaded from the same file.
        Where it cannot have begun when it says, the day's start, which makes it older than any other.
    is_newest: whether nothing newer was loaded. What an older pull says of a known segment, a newer one has confirmed
        or corrected, which the segment's own `pulled_at` does not show where it was confirmed.
    is_first: whether nothing of the day was ever loaded.
    server_now: what Postgres's clock says (UTC).
    not_credible: when pulls of the day say that they began, and cannot have: no row is newer for it.
    """

    as_of: datetime
    is_newest: bool
    is_first: bool
    server_now: datetime
    not_credible: tuple[datetime, ...]


def standing_of(
    connection: sa.Connection, account_id: str, day: Day, archive_file: str, pulled_at: datetime
) -> Standing:
    """Whether this pull of the day may change what is known; asked under the day's lock.

    Raises ClockOff where Postgres's clock is not ours, and SettingsError where the day is another one for Postgres.
    """
    asked_at = datetime.now(UTC)
    with telling_of_zone(connection, day.timezone):
        found = connection.execute(
            _STANDING,
            {
                "account_id": account_id,
                "day": day.date,
                "window_start": day.window.start,
                "window_end": day.window.end,
                "timezone": day.timezone,
                "archive_file": archive_file,
                "pulled_at": pulled_at,
            },
        ).one()
    require_same_clock(when_read(found.server_now, asked_at, datetime.now(UTC)), found.server_now, "Postgres")
    if not found.is_same_day:
        require_same_days(connection, day.date, day.date, day.timezone)
    is_credible = pulled_at <= found.server_now + CLOCK_TOLERANCE and pulled_at not in found.not_credible
    as_of = max(filter(None, (pulled_at if is_credible else None, found.confirmed)), default=day.window.start)
    return Standing(
        as_of=as_of,
        is_newest=found.other is None or found.other <= as_of,
        is_first=found.is_first,
        server_now=found.server_now,
        not_credible=tuple(found.not_credible),
    )


def doubtful_files(warehouse: sa.Engine, account_id: str) -> frozenset[str]:
    """The archived pulls that were loaded, but cannot have begun when they say."""
    with warehouse.connect() as connection:
        return frozenset(connection.execute(_DOUBTFUL_FILES, {"account_id": account_id}).scalars())


def volumes_of_the_weekday(connection: sa.Connection, account_id: str, day: date) -> tuple[int, ...]:
    """What the API reported, at last, of the eight days a week apart before this one, as far as they were loaded."""
    return tuple(connection.execute(_VOLUMES, {"account_id": account_id, "day": day}).scalars())


def day_records(warehouse: sa.Engine, account_id: str) -> dict[date, DayRecord]:
    """Every day that was loaded or refused, oldest first."""
    with warehouse.connect() as connection:
        rows = connection.execute(_RECORDS, {"account_id": account_id}).all()
    return {
        row.day: DayRecord(
            date=row.day,
            reported=row.reported,
            loaded=row.loaded,
            rejected=row.rejected,
            settled=row.settled,
            last_pulled_at=row.pulled_at and row.pulled_at.astimezone(UTC),
            refused_at=row.refused_at and row.refused_at.astimezone(UTC),
        )
        for row in rows
    }


def loaded_timezone(warehouse: sa.Engine, account_id: str) -> str | None:
    """The time zone by which the account's days were loaded; None when none was."""
    with warehouse.connect() as connection:
        return connection.execute(
            sa.select(loads.c.timezone)
            .where(loads.c.account_id == account_id)
            .order_by(loads.c.load_id.desc())
            .limit(1)
        ).scalar_one_or_none()


def record_refusal(warehouse: sa.Engine, account_id: str, day: date, reason: str, at: datetime) -> None:
    """Note that the API refused the day as older than its memory; the first refusal stays."""
    with warehouse.begin() as connection:
        connection.execute(
            insert(refused_days)
            .values(account_id=account_id, day=day, refused_at=at, reason=reason)
            .on_conflict_do_nothing()
        )
