"""Brings a day's segments into `agent_segments`: COPY to a staging table, then an upsert of what is new or differs.

Re-reading a day mostly meets rows that are known and equal. The upsert alone would lock each of them, which writes; so
rows are first compared, and only those that are new or differ reach it. What was loaded together lies together: that
stretch of the table is read once and compared whole, and only what is not equal there is looked up by its key.

The first load of a day mostly meets no row that is known: its batches are copied into the table itself, until one has a
known key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import sqlalchemy as sa
from psycopg2 import errors

from aht_pipeline.clock import CLOCK_TOLERANCE
from aht_pipeline.errors import AhtError
from aht_pipeline.warehouse.connection import Buffers, copy_in
from aht_pipeline.warehouse.ledger import Standing
from aht_pipeline.warehouse.tables import SEGMENT_COLUMNS

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_SAMPLED_ROWS = 250
_PROBES_FOR_A_PAGE = 4  # as many take as long as reading and comparing one page of the table

_names = [column.name for column in SEGMENT_COLUMNS]
_values = [name for name in _names if name != "segment_id"]


def _listed(names: Sequence[str], of: str = "") -> str:
    return ", ".join(f"{of}.{name}" if of else name for name in names)


# From here to the class only names of our own columns are put into the text.

# Typed and collated as the table is: probing a "C" key with another collation would scan the table for every row.
_CREATE_STAGE = sa.text(
    """
    CREATE TEMPORARY TABLE staged_segments ON COMMIT DROP AS
    SELECT * FROM aht.agent_segments WITH NO DATA
    """
)

# A day of 100,000 segments is compared in memory; one of a million by way of a few files.
_ENOUGH_MEMORY = sa.text(
    """
    SELECT set_config('work_mem', '32MB', true)
    WHERE pg_size_bytes(current_setting('work_mem')) < pg_size_bytes('32MB')
    """
)

# Where the known ones among the staged rows lie, by a sample of them: the first and the last page of nearly all.
_KNOWN_PAGES = sa.text(
    """
    SELECT (percentile_disc(ARRAY[0.01, 0.99]) WITHIN GROUP (ORDER BY page)) AS ends
    FROM pg_temp.staged_segments AS staged TABLESAMPLE BERNOULLI (:percent)
    CROSS JOIN LATERAL (
        SELECT (stored.ctid::text::point)[0]::bigint AS page
        FROM aht.agent_segments AS stored WHERE stored.segment_id = staged.segment_id OFFSET 0
    ) AS known
    """
)


def _may_change(known: str) -> str:
    """Whether the pull is newer than the one whose values the row holds; one that cannot have been is not asked."""
    return f""":may_change AND (
                {known}.pulled_at <= :pulled_at OR {known}.pulled_at > :latest_credible
                OR {known}.pulled_at = ANY (CAST(:not_credible AS timestamptz[]))
            )"""


def _differs(known: str, staged: str) -> str:
    return f"""({known}.account_id <> :account_id
            OR {_may_change(known)}
                AND ({_listed(_values, known)}) IS DISTINCT FROM ({_listed(_values, staged)}))"""


# OFFSET 0 keeps the planner from turning the probes of the key into a scan of the whole table.
# The order makes the probes cheaper, and keeps two loads from locking crosswise.
# The UPDATE's own conditions hold against rows that another session committed since the comparison.
MERGE = sa.text(
    f"""
    WITH unequal AS (
        SELECT staged.*
        FROM pg_temp.staged_segments AS staged
        LEFT JOIN aht.agent_segments AS near
            ON near.segment_id = staged.segment_id
            AND near.ctid >= CAST(:begin AS tid) AND near.ctid < CAST(:end AS tid)
        WHERE near.segment_id IS NULL OR {_differs("near", "staged")}
        ORDER BY staged.segment_id
    ),
    changed AS (
        SELECT unequal.*
        FROM unequal
        LEFT JOIN LATERAL (
            SELECT * FROM aht.agent_segments AS stored WHERE stored.segment_id = unequal.segment_id OFFSET 0
        ) AS known ON true
        WHERE known.segment_id IS NULL OR {_differs("known", "unequal")}
    ),
    written AS (
        INSERT INTO aht.agent_segments AS known
            ({_listed(_names)}, account_id, pulled_at, first_loaded_at, updated_at, revision)
        SELECT {_listed(_names)}, :account_id, :pulled_at, :loaded_at, :loaded_at, 1 FROM changed
        ON CONFLICT (segment_id) DO UPDATE SET
            ({_listed(_values)}) = ROW ({_listed(_values, "excluded")}),
            pulled_at = excluded.pulled_at,
            updated_at = excluded.updated_at,
            revision = known.revision + 1
        WHERE known.account_id = excluded.account_id
            AND {_may_change("known")}
            AND ({_listed(_values, "known")}) IS DISTINCT FROM ({_listed(_values, "excluded")})
        RETURNING (xmax = 0) AS is_new
    )
    SELECT
        (SELECT count(*) FROM changed) AS changed,
        count(*) FILTER (WHERE is_new) AS inserted,
        count(*) FILTER (WHERE NOT is_new) AS updated
    FROM written
    """  # noqa: S608
)

_FOREIGN = sa.text(
    """
    SELECT known.segment_id, known.account_id
    FROM pg_temp.staged_segments AS staged
    CROSS JOIN LATERAL (
        SELECT * FROM aht.agent_segments AS stored WHERE stored.segment_id = staged.segment_id OFFSET 0
    ) AS known
    WHERE known.account_id <> :account_id
    LIMIT 1
    """
)


class ForeignSegment(AhtError):
    """A segment of the pull is in the warehouse already, under another account."""


@dataclass(frozen=True)
class Rows:
    """A batch as COPY reads it: `binary` holds `columns`, ordered by the key. `count`: how many rows they are."""

    columns: tuple[str, ...]
    binary: Buffers
    count: int

    def copy_into(self, connection: sa.Connection, table: str) -> None:
        copy_in(connection, f"COPY {table} ({_listed(self.columns)}) FROM STDIN WITH (FORMAT binary)", self.binary)


@dataclass(frozen=True)
class Merged:
    """What became of the staged rows; the three add up to them."""

    inserted: int
    updated: int
    unchanged: int


def create_stage(connection: sa.Connection) -> None:
    """Make ready for `stage` and `merge` for the rest of the transaction."""
    connection.execute(sa.text("SET LOCAL jit = off"))  # compiling takes longer than the merge of a day
    connection.execute(_ENOUGH_MEMORY)
    connection.execute(_CREATE_STAGE)


def complete_rows(frame: pd.DataFrame, account_id: str, pulled_at: datetime, loaded_at: datetime) -> Rows:
    """The segments of a frame, each id once, with all that the table holds of them: what `insert_new` needs."""
    import pyarrow as pa  # takes longer to import than to ask the warehouse where it stands

    moment = pa.timestamp("us", "UTC")
    own = {
        "account_id": pa.scalar(account_id),
        "pulled_at": pa.scalar(pulled_at, moment),
        "first_loaded_at": pa.scalar(loaded_at, moment),
        "updated_at": pa.scalar(loaded_at, moment),
        "revision": pa.scalar(1, pa.int32()),
    }
    return Rows((*_names, *own), _binary(frame, *own.values()), len(frame))


def plain_rows(frame: pd.DataFrame) -> Rows:
    """The segments of a frame, each id once: all that `stage` needs."""
    return Rows(tuple(_names), _binary(frame), len(frame))


def insert_new(connection: sa.Connection, rows: Rows) -> bool:
    """Add complete rows to the table if none of them is known; whether that was so. Else nothing is done."""
    savepoint = connection.begin_nested()
    try:
        rows.copy_into(connection, "aht.agent_segments")
    except errors.UniqueViolation:
        savepoint.rollback()
        return False
    savepoint.commit()
    return True


def stage(connection: sa.Connection, rows: Rows) -> None:
    """Put rows aside for `merge`. No id is staged twice."""
    rows.copy_into(connection, "pg_temp.staged_segments")


def merge(connection: sa.Connection, account_id: str, staged: int, standing: Standing, loaded_at: datetime) -> Merged:
    """Bring all staged rows into the table, of which there are so many; of a pull that is not the newest only new ones.

    Raises ForeignSegment.
    """
    begin, end = known_pages(connection, staged)
    counted = connection.execute(
        MERGE,
        {
            "account_id": account_id,
            "pulled_at": standing.as_of,
            "loaded_at": loaded_at,
            "may_change": standing.is_newest,
            "latest_credible": standing.server_now + CLOCK_TOLERANCE,
            "not_credible": list(standing.not_credible),
            "begin": f"({begin},0)",
            "end": f"({end},0)",
        },
    ).one()
    if counted.inserted + counted.updated < counted.changed:
        _refuse_foreign(connection, account_id)
    return Merged(counted.inserted, counted.updated, staged - counted.inserted - counted.updated)


def known_pages(connection: sa.Connection, staged: int) -> tuple[int, int]:
    """The pages of the table to compare whole with the staged rows: the first, and the one behind the last.

    Nearly all staged rows that are known lie there. (0, 0) where none is known, and where they lie so far apart that to
    look each up by its key costs less.
    """
    percent = min(100.0, 100 * _SAMPLED_ROWS / max(staged, 1))
    ends = connection.execute(_KNOWN_PAGES, {"percent": percent}).scalar_one()
    if ends is None or (ends[1] - ends[0]) * _PROBES_FOR_A_PAGE > staged:
        return 0, 0
    return ends[0], ends[1] + 1


def _refuse_foreign(connection: sa.Connection, account_id: str) -> None:
    foreign = connection.execute(_FOREIGN, {"account_id": account_id}).first()
    if foreign is not None:
        raise ForeignSegment(
            f"segment {foreign.segment_id} of account {account_id} is in the warehouse as one of account "
            f"{foreign.account_id}. Nothing was loaded; check that LIVEPERSON_ACCOUNT_ID belongs to this warehouse."
        )


def _binary(frame: pd.DataFrame, *constants: pa.Scalar) -> Buffers:
    """The frame as Postgres reads it, ordered by the key: twice as fast to insert, and a little faster to compare.

    constants: values that follow in every row.
    """
    import pyarrow as pa

    from aht_pipeline.warehouse.binary_copy import binary_rows

    table = pa.Table.from_pandas(frame[_names], preserve_index=False, nthreads=1)
    return binary_rows(table, "segment_id", constants, jsonb=frozenset({"extra"}))
