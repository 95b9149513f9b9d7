"""Rows as columns, typed but not yet judged: what both paths make of a page, and the doubts that sort between them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from aht_pipeline.days import Window
from aht_pipeline.normalize.plain import DEEPEST, Fields, Segment
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
    fields: Fields,
    ordinals: npt.NDArray[np.int64],
    extra: pa.StringArray | None = None,
    flags: Sequence[int] | None = None,
) -> pa.RecordBatch:
    """Rows in COLUMNS; nothing in `extra` and no flags unless given."""
    rows = len(ordinals)
    return pa.RecordBatch.from_arrays(
        [
            pa.array(ordinals),
            pa.array(fields["segmentId"], pa.string()),
            pa.array(fields["conversationId"], pa.string()),
            _longs(fields["agentId"]),
            pa.array(fields["employeeId"], pa.string()),
            _longs(fields["skillId"]),
            _longs(fields["groupId"]),
            pa.array(_end_reasons(fields), pa.string()),
            pa.array(fields["startTime"], pa.string()),
            pa.array(fields["endTime"], pa.string()),
            _longs(fields["startTimeL"]),
            _longs(fields["endTimeL"]),
            _longs(fields["totalHandleTimeMillis"]),
            pa.nulls(rows, pa.string()) if extra is None else extra,
            pa.array(np.zeros(rows, np.uint8) if flags is None else flags, pa.uint8()),
        ],
        schema=COLUMNS,
    )


def added_of(fields: Fields) -> dict[str, pa.StringArray]:
    """The added fields that any of these rows has: each row's JSON, null for none."""
    added = {field: _json(values) for field, values in fields.items() if field not in Segment.__struct_fields__}
    return {field: texts for field, texts in added.items() if texts.null_count < len(texts)}


def extra_of(added: Mapping[str, pa.StringArray]) -> pa.StringArray | None:
    """The texts of JSON objects with these members, sorted by name; null where all are null."""
    if not added:
        return None
    members = [
        pc.coalesce(pc.binary_join_element_wise("," + member_name(field), added[field], ""), "")
        for field in sorted(added)
    ]
    joined = pc.binary_join_element_wise(*members, "")
    some = pc.if_else(pc.equal(joined, ""), None, joined)
    return pc.binary_join_element_wise(pc.binary_replace_slice(some, 0, 1, "{"), "}", "")


def member_name(field: str) -> str:
    """A field's name as it stands in a JSON object, colon included."""
    return json.dumps(field, ensure_ascii=False) + ":"


def _longs(values: Sequence[int | None]) -> pa.Int64Array:
    try:
        return pa.array(np.fromiter(values, np.int64, len(values)))  # takes half as long as Arrow's
    except TypeError:
        return pa.array(values, pa.int64())


def _end_reasons(fields: Fields) -> Sequence[str | None]:
    as_described, as_listed = fields["endReason"], fields["EndReason"]
    if not any(as_listed):
        return as_described
    return [described or listed for described, listed in zip(as_described, as_listed, strict=True)]


def _json(values: Sequence[msgspec.Raw]) -> pa.StringArray:
    """A byte that is no UTF-8 becomes an escape that JSON does not know, so that the text is seen to be no JSON."""
    sent = [bytes(value) or None for value in values]
    try:
        return pa.array(sent, pa.binary()).cast(pa.string())
    except pa.ArrowInvalid:
        return pa.array([json and json.decode(errors="backslashreplace") for json in sent], pa.string())


def as_table(pieces: Sequence[pa.RecordBatch]) -> pa.Table:
    """All these rows with `start_time` and `end_time`, null where the text is unreadable, in place of the texts.

    Other empty texts are null.
    """
    rows = pa.Table.from_batches(pieces, COLUMNS).combine_chunks()
    for name in ("employee_id", "end_reason"):
        position = rows.schema.get_field_index(name)
        rows = rows.set_column(position, name, _null_for_empty(rows.column(position)))
    for edge in ("start", "end"):
        position = rows.schema.get_field_index(f"{edge}_text")
        moments = parse_times(rows.column(position).combine_chunks())
        rows = rows.set_column(position, pa.field(f"{edge}_time", MOMENT), moments)
    return rows


def suspects(rows: pa.Table, window: Window) -> npt.NDArray[np.bool_]:
    """True for each row that may hold what cannot be stored: an unreadable time, a NUL, a strange `extra`; or no place.

    Strange are a NUL, bytes that are no UTF-8, numbers of a size that Postgres may not hold, and deep nesting. Without
    a place are rows that closed beyond the window's edges.
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
        lengths = pc.binary_length(rows["extra"])
        found |= _true(pc.greater(lengths, _LONG_JSON_BYTES))
        if pc.max(lengths).as_py() > 2 * DEEPEST:
            brackets = pc.add(pc.count_substring(rows["extra"], "{"), pc.count_substring(rows["extra"], "["))
            found |= _true(pc.greater(brackets, DEEPEST))
    return found


def _null_for_empty(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    shortest = pc.min(pc.binary_length(texts)).as_py()
    return pc.if_else(pc.equal(texts, ""), None, texts) if shortest == 0 else texts


def _holds_nul(texts: pa.ChunkedArray) -> bool:
    """Whether any text holds a NUL, found in the buffers at the speed of memory."""
    buffers = [chunk.buffers()[2] for chunk in texts.chunks]
    return any(buffer and np.frombuffer(buffer, np.uint8).min() == 0 for buffer in buffers)


def _true(found: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    return found.fill_null(False).to_numpy()  # type: ignore[no-any-return]
