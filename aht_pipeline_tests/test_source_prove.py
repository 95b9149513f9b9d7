"""What the API says of a large day is confirmed before it is believed; what cannot be read as one is read in parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import date, timedelta
from typing import Any

import pytest

from aht_pipeline.days import Day
from aht_pipeline.simulator import Capped, Deepest, Fault, Simulator, Style, segment
from aht_pipeline.source import Unproved, pull_day
from aht_pipeline_tests.reading import (
    DAY,
    NOW,
    Answer,
    Asked,
    Pages,
    Reading,
    Row,
    Shown,
    Windowed,
    hours,
    ids,
    rows_of,
)

PAGE = 10
MILLISECOND = timedelta(milliseconds=1)


@pytest.fixture
def reading() -> Iterator[Reading]:
    with ExitStack() as closing:
        yield Reading(closing)


@pytest.fixture
def pages() -> Pages:
    return Pages()


def offsets(sim: Simulator) -> list[int]:
    return [int(request.parameters["offset"]) for request in sim.segment_requests]


def over_the_day(count: int) -> list[Row]:
    return rows_of(DAY, count)


def within_an_hour(count: int) -> list[Row]:
    return [segment(number, hours(DAY, 9) + number * timedelta(hours=1) / count) for number in range(count)]


def every_other_millisecond(count: int) -> list[Row]:
    return [segment(number, hours(DAY, 9) + 2 * number * MILLISECOND) for number in range(count)]


def half_of_them_at_five_moments(count: int) -> list[Row]:
    """None of which alone has more than the API counts."""
    clustered = [segment(number, hours(DAY, 9 + number % 5 / 2)) for number in range(count // 2)]
    return clustered + [segment(number, hours(DAY, 12 + 10 * number / count)) for number in range(count // 2, count)]


def all_at_one_moment(count: int) -> list[Row]:
    return [segment(number, hours(DAY, 9)) for number in range(count)]


SHAPES = [over_the_day, within_an_hour, every_other_millisecond, half_of_them_at_five_moments]


class TestACountThatStops:
    """At 100, while there are more; the pages beyond are empty, and so the rows add up to it."""

    @pytest.mark.parametrize("count", [101, 125, 150, 250, 500])
    @pytest.mark.parametrize("shape", SHAPES)
    def test_loses_nothing(self, reading: Reading, pages: Pages, shape: Callable[[int], list[Row]], count: int) -> None:
        rows = shape(count)
        sim = reading.simulator(rows, faults=[Capped(100)])

        pull = pull_day(reading.api(sim, page_size=PAGE), DAY, pages, NOW)

        assert pull.reported == count
        assert sorted(set(pages.ids)) == sorted(ids(rows))

    @pytest.mark.parametrize("style", [Style(half_open=True), Style(max_rows=7), Style(shuffle_ties=True)])
    def test_loses_nothing_however_the_api_pages(self, reading: Reading, pages: Pages, style: Style) -> None:
        rows = within_an_hour(250)
        sim = reading.simulator(rows, faults=[Capped(100)], style=style)

        assert pull_day(reading.api(sim, page_size=PAGE), DAY, pages, NOW).reported == 250
        assert sorted(set(pages.ids)) == sorted(ids(rows))

    @pytest.mark.parametrize("most", [95, 100])
    def test_loses_nothing_where_no_count_is_said_at_all(self, reading: Reading, pages: Pages, most: int) -> None:
        rows = within_an_hour(250)
        sim = reading.simulator(rows, faults=[Capped(most)], style=Style(pagination=False))

        assert pull_day(reading.api(sim, page_size=PAGE), DAY, pages, NOW).reported == 250
        assert sorted(set(pages.ids)) == sorted(ids(rows))

    def test_is_found_out_in_every_part_anew(self, reading: Reading, pages: Pages) -> None:
        """All but a few close in one minute of the day: most parts hold as many as the count goes."""
        minute = [segment(number, hours(DAY, 9) + number * 20 * MILLISECOND) for number in range(900)]
        rows = [*minute, *(segment(number, hours(DAY, number / 100)) for number in range(2000, 2010))]
        sim = reading.simulator(rows, faults=[Capped(100)])

        assert pull_day(reading.api(sim, page_size=PAGE), DAY, pages, NOW).reported == 910
        assert sorted(set(pages.ids)) == sorted(ids(rows))

    def test_over_rows_of_one_moment_fails_with_that_reason(self, reading: Reading, pages: Pages) -> None:
        sim = reading.simulator(all_at_one_moment(150), faults=[Capped(100)])

        with pytest.raises(Unproved, match=r"2026-03-10T00:00:00Z to 2026-03-11T00:00:00Z all closed at once"):
            pull_day(reading.api(sim, page_size=PAGE), DAY, pages, NOW)

        assert pages.kept == []

    def test_costs_a_day_that_is_small_nothing_and_a_large_one_two_questions(self, reading: Reading) -> None:
        sim = reading.simulator([*rows_of(DAY, 40), *later(rows_of(Day(date(2026, 3, 11), "UTC"), 41))])
        api = reading.api(sim, page_size=PAGE)

        small = pull_day(api, DAY, Pages(), NOW)
        large = pull_day(api, Day(date(2026, 3, 11), "UTC"), Pages(), NOW)

        assert (small.reported, small.requests) == (40, 5)
        assert (large.reported, large.requests) == (41, 7)
        assert len(sim.segment_requests) == 12


def later(rows: list[Row]) -> list[Row]:
    return [row | {"segmentId": f"{row['segmentId']}-later"} for row in rows]


class TestPagingThatEnds:
    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("limit", [100, 95])
    def test_by_a_400_is_read_in_parts(
        self, reading: Reading, pages: Pages, shape: Callable[[int], list[Row]], limit: int
    ) -> None:
        rows = shape(250)
        sim = reading.simulator(rows, faults=[Deepest(limit)])

        pull = pull_day(reading.api(sim, page_size=PAGE), DAY, pages, NOW)

        assert pull.reported == 250
        assert sorted(set(pages.ids)) == sorted(ids(rows))

    @pytest.mark.parametrize("status", [413, 416, 422])
    def test_by_a_status_of_its_own_is_read_in_parts(self, reading: Reading, pages: Pages, status: int) -> None:
        rows = within_an_hour(250)
        serve = Windowed(rows)
        server = reading.scripted(
            lambda asked: Answer(b"", status) if int(asked.query["offset"]) >= 100 else serve(asked)
        )

        assert pull_day(reading.api(server, page_size=PAGE), DAY, pages, NOW).reported == 250
        assert sorted(set(pages.ids)) == sorted(ids(rows))

    def test_is_walked_into_once_and_remembered(self, reading: Reading) -> None:
        second = Day(date(2026, 3, 11), "UTC")
        sim = reading.simulator([*rows_of(DAY, 250), *later(rows_of(second, 250))], faults=[Deepest(100)])
        api = reading.api(sim, page_size=PAGE)

        pull_day(api, DAY, Pages(), NOW)
        sim.forget_requests()
        assert pull_day(api, second, Pages(), NOW).reported == 250

        assert all(request.status == 200 for request in sim.segment_requests)
        assert len(sim.segment_requests) < 25 + 25

    def test_is_no_hindrance_to_a_day_without_a_count(self, reading: Reading, pages: Pages) -> None:
        rows = within_an_hour(250)
        sim = reading.simulator(rows, faults=[Deepest(100)], style=Style(pagination=False))

        assert pull_day(reading.api(sim, page_size=PAGE), DAY, pages, NOW).reported == 250
        assert sorted(set(pages.ids)) == sorted(ids(rows))

    def test_by_empty_pages_is_read_in_parts(self, reading: Reading, pages: Pages) -> None:
        """The count is right, and nothing comes beyond the hundredth row."""

        def answer(asked: Asked) -> Any:
            if int(asked.query["offset"]) >= 100:
                return serve(Asked(**vars(asked) | {"query": asked.query | {"limit": "0"}}))
            return serve(asked)

        rows = within_an_hour(250)
        serve = Windowed(rows)
        server = reading.scripted(answer)

        assert pull_day(reading.api(server, page_size=PAGE), DAY, pages, NOW).reported == 250
        assert sorted(set(pages.ids)) == sorted(ids(rows))
        assert len(server.asked_for_segments) < 150

    @pytest.mark.parametrize("faults", [[Deepest(100)], [Deepest(100), Capped(100)]])
    def test_before_the_rows_of_one_moment_do_fails_soon_and_says_so(
        self, reading: Reading, pages: Pages, faults: list[Fault]
    ) -> None:
        sim = reading.simulator(all_at_one_moment(250), faults=faults)

        with pytest.raises(Unproved, match=r"more than the API pages through|all closed at once"):
            pull_day(reading.api(sim, page_size=PAGE), DAY, pages, NOW)

        assert len(sim.segment_requests) < 80
        assert pages.kept == []

    def test_of_a_real_size_is_read_in_parts(self, reading: Reading, pages: Pages) -> None:
        rows = over_the_day(25_000)
        sim = reading.simulator(rows, faults=[Deepest(10_000)])

        pull = pull_day(reading.api(sim), DAY, pages, NOW)

        assert pull.reported == 25_000
        assert sorted(set(pages.ids)) == sorted(ids(rows))


class TestRowsOfOneMomentInAnOrderThatIsNewEachTime:
    @pytest.mark.parametrize("shape", [all_at_one_moment, half_of_them_at_five_moments])
    def test_fail_soon_and_with_that_reason(
        self, reading: Reading, pages: Pages, shape: Callable[[int], list[Row]]
    ) -> None:
        sim = reading.simulator(shape(600), style=Style(shuffle_ties=True))

        with pytest.raises(Unproved, match=r"all closed at once.*distinct segments in"):
            pull_day(reading.api(sim, page_size=PAGE), DAY, pages, NOW)

        assert len(sim.segment_requests) < 800
        assert pages.kept == []

    def test_are_proved_where_they_fit_a_page(self, reading: Reading, pages: Pages) -> None:
        rows = [segment(number, hours(DAY, number // 8 / 10)) for number in range(240)]
        sim = reading.simulator(rows, style=Style(shuffle_ties=True))

        assert pull_day(reading.api(sim, page_size=PAGE), DAY, pages, NOW).reported == 240
        assert sorted(set(pages.ids)) == sorted(ids(rows))


def at_first(said: Any) -> Callable[[Shown], Any]:
    return lambda page: {"count": page.held} if page.offset == 0 else said


def at_last(said: Any) -> Callable[[Shown], Any]:
    return lambda page: {"count": page.held} if page.rows and page.offset + page.rows == page.held else said


NOTHING_SAID: list[Any] = [None, {}, {"count": None}, {"count": -1}, {"count": ""}, {"count": {}}, [], "none"]


class TestACountThatIsNotSaid:
    @pytest.mark.parametrize("said", NOTHING_SAID, ids=str)
    @pytest.mark.parametrize("where", [at_first, at_last])
    @pytest.mark.parametrize("count", [38, 40, 123, 120])
    def test_on_some_pages_costs_a_request_a_page(
        self, reading: Reading, pages: Pages, where: Callable[[Any], Any], said: Any, count: int
    ) -> None:
        rows = over_the_day(count)
        server = reading.scripted(Windowed(rows, where(said)))

        pull = pull_day(reading.api(server, page_size=PAGE), DAY, pages, NOW)

        assert sorted(pages.ids) == sorted(ids(rows))
        assert pull.requests <= -(-count // PAGE) + 1 + (4 if count > 4 * PAGE else 0)

    @pytest.mark.parametrize("said", [*NOTHING_SAID, {"count": 0}, {"count": True}, {"count": "many"}], ids=str)
    @pytest.mark.parametrize("count", [0, 7, 10, 38, 123])
    def test_anywhere_leaves_the_day_to_two_walks(self, reading: Reading, pages: Pages, said: Any, count: int) -> None:
        rows = over_the_day(count)
        server = reading.scripted(Windowed(rows, lambda _: said))

        pull = pull_day(reading.api(server, page_size=PAGE), DAY, pages, NOW)

        assert (pull.reported, sorted(pages.ids)) == (count, sorted(ids(rows)))
        assert pull.requests <= 2 * (-(-count // PAGE) + 2)

    def test_beside_one_that_moves_does_not_hide_that(self, reading: Reading, pages: Pages) -> None:
        """Nothing, 30, nothing, 31: rows arrived."""
        counts = iter([None, 30, None, 31] * 100)
        server = reading.scripted(Windowed(over_the_day(30), lambda _: {"count": next(counts)}))

        with pytest.raises(Unproved):
            pull_day(reading.api(server, page_size=PAGE, concurrency=1), DAY, pages, NOW)


def test_a_segment_whose_close_cannot_be_read_does_not_hinder_the_proof(reading: Reading, pages: Pages) -> None:
    def unreadable(row: Row) -> Row:
        return row | {"endTime": "soon", "endTimeL": "later"}

    rows = over_the_day(120)
    served = Windowed(rows)

    def answer(asked: Asked) -> Any:
        page = served(asked)
        assert isinstance(page.body, dict)
        page.body["segments"] = [
            unreadable(row) if int(asked.query["offset"]) == 50 else row for row in page.body["segments"]
        ]
        return page

    server = reading.scripted(answer)

    assert pull_day(reading.api(server, page_size=PAGE), DAY, pages, NOW).reported == 120


def test_a_part_that_holds_less_than_the_whole_is_not_believed(reading: Reading, pages: Pages) -> None:
    """The day answers with all its rows, any part of it with none."""
    whole = Windowed(over_the_day(60))
    none = Windowed([], lambda _: {"count": 0})

    def answer(asked: Asked) -> Any:
        start, end = asked.window
        return (whole if (start, end) == (DAY.window.start, DAY.window.end) else none)(asked)

    server = reading.scripted(answer)

    with pytest.raises(Unproved, match="are 60 when read as one, and 0 when read in parts"):
        pull_day(reading.api(server, page_size=PAGE), DAY, pages, NOW)
    assert pages.kept == []
