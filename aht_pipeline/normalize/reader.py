"""Pages → columns and rejects: a few pages at once where every row is plain, else page by page, else row by row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from aht_pipeline.days import Window
from aht_pipeline.normalize.careful import Repaired, read_row
from aht_pipeline.normalize.columns import added_of, as_table, columns_of, extra_of, member_name, suspects
from aht_pipeline.normalize.plain import PlainDecoder, Segment, by_field
from aht_pipeline.normalize.schema import Reject
from aht_pipeline.pages import read_page

_ADDED_FIELDS_LEARNT = 32
"""Beyond this, new names are no fields but keys that vary: rows that have them stay on the careful path."""


@dataclass(frozen=True)
class PageRows:
    """What some successive pages hold.

    first_ordinal, seen: where their rows begin in the pull, and how many they are.
    columns: the rows that can be loaded, in COLUMNS. rejects: those that cannot, each with its ordinal.
    unsettled: the pages, as long as there may be `suspects` among the rows.
    """

    first_ordinal: int
    seen: int
    columns: tuple[pa.RecordBatch, ...]
    rejects: tuple[tuple[int, Reject], ...]
    added_fields: frozenset[str]
    unsettled: tuple[bytes, ...]

    @property
    def next_ordinal(self) -> int:
        return self.first_ordinal + self.seen


class PageReader:
    """Reads the pages of one pull of a window.

    It learns the fields that the API added from the rows that have them, so that a new field in every row costs the
    careful path for one page. What it makes of a page does not depend on what it has learnt.
    """

    def __init__(self, window: Window) -> None:
        self._window = window
        self._plain = PlainDecoder()

    def read(self, bodies: Sequence[bytes], first_ordinal: int) -> list[PageRows]:
        """These successive pages, the first row of which has this ordinal. Raises PageError when one is no reply."""
        at_once = self._read_at_once(bodies, first_ordinal)
        return [at_once] if at_once else list(_each(self._read_page, bodies, first_ordinal))

    def settle(self, pages: PageRows, suspected: npt.NDArray[np.int64]) -> list[PageRows]:
        """The same pages, read row by row if one of these ordinals is among their unsettled rows."""
        met = (suspected >= pages.first_ordinal) & (suspected < pages.next_ordinal)
        if not pages.unsettled or not met.any():
            return [pages]
        return list(_each(self._read_row_by_row, pages.unsettled, pages.first_ordinal))

    def _read_at_once(self, bodies: Sequence[bytes], first_ordinal: int) -> PageRows | None:
        fields = self._plain.decode_pages(bodies)
        if fields is None:
            return None
        added, rows = added_of(fields), len(fields["segmentId"])
        columns = columns_of(fields, np.arange(first_ordinal, first_ordinal + rows), extra_of(added))
        return PageRows(first_ordinal, rows, (columns,), (), frozenset(added), unsettled=tuple(bodies))

    def _read_page(self, body: bytes, first_ordinal: int) -> PageRows:
        return self._read_at_once([body], first_ordinal) or self._read_row_by_row(body, first_ordinal)

    def _read_row_by_row(self, body: bytes, first_ordinal: int) -> PageRows:
        raws = dict(enumerate(read_page(body).segments, first_ordinal))
        plain, plain_columns = self._plain_rows(raws)
        outcomes = {ordinal: read_row(raw, self._window) for ordinal, raw in raws.items() if ordinal not in plain}
        repaired = {ordinal: row for ordinal, row in outcomes.items() if isinstance(row, Repaired)}
        repaired_columns = columns_of(
            by_field(Segment.__struct_fields__, [[row.segment for row in repaired.values()]]),
            _ordinals(repaired),
            pa.array([row.extra for row in repaired.values()], pa.string()),
            [row.flags for row in repaired.values()],
        )
        added = added_of(by_field(self._plain.fields, [plain.values()]))
        added_by_repaired = [row.added_fields for row in repaired.values()]
        self._learn(added_by_repaired)
        return PageRows(
            first_ordinal=first_ordinal,
            seen=len(raws),
            columns=(plain_columns, repaired_columns),
            rejects=tuple((ordinal, row) for ordinal, row in outcomes.items() if isinstance(row, Reject)),
            added_fields=frozenset(added).union(*added_by_repaired),
            unsettled=(),
        )

    def _plain_rows(self, raws: Mapping[int, msgspec.Raw]) -> tuple[dict[int, Segment], pa.RecordBatch]:
        """The rows that need no care, by ordinal and as columns."""
        decoded = {ordinal: self._plain.decode_row(raw) for ordinal, raw in raws.items()}
        rows = {ordinal: row for ordinal, row in decoded.items() if row is not None}
        fields = by_field(self._plain.fields, [rows.values()])
        columns = columns_of(fields, _ordinals(rows), extra_of(added_of(fields)))
        found = suspects(as_table([columns]), self._window)
        for ordinal in _ordinals(rows)[found].tolist():
            del rows[ordinal]
        return rows, columns.filter(pa.array(~found))

    def _learn(self, added_by_row: Sequence[frozenset[str]]) -> None:
        known = self._plain.added_fields
        times_met = Counter(field for fields in added_by_row for field in fields - known if _is_learnable(field))
        learnt = {field for field, _ in times_met.most_common(_ADDED_FIELDS_LEARNT - len(known))}
        if learnt:
            self._plain = PlainDecoder(known | learnt)


def _each(read: Callable[[bytes, int], PageRows], bodies: Iterable[bytes], ordinal: int) -> Iterator[PageRows]:
    for body in bodies:
        page = read(body, ordinal)
        yield page
        ordinal = page.next_ordinal


def _is_learnable(field: str) -> bool:
    """msgspec takes no field names that JSON must escape."""
    return member_name(field) == f'"{field}":'


def _ordinals(rows: Mapping[int, object]) -> npt.NDArray[np.int64]:
    return np.fromiter(rows, np.int64, len(rows))
