"""The pages of a pull → batches of typed rows, to which the rules between columns are applied a batch at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from aht_pipeline.days import Window
from aht_pipeline.normalize.columns import as_table, suspects
from aht_pipeline.normalize.reader import PageReader, PageRows
from aht_pipeline.normalize.schema import END_REASONS, QUALITY_FLAGS, SEGMENT_SCHEMA, Reject, SegmentBatch
from aht_pipeline.normalize.times import epoch_us
from aht_pipeline.pages import read_page, segment_keys

_BATCH_ROWS = 20_000
_STRETCH_BYTES = 900_000  # some four pages: fewer cost more calls, more fall out of the processor's cache
_EPOCH_TOLERANCE_US = 1_000_000
_FLAG_SETS = pa.array(
    [
        [flag for position, flag in enumerate(QUALITY_FLAGS) if bits & 1 << position]
        for bits in range(1 << len(QUALITY_FLAGS))
    ],
    pa.list_(pa.string()),
)
"""The flags for each value of the `flags` column."""


def find_superseded(pages: Iterable[bytes]) -> npt.NDArray[np.int64]:
    """The rows of a pull that a later row of the same key replaces: their ordinals, from 0, over all its rows; sorted.

    Keys are those of `pages.segment_keys`. Raises PageError when a page is no reply.
    """
    page_keys = [segment_keys(body, read_page(body)) for body in pages]
    keys = np.concatenate([np.empty(0, np.uint64), *page_keys])
    by_key = np.argsort(keys, kind="stable")
    replaced_by_next = keys[by_key[:-1]] == keys[by_key[1:]]
    return np.sort(by_key[:-1][replaced_by_next])


def normalize(
    pages: Iterable[bytes], window: Window, superseded: npt.NDArray[np.int64] | None = None
) -> Iterator[SegmentBatch]:
    """The segments of a pull that closed within the window, in batches of some 20,000 rows.

    superseded: what `find_superseded` found; these rows are skipped, so that each key is there once over all batches.
    Without it, the pull must hold no key twice. The distinct keys of the pull are then exactly the rows of all frames,
    the rejects, and the rows outside the day.

    Raises PageError when a page is no reply.
    """
    reader = PageReader(window)
    for gathered in _gather(pages, reader):
        rows = as_table(_pieces(gathered))
        found = suspects(rows, window)
        if found.any():
            suspected = rows["ordinal"].to_numpy()[found]
            gathered = [page for pages_read in gathered for page in reader.settle(pages_read, suspected)]
            rows = as_table(_pieces(gathered))
        rejects = {ordinal: reject for page in gathered for ordinal, reject in page.rejects}
        if superseded is not None:
            first, end = np.searchsorted(superseded, [gathered[0].first_ordinal, gathered[-1].next_ordinal])
            rows, rejects = _without(superseded[first:end], rows, rejects)
        yield _batch(rows, rejects, window, frozenset().union(*(page.added_fields for page in gathered)))


def _gather(pages: Iterable[bytes], reader: PageReader) -> Iterator[list[PageRows]]:
    """The pages, read a stretch at a time, as many of them as make a batch."""
    gathered: list[PageRows] = []
    ordinal = 0
    for bodies in _stretches(pages):
        gathered += reader.read(bodies, ordinal)
        ordinal = gathered[-1].next_ordinal
        if ordinal - gathered[0].first_ordinal >= _BATCH_ROWS:
            yield gathered
            gathered = []
    if gathered:
        yield gathered


def _stretches(pages: Iterable[bytes]) -> Iterator[list[bytes]]:
    stretch: list[bytes] = []
    for body in pages:
        stretch.append(body)
        if sum(map(len, stretch)) >= _STRETCH_BYTES:
            yield stretch
            stretch = []
    if stretch:
        yield stretch


def _pieces(pages: list[PageRows]) -> list[pa.RecordBatch]:
    return [piece for page in pages for piece in page.columns]


def _without(
    superseded: npt.NDArray[np.int64], rows: pa.Table, rejects: dict[int, Reject]
) -> tuple[pa.Table, dict[int, Reject]]:
    kept = pa.array(~np.isin(rows["ordinal"].to_numpy(), superseded))
    replaced = set(superseded.tolist())
    return rows.filter(kept), {ordinal: reject for ordinal, reject in rejects.items() if ordinal not in replaced}


def _batch(rows: pa.Table, rejects: dict[int, Reject], window: Window, added_fields: frozenset[str]) -> SegmentBatch:
    end_us = _int64(rows["end_time"])
    in_window = (end_us >= window.start_ms * 1000) & (end_us < window.end_ms * 1000)
    segments = _segments(rows)
    if not in_window.all():
        segments = segments.filter(pa.array(in_window))
    end_reasons = frozenset(pc.unique(segments["end_reason"]).drop_null().to_pylist())
    return SegmentBatch(
        frame=_frame(segments),
        rejects=tuple(rejects.values()),
        outside_day=int(np.count_nonzero(~in_window)),
        unknown_fields=added_fields,
        unknown_end_reasons=end_reasons - END_REASONS,
    )


def _frame(table: pa.Table) -> pd.DataFrame:
    """What `to_pandas` with Arrow's dtypes makes, in a third of its time."""
    columns = map(pd.arrays.ArrowExtensionArray, table.columns)
    return pd.DataFrame(dict(zip(table.column_names, columns, strict=True)), copy=False)


def _segments(rows: pa.Table) -> pa.Table:
    """The typed rows in SEGMENT_SCHEMA, with the rules that hold between columns."""
    derived = {
        "skill_id": _null_for_minus_one(rows["skill_id"]),
        "group_id": _null_for_minus_one(rows["group_id"]),
        "quality_flags": pc.take(_FLAG_SETS, pa.array(_flag_bits(rows))),
    }
    return pa.Table.from_arrays(
        [derived[name] if name in derived else rows[name] for name in SEGMENT_SCHEMA.names], schema=SEGMENT_SCHEMA
    )


def _flag_bits(rows: pa.Table) -> npt.NDArray[np.uint8]:
    start_us, end_us = _int64(rows["start_time"]), _int64(rows["end_time"])
    judged = {
        "start_epoch_disagrees": _disagrees(rows["start_epoch"], start_us),
        "end_epoch_disagrees": _disagrees(rows["end_epoch"], end_us),
        "ends_before_start": end_us < start_us,
        "handle_time_exceeds_duration": _int64(rows["total_handle_time_ms"]) > (end_us - start_us) // 1000,
    }
    bits: npt.NDArray[np.uint8] = rows["flags"].to_numpy()
    for flag, holds in judged.items():
        bits = bits | np.where(holds, np.uint8(1 << QUALITY_FLAGS.index(flag)), np.uint8(0))
    return bits


def _disagrees(epoch: pa.ChunkedArray, moment_us: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    sent_us = epoch_us(epoch.fill_null(0).to_numpy())
    sent: npt.NDArray[np.bool_] = epoch.is_valid().to_numpy()
    far: npt.NDArray[np.bool_] = np.abs(sent_us - moment_us) > _EPOCH_TOLERANCE_US
    return sent & far


def _null_for_minus_one(ids: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.if_else(pc.equal(ids, -1), None, ids)


def _int64(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """A column without nulls; moments as epoch microseconds."""
    values: npt.NDArray[np.int64] = column.cast(pa.int64()).to_numpy()
    return values
