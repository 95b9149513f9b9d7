"""Keeps the rows that cannot be loaded, and notes when a mended row of the same segment was."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import sqlalchemy as sa

from aht_pipeline.days import IS_LOST_AFTER, Day
from aht_pipeline.warehouse.tables import rejected_segments

if TYPE_CHECKING:
    from aht_pipeline.normalize import Reject

# One parameter whatever their number; lists of different length fit in no array of Postgres, but in JSON.
_KEEP = sa.text(
    """
    INSERT INTO aht.rejected_segments AS known
        (account_id, raw_sha256, day, raw, reasons, first_seen_at, last_seen_at)
    SELECT :account_id, raw_sha256, :day, raw, reasons, :loaded_at, :loaded_at
    FROM json_to_recordset(CAST(:rejects AS json)) AS reject (raw_sha256 text, raw text, reasons text[])
    ON CONFLICT (account_id, raw_sha256) DO UPDATE SET
        day = excluded.day,
        reasons = excluded.reasons,
        last_seen_at = excluded.last_seen_at,
        resolved_at = CASE WHEN :is_newest THEN NULL ELSE known.resolved_at END
    """
)


def keep_rejects(
    connection: sa.Connection,
    account_id: str,
    day: Day,
    rejects: Sequence[Reject],
    loaded_at: datetime,
    is_newest: bool,
) -> None:
    """Store the rejects of a batch; one that is known is seen again, and, in the day's newest pull, unresolved."""
    rows = {
        reject.raw_sha256: {"raw_sha256": reject.raw_sha256, "raw": reject.raw, "reasons": reject.reasons}
        for reject in rejects
    }
    if rows:
        connection.execute(
            _KEEP,
            {
                "account_id": account_id,
                "day": day.date,
                "loaded_at": loaded_at,
                "is_newest": is_newest,
                "rejects": json.dumps(list(rows.values()), ensure_ascii=False),
            },
        )


def unresolved_rejects(connection: sa.Connection, account_id: str, day: Day) -> dict[str, list[str]]:
    """The `raw_sha256`s of the unresolved rejects, by the id of the segment that each would have been.

    Also those of the days around, as far as the API remembers: a row may be mended into another day.
    """
    from aht_pipeline.pages import segment_id_of  # takes longer to import than a command takes to look at the ledger

    by_segment: dict[str, list[str]] = {}
    table = rejected_segments.c
    for row in connection.execute(
        sa.select(table.raw_sha256, table.raw).where(
            table.account_id == account_id,
            table.day.between(day.date - IS_LOST_AFTER, day.date + IS_LOST_AFTER),
            table.resolved_at.is_(None),
        )
    ):
        segment_id = segment_id_of(row.raw.encode())
        if segment_id is not None:
            by_segment.setdefault(segment_id, []).append(row.raw_sha256)
    return by_segment


def resolve_rejects(
    connection: sa.Connection, account_id: str, raw_sha256s: Iterable[str], loaded_at: datetime
) -> None:
    """Mark these as resolved by this load, except those that it met again."""
    table = rejected_segments.c
    connection.execute(
        sa.update(rejected_segments)
        .where(
            table.account_id == account_id,
            table.raw_sha256.in_(list(raw_sha256s)),
            table.last_seen_at != loaded_at,
        )
        .values(resolved_at=loaded_at)
    )
