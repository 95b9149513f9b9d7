"""Loads one day: segments, rejects and the ledger's row in one transaction, and only when every figure adds up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import sqlalchemy as sa
from psycopg2.extensions import TransactionRollbackError

from aht_pipeline.ahead import one_ahead
from aht_pipeline.days import Day
from aht_pipeline.errors import AhtError
from aht_pipeline.warehouse.connection import WarehouseError
from aht_pipeline.warehouse.ledger import Standing, standing_of, volumes_of_the_weekday
from aht_pipeline.warehouse.locks import hold_day
from aht_pipeline.warehouse.merge import (
    Merged,
    Rows,
    complete_rows,
    create_stage,
    insert_new,
    merge,
    plain_rows,
    stage,
)
from aht_pipeline.warehouse.rejects import keep_rejects, resolve_rejects, unresolved_rejects
from aht_pipeline.warehouse.tables import loads

if TYPE_CHECKING:
    from aht_pipeline.normalize import SegmentBatch

_ATTEMPTS = 3
_REASONS_SHOWN = 3


class LedgerMismatch(AhtError):
    """The rows of the batches are not as many as the pull reported: nothing was loaded."""


class OutsideDay(AhtError):
    """A segment of the batches did not close within the day: nothing was loaded."""


class RejectedTooMany(AhtError):
    """More of the day's rows are unusable than is allowed: nothing was loaded."""


@dataclass(frozen=True)
class LoadFacts:
    """What is known of a day before its rows are read.

    pulled_at: when the pull began (UTC).
    reported: segments of the pull; every row of the batches counts towards it.
    requests: HTTP requests that the pull took.
    archive_file, archive_sha256: the archived pull that the rows are read from.
    dagster_run_id: None outside Dagster.
    max_rejected_percent: the day fails when more than this part of `reported` is rejected.
    """

    account_id: str
    day: Day
    pulled_at: datetime
    reported: int
    requests: int
    archive_file: str
    archive_sha256: str
    dagster_run_id: str | None
    max_rejected_percent: float


@dataclass(frozen=True)
class LoadResult:
    """What a load did: `reported` = `inserted` + `updated` + `unchanged` + `rejected` + `outside_day`.

    load_id: the row of `aht.loads`.
    inserted: segments that were new; updated: of which a stored value changed; unchanged: known already, or known in
    the state of a newer pull.
    rejected: rows that are now in `aht.rejected_segments`; outside_day: rows on the edge that belong to a neighbour.
    late: of these, how many were new or changed since the day's last load; 0 in its first.
    weekday_volumes: what was reported of the eight days a week apart before it, as far as they are loaded.
    settled: whether no late data can be missing.
    loaded_at: when the load began (UTC).
    """

    load_id: int
    reported: int
    inserted: int
    updated: int
    unchanged: int
    rejected: int
    outside_day: int
    late: int
    weekday_volumes: tuple[int, ...]
    settled: bool
    loaded_at: datetime

    @property
    def loaded(self) -> int:
        """Segments of the pull that are in the warehouse."""
        return self.inserted + self.updated + self.unchanged


def load_day(
    warehouse: sa.Engine,
    facts: LoadFacts,
    batches: Callable[[], Iterable[SegmentBatch]],
    lock_wait: timedelta = timedelta(seconds=60),
) -> LoadResult:
    """Load a whole, proved pull of a day; on any failure the warehouse is as it was.

    `batches` makes the day's batches, each segment in one of them. They are read once, in another thread, one ahead of
    what is written, and made again when the transaction lost against another one and is tried again.

    Raises ClockOff, DayBusy, ForeignSegment, LedgerMismatch, OutsideDay, RejectedTooMany, WarehouseError, and whatever
    the batches raise; SettingsError where Postgres has another day by this name.
    """
    for _ in range(_ATTEMPTS):
        try:
            with warehouse.begin() as connection:
                hold_day(connection, facts.account_id, facts.day, lock_wait)
                return _load(connection, facts, batches())
        except (sa.exc.DBAPIError, TransactionRollbackError) as error:  # the latter of a COPY
            cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
            if not isinstance(cause, TransactionRollbackError):
                raise
            lost = cause
    raise WarehouseError(
        f"day {facts.day} of account {facts.account_id} was not loaded: {_ATTEMPTS} times another transaction on the "
        f"same rows won. Load the day again. Postgres says: {' '.join(str(lost).split())}"
    ) from lost


@dataclass
class _Tally:
    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    staged: int = 0
    rejected: int = 0
    outside_day: int = 0

    @property
    def rows(self) -> int:
        return self.inserted + self.updated + self.unchanged + self.staged + self.rejected + self.outside_day

    def add(self, merged: Merged) -> None:
        """What became of all that was staged."""
        self.inserted += merged.inserted
        self.updated += merged.updated
        self.unchanged += merged.unchanged
        self.staged = 0


def _load(connection: sa.Connection, facts: LoadFacts, batches: Iterable[SegmentBatch]) -> LoadResult:
    loaded_at = datetime.now(UTC)
    tally, reasons = _Tally(), Counter[str]()
    standing = standing_of(connection, facts.account_id, facts.day, facts.archive_file, facts.pulled_at)
    facts, is_newest = replace(facts, pulled_at=standing.as_of), standing.is_newest
    unresolved = unresolved_rejects(connection, facts.account_id, facts.day) if is_newest else {}
    mended: list[str] = []
    all_are_new = standing.is_first
    if not all_are_new:
        create_stage(connection)

    def with_rows() -> Iterator[tuple[SegmentBatch, Rows]]:
        for batch in batches:
            _refuse_outside_day(facts, batch)
            if standing.is_first:
                yield batch, complete_rows(batch.frame, facts.account_id, facts.pulled_at, loaded_at)
            else:
                yield batch, plain_rows(batch.frame)

    for batch, rows in one_ahead(with_rows()):
        if all_are_new and not insert_new(connection, rows):
            all_are_new = False
            create_stage(connection)
        if all_are_new:
            tally.inserted += rows.count
        else:
            stage(connection, rows)
            tally.staged += rows.count
        keep_rejects(connection, facts.account_id, facts.day, batch.rejects, loaded_at, is_newest)
        if unresolved:
            mended += [sha for segment_id in batch.frame["segment_id"] for sha in unresolved.get(segment_id, ())]
        tally.rejected += len(batch.rejects)
        tally.outside_day += batch.outside_day
        reasons.update(reason for reject in batch.rejects for reason in reject.reasons)
        _refuse_too_many(facts, tally, reasons)
    if tally.staged:
        tally.add(merge(connection, facts.account_id, tally.staged, standing, loaded_at))
    resolve_rejects(connection, facts.account_id, mended, loaded_at)
    if tally.rows != facts.reported:
        raise LedgerMismatch(
            f"day {facts.day} of account {facts.account_id}: {facts.reported} segments were reported, but "
            f"{tally.rows} rows came out of {facts.archive_file}. Nothing was loaded; pull the day again."
        )
    return _enter(connection, facts, tally, loaded_at, standing)


def _refuse_outside_day(facts: LoadFacts, batch: SegmentBatch) -> None:
    """Normalising leaves no such row; reports by day would be wrong if it ever did."""
    window, closes = facts.day.window, batch.frame["end_time"]
    if len(closes) and (closes.min() < window.start or closes.max() >= window.end):
        outside = batch.frame[(closes < window.start) | (closes >= window.end)]
        raise OutsideDay(
            f"day {facts.day} of account {facts.account_id}: segment {outside['segment_id'].iloc[0]} closed outside "
            f"the day, {window}. Nothing was loaded."
        )


def _refuse_too_many(facts: LoadFacts, tally: _Tally, reasons: Counter[str]) -> None:
    """At once, not at the end: the rest of the day cannot make it better."""
    if tally.rejected * 100 <= facts.max_rejected_percent * facts.reported:
        return
    most = ", ".join(f"{reason} ({count})" for reason, count in reasons.most_common(_REASONS_SHOWN))
    raise RejectedTooMany(
        f"day {facts.day} of account {facts.account_id}: {tally.rejected} of the first {tally.rows} rows (of "
        f"{facts.reported}) cannot be loaded, more than the {facts.max_rejected_percent:g} % of the day that "
        f"AHT_MAX_REJECTED_PERCENT allows. Most often: {most}. Nothing was loaded."
    )


def _enter(
    connection: sa.Connection, facts: LoadFacts, tally: _Tally, loaded_at: datetime, standing: Standing
) -> LoadResult:
    """Write the ledger's row. The day is settled where it is so by our clock and by Postgres's."""
    window, settled = facts.day.window, facts.day.is_settled_by(min(facts.pulled_at, standing.server_now))
    load_id = connection.execute(
        sa.insert(loads)
        .values(
            account_id=facts.account_id,
            day=facts.day.date,
            timezone=facts.day.timezone,
            window_start=window.start,
            window_end=window.end,
            pulled_at=facts.pulled_at,
            loaded_at=loaded_at,
            dagster_run_id=facts.dagster_run_id,
            archive_file=facts.archive_file,
            archive_sha256=facts.archive_sha256,
            requests=facts.requests,
            reported=facts.reported,
            inserted=tally.inserted,
            updated=tally.updated,
            unchanged=tally.unchanged,
            rejected=tally.rejected,
            outside_day=tally.outside_day,
            settled=settled,
        )
        .returning(loads.c.load_id)
    ).scalar_one()
    return LoadResult(
        load_id=load_id,
        reported=facts.reported,
        inserted=tally.inserted,
        updated=tally.updated,
        unchanged=tally.unchanged,
        rejected=tally.rejected,
        outside_day=tally.outside_day,
        late=0 if standing.is_first else tally.inserted + tally.updated,
        weekday_volumes=volumes_of_the_weekday(connection, facts.account_id, facts.day.date),
        settled=settled,
        loaded_at=loaded_at,
    )
