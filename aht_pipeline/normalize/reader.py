"""Pages → columns and rejects: a page at once where every row is plain, else row by row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from aht_pipeline.normalize.careful import Repaired, read_row
from aht_pipeline.normalize.columns import columns_of, extra_of, suspects, with_moments
from aht_pipeline.normalize.plain import PlainDecoder, Segment
from aht_pipeline.normalize.schema import Reject
from aht_pipeline.pages import read_page

_ADDED_FIELDS_LEARNT = 32
"""Beyond this, new names are no fields but keys that vary: rows that have them stay on the careful path."""


@dataclass(frozen=True)
class PageRows:
    """What one page holds.

    first_ordinal, seen: where its rows begin in the pull, and how many they are.
    columns: the rows that can be loaded, in COLUMNS. rejects: those that cannot, each with its ordinal.
    unsettled_body: the page, as long as there may be `suspects` among its rows.
    """

    first_ordinal: int
    seen: int
    columns: tuple[pa.RecordBatch, ...]
    rejects: tuple[tuple[int, Reject], ...]
    added_fields: frozenset[str]
    unsettled_body: bytes | None


class PageReader:
    """Reads the pages of one pull.

    It learns the fields that the API added from the rows that have them, so that a new field in every row costs the
    careful path for one page. What it makes of a page does not depend on what it has learnt.
    """

    def __init__(self) -> None:
        self._plain = PlainDecoder()

    def read(self, body: bytes, first_ordinal: int) -> PageRows:
        """The page whose first row has this ordinal. Raises PageError when the body is no reply."""
        rows = self._plain.decode_page(body)
        if rows is None:
            return self._read_row_by_row(body, first_ordinal)
        columns, added = self._columns_of(rows, np.arange(first_ordinal, first_ordinal + len(rows)))
        return PageRows(first_ordinal, len(rows), (columns,), (), added, body)

    def settle(self, page: PageRows, suspected: npt.NDArray[np.int64]) -> PageRows:
        """The same page, read row by row if one of these ordinals is among its unsettled rows."""
        in_page = (suspected >= page.first_ordinal) & (suspected < page.first_ordinal + page.seen)
        if page.unsettled_body is None or not in_page.any():
            return page
        return self._read_row_by_row(page.unsettled_body, page.first_ordinal)

    def _read_row_by_row(self, body: bytes, first_ordinal: int) -> PageRows:
        raws = dict(enumerate(read_page(body).segments, first_ordinal))
        decoded = {ordinal: self._plain.decode_row(raw) for ordinal, raw in raws.items()}
        plain = {ordinal: row for ordinal, row in decoded.items() if row is not None}
        columns, added = self._columns_of(list(plain.values()), _int64(plain))
        found = suspects(with_moments([columns]))
        if found.any():
            plain = {ordinal: row for (ordinal, row), suspect in zip(plain.items(), found, strict=True) if not suspect}
            columns, added = self._columns_of(list(plain.values()), _int64(plain))
        outcomes = {ordinal: read_row(raw) for ordinal, raw in raws.items() if ordinal not in plain}
        repaired = {ordinal: row for ordinal, row in outcomes.items() if isinstance(row, Repaired)}
        repaired_columns = columns_of(
            [row.segment for row in repaired.values()],
            _int64(repaired),
            pa.array([row.extra for row in repaired.values()], pa.string()),
            [row.flags for row in repaired.values()],
        )
        repaired_added = [row.added_fields for row in repaired.values()]
        self._learn(repaired_added)
        return PageRows(
            first_ordinal=first_ordinal,
            seen=len(raws),
            columns=(columns, repaired_columns),
            rejects=tuple((ordinal, row) for ordinal, row in outcomes.items() if isinstance(row, Reject)),
            added_fields=added.union(*repaired_added),
            unsettled_body=None,
        )

    def _columns_of(
        self, rows: Sequence[Segment], ordinals: npt.NDArray[np.int64]
    ) -> tuple[pa.RecordBatch, frozenset[str]]:
        added = self._plain.added_values(rows)
        return columns_of(rows, ordinals, extra_of(added)), frozenset(added)

    def _learn(self, added_by_row: Sequence[frozenset[str]]) -> None:
        known = self._plain.added_fields
        times_met = Counter(field for fields in added_by_row for field in fields - known)
        learnt = {field for field, _ in times_met.most_common(_ADDED_FIELDS_LEARNT - len(known))}
        if learnt:
            self._plain = PlainDecoder(known | learnt)


def _int64(ordinals: Iterable[int]) -> npt.NDArray[np.int64]:
    return np.fromiter(ordinals, np.int64)
