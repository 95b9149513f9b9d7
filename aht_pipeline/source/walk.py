"""One walk over the pages of a window: what is read of it, in order, and what that says of the window."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice, pairwise
from typing import Protocol

import numpy as np
import numpy.typing as npt

from aht_pipeline.days import Window
from aht_pipeline.pages import close_ms, content_keys, segment_keys
from aht_pipeline.source.api import AhtApi, Reply, SegmentQuery
from aht_pipeline.source.errors import ApiError, Refused
from aht_pipeline.source.throttle import Abandoned

_NEAR_S = 0.01  # an answer within this comes from beside us, as a simulator's; LivePerson's takes longer
_PATIENCE_S = 0.05  # with a near API, over all that takes longer: a busy machine delays single answers

Keys = npt.NDArray[np.uint64]
Fetch = Callable[[int, threading.Event | None], list[Reply]]
"""The rows from this offset up to the next range's; the event is set where they are no longer wanted."""


class PageSink(Protocol):
    """Takes the pages of a walk, in order, and can forget those of a walk that proved nothing."""

    def write(self, page: bytes) -> None:
        """Keep one page, exactly as the API sent it."""

    def mark(self) -> int:
        """The place after the last page, for `rewind`."""

    def rewind(self, mark: int) -> None:
        """Forget every page written since `mark`."""


@dataclass(frozen=True)
class Cut:
    """Where a window can be cut in two, between rows that were read.

    at_ms: a moment at which none of the rows beside it closed, epoch milliseconds.
    rows: how many of the rows that were read lie before and behind it, if these came in the order of their closes.
    """

    at_ms: int
    rows: tuple[int, int]


@dataclass
class Walk:
    """What one walk over a window saw.

    count: the total that the API reported, by whichever page said it first; None where none did.
    moved_to: another total that a later page reported.
    ends: why the API pages no further than it has, where that is known; empty where it may.
    dry_at: how many rows had come when a page without any came before the count was reached.
    contents: as `keys`, of the exact rows. closes_ms: of the first and the last row of each page, as far as readable.
    """

    count: int | None = None
    moved_to: int | None = None
    ends: str = ""
    dry_at: int | None = None
    pages: int = 0
    requests: int = 0
    retries: int = 0
    keys: list[Keys] = field(default_factory=list)
    contents: list[Keys] = field(default_factory=list)
    closes_ms: list[tuple[int, int] | None] = field(default_factory=list)

    def see(self, reply: Reply) -> None:
        page = reply.page
        self._hear(page.count if page.segments or self.pages == 0 or page.count else None)
        self.pages += 1
        self.requests += reply.requests
        self.retries += reply.requests - 1
        if not page.segments:
            if self.count is not None and self.rows < self.count:
                self.dry_at = self.rows
            return
        self.keys.append(segment_keys(reply.body, page))
        self.contents.append(content_keys(page))
        first, last = close_ms(page.segments[0]), close_ms(page.segments[-1])
        self.closes_ms.append(None if first is None or last is None else (first, last))

    def _hear(self, count: int | None) -> None:
        """Where a page says no count, the one that is known stays; a later page without rows says none by 0, too."""
        if self.count is None:
            self.count = count
        elif count not in (None, self.count):
            self.moved_to = count

    @property
    def rows(self) -> int:
        return sum(map(len, self.keys))

    @property
    def served(self) -> int:
        """Replies that held any rows."""
        return len(self.keys)

    @property
    def is_over(self) -> bool:
        """Whether nothing that comes now can make this walk add up."""
        return self.moved_to is not None or self.dry_at is not None

    @cached_property
    def distinct(self) -> int:
        """Segments that were read; asked for when all are."""
        return len(distinct(self.keys))

    @property
    def _counted(self) -> int:
        return self.rows if self.served <= 1 else self.distinct

    @property
    def adds_up(self) -> bool:
        """The count stood still and every segment of it is here; in a single reply, as many rows as it counts."""
        return self.count is not None and self.count == self._counted and self.moved_to is None and not self.ends

    def is_repeated_by(self, *walks: Walk) -> bool:
        """Whether these together saw exactly the same rows, each of them as many segments as it was told of or served.

        Where no count is said, the rows are one: each that changed places and was missed had another served twice.
        """
        for one in (self, *walks):
            if not (one.adds_up if one.count is not None else one._counted == one.rows and not one.ends):
                return False
        again = [contents for walk in walks for contents in walk.contents]
        return np.array_equal(distinct(self.contents), distinct(again))

    @property
    def closed_at_once(self) -> bool:
        """Whether the rows of all pages, and not only of those that came, closed at one moment."""
        all_came = self.rows == self.count if self.count is not None else not self.ends
        return all_came and len({moment_ms for closes in self.closes_ms for moment_ms in closes or (None,)}) == 1

    def is_one_page(self, page_size: int) -> bool:
        """Whether one reply holds all there is to read, by size and by what was served: no half of it can do better."""
        return self.served <= 1 and (self.rows if self.count is None else self.count) <= page_size

    def cut(self, window: Window) -> Cut | None:
        """The best place to cut the window near the middle of what was read; None where all of it closed at one moment.

        Between two pages first: there, rows in the order of their closes leave no doubt on which side each lies.
        """
        within = [(number, *page) for number, page in enumerate(self.closes_ms) if page]
        between = [(after[0], page[-1], after[1]) for page, after in pairwise(within) if after[0] - page[0] == 1]
        for gaps in (between, within):
            for number, one_ms, other_ms in sorted(gaps, key=lambda gap: abs(2 * gap[0] - self.served)):
                at_ms = _between(one_ms, other_ms)
                if at_ms is not None and window.start_ms < at_ms < window.end_ms:
                    before = sum(map(len, self.keys[:number]))
                    behind = self.rows - before
                    return Cut(at_ms, (before, behind) if one_ms < other_ms else (behind, before))
        return None

    def figures(self) -> str:
        seen = f"{self.distinct} distinct segments in {self.rows} rows"
        if self.moved_to is not None:
            return f"{seen}, while the reported count moved from {self.count} to {self.moved_to}"
        if self.count is None:
            return f"{seen}, other ones in each walk, and the reply has no count"
        return f"{seen}, while the API reports {self.count}"


def walk(api: AhtApi, query: SegmentQuery, sink: PageSink) -> Walk:
    """Walk the query's window once, its pages into `sink`: as far as the count goes, else to an empty page.

    Ends early where it cannot add up any more. Where the API is known to page no further than this window's count goes,
    nothing but the first page is asked for.
    """
    seen = Walk()
    asked_at = time.monotonic()
    first = api.page(query, 0)
    is_near = time.monotonic() - asked_at < _NEAR_S
    _keep(seen, first, sink)
    if seen.is_over:
        return seen
    if seen.count is None:
        rest = _uncounted_rest(api, query, first, seen)
    elif api.reach is not None and seen.count >= api.reach.rows:
        seen.ends = api.reach.why
        return seen
    else:
        rest = _counted_rest(api, query, first, seen.count, is_near)
    with closing(rest):  # its threads end with the walk, also where the sink fails
        try:
            for reply in rest:
                _keep(seen, reply, sink)
                if seen.is_over:
                    break
        except _PagingEnds as end:
            api.learn_reach(end.offset, str(end))
            seen.ends = str(end)
    return seen


def distinct(keys: list[Keys] | tuple[Keys, ...]) -> Keys:
    """Sorted. np.unique would hash them first, which takes ten times as long."""
    ordered = np.sort(np.concatenate([np.empty(0, np.uint64), *keys]))
    is_first = np.ones(len(ordered), np.bool_)
    is_first[1:] = ordered[1:] != ordered[:-1]
    return ordered[is_first]


def _between(one_ms: int, other_ms: int) -> int | None:
    """A moment between these two, a whole second where there is one."""
    low, high = sorted((one_ms, other_ms))
    whole_second = (low // 1000 + 1) * 1000
    if whole_second < high:
        return whole_second
    return low + 1 if low + 1 < high else None


def _keep(seen: Walk, reply: Reply, sink: PageSink) -> None:
    seen.see(reply)
    sink.write(reply.body)


def _uncounted_rest(api: AhtApi, query: SegmentQuery, first: Reply, seen: Walk) -> Generator[Reply]:
    """The first page names no count, as in the older form of the reply: the next page, until an empty one.

    Where a later page names one after all, no further than that.
    """
    reply, offset = first, 0
    known: set[int] = set()
    while reply.page.segments:
        offset += len(reply.page.segments)
        if offset == seen.count and offset % api.page_size:
            return
        known.update(content_keys(reply.page).tolist())
        reply = _later_page(api, query, offset)
        if reply.page.segments and offset >= 2 * len(known):
            raise ApiError(f"the API sends the same segments again and again, at offset {offset} too: it ignores it")
        yield reply


def _counted_rest(api: AhtApi, query: SegmentQuery, first: Reply, count: int, is_near: bool) -> Generator[Reply]:
    """The pages after the first, in order; from a near API one by one, else several on their way at once.

    Where nothing is waited for, there is no waiting to share, and threads take the processor from the load beside.
    Where the count ends with a full page, one more: it must be empty, or the count is that of pages, not of segments.
    """
    step = api.page_size
    starts = iter(range(len(first.page.segments), count, step))

    def fetch(start: int, abandon: threading.Event | None) -> list[Reply]:
        is_last = start + step >= count
        return _range_of_pages(api, query, start, count if is_last else start + step, is_last, abandon)

    if is_near:
        yield from _while_near(fetch, starts)
    yield from _several_at_once(fetch, starts, api.concurrency)
    if count and count % step == 0:
        yield _later_page(api, query, count)


def _while_near(fetch: Fetch, starts: Iterator[int]) -> Generator[Reply]:
    """One range after the other, until patience is lost: each that comes soon restores a little of it."""
    patience_s = _PATIENCE_S
    while patience_s > 0 and (start := next(starts, None)) is not None:
        asked_at = time.monotonic()
        replies = fetch(start, None)
        patience_s = min(patience_s + _NEAR_S - (time.monotonic() - asked_at), _PATIENCE_S)
        yield from replies


def _several_at_once(fetch: Fetch, starts: Iterator[int], concurrency: int) -> Generator[Reply]:
    """The ranges in order, some fetched ahead; never more than a few in memory."""
    with _workers(concurrency) as (pool, abandon):
        ahead: deque[Future[list[Reply]]] = deque()

        def fetch_ahead() -> None:
            for start in islice(starts, 2 * concurrency - len(ahead)):
                ahead.append(pool.submit(fetch, start, abandon))

        fetch_ahead()
        while ahead:
            try:
                replies = ahead.popleft().result()
            except Abandoned:  # because a later page failed: its turn comes
                continue
            fetch_ahead()
            yield from replies


def _range_of_pages(
    api: AhtApi, query: SegmentQuery, start: int, end: int, is_last: bool, abandon: threading.Event | None
) -> list[Reply]:
    """The rows from offset `start` to `end`: one reply, or more where the API sends fewer rows than it was asked for.

    An empty reply before the end is not the end of the day: the walk then lacks rows, and says so. The last range asks
    for a full page: rows beyond the count give a wrong count away. A failure ends the waiting of the other ranges.
    """
    replies: list[Reply] = []
    try:
        while start < end:
            reply = _later_page(api, query, start, None if is_last else end - start, abandon)
            replies.append(reply)
            if not reply.page.segments:
                break
            start += len(reply.page.segments)
    except Exception:
        if abandon:
            abandon.set()
        raise
    return replies


class _PagingEnds(Exception):
    """The API refused a page that is not the window's first: it took the query, so it is the offset that it refused."""

    def __init__(self, offset: int, refused: Refused) -> None:
        super().__init__(str(refused))
        self.offset = offset


def _later_page(
    api: AhtApi, query: SegmentQuery, offset: int, limit: int | None = None, abandon: threading.Event | None = None
) -> Reply:
    try:
        return api.page(query, offset, limit, abandon)
    except Refused as refused:
        raise _PagingEnds(offset, refused) from None


@contextmanager
def _workers(count: int) -> Iterator[tuple[ThreadPoolExecutor, threading.Event]]:
    """Threads for the pages of one walk; when the walk ends early, what is still waiting or retrying is given up."""
    abandon = threading.Event()
    pool = ThreadPoolExecutor(count, thread_name_prefix="aht-page")
    try:
        yield pool, abandon
    finally:
        abandon.set()
        pool.shutdown(wait=True, cancel_futures=True)
