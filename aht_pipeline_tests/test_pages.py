"""A reply is taken apart without a change to its segments, and whatever is no reply is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aht_pipeline.pages import Page, PageError, content_keys, is_usable_id, read_page, segment_keys


def page_of(*segments: str, **envelope: Any) -> bytes:
    """A reply with these segments, written exactly so."""
    rest = "".join(f", {json.dumps(name)}: {json.dumps(value)}" for name, value in envelope.items())
    return f'{{"segments": [{", ".join(segments)}]{rest}}}'.encode()


def keys(*segments: str) -> list[int]:
    body = page_of(*segments)
    found: list[int] = segment_keys(body, read_page(body)).tolist()
    return found


def contents(*segments: str) -> list[int]:
    found: list[int] = content_keys(read_page(page_of(*segments))).tolist()
    return found


def test_a_segment_stays_the_bytes_that_the_api_sent() -> None:
    segments = ['{"segmentId" :"a",  "n": 1.50, "n": 12345678901234567890123}', '{"é": "\\u00e9\\/"}', "[ 1 ]", "null"]

    page = read_page(page_of(*segments))

    assert [bytes(segment).decode() for segment in page.segments] == segments


@pytest.mark.parametrize(
    ("sent", "count"),
    [
        ("3", 3),
        ('"3"', 3),
        ("3.0", 3),
        ("3e2", 300),
        ("9223372036854775807", 2**63 - 1),
        ("null", None),
        ("-1", None),
        ('"-1"', None),
        ("-9223372036854775809", None),
        ("9223372036854775808", None),
        ('"9223372036854775808"', None),
        ("1" * 5000, None),
        ("1e400", None),
        ("2.5", None),
        ('""', None),
        ('"many"', None),
        ('" 3"', None),
        ('"٣"', None),
        ('"\xff"', None),
        ("true", None),
        ("false", None),
        ("{}", None),
        ("[]", None),
        ("[3]", None),
        ("NaN", None),
        ('"\\ud800"', None),
    ],
)
@pytest.mark.parametrize("segments", ["", "{}"])
def test_a_count_is_a_whole_number_from_0_on_and_anything_else_says_none(
    sent: str, count: int | None, segments: str
) -> None:
    body = f'{{"segments": [{segments}], "pagination": {{"count": {sent}}}}}'.encode(
        "latin-1" if "\xff" in sent else "utf-8"
    )

    assert read_page(body).count == count


@pytest.mark.parametrize("pagination", [None, {}, [], [3], "3", 3, True, {"Count": 3}, {"of": {"count": 3}}])
def test_a_pagination_of_another_shape_says_no_count(pagination: object) -> None:
    assert read_page(page_of(pagination=pagination)).count is None


@pytest.mark.parametrize("sent", [0, "0", 0.0])
def test_a_count_of_nothing_is_one_only_without_segments(sent: object) -> None:
    assert read_page(page_of(pagination={"count": sent})).count == 0
    assert read_page(page_of("{}", pagination={"count": sent})).count is None


@pytest.mark.parametrize("timeframe", [None, 7, "2026-01-01T00:00:00Z", [], True])
def test_a_timeframe_of_another_shape_names_no_window_and_the_page_is_read(timeframe: object) -> None:
    page = read_page(page_of("{}", timeframe=timeframe, pagination={"count": 1}))

    assert (len(page.segments), page.count, page.timeframe) == (1, 1, None)


def test_the_older_reply_has_no_count_and_no_timeframe_is_needed_to_read_it() -> None:
    page = read_page(b'{"segments": [], "somethingNew": {"a": [1]}}')

    assert (page.count, page.timeframe, page.segments) == (None, None, [])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html></html>",
        b"null",
        b"[]",
        b"{}",
        b'{"segments": null}',
        b'{"segments": {}}',
        b'{"segments": [{"segmentId": "a"}',
        b'{"segments": []} and more',
    ],
)
def test_what_is_no_reply_is_refused(body: bytes) -> None:
    with pytest.raises(PageError, match=rf"not a reply of agent-segments \({len(body)} bytes\)"):
        read_page(body)


def test_rows_of_one_id_are_one_segment_whatever_else_they_say() -> None:
    first, second, other = keys('{"segmentId": "a", "n": 1}', '{"n": 2, "segmentId":"\\u0061"}', '{"segmentId": "A"}')

    assert first == second
    assert other != first


@pytest.mark.parametrize(
    "row",
    ["{}", '{"segmentId": null}', '{"segmentId": ""}', '{"segmentId": 7}', '{"segmentId": "a\\u0000"}', "7", "[]"],
)
def test_a_row_without_a_usable_id_is_known_by_its_content(row: str) -> None:
    usable, first, again, other = keys('{"segmentId": "a"}', row, row, '{"n": 1}')

    assert first == again
    assert len({usable, first, other}) == 3


@pytest.mark.parametrize(
    "other",
    [
        '{"segmentId": "b"}',
        '{"segmentId":"b","note":"\\n"}',
        '{"segmentId":"b","note":"é"}',
        '{"segmentId":"b","note":"segmentId"}',
        '{"segmentId":"b","nested":{"segmentId":"c"}}',
        '{"segmentId":"c","segmentId":"b"}',
        '{"n":1,"segmentId":"b"}',
        '{"segment\\u0049d":"b"}',
    ],
)
def test_an_id_has_one_key_however_it_and_its_neighbours_are_written(other: str) -> None:
    plain = '{"segmentId":"a"}'

    assert keys(plain, '{"segmentId":"b"}') == [*keys(plain), *keys('{"segmentId":"b"}')] == keys(plain, other)


def test_rows_that_name_an_id_only_within_are_known_by_their_content() -> None:
    first, second = keys('{"segmentId":"","of":{"segmentId":"a"}}', '{"n":1,"of":{"segmentId":"a"}}')

    assert len({first, second, *keys('{"segmentId":"a"}')}) == 3


def test_a_row_that_cannot_be_read_takes_nothing_from_its_neighbours() -> None:
    usable = '{"segmentId": "a"}'

    assert keys(usable, "7", '{"segmentId": "\\ud800"}', usable)[0] == keys(usable)[0] == keys("7", usable)[1]


def test_a_key_made_from_content_is_no_key_made_from_an_id() -> None:
    row = '{"n": 1}'

    assert keys(row) != keys(json.dumps({"segmentId": row}))


def test_content_differs_by_every_byte() -> None:
    first, again, spaced = contents('{"segmentId": "a"}', '{"segmentId": "a"}', '{"segmentId":"a"}')

    assert first == again
    assert spaced != first


@pytest.mark.parametrize(
    ("segment_id", "usable"),
    [("a", True), (" ", True), ("é", True), ("", False), ("a\0", False), (None, False), (7, False), (["a"], False)],
)
def test_a_usable_id_is_text_that_postgres_can_hold(segment_id: object, usable: bool) -> None:
    assert is_usable_id(segment_id) is usable


def test_a_page_of_nothing_has_no_keys() -> None:
    assert segment_keys(b'{"segments": []}', Page([])).tolist() == []
    assert contents() == []
