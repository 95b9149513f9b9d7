"""The proof that nothing of a window is missing: a walk that adds up, confirmed by the window's parts, or the parts."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property

from aht_pipeline.days import Window
from aht_pipeline.source.api import AhtApi, SegmentQuery
from aht_pipeline.source.errors import Unproved
from aht_pipeline.source.walk import Cut, Keys, PageSink, Walk, distinct, walk

_WALKS = 4  # of one window, before it is split: the first, and three more
_PAGES_BELIEVED = 4  # so many are no more than any API counts and pages through; above that, its word must be confirmed


@dataclass(frozen=True)
class Proof:
    """What was read of a window, and what that took. Concatenated, proofs of parts prove the whole.

    requests, retries: of all walks and questions, those that proved nothing included.
    """

    keys: tuple[Keys, ...]
    contents: tuple[Keys, ...]
    requests: int
    retries: int

    @property
    def rows(self) -> int:
        return sum(map(len, self.keys))

    @cached_property
    def reported(self) -> int:
        return len(distinct(self.keys))

    @property
    def content_sha256(self) -> str:
        return hashlib.sha256(distinct(self.contents).tobytes()).hexdigest()


def prove(api: AhtApi, query: SegmentQuery, sink: PageSink) -> Proof:
    """Read the query's window into `sink` until it is proved complete.

    A walk over a few pages that adds up is a proof, and so are two without a count that saw the same. A longer one must
    be confirmed by the window's two parts: counts may stop at some number, and paging with them.

    What is no proof has one of three reasons. It does not add up: it is walked again, three times, then the parts are
    proved in its place, depth-first, down to windows of one page. The API pages no further: the parts at once. All its
    rows closed at one moment: no part holds fewer, so it cannot be proved. Raises Unproved for the first such window.
    """
    return _Prover(api, sink).prove(query)


class _Prover:
    """Proves windows into one sink, and keeps account of what that takes."""

    def __init__(self, api: AhtApi, sink: PageSink) -> None:
        self._api = api
        self._sink = sink
        self._requests = 0
        self._retries = 0

    def prove(self, query: SegmentQuery) -> Proof:
        mark = self._sink.mark()
        try:
            proved = self._proved(query)
        except Unproved:
            self._sink.rewind(mark)
            raise
        return Proof(
            keys=tuple(keys for one in proved for keys in one.keys),
            contents=tuple(contents for one in proved for contents in one.contents),
            requests=self._requests,
            retries=self._retries,
        )

    def _proved(self, query: SegmentQuery) -> list[Walk]:
        """The walks that together prove the window; their pages are in the sink."""
        mark = self._sink.mark()
        previous: Walk | None = None
        for _ in range(_WALKS):
            seen = self._walk(query)
            if self._must_be_confirmed(seen):
                return self._confirmed(query, seen, mark)
            if seen.adds_up or (previous and seen.is_repeated_by(previous)):
                return [seen]
            self._sink.rewind(mark)
            if previous:
                self._note_where_pages_end(seen, previous)
            if seen.ends:
                return self._proved_by_halves(query, seen)
            previous = seen
        return self._proved_around_its_middle(query, seen)

    def _must_be_confirmed(self, seen: Walk) -> bool:
        """A long walk that has seen all it was told of, unless the API is known to count and page further than that."""
        is_whole = not seen.ends and (seen.adds_up or seen.count is None)
        is_within_reach = self._api.reach is not None and seen.rows < self._api.reach.rows
        return is_whole and seen.served > _PAGES_BELIEVED and not is_within_reach

    def _note_where_pages_end(self, seen: Walk, previous: Walk) -> None:
        """Twice after as many rows, before the count was reached: the API pages no further."""
        if seen.served > _PAGES_BELIEVED and seen.dry_at is not None and seen.dry_at == previous.dry_at:
            seen.ends = f"nothing comes after {seen.dry_at} rows"
            self._api.learn_reach(seen.dry_at, seen.ends)

    def _confirmed(self, query: SegmentQuery, whole: Walk, mark: int) -> list[Walk]:
        """The walk over the whole, where the window's two parts have no more than it; else what proves these."""
        cut = whole.cut(query.window)
        if cut is None:
            self._sink.rewind(mark)
            return self._proved_around_its_middle(query, whole)
        if self._parts_hold_as_much(query, whole, cut):
            return [whole]
        self._sink.rewind(mark)
        proved = self._proved_in_parts(query, query.window.cut(cut.at_ms))
        held = len(distinct([keys for part in proved for keys in part.keys]))
        if held < whole.distinct:
            raise _unproved(query.window, f"are {whole.distinct} when read as one, and {held} when read in parts")
        return proved

    def _parts_hold_as_much(self, query: SegmentQuery, whole: Walk, cut: Cut) -> bool:
        """By their counts, or, where none are said, by the rows themselves."""
        parts = [replace(query, window=part) for part in query.window.cut(cut.at_ms)]
        if whole.count is not None:
            with ThreadPoolExecutor(len(parts)) as pool:
                counts = list(pool.map(self._count, parts, cut.rows))
            said = [count for count in counts if count is not None]
            if len(said) == len(parts):
                if max(said) >= whole.count:
                    self._api.learn_reach(whole.count, f"its count stops at {whole.count}")
                return sum(said) == whole.count
        mark = self._sink.mark()
        again = [self._walk(part) for part in parts]
        self._sink.rewind(mark)
        return whole.is_repeated_by(*again)

    def _count(self, query: SegmentQuery, rows: int) -> int | None:
        """The total that the API reports of this query: on its first page or, if that is silent, with its last row."""
        for offset in dict.fromkeys((0, max(rows - 1, 0))):
            reply = self._api.page(query, offset, limit=1)
            self._spend(reply.requests)
            if reply.page.count is not None:
                return reply.page.count
        return None

    def _proved_around_its_middle(self, query: SegmentQuery, whole: Walk) -> list[Walk]:
        """The parts of a window, before and behind the middle of the rows that were read, in place of the whole."""
        cut = whole.cut(query.window)
        if cut is None and whole.closed_at_once:
            raise _unproved(
                query.window,
                "all closed at once, so they cannot be read in parts, and as a whole they are not proved: "
                f"{whole.figures()}",
            )
        parts = query.window.cut(cut.at_ms) if cut else query.window.halves()
        if parts is None or whole.is_one_page(self._api.page_size):
            raise _unproved(query.window, f"do not add up after {_WALKS} walks: {whole.figures()}")
        return self._proved_in_parts(query, parts)

    def _proved_by_halves(self, query: SegmentQuery, whole: Walk) -> list[Walk]:
        """By time, as only the rows of some pages are known, and the others may lie anywhere."""
        halves = query.window.halves()
        if halves is None:
            raise _unproved(query.window, f"are more than the API pages through ({whole.ends}): {whole.figures()}")
        return self._proved_in_parts(query, halves)

    def _proved_in_parts(self, query: SegmentQuery, parts: tuple[Window, Window]) -> list[Walk]:
        return [proved for part in parts for proved in self._proved(replace(query, window=part))]

    def _walk(self, query: SegmentQuery) -> Walk:
        seen = walk(self._api, query, self._sink)
        self._requests += seen.requests
        self._retries += seen.retries
        return seen

    def _spend(self, requests: int) -> None:
        self._requests += requests
        self._retries += requests - 1


def _unproved(window: Window, what: str) -> Unproved:
    return Unproved(
        f"the segments closed from {window} {what}. Load the day again later; if it stays so, ask LivePerson"
    )
