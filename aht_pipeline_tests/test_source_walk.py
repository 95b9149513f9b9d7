"""A day is read whole and proved, or it fails and says by which figures."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from aht_pipeline.days import Day, Window, to_millis
from aht_pipeline.simulator import (
    Empty,
    ErrorStatus,
    ExplicitTraffic,
    Latency,
    Meanwhile,
    Simulator,
    Style,
    When,
    WrongCount,
    segment,
)
from aht_pipeline.source import (
    SORT_ORDERS,
    ApiError,
    Forgotten,
    NotBelieved,
    Refused,
    SegmentQuery,
    Unproved,
    prove,
    pull_day,
)
from aht_pipeline.source import walk as source_walk
from aht_pipeline_tests.reading import (
    APP_KEYS,
    DAY,
    KEYS,
    NOW,
    Answer,
    Asked,
    Pages,
    Reading,
    Row,
    Windowed,
    hours,
    ids,
    reply,
    rows_of,
)

MILLISECOND = timedelta(milliseconds=1)
SOON = timedelta(milliseconds=30)


@pytest.fixture
def reading() -> Iterator[Reading]:
    with ExitStack() as closing:
        yield Reading(closing)


@pytest.fixture
def pages() -> Pages:
    return Pages()


def offsets(sim: Simulator) -> list[int]:
    return [int(request.parameters["offset"]) for request in sim.segment_requests]


def limits(sim: Simulator) -> list[int]:
    return [int(request.parameters["limit"]) for request in sim.segment_requests]


def windows(sim: Simulator) -> set[tuple[int, int]]:
    asked = [request.parameters for request in sim.segment_requests]
    return {(int(one["fromMillis"]), int(one["toMillis"])) for one in asked}


def test_a_quiet_day_is_proved_in_one_walk_with_every_segment_once(reading: Reading, pages: Pages) -> None:
    rows = rows_of(DAY, 10)
    sim = reading.simulator(rows)

    pull = pull_day(reading.api(sim, page_size=4), DAY, pages, NOW)

    assert sorted(offsets(sim)) == [0, 4, 8]
    assert sorted(pages.ids) == sorted(ids(rows))
    assert (pull.reported, pull.rows, pull.requests, pull.retries) == (10, 10, 3, 0)
    assert (pull.account_id, pull.day, pull.pulled_at) == ("demo", DAY, NOW)


def test_a_day_that_fits_one_page_takes_one_request(reading: Reading, pages: Pages) -> None:
    rows = rows_of(DAY, 3)
    sim = reading.simulator(rows)

    pull = pull_day(reading.api(sim, page_size=4), DAY, pages, NOW)

    assert (offsets(sim), limits(sim)) == ([0], [4])
    assert sorted(pages.ids) == sorted(ids(rows))
    assert (pull.reported, pull.requests) == (3, 1)


def test_a_last_page_that_is_full_is_followed_by_one_that_must_be_empty(reading: Reading, pages: Pages) -> None:
    rows = rows_of(DAY, 4)
    sim = reading.simulator(rows)

    pull = pull_day(reading.api(sim, page_size=4), DAY, pages, NOW)

    assert offsets(sim) == [0, 4]
    assert sorted(pages.ids) == sorted(ids(rows))
    assert (pull.reported, pull.requests) == (4, 2)


def test_an_empty_day_is_proved_by_one_empty_page(reading: Reading, pages: Pages) -> None:
    sim = reading.simulator([])

    pull = pull_day(reading.api(sim), DAY, pages, NOW)

    assert (pull.reported, pull.rows, pull.requests) == (0, 0, 1)
    assert (pages.rows, len(pages.kept)) == ([], 1)


def test_rows_that_arrive_during_a_walk_lead_to_another_walk(reading: Reading, pages: Pages) -> None:
    rows = rows_of(DAY, 10)
    traffic = ExplicitTraffic(rows)
    late = segment(99, hours(DAY, 23.9))
    sim = reading.simulator(traffic, faults=[Meanwhile(lambda: traffic.add(late), When(after=1, first=1))])

    pull = pull_day(reading.api(sim, page_size=4), DAY, pages, NOW)

    assert offsets(sim).count(0) == 2
    assert sorted(pages.ids) == sorted(ids([*rows, late]))
    assert (pull.reported, pull.rows) == (11, 11)


def test_a_day_that_never_stands_still_is_proved_in_parts(reading: Reading, pages: Pages) -> None:
    """A row arrives in its last hour with every request: the whole day never adds up, its parts do."""
    rows = rows_of(DAY, 20)
    traffic = ExplicitTraffic(rows)
    numbers = iter(range(1000, 2000))

    def arrive() -> None:
        traffic.add(segment(number := next(numbers), hours(DAY, 23.5) + timedelta(seconds=number)))

    sim = reading.simulator(traffic, faults=[Meanwhile(arrive, When(first=30))])

    pull_day(reading.api(sim, page_size=8), DAY, pages, NOW)

    assert len(windows(sim)) > 1
    assert set(ids(rows)) <= set(pages.ids)


def test_rows_that_change_places_are_proved_by_halving(reading: Reading, pages: Pages) -> None:
    rows = [segment(number, hours(DAY, 2 + 4 * (number // 6))) for number in range(30)]
    sim = reading.simulator(rows, style=Style(shuffle_ties=True))

    pull = pull_day(reading.api(sim, page_size=7), DAY, pages, NOW)

    assert len(windows(sim)) > 1
    assert sorted(set(pages.ids)) == sorted(ids(rows))
    assert pull.reported == 30


def test_short_pages_whose_rows_change_places_are_proved_by_halving(reading: Reading, pages: Pages) -> None:
    rows = [segment(number, hours(DAY, 2 + 4 * (number // 6))) for number in range(30)]
    sim = reading.simulator(rows, style=Style(shuffle_ties=True, max_rows=7))

    pull = pull_day(reading.api(sim, page_size=500), DAY, pages, NOW)

    assert sorted(set(pages.ids)) == sorted(ids(rows))
    assert pull.reported == 30


def test_a_row_where_two_parts_meet_counts_once(reading: Reading, pages: Pages) -> None:
    """The window is cut a second after the first five rows' middle, where one that was not seen lies."""
    at_six, at_eighteen = hours(DAY, 6), hours(DAY, 18)
    closes = [at_six, at_six, at_six, at_eighteen, at_eighteen, at_six + timedelta(seconds=1)]
    rows = [segment(number, close) for number, close in enumerate(closes)]
    server = reading.scripted(OneTie(rows, page_size=5))

    pull = pull_day(reading.api(server, page_size=5), DAY, pages, NOW)

    assert (pull.reported, pull.rows) == (6, 7)
    assert sorted(set(pages.ids)) == sorted(ids(rows))


class OneTie:
    """Sends the first page for every offset: only a window of one page can be proved."""

    def __init__(self, rows: list[Row], page_size: int) -> None:
        self.rows = rows
        self.page_size = page_size

    def __call__(self, asked: Asked) -> Answer:
        start, end = asked.window
        inside = [row for row in self.rows if to_millis(start) <= row["endTimeL"] <= to_millis(end)]
        page = inside[: self.page_size] if int(asked.query["offset"]) < len(inside) else []
        return reply(asked, page, pagination={"count": len(inside)})


def test_a_count_of_the_page_is_not_taken_for_that_of_the_day(reading: Reading, pages: Pages) -> None:
    rows = rows_of(DAY, 12)
    server = reading.scripted(Windowed(rows, lambda page: {"count": page.rows}))

    pull = pull_day(reading.api(server, page_size=5), DAY, pages, NOW)

    assert pull.reported == 12
    assert sorted(set(pages.ids)) == sorted(ids(rows))


@pytest.mark.parametrize(("by", "figures"), [(1, ("10 distinct", "11")), (-1, ("10 distinct", "9"))])
def test_a_count_that_lies_on_one_page_fails_with_both_figures(
    reading: Reading, pages: Pages, by: int, figures: tuple[str, str]
) -> None:
    sim = reading.simulator(rows_of(DAY, 10), faults=[WrongCount(by)])

    with pytest.raises(Unproved) as failure:
        pull_day(reading.api(sim, page_size=20), DAY, pages, NOW)

    assert all(figure in str(failure.value) for figure in figures)
    assert offsets(sim).count(0) >= 4
    assert pages.kept == []


def test_a_count_that_lies_over_several_pages_fails(reading: Reading, pages: Pages) -> None:
    sim = reading.simulator(rows_of(DAY, 10), faults=[WrongCount(1)])

    with pytest.raises(Unproved, match="do not add up"):
        pull_day(reading.api(sim, page_size=4), DAY, pages, NOW)

    assert len(windows(sim)) > 1
    assert pages.kept == []


def test_a_count_that_lags_behind_the_rows_is_found_out(reading: Reading, pages: Pages) -> None:
    rows = rows_of(DAY, 10)
    sim = reading.simulator(rows, faults=[WrongCount(-1, When(first=3))])

    assert pull_day(reading.api(sim, page_size=4), DAY, pages, NOW).reported == 10
    assert sorted(pages.ids) == sorted(ids(rows))


def test_a_count_that_moves_in_every_walk_is_told(reading: Reading, pages: Pages) -> None:
    counts = iter(range(3, 1000))
    server = reading.scripted(
        lambda asked: reply(
            asked, rows_of(DAY, 2) if asked.query["offset"] == "0" else [], pagination={"count": next(counts)}
        )
    )

    with pytest.raises(Unproved, match="moved from 9 to 10"):
        pull_day(reading.api(server), DAY, pages, NOW)


def test_short_pages_are_followed_to_the_count(reading: Reading, pages: Pages) -> None:
    rows = rows_of(DAY, 25)
    sim = reading.simulator(rows, style=Style(max_rows=3))

    pull = pull_day(reading.api(sim, page_size=10), DAY, pages, NOW)

    assert (len(windows(sim)), offsets(sim).count(0)) == (3, 3), "the day once, its parts' counts beside it"
    assert sorted(pages.ids) == sorted(ids(rows))
    assert (pull.reported, pull.rows) == (25, 25)


@pytest.mark.parametrize("empty", [When(first=1), When(after=1, first=1), When(after=2, first=1)])
def test_an_empty_page_before_the_count_is_not_the_end(reading: Reading, pages: Pages, empty: When) -> None:
    rows = rows_of(DAY, 10)
    sim = reading.simulator(rows, faults=[Empty(when=empty)])

    pull = pull_day(reading.api(sim, page_size=4), DAY, pages, NOW)

    assert sorted(pages.ids) == sorted(ids(rows))
    assert pull.reported == 10


def test_nothing_but_empty_pages_under_a_count_fails(reading: Reading, pages: Pages) -> None:
    sim = reading.simulator(rows_of(DAY, 3), faults=[Empty()])

    with pytest.raises(Unproved, match="0 distinct segments in 0 rows, while the API reports 3"):
        pull_day(reading.api(sim), DAY, pages, NOW)


def test_rows_without_a_usable_id_count_by_their_content(reading: Reading, pages: Pages) -> None:
    traffic = ExplicitTraffic(rows_of(DAY, 5))
    noon = hours(DAY, 12)
    for number, unusable in enumerate([None, "", 7, "a\0b"]):
        traffic.add(segment(50 + number, noon, segmentId=unusable), name=f"unusable {number}")
    for number in range(2):
        without = segment(60 + number, noon)
        del without["segmentId"]
        traffic.add(without)
    for row in (b"7", b'"text"', b"null", b"[1]"):
        traffic.add(row, close=noon)
    sim = reading.simulator(traffic)

    pull = pull_day(reading.api(sim, page_size=4), DAY, pages, NOW)

    assert (pull.reported, pull.rows) == (15, 15)
    assert offsets(sim).count(0) == 1


@pytest.mark.parametrize("changes", [{}, {"segmentId": None}])
def test_equal_rows_in_one_reply_are_one_segment(reading: Reading, pages: Pages, changes: dict[str, Any]) -> None:
    traffic = ExplicitTraffic(rows_of(DAY, 2))
    for name in ("one", "the same"):
        traffic.add(segment(50, hours(DAY, 12), **changes), name=name)
    sim = reading.simulator(traffic)

    pull = pull_day(reading.api(sim), DAY, pages, NOW)

    assert (pull.reported, pull.rows, pull.requests) == (3, 4, 1)


def test_equal_rows_over_several_pages_are_proved_page_by_page(reading: Reading, pages: Pages) -> None:
    traffic = ExplicitTraffic(rows_of(DAY, 6))
    for name in ("one", "the same"):
        traffic.add(segment(50, hours(DAY, 12.01)), name=name)
    sim = reading.simulator(traffic)

    pull = pull_day(reading.api(sim, page_size=5), DAY, pages, NOW)

    assert pull.reported == 7
    assert len(set(pages.ids)) == 7


class TestTheOlderReply:
    def test_is_walked_to_an_empty_page_twice(self, reading: Reading, pages: Pages) -> None:
        rows = rows_of(DAY, 10)
        sim = reading.simulator(rows, style=Style(pagination=False))

        pull = pull_day(reading.api(sim, page_size=4), DAY, pages, NOW)

        assert offsets(sim) == [0, 4, 8, 10] * 2
        assert sorted(pages.ids) == sorted(ids(rows))
        assert (pull.reported, pull.rows, pull.requests) == (10, 10, 8)

    def test_is_walked_on_after_a_short_page(self, reading: Reading, pages: Pages) -> None:
        rows = rows_of(DAY, 10)
        sim = reading.simulator(rows, style=Style(pagination=False, max_rows=3))

        assert pull_day(reading.api(sim), DAY, pages, NOW).reported == 10
        assert sorted(pages.ids) == sorted(ids(rows))

    def test_of_an_empty_day_is_asked_for_twice(self, reading: Reading, pages: Pages) -> None:
        sim = reading.simulator([], style=Style(pagination=False))

        assert pull_day(reading.api(sim), DAY, pages, NOW).reported == 0
        assert offsets(sim) == [0, 0]

    def test_is_walked_until_two_walks_agree(self, reading: Reading, pages: Pages) -> None:
        rows = rows_of(DAY, 10)
        traffic = ExplicitTraffic(rows)
        late = segment(99, hours(DAY, 23.9))
        faults = [Meanwhile(lambda: traffic.add(late), When(after=4, first=1))]
        sim = reading.simulator(traffic, style=Style(pagination=False), faults=faults)

        pull = pull_day(reading.api(sim, page_size=4), DAY, pages, NOW)

        assert offsets(sim).count(0) == 3
        assert sorted(pages.ids) == sorted(ids([*rows, late]))
        assert (pull.reported, pull.rows) == (11, 11)

    def test_fails_where_no_two_walks_agree(self, reading: Reading, pages: Pages) -> None:
        numbers = iter(range(1000))
        server = reading.scripted(
            lambda asked: reply(asked, [segment(next(numbers), hours(DAY, 12))] if asked.query["offset"] == "0" else [])
        )

        with pytest.raises(Unproved, match="no count"):
            pull_day(reading.api(server), DAY, pages, NOW)
        assert pages.kept == []

    @pytest.mark.parametrize("shuffled", [False, True])
    def test_of_a_server_that_ignores_the_offset_is_found_out(
        self, reading: Reading, pages: Pages, shuffled: bool
    ) -> None:
        rows = rows_of(DAY, 5)
        server = reading.scripted(lambda asked: reply(asked, random.sample(rows, 5) if shuffled else rows))

        with pytest.raises(ApiError, match="again and again"):
            pull_day(reading.api(server), DAY, pages, NOW)


def test_a_server_that_ignores_the_offset_is_read_by_windows_of_one_page(reading: Reading, pages: Pages) -> None:
    rows = rows_of(DAY, 12)
    server = reading.scripted(OneTie(rows, page_size=5))

    assert pull_day(reading.api(server, page_size=5), DAY, pages, NOW).reported == 12
    assert sorted(set(pages.ids)) == sorted(ids(rows))


def test_an_answer_for_another_window_is_not_used(reading: Reading, pages: Pages) -> None:
    sim = reading.simulator(rows_of(DAY, 3), style=Style(ignores_window=True))

    with pytest.raises(ApiError, match=r"2026-03-10T00:00:00Z to 2026-03-11T00:00:00Z.*2026-03-14T12:00:00Z"):
        pull_day(reading.api(sim), DAY, pages, NOW)

    assert len(sim.segment_requests) == 1
    assert pages.kept == []


START_S, END_S = DAY.window.start_ms // 1000, DAY.window.end_ms // 1000
TEXTS: dict[str, Any] = {"startTime": "2026-03-10T00:00:00Z", "endTime": "2026-03-11T00:00:00Z"}


@pytest.mark.parametrize(
    "timeframe",
    [
        TEXTS,
        {"startTime": "2026-03-10T02:00:00+02:00", "endTime": "2026-03-10T19:00:00-05:00"},
        {"startTime": "2026-03-10T00:00:00.000Z", "endTime": "2026-03-11T00:00:00.999Z"},
        {"startTimeL": START_S, "endTimeL": END_S},
        {"startTimeL": START_S * 1000, "endTimeL": END_S * 1000},
        {"startTimeL": str(START_S * 1000), "endTimeL": str(END_S)},
        {"startTime": "", "endTime": None, "startTimeL": START_S, "endTimeL": END_S},
        TEXTS | {"startTimeL": 1, "endTimeL": END_S * 1000 + 3_600_000},
    ],
)
def test_the_window_is_recognised_however_it_is_written(
    reading: Reading, pages: Pages, timeframe: dict[str, Any]
) -> None:
    server = reading.scripted(lambda asked: reply(asked, rows_of(DAY, 2), timeframe=timeframe, pagination={"count": 2}))

    assert pull_day(reading.api(server), DAY, pages, NOW).reported == 2


@pytest.mark.parametrize(
    "timeframe",
    [
        None,
        {},
        {"startTime": TEXTS["startTime"]},
        TEXTS | {"endTime": "2026-03-11T00:00:01Z"},
        {"startTime": "2026-03-10T00:00:00+02:00", "endTime": "2026-03-11T00:00:00+02:00"},
        {"startTimeL": START_S * 1000 + 1000, "endTimeL": END_S * 1000},
        {"startTime": "2026-03-09T00:00:00Z", "endTime": TEXTS["endTime"], "startTimeL": START_S, "endTimeL": END_S},
        {"startTime": "yesterday", "endTime": "today", "startTimeL": START_S, "endTimeL": END_S},
    ],
)
def test_another_window_is_recognised_however_it_is_written(
    reading: Reading, pages: Pages, timeframe: dict[str, Any] | None
) -> None:
    server = reading.scripted(lambda asked: reply(asked, rows_of(DAY, 2), timeframe=timeframe, pagination={"count": 2}))

    with pytest.raises(ApiError, match="its answer is not used"):
        pull_day(reading.api(server), DAY, pages, NOW)
    assert pages.kept == []


def test_a_lower_limit_is_learnt_from_the_refusal_and_remembered(reading: Reading, pages: Pages) -> None:
    rows = rows_of(DAY, 250)
    sim = reading.simulator(rows, max_limit=100)
    api = reading.api(sim, page_size=500)

    pull = pull_day(api, DAY, pages, NOW)

    assert sorted(pages.ids) == sorted(ids(rows))
    assert pull.reported == 250
    assert limits(sim)[0] == 500
    assert max(limits(sim)[1:]) == 100

    sim.forget_requests()
    pull_day(api, DAY, Pages(), NOW)
    assert max(limits(sim)) == 100


def test_a_limit_that_falls_in_the_middle_of_a_walk_loses_nothing(reading: Reading, pages: Pages) -> None:
    rows = rows_of(DAY, 30)
    complete = reading.scripted(FallingLimit(rows, falls_after=2))

    pull = pull_day(reading.api(complete, page_size=10), DAY, pages, NOW)

    assert sorted(pages.ids) == sorted(ids(rows))
    assert pull.rows == 30


class FallingLimit:
    """Accepts any limit at first, then at most three."""

    def __init__(self, rows: list[Row], falls_after: int) -> None:
        self.serve = Windowed(rows)
        self.accepted = iter(range(falls_after))
        self.lock = threading.Lock()

    def __call__(self, asked: Asked) -> Answer:
        with self.lock:
            if int(asked.query["limit"]) > 3 and next(self.accepted, None) is None:
                return Answer({"causes": ["limit: must be at most 3"], "message": "no"}, 400)
        return self.serve(asked)


def test_the_pages_are_kept_in_their_order_whichever_comes_first(reading: Reading, pages: Pages) -> None:
    rows = rows_of(DAY, 24)
    sim = reading.simulator(rows, faults=[Latency(2 * SOON, When(after=1, every=2))])

    pull_day(reading.api(sim, page_size=2), DAY, pages, NOW)

    newest_first = [*reversed(ids(rows))]
    assert pages.ids == newest_first
    assert offsets(sim) != sorted(offsets(sim)), "the replies came in order by chance: the test tried nothing"


def test_the_pages_of_a_walk_that_proved_nothing_are_forgotten_and_no_others(reading: Reading, pages: Pages) -> None:
    pages.write(b'{"segments": [{"segmentId": "of another pull"}]}')
    rows = rows_of(DAY, 10)
    traffic = ExplicitTraffic(rows)
    faults = [Meanwhile(lambda: traffic.remove(ids(rows)[0]), When(after=2, first=1))]
    sim = reading.simulator(traffic, faults=faults)

    pull_day(reading.api(sim, page_size=4), DAY, pages, NOW)

    assert pages.ids == ["of another pull", *reversed(ids(rows)[1:])]


def test_equal_segments_have_an_equal_hash_in_any_order_and_paging(reading: Reading) -> None:
    rows = rows_of(DAY, 12)
    sim = reading.simulator(rows)
    api, by_fives = reading.api(sim, page_size=500), reading.api(sim, page_size=5)
    by_agent = SegmentQuery(DAY.window, sort="Agent")

    hashes = {
        pull_day(api, DAY, Pages(), NOW).content_sha256,
        pull_day(by_fives, DAY, Pages(), NOW).content_sha256,
        prove(by_fives, by_agent, Pages()).content_sha256,
    }

    assert len(hashes) == 1


def test_a_restated_segment_changes_the_hash(reading: Reading) -> None:
    rows = rows_of(DAY, 12)
    traffic = ExplicitTraffic(rows)
    api = reading.api(reading.simulator(traffic))

    before = pull_day(api, DAY, Pages(), NOW)
    traffic.restate(ids(rows)[5], totalHandleTimeMillis=1)
    after = pull_day(api, DAY, Pages(), NOW)

    assert before.reported == after.reported
    assert before.content_sha256 != after.content_sha256


@pytest.mark.parametrize(
    ("day", "start", "end"),
    [
        (date(2026, 10, 25), datetime(2026, 10, 24, 23, tzinfo=UTC), datetime(2026, 10, 26, tzinfo=UTC)),
        (date(2026, 3, 29), datetime(2026, 3, 29, tzinfo=UTC), datetime(2026, 3, 29, 23, tzinfo=UTC)),
    ],
)
def test_a_day_on_which_the_clocks_change_is_asked_for_as_it_is(
    reading: Reading, pages: Pages, day: date, start: datetime, end: datetime
) -> None:
    now = end + timedelta(days=1)
    first, last = segment(1, start), segment(2, end - MILLISECOND)
    sim = reading.simulator(
        [segment(0, start - MILLISECOND), first, last, segment(3, end + MILLISECOND)], now=lambda: now
    )

    pull_day(reading.api(sim), Day(day, "Europe/London"), pages, now)

    assert windows(sim) == {(to_millis(start), to_millis(end))}
    assert pages.ids == ids([last, first])


def test_rows_exactly_on_both_edges_are_read(reading: Reading, pages: Pages) -> None:
    window = DAY.window
    on_the_edges = [segment(1, window.end), segment(2, window.start)]
    outside = [segment(3, window.end + MILLISECOND), segment(4, window.start - MILLISECOND)]
    sim = reading.simulator(on_the_edges + outside)

    assert pull_day(reading.api(sim), DAY, pages, NOW).reported == 2
    assert pages.ids == ids(on_the_edges)


class TestADayBeyondTheMonth:
    def test_is_forgotten_once_the_api_says_so(self, reading: Reading, pages: Pages) -> None:
        sim = reading.simulator([])

        with pytest.raises(Forgotten, match=r"2026-02-01: .*must be at most 1 month ago.*--replay"):
            pull_day(reading.api(sim), Day(date(2026, 2, 1), "UTC"), pages, NOW)

        assert len(sim.segment_requests) == 1

    def test_is_asked_for_and_read_while_the_api_has_it(self, reading: Reading, pages: Pages) -> None:
        now, day = datetime(2026, 5, 31, 12, tzinfo=UTC), Day(date(2026, 5, 1), "UTC")
        sim = reading.simulator(rows_of(day, 1), now=lambda: now)

        assert pull_day(reading.api(sim), day, pages, now).reported == 1

    def test_is_not_believed_to_be_empty(self, reading: Reading, pages: Pages) -> None:
        now, day = datetime(2026, 5, 31, 12, tzinfo=UTC), Day(date(2026, 5, 1), "UTC")
        sim = reading.simulator([], now=lambda: now)

        with pytest.raises(NotBelieved, match=r"2026-05-01: .*27 days.*--replay"):
            pull_day(reading.api(sim), day, pages, now)

    @pytest.mark.parametrize("cause", ["fromMillis: is out of range", "From must be a later date"])
    def test_is_forgotten_however_the_refusal_of_its_start_is_worded(
        self, reading: Reading, pages: Pages, cause: str
    ) -> None:
        server = reading.scripted(lambda _: Answer({"causes": [cause], "message": "Bad Request"}, 400))

        with pytest.raises(Forgotten, match="--replay"):
            pull_day(reading.api(server), Day(date(2026, 2, 1), "UTC"), pages, NOW)


@pytest.mark.parametrize(
    "cause",
    ["source: is required", "fromMillis: must be a number", "from: is beyond the threshold", "toMillis: is too old"],
)
def test_a_recent_day_that_is_refused_for_another_reason_is_not_forgotten(
    reading: Reading, pages: Pages, cause: str
) -> None:
    server = reading.scripted(lambda _: Answer({"causes": [cause], "message": "Bad Request"}, 400))

    with pytest.raises(Refused, match=cause) as failure:
        pull_day(reading.api(server), DAY, pages, NOW)

    assert failure.value.causes == (cause,)
    assert not isinstance(failure.value, Forgotten)


@pytest.mark.parametrize("keys", [KEYS, APP_KEYS], ids=["OAuth 2.0", "OAuth 1.0"])
def test_every_filter_reaches_the_api_exactly_as_spelled(reading: Reading, pages: Pages, keys: Any) -> None:
    sim = reading.simulator(rows_of(DAY, 3))
    filters = {
        "ConversationId": "Ab+c d&e=f/g%20h?i#j",
        "AgentId": "3000000101",
        "EmployeeId": "0004é*~'(2)",
        "SkillId": "-1",
        "GroupId": "",
    }
    conversation, agent, employee, skill, group = filters.values()
    query = SegmentQuery(DAY.window, conversation, agent, employee, skill, group, sort="Employee")

    prove(reading.api(sim, keys, source="etl_test", page_size=77), query, pages)

    assert [request.parameters for request in sim.segment_requests] == [
        {
            "source": "etl_test",
            "fromMillis": str(DAY.window.start_ms),
            "toMillis": str(DAY.window.end_ms),
            **filters,
            "sort": "Employee",
            "limit": "77",
            "offset": "0",
        }
    ]


def test_a_filter_chooses_its_segments_and_no_others(reading: Reading, pages: Pages) -> None:
    rows = rows_of(DAY, 30)
    wanted = [row for row in rows if row["agentId"] == rows[0]["agentId"]]
    sim = reading.simulator(rows)

    prove(reading.api(sim, page_size=2), SegmentQuery(DAY.window, agent_id=str(rows[0]["agentId"])), pages)

    assert 1 < len(wanted) < 30
    assert sorted(pages.ids) == sorted(ids(wanted))


@pytest.mark.parametrize("order", SORT_ORDERS)
def test_every_sort_order_is_one_that_the_api_takes(reading: Reading, pages: Pages, order: str) -> None:
    rows = rows_of(DAY, 5)
    sim = reading.simulator(rows)

    prove(reading.api(sim, page_size=2), SegmentQuery(DAY.window, sort=order), pages)

    assert {request.parameters["sort"] for request in sim.segment_requests} == {order}
    assert sorted(pages.ids) == sorted(ids(rows))


class TestConcurrency:
    @pytest.mark.parametrize("concurrency", [1, 4])
    def test_so_many_requests_are_under_way_at_once(self, reading: Reading, pages: Pages, concurrency: int) -> None:
        sim = reading.simulator(rows_of(DAY, 24), faults=[Latency(SOON)])

        pull_day(reading.api(sim, page_size=2, concurrency=concurrency), DAY, pages, NOW)

        assert sim.max_in_flight == concurrency

    @pytest.mark.parametrize(("near_s", "most"), [(60, 1), (0.015, 4)], ids=["never waited for", "waited for"])
    def test_one_is_under_way_until_they_are_waited_for(
        self, reading: Reading, pages: Pages, monkeypatch: pytest.MonkeyPatch, near_s: float, most: int
    ) -> None:
        """The first page comes at once, as from a cache; the others take their time."""
        monkeypatch.setattr(source_walk, "_NEAR_S", near_s)
        sim = reading.simulator(rows_of(DAY, 48), faults=[Latency(SOON, When(after=1))])

        pull_day(reading.api(sim, page_size=2), DAY, pages, NOW)

        assert max(request.in_flight for request in sim.segment_requests if request.parameters["limit"] == "2") == most
        assert pages.ids == [*reversed(ids(rows_of(DAY, 48)))]

    def test_it_falls_after_a_429_and_rises_again(self, reading: Reading, pages: Pages) -> None:
        sim = reading.simulator(rows_of(DAY, 100), faults=[Latency(SOON / 3), ErrorStatus(429, when=When(first=1))])

        pull = pull_day(reading.api(sim, page_size=1, concurrency=4), DAY, pages, NOW)

        in_flight = [request.in_flight for request in sim.segment_requests]
        assert max(in_flight[:15]) <= 2
        assert max(in_flight[-30:]) == 4
        assert (pull.reported, pull.requests, pull.retries) == (100, 104, 1)

    def test_two_days_share_it(self, reading: Reading) -> None:
        days = [DAY, Day(date(2026, 3, 11), "UTC")]
        sim = reading.simulator([*rows_of(days[0], 20), *apart(rows_of(days[1], 20))], faults=[Latency(SOON)])
        api = reading.api(sim, page_size=1, concurrency=3)

        with ThreadPoolExecutor(2) as pool:
            pulls = list(pool.map(lambda day: pull_day(api, day, Pages(), NOW), days))

        assert [pull.reported for pull in pulls] == [20, 20]
        assert sim.max_in_flight == 3

    def test_a_page_that_fails_ends_the_walk_and_its_threads(self, reading: Reading, pages: Pages) -> None:
        sim = reading.simulator(rows_of(DAY, 100), faults=[ErrorStatus(403, when=When(after=3, first=1))])

        with pytest.raises(ApiError, match="403"):
            pull_day(reading.api(sim, page_size=1), DAY, pages, NOW)

        assert len(sim.segment_requests) < 50
        assert page_threads() == []

    def test_a_page_that_waits_long_does_not_hold_up_the_failure_of_another(
        self, reading: Reading, pages: Pages
    ) -> None:
        """Four pages are asked for at once: the first is put off for ten minutes, the second fails for good."""
        faults = [
            Latency(3 * SOON),
            ErrorStatus(429, retry_after_s=600, when=When(after=1, first=1)),
            ErrorStatus(403, when=When(after=2, first=1)),
        ]
        sim = reading.simulator(rows_of(DAY, 20), faults=faults)

        with pytest.raises(ApiError, match="403"):
            pull_day(reading.api(sim, page_size=1), DAY, pages, NOW)

        assert page_threads() == []

    def test_a_wait_that_is_too_long_for_one_page_holds_up_no_other(self, reading: Reading, pages: Pages) -> None:
        faults = [Latency(SOON), ErrorStatus(429, retry_after_s=100_000, when=When(after=1, first=1))]
        sim = reading.simulator(rows_of(DAY, 20), faults=faults)
        api = reading.api(sim, page_size=1)

        with pytest.raises(ApiError, match="429 Too Many Requests: asks to wait 100000 s"):
            pull_day(api, DAY, pages, NOW)

        assert page_threads() == []
        assert pull_day(api, DAY, Pages(), NOW).reported == 20

    def test_a_sink_that_fails_ends_the_threads_too(self, reading: Reading) -> None:
        sim = reading.simulator(rows_of(DAY, 100))

        with pytest.raises(OSError, match="disk full") as failure:
            pull_day(reading.api(sim, page_size=1), DAY, FullDisk(), NOW)

        assert page_threads() == [], f"still running while {failure.value} is handled"


class FullDisk(Pages):
    def write(self, page: bytes) -> None:
        if len(self.kept) == 3:
            raise OSError("disk full")
        super().write(page)


def apart(rows: list[Row]) -> list[Row]:
    """The rows under ids of their own."""
    return [row | {"segmentId": f"{row['segmentId']}-apart"} for row in rows]


def page_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("aht-page")]


def test_what_one_millisecond_cannot_tell_apart_fails_there(reading: Reading, pages: Pages) -> None:
    """More rows in one millisecond than fit a page, in another order each time: nothing can prove them."""
    rows = [segment(number, hours(DAY, 12)) for number in range(60)]
    sim = reading.simulator(rows, style=Style(shuffle_ties=True))
    millisecond = Window(hours(DAY, 12), hours(DAY, 12) + MILLISECOND)

    with pytest.raises(Unproved, match=r"12:00:00Z to 2026-03-10T12:00:00.001000Z"):
        prove(reading.api(sim, page_size=20), SegmentQuery(millisecond), pages)
