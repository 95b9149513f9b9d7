"""What normalising hands on: the columns of a segment, the flags it may carry, and the rows that are set aside."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import timedelta

import pandas as pd
import pyarrow as pa

MOMENT = pa.timestamp("us", tz="UTC")

SEGMENT_SCHEMA = pa.schema(
    [
        pa.field("segment_id", pa.string(), nullable=False),
        pa.field("conversation_id", pa.string(), nullable=False),
        pa.field("agent_id", pa.int64(), nullable=False),
        pa.field("employee_id", pa.string()),
        pa.field("skill_id", pa.int64()),
        pa.field("group_id", pa.int64()),
        pa.field("end_reason", pa.string()),
        pa.field("start_time", MOMENT, nullable=False),
        pa.field("end_time", MOMENT, nullable=False),
        pa.field("total_handle_time_ms", pa.int64(), nullable=False),
        pa.field("quality_flags", pa.list_(pa.string()), nullable=False),
        pa.field("extra", pa.string()),
    ]
)
"""The columns of a frame, in the warehouse table's order. `extra` is the text of a JSON object: the fields that the API
added, their values exactly as sent, sorted by name; null when there are none."""

QUALITY_FLAGS = (
    "start_time_from_epoch",
    "end_time_from_epoch",
    "start_epoch_disagrees",
    "end_epoch_disagrees",
    "ends_before_start",
    "handle_time_exceeds_duration",
)
"""Everything that `quality_flags` can hold, in the order in which a row lists its flags.

`…_from_epoch`: there was no ISO text, the time is that of `startTimeL` or `endTimeL`. `…_epoch_disagrees`: the epoch is
more than 1 s away from the ISO text, or cannot be read; the text was kept. `handle_time_exceeds_duration`: the total is
more than end - start.
"""

EDGE = timedelta(seconds=1)
"""How far beyond its window a row may close and still be a neighbour's: the API may compare in whole seconds."""

END_REASONS = frozenset(
    {
        "closedByConsumer",
        "closedByAgent",
        "closedBySystem",
        "agentTransfer",
        "skillTransfer",
        "backToQueue",
        "other",
    }
)
"""The values of `endReason` that the AHT API's reference lists. Others are loaded as they are."""


@dataclass(frozen=True)
class Reject:
    """A row that cannot be loaded, kept whole.

    raw: the row's JSON exactly as sent; bytes that are no UTF-8, and NUL, are written as escapes such as `\\xff`.
    raw_sha256: hexadecimal, of the bytes as sent.
    reasons: every reason, each naming its field: `agentId: missing`.
    """

    raw: str
    raw_sha256: str
    reasons: tuple[str, ...]

    @classmethod
    def of(cls, raw: bytes, reasons: list[str]) -> Reject:
        return cls(storable_text(raw), hashlib.sha256(raw).hexdigest(), tuple(reasons))


@dataclass(frozen=True)
class SegmentBatch:
    """Some 20,000 rows of a pull, typed.

    frame: the segments that closed within the window, unique by `segment_id`, with the columns of SEGMENT_SCHEMA in
        Arrow-backed dtypes (`pd.ArrowDtype`), so that going back to Arrow copies nothing. In the order of the pull.
    rejects: the rows that cannot be loaded, each once.
    outside_day: good rows that closed at the window's edges, outside `[start, end)`: a neighbour's, dropped here.
        (Rows beyond the edges are no neighbour's; they are among the rejects.)
    unknown_fields: names of the fields that the API added and the rows' `extra` holds.
    unknown_end_reasons: values of `end_reason` in the frame that END_REASONS does not list.
    """

    frame: pd.DataFrame
    rejects: tuple[Reject, ...]
    outside_day: int
    unknown_fields: frozenset[str]
    unknown_end_reasons: frozenset[str]


def storable_text(raw: bytes) -> str:
    """These bytes as text that Postgres can hold; what it cannot hold becomes an escape."""
    return raw.decode("utf-8", errors="backslashreplace").replace("\0", "\\x00")
