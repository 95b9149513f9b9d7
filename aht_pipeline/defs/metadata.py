"""What a materialisation says of itself, under Dagster's own names where it has one, so that the UI plots it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dagster as dg
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from aht_pipeline.days import iso
from aht_pipeline.warehouse.tables import agent_segments

if TYPE_CHECKING:
    from aht_pipeline.archive import StoredPull
    from aht_pipeline.pipeline import Loaded


def column_schema() -> dg.TableSchema:
    """The table's columns, with the descriptions that its SQL comments carry."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                column.name,
                type=_sql_type(column),
                description=column.comment,
                constraints=dg.TableColumnConstraints(nullable=bool(column.nullable), unique=bool(column.primary_key)),
            )
            for column in agent_segments.columns
        ]
    )


def _sql_type(column: sa.Column[Any]) -> str:
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    return str(column.type.compile(dialect=dialect)).partition(" COLLATE")[0].lower()


def pull_metadata(stored: StoredPull, seconds: float) -> dict[str, Any]:
    """What a materialisation of the raw pull says; `seconds` went by with the API and the archive."""
    return {
        "dagster/partition_row_count": stored.pull.reported,
        "reported": stored.pull.reported,
        **_of_the_pull(stored),
        "bytes": stored.size_bytes,
        "seconds_api": round(seconds, 3),
    }


def load_metadata(loaded: Loaded, seconds: float) -> dict[str, Any]:
    """What a materialisation of the table says; `seconds` went by with normalising and loading."""
    load = loaded.load
    return {
        "dagster/partition_row_count": load.loaded,
        **_of_the_pull(loaded.stored),
        "reported": load.reported,
        "loaded": load.loaded,
        "inserted": load.inserted,
        "updated": load.updated,
        "unchanged": load.unchanged,
        "rejected": load.rejected,
        "outside_day": load.outside_day,
        "late": load.late,
        "state": "settled" if load.settled else "provisional",
        "load_id": load.load_id,
        "seconds_normalize": round(loaded.normalize_seconds, 3),
        "seconds_load": round(seconds - loaded.normalize_seconds, 3),
        **({"unknown_fields": sorted(loaded.unknown_fields)} if loaded.unknown_fields else {}),
        **({"unknown_end_reasons": sorted(loaded.unknown_end_reasons)} if loaded.unknown_end_reasons else {}),
    }


def _of_the_pull(stored: StoredPull) -> dict[str, Any]:
    window = stored.pull.day.window
    return {
        "window_start": iso(window.start),
        "window_end": iso(window.end),
        "pulled_at": dg.MetadataValue.timestamp(stored.pull.pulled_at),
        "complete": True,  # a pull that is not proved complete is no pull
        "archive_file": stored.file,
        "requests": stored.pull.requests,
        "retries": stored.pull.retries,
    }
