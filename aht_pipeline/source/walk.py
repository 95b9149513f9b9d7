"""The walk over a day's pages, until it is proved that nothing of the day is missing."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from itertools import islice

import numpy as np
import numpy.typing as npt

from aht_pipeline.days import Day
from aht_pipeline.pages import content_keys, segment_keys
from aht_pipeline.source.api import AhtApi, Reply, SegmentQuery
from aht_pipeline.source.errors import ApiError, Forgotten, NotBelieved, Refused, Unproved
from aht_pipeline.source.pull import DayPull, PageSink
from aht_pipeline.source.throttle import Abandoned

_WALKS = 4  # of one window, before it is split: the first, and three more
_NEAR_S = 0.01  # an answer within this comes from beside us, as a simulator's; LivePerson's takes longer
_PATIENCE_S = 0.05  # with a near API, over all that takes longer: a busy machine delays single answers
_AGE = re.compile(r"\b(month|day|old|past|back|earl|ago|before)", re.IGNORECASE)

Keys = npt.NDArray[np.uint64]
Fetch = Callable[[int, threading.Event | None], list[Reply]]
"""The rows from this offset up to the next range's; the event is set where they are no longer wanted."""


def pull_day(api: AhtApi, day: Day, sink: PageSink, now: datetime | None = None) -> DayPull:
    """Read a whole day, closed in its half-open window, into `sink`, proved complete.

    The window is asked for with both edges in: rows that closed on an edge may belong to a neighbour.
    Raises Unproved when the segments do not add up, Forgotten when the API refuses the day as too old, NotBelieved
    when it answers with nothing for a day that it may have forgotten, ApiError when a request fails for good.
    """
    pulled_at = now or datetime.now(UTC)
    in_doubt = day.memory_in_doubt(pulled_at)
    try:
        proof = prove(api, SegmentQuery(day.window), sink)
    except Refused as refused:
        if _speaks_of_age(refused, in_doubt):
            raise Forgotten(
                f"{day}: the API no longer holds this day, it remembers one month ({refused}). If the archive has it, "
                f"load it with: aht-pipeline load --from {day} --to {day} --replay"
            ) from None
        raise
    if in_doubt and proof.reported == 0:
        raise NotBelieved(
            f"{day}: the API answered with no segments, but the day is older than 27 days and may be forgotten, so "
            f"that is no proof. If the archive has it, load it with: aht-pipeline load --from {day} --to {day} --replay"
        )
    return DayPull(
        account_id=api.account_id,
        day=day,
        pulled_at=pulled_at,
        reported=proof.reported,
        rows=proof.rows,
        content_sha256=proof.content_sha256,
        requests=proof.requests,
        retries=proof.retries,
    )


@dataclass(frozen=True)
class Proof:
    """What one or more walks read of a window, and what they took. Concatenated, proofs of parts prove the whole.

    count: the total that the API reported; None in the older form of the reply.
    """

    keys: tuple[Keys, ...] = ()
    contents: tuple[Keys, ...] = ()
    count: int | None = None
    requests: int = 0
    retries: int = 0

    @property
    def rows(self) -> int:
        return sum(len(keys) for keys in self.keys)

    @cached_property
    def reported(self) -> int:
        return len(_distinct(self.keys))

    @property
    def content_sha256(self) -> str:
        return hashlib.sha256(_distinct(self.contents).tobytes()).hexdigest()


def prove(api: AhtApi, query: SegmentQuery, sink: PageSink) -> Proof:
    """Read the query's window into `sink` until it is proved complete.

    Walk it; where the walk proves nothing, walk it again, three times; then prove each half likewise, depth-first,
    down to windows of one page. Raises Unproved for the first window that can't be proved.
    """
    spent = _Spent()
    previous: _Walk | None = None
    for _ in range(_WALKS):
        mark = sink.mark()
        walk = _walk(api, query, sink)
        spent.add(walk)
        if walk.proves_itself or (previous and walk.repeats(previous)):
            return replace(walk.proof(), requests=spent.requests, retries=spent.retries)
        sink.rewind(mark)
        previous = walk
    halves = query.window.halves()
    if walk.is_one_page(api.page_size) or halves is None:
        raise Unproved(
            f"the segments closed from {query.window} do not add up after {_WALKS} walks: {walk.figures()}. "
            "Load the day again later; if it stays so, ask LivePerson"
        )
    parts = [prove(api, replace(query, window=half), sink) for half in halves]
    return Proof(
        keys=tuple(keys for part in parts for keys in part.keys),
        contents=tuple(contents for part in parts for contents in part.contents),
        requests=spent.requests + sum(part.requests for part in parts),
        retries=spent.retries + sum(part.retries for part in parts),
    )


@dataclass
class _Spent:
    requests: int = 0
    retries: int = 0

    def add(self, walk: _Walk) -> None:
        self.requests += walk.requests
        self.retries += walk.retries


@dataclass
class _Walk:
    """What one walk over a window saw."""

    count: int | None = None
    moved_to: int | None = None
    pages: int = 0
    requests: int = 0
    retries: int = 0
    keys: list[Keys] = field(default_factory=list)
    contents: list[Keys] = field(default_factory=list)

    def see(self, reply: Reply) -> None:
        if self.pages == 0:
            self.count = reply.page.count
        elif reply.page.count != self.count:
            self.moved_to = reply.page.count if reply.page.count is not None else -1
        self.pages += 1
        self.requests += reply.requests
        self.retries += reply.requests - 1
        self.keys.append(segment_keys(reply.body, reply.page))
        self.contents.append(content_keys(reply.page))

    @property
    def rows(self) -> int:
        return sum(len(keys) for keys in self.keys)

    @property
    def served(self) -> int:
        """Replies that held any rows."""
        return sum(len(keys) > 0 for keys in self.keys)

    @property
    def proves_itself(self) -> bool:
        """The count stood still and every segment of it is here; in a single reply, as many rows as it counts."""
        if self.count is None or self.moved_to is not None:
            return False
        return self.count == (self.rows if self.served <= 1 else len(_distinct(self.keys)))

    def repeats(self, previous: _Walk) -> bool:
        """Two walks without a count that saw the same."""
        uncounted = all(walk.count is None and walk.moved_to is None for walk in (self, previous))
        return uncounted and np.array_equal(_distinct(self.contents), _distinct(previous.contents))

    def is_one_page(self, page_size: int) -> bool:
        """Whether one reply holds all there is to read, by size and by what was served: no half of it can do better."""
        return self.served <= 1 and (self.rows if self.count is None else self.count) <= page_size

    def figures(self) -> str:
        seen = f"{len(_distinct(self.keys))} distinct segments in {self.rows} rows"
        if self.moved_to is not None:
            return f"{seen}, while the reported count moved from {self.count} to {self.moved_to}"
        if self.count is None:
            return f"{seen}, other ones in each walk, and the reply has no count"
        return f"{seen}, while the API reports {self.count}"

    def proof(self) -> Proof:
        return Proof(tuple(self.keys), tuple(self.contents), self.count)


def _walk(api: AhtApi, query: SegmentQuery, sink: PageSink) -> _Walk:
    """One walk: the first page says the count, and the others are kept in their order."""
    walk = _Walk()
    asked_at = time.monotonic()
    first = api.page(query, 0)
    is_near = time.monotonic() - asked_at < _NEAR_S
    _keep(walk, first, sink)
    if walk.count is None:
        rest = _uncounted_rest(api, query, first)
    else:
        rest = _counted_rest(api, query, first, walk.count, is_near)
    with closing(rest):  # its threads end with the walk, also where the sink fails
        for reply in rest:
            _keep(walk, reply, sink)
            if walk.moved_to is not None:
                break
    return walk


def _keep(walk: _Walk, reply: Reply, sink: PageSink) -> None:
    walk.see(reply)
    sink.write(reply.body)


def _uncounted_rest(api: AhtApi, query: SegmentQuery, first: Reply) -> Generator[Reply]:
    """The older form of the reply names no count: the next page, until an empty one."""
    reply, offset = first, 0
    seen: set[int] = set()
    while reply.page.segments:
        offset += len(reply.page.segments)
        seen.update(content_keys(reply.page).tolist())
        reply = api.page(query, offset)
        if reply.page.segments and offset >= 2 * len(seen):
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
        yield api.page(query, count)


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
            reply = api.page(query, start, None if is_last else end - start, abandon)
            replies.append(reply)
            if not reply.page.segments:
                break
            start += len(reply.page.segments)
    except Exception:
        if abandon:
            abandon.set()
        raise
    return replies


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


def _distinct(keys: list[Keys] | tuple[Keys, ...]) -> Keys:
    """Sorted. np.unique would hash them first, which takes ten times as long."""
    ordered = np.sort(np.concatenate([np.empty(0, np.uint64), *keys]))
    is_first = np.ones(len(ordered), np.bool_)
    is_first[1:] = ordered[1:] != ordered[:-1]
    return ordered[is_first]


def _speaks_of_age(refused: Refused, in_doubt: bool) -> bool:
    """Whether a 400 says that the window begins too far back: its wording is not documented, the name `from` is."""
    of_the_start = [cause for cause in refused.causes if re.match(r"\s*from", cause, re.IGNORECASE)]
    return any(in_doubt or _AGE.search(cause) for cause in of_the_start)
