"""Rows as columns, typed but not yet judged: what both paths make of a page, and the doubts that sort between them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from aht_pipeline.days import Window
from aht_pipeline.normalize.plain import Segment
from aht_pipeline.normalize.schema import EDGE, MOMENT
from aht_pipeline.normalize.times import FIRST_MOMENT_US, parse_times

COLUMNS = pa.schema(
    [
        ("ordinal", pa.int64()),  # of the row in the pull
        ("segment_id", pa.string()),
        ("conversation_id", pa.string()),
        ("agent_id", pa.int64()),
        ("employee_id", pa.string()),
        ("skill_id", pa.int64()),
        ("group_id", pa.int64()),
        ("end_reason", pa.string()),
        ("start_text", pa.string()),
        ("end_text", pa.string()),
        ("start_epoch", pa.int64()),
        ("end_epoch", pa.int64()),
        ("total_handle_time_ms", pa.int64()),
        ("extra", pa.string()),
        ("flags", pa.uint8()),  # one bit for each of QUALITY_FLAGS, the first the lowest
    ]
)

_STORED_TEXTS = ("segment_id", "conversation_id", "employee_id", "end_reason")
_STRANGE_JSON = r"\\u0000|\\x|[:,\[\s]-?[0-9]+(\.[0-9]+)?[eE][+-]?[0-9]{4}"
_LONG_JSON_BYTES = 10_000
_EDGE_US = EDGE // timedelta(microseconds=1)


def columns_of(
    rows: Sequence[Segment],
    ordinals: npt.NDArray[np.int64],
    extra: pa.StringArray | None = None,
    flags: Sequence[int] | None = None,
) -> pa.RecordBatch:
    """These rows in COLUMNS, empty texts as null; nothing in `extra` and no flags unless given."""
    return pa.RecordBatch.from_arrays(
        [
            pa.array(ordinals),
            pa.array([row.segmentId for row in rows], pa.string()),
            pa.array([row.conversationId for row in rows], pa.string()),
            pa.array([row.agentId for row in rows], pa.int64()),
            pa.array([row.employeeId or None for row in rows], pa.string()),
            pa.array([row.skillId for row in rows], pa.int64()),
            pa.array([row.groupId for row in rows], pa.int64()),
            pa.array([row.endReason or row.EndReason or None for row in rows], pa.string()),
            pa.array([row.startTime for row in rows], pa.string()),
            pa.array([row.endTime for row in rows], pa.string()),
            pa.array([row.startTimeL for row in rows], pa.int64()),
            pa.array([row.endTimeL for row in rows], pa.int64()),
            pa.array([row.totalHandleTimeMillis for row in rows], pa.int64()),
            pa.nulls(len(rows), pa.string()) if extra is None else extra,
            pa.array(np.zeros(len(rows), np.uint8) if flags is None else flags, pa.uint8()),
        ],
        schema=COLUMNS,
    )


def extra_of(values: Mapping[str, Sequence[str | None]]) -> pa.StringArray | None:
    """The texts of JSON objects with these members, each field with every row's JSON value; null where all are None."""
    if not values:
        return None
    members = [
        pc.coalesce(pc.binary_join_element_wise("," + member_name(field), pa.array(column, pa.string()), ""), "")
        for field, column in values.items()
    ]
    joined = pc.binary_join_element_wise(*members, "")
    some = pc.if_else(pc.equal(joined, ""), None, joined)
    return pc.binary_join_element_wise(pc.binary_replace_slice(some, 0, 1, "{"), "}", "")


def member_name(field: str) -> str:
    """A field's name as it stands in a JSON object, colon included."""
    return json.dumps(field, ensure_ascii=False) + ":"


def with_moments(pieces: Sequence[pa.RecordBatch]) -> pa.Table:
    """All these rows with `start_time` and `end_time`, null where the text is unreadable, in place of the texts."""
    rows = pa.Table.from_batches(pieces, COLUMNS).combine_chunks()
    for edge in ("start", "end"):
        position = rows.schema.get_field_index(f"{edge}_text")
        moments = parse_times(rows.column(position).combine_chunks())
        rows = rows.set_column(position, pa.field(f"{edge}_time", MOMENT), moments)
    return rows


def suspects(rows: pa.Table, window: Window) -> npt.NDArray[np.bool_]:
    """True for each row that may hold what cannot be stored: an unreadable time, a NUL, a strange `extra`; or no place.

    Strange are a NUL, bytes that are no UTF-8, and numbers of a size that Postgres may not hold. Without a place are
    rows that closed beyond the window's edges.
    """
    end_us = rows["end_time"].cast(pa.int64()).fill_null(FIRST_MOMENT_US).to_numpy()
    first_us, last_us = window.start_ms * 1000 - _EDGE_US, window.end_ms * 1000 + _EDGE_US
    found: npt.NDArray[np.bool_] = (end_us < first_us) | (end_us > last_us)
    if rows["start_time"].null_count:
        found |= rows["start_time"].is_null().to_numpy()
    for name in _STORED_TEXTS:
        if _holds_nul(rows[name]):
            found |= _true(pc.match_substring(rows[name], "\0"))
    if rows["extra"].null_count < len(rows):
        found |= _true(pc.match_substring_regex(rows["extra"], _STRANGE_JSON))
        found |= _true(pc.greater(pc.binary_length(rows["extra"]), _LONG_JSON_BYTES))
    return found


def _holds_nul(texts: pa.ChunkedArray) -> bool:
    """Whether any text holds a NUL, found in the buffers at the speed of memory."""
    buffers = [chunk.buffers()[2] for chunk in texts.chunks]
    return any(buffer is not None and b"\0" in buffer.to_pybytes() for buffer in buffers)


def _true(found: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    return found.fill_null(False).to_numpy()  # type: ignore[no-any-return]
