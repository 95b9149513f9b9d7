"""A reply is taken apart without a change to its segments, and whatever is no reply is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from aht_pipeline.commands.segments import Filters, run_segments
from aht_pipeline.days import iso
from aht_pipeline.normalize import normalize
from aht_pipeline.pages import Page, PageError, Timeframe, content_keys, is_usable_id, read_page, segment_keys
from aht_pipeline.source import ApiError, pull_day
from aht_pipeline_tests.reading import DAY, NOW, Answer, Asked, Pages, Reading, reply, rows_of


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


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b'{"segments": [{"a": NaN}', "it is not one whole JSON object"),
        (b'{"segments": [{"a": NaN}]} and more', "it is not one whole JSON object"),
        (b'{"segments": [{"a": "NaN}]}', "it is not one whole JSON object"),
        (b'{"segments": [{"a": NaN}],}', "it is not one whole JSON object"),
        (b'{"segments": [{"a": [NaN}]}', "it is not one whole JSON object"),
        (b'{"a": NaN}', "it has no `segments`, or they are no array"),
        (b'{"segments": NaN}', "it has no `segments`, or they are no array"),
        (b'{"segments": [NaN], "segments": {}}', "it has no `segments`, or they are no array"),
        *(
            ('{"segments": []}'.encode(encoding), "UTF-16 or UTF-32 instead of UTF-8")
            for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be")
        ),
    ],
)
def test_what_cannot_be_cut_apart_either_is_refused_for_what_is_wrong_with_it(body: bytes, fault: str) -> None:
    with pytest.raises(PageError, match=re.escape(f"not a reply of agent-segments ({len(body)} bytes): {fault}")):
        read_page(body)


NO_JSON = {
    "not a number": b"NaN",
    "minus infinity": b"-Infinity",
    "half a pair": b'"\\ud800"',
    "a pair in the wrong order": b'"\\udc00\\ud800"',
    "no UTF-8": b'"\xff"',
    "half a pair as bytes": b'"\xed\xa0\x80"',
    "4,301 digits": b"1" * 4301,
    "100,000 digits": b"1" * 100_000,
    "100,000 brackets": b"[" * 100_000 + b"]" * 100_000,
    "100,000 braces": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "a NUL": b'"\0"',
    "a line end": b'"\n"',
    "no escape": b'"\\x"',
    "brackets in a text that is none": b'"]}\\"]}\\x"',
    "no word": b"tru",
    "a comma too many": b'[{"a": 1,}, 2,]',
    "other brackets": b"[1}",
    "a leading zero": b"01",
    "nothing": b"",
}
"""What readers of JSON stumble over, as a value."""


def row_with(value: bytes, segment_id: str = "a") -> bytes:
    return b'{"note": ' + value + b', "segmentId": "' + segment_id.encode() + b'"}'


def page_of_bytes(*rows: bytes, rest: bytes = b"") -> bytes:
    return b'{"pagination": {"count": 7}, "segments": [' + b" ,\n".join(rows) + b"]" + rest + b"}"


@pytest.mark.parametrize("value", NO_JSON.values(), ids=NO_JSON)
def test_a_row_that_is_no_json_takes_no_other_with_it(value: bytes) -> None:
    rows = [row_with(b"1", "before"), row_with(value), value or b"-", row_with(b"1", "after")]
    body = page_of_bytes(*rows)

    page = read_page(body)

    assert [bytes(row) for row in page.segments] == rows
    assert page.count == 7
    (before, bad, alone, after), (content_before, *_, content_after) = segment_keys(body, page), content_keys(page)
    assert [before, bad, after] == keys('{"segmentId": "before"}', '{"segmentId": "a"}', '{"segmentId": "after"}')
    assert alone not in (before, bad, after)
    assert content_before == content_keys(read_page(page_of_bytes(rows[0])))[0]
    assert content_after == content_keys(read_page(page_of_bytes(rows[-1])))[0]


def test_rows_that_are_no_json_in_different_ways_stand_on_one_page() -> None:
    rows = [row_with(value, f"row {number}") for number, value in enumerate(NO_JSON.values())]
    body = page_of_bytes(*rows)

    page = read_page(body)

    assert [bytes(row) for row in page.segments] == rows
    assert segment_keys(body, page).tolist() == keys(
        *(f'{{"segmentId": "row {number}"}}' for number in range(len(rows)))
    )


@pytest.mark.parametrize("value", NO_JSON.values(), ids=NO_JSON)
def test_what_is_no_json_elsewhere_in_the_envelope_does_not_cost_the_page(value: bytes) -> None:
    rest = b"""
        , "timeframe": {"startTime": "2026-01-01T00:00:00Z", "new": %b, "endTimeL": 1767312000000, "endTime": %b}
        , "pagination": {"references": [%b], "count": 3}, "new": %b, "\\ud800": %b, "\xff": %b
    """ % ((value,) * 6)

    page = read_page(page_of_bytes(b'{"segmentId": "a"}', rest=rest))

    assert [bytes(row) for row in page.segments] == [b'{"segmentId": "a"}']
    assert page.count == 3
    assert page.timeframe is not None
    assert (page.timeframe.startTime, page.timeframe.endTimeL) == ("2026-01-01T00:00:00Z", 1767312000000)


def test_a_window_is_read_whatever_stands_beside_its_texts() -> None:
    texts = {"startTime": "2026-01-01T00:00:00Z", "endTime": "2026-01-02T00:00:00Z"}

    page = read_page(page_of(timeframe=texts | {"startTimeL": {}, "endTimeL": 1.5, "zone": []}))

    assert page.timeframe == Timeframe(**texts)


@pytest.mark.parametrize("pagination", ['{"count": 5, "count": -1}', '{"count": 5, "count": NaN}'])
def test_of_two_counts_the_last_is_the_one_that_is_judged(pagination: str) -> None:
    assert read_page(f'{{"segments": [], "pagination": {pagination}}}'.encode()).count is None


def test_a_row_that_is_no_json_and_has_no_usable_id_is_known_by_its_content() -> None:
    for row in (b"NaN", b'{"segmentId": NaN}', b'{"segmentId": "\\ud800"}', b'{"segmentId": "a", }', b""):
        body = page_of_bytes(b'{"segmentId": "a"}', row, row)
        page = read_page(body)
        usable, first, again = segment_keys(body, page).tolist()
        assert first == again == content_keys(page)[1] != usable


@pytest.mark.parametrize(
    "rows", [[b'{"segmentId": "a"}', b"{}"], [b'{"segmentId": "a"}'], [], [row_with(b"NaN"), b"7"]]
)
def test_a_byte_order_mark_before_a_page_is_no_part_of_it(rows: list[bytes]) -> None:
    body = page_of_bytes(*rows)
    page, marked = read_page(body), read_page(b"\xef\xbb\xbf" + body)

    assert (marked.count, marked.timeframe) == (page.count, page.timeframe)
    assert [bytes(row) for row in marked.segments] == rows
    assert segment_keys(b"\xef\xbb\xbf" + body, marked).tolist() == segment_keys(body, page).tolist()
    assert content_keys(marked).tolist() == content_keys(page).tolist()


@pytest.mark.parametrize(
    "body", [b"\xef\xbb\xbf", b"\xef\xbb\xbf" * 2 + b'{"segments": []}', b'\xef\xbb{"segments": []}']
)
def test_a_mark_that_is_not_one_before_a_page_is_refused(body: bytes) -> None:
    with pytest.raises(PageError):
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


# Through real HTTP, as a day is pulled


@pytest.fixture
def reading() -> Iterator[Reading]:
    with ExitStack() as closing:
        yield Reading(closing)


def body_for(asked: Asked, *rows: bytes) -> bytes:
    start, end = (iso(moment).encode() for moment in asked.window)
    timeframe = b'{"startTime": "%b", "endTime": "%b", "new": NaN}' % (start, end)
    return b'\xef\xbb\xbf{"timeframe": %b, "segments": [%b], "pagination": {"count": %d}}' % (
        timeframe,
        b", ".join(rows),
        len(rows),
    )


def test_a_day_with_a_byte_order_mark_and_rows_that_are_no_json_is_proved_and_kept_as_sent(reading: Reading) -> None:
    rows = [json.dumps(row).encode() for row in rows_of(DAY, 2)]
    rows += [row_with(value, f"row {number}") for number, value in enumerate(NO_JSON.values())]
    sent: list[bytes] = []

    def answer(asked: Asked) -> Answer:
        sent.append(body_for(asked, *rows))
        return Answer(sent[-1])

    pages = Pages()
    pull = pull_day(reading.api(reading.scripted(answer)), DAY, pages, NOW)

    assert pages.kept == sent
    assert (pull.reported, pull.rows, pull.requests) == (len(rows), len(rows), 1)
    (batch,) = normalize(pages.kept, DAY.window)
    assert (len(batch.frame), len(batch.rejects)) == (2, len(NO_JSON))


@pytest.mark.parametrize(
    ("timeframe", "told"),
    [
        (7, "a window that it does not name"),
        ({}, "a window that it does not name"),
        ({"startTime": 7, "endTimeL": [1]}, "a window that it does not name"),
        ({"startTimeL": 10**18, "endTimeL": -(10**18)}, f"{10**18} to {-(10**18)}"),
        ({"startTimeL": "9" * 500, "endTimeL": 1}, f"{'9' * 40} to 1"),
        ({"startTime": "0001-01-01T00:00:00+23:59", "endTime": "soon"}, "0001-01-01T00:00:00+23:59 to soon"),
        ({"startTime": "0001-01-01T00:00:00+23:59", "endTimeL": 1}, "0001-01-01T00:00:00+23:59 to 1"),
    ],
)
def test_a_window_that_cannot_be_read_is_told_and_its_page_not_used(
    reading: Reading, timeframe: object, told: str
) -> None:
    server = reading.scripted(lambda asked: reply(asked, [], timeframe=timeframe, pagination={"count": 0}))

    with pytest.raises(ApiError, match=re.escape(f"the API answered for {told}: its answer is not used")):
        pull_day(reading.api(server), DAY, Pages(), NOW)


def test_segments_are_printed_as_the_api_sent_them_though_they_are_no_json(
    reading: Reading, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    rows = [row_with(value, f"row {number}") for number, value in enumerate(NO_JSON.values()) if b"\n" not in value]
    server = reading.scripted(lambda asked: Answer(body_for(asked, *rows)))
    monkeypatch.chdir(tmp_path)  # no .env of the caller's
    for name, value in {"ACCOUNT_ID": "demo", "CLIENT_ID": "a", "CLIENT_SECRET": "b", "API_URL": server.url}.items():
        monkeypatch.setenv(f"LIVEPERSON_{name}", value)

    run_segments(DAY.window.start, DAY.window.end, Filters(*[None] * 6))

    assert capsysbinary.readouterr().out.splitlines() == rows
