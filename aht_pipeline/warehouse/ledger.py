"""What the warehouse knows of an account's days: which are loaded, from which pull, and which the API refused."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from aht_pipeline.warehouse.tables import loads, refused_days

_RECORDS = sa.text(
    """
    SELECT day, reported, loaded, rejected, coalesce(settled, false) AS settled, pulled_at, refused_at
    FROM (
        SELECT DISTINCT ON (day)
            day, reported, inserted + updated + unchanged AS loaded, rejected, pulled_at,
            bool_or(settled) OVER (PARTITION BY day) AS settled
        FROM aht.loads
        WHERE account_id = :account_id
        ORDER BY day, load_id DESC
    ) AS latest
    FULL JOIN (SELECT day, refused_at FROM aht.refused_days WHERE account_id = :account_id) AS refused USING (day)
    ORDER BY day
    """
)

_STANDING = sa.text(
    """
    SELECT
        greatest(:pulled_at, max(pulled_at) FILTER (WHERE archive_file = :archive_file)) AS as_of,
        max(pulled_at) FILTER (WHERE archive_file <> :archive_file) AS other,
        count(*) = 0 AS is_first
    FROM aht.loads
    WHERE account_id = :account_id AND day = :day
    """
)


_VOLUMES = sa.text(
    """
    SELECT DISTINCT ON (day) reported
    FROM aht.loads
    WHERE account_id = :account_id
        AND day IN (SELECT CAST(:day AS date) - 7 * weeks FROM generate_series(1, 8) AS weeks)
    ORDER BY day, load_id DESC
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
    is_newest: whether nothing newer was loaded. What an older pull says of a known segment, a newer one has confirmed
        or corrected, which the segment's own `pulled_at` does not show where it was confirmed.
    is_first: whether nothing of the day was ever loaded.
    """

    as_of: datetime
    is_newest: bool
    is_first: bool


def standing_of(
    connection: sa.Connection, account_id: str, day: date, archive_file: str, pulled_at: datetime
) -> Standing:
    """Whether this pull of the day may change what is known; asked under the day's lock."""
    found = connection.execute(
        _STANDING, {"account_id": account_id, "day": day, "archive_file": archive_file, "pulled_at": pulled_at}
    ).one()
    is_newest = found.other is None or found.other <= found.as_of
    return Standing(found.as_of, is_newest=is_newest, is_first=found.is_first)


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
