"""Normalising: what a raw row means, what sets it aside, and that no row is lost between the two."""

from __future__ import annotations

import hashlib
import json
import random
from datetime import UTC, date, datetime, timedelta
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from aht_pipeline.days import Day, Window, from_millis, iso
from aht_pipeline.normalize import QUALITY_FLAGS, SEGMENT_SCHEMA, Reject, SegmentBatch, find_superseded, normalize
from aht_pipeline.normalize.careful import Repaired, read_row
from aht_pipeline.normalize.columns import added_of, as_table, columns_of, extra_of, suspects
from aht_pipeline.normalize.plain import PlainDecoder, Segment, by_field
from aht_pipeline.normalize.times import parse_times, why_no_time
from aht_pipeline.pages import PageError, read_page, segment_keys

WINDOW = Day(date(2026, 1, 1), "UTC").window
NO_FIELD = object()

# The sample of the API's reference
SAMPLE = {
    "segmentId": "12345678:3000000101:0b6f0c0e-1111-4111-8111-000000000001:AAAAAAAAQACAAAAAAAAAAQ",
    "startTime": "2025-12-31T22:10:04.5Z",
    "startTimeL": 1767219004500,
    "endTime": "2026-01-01T00:14:09.04Z",
    "endTimeL": 1767226449040,
    "conversationId": "0b6f0c0e-1111-4111-8111-000000000001",
    "agentId": 3000000101,
    "employeeId": "00042",
    "skillId": 4100000001,
    "groupId": 510001,
    "endReason": "skillTransfer",
    "totalHandleTimeMillis": 412350,
}


def row(**changes: Any) -> bytes:
    """The sample with these changes, as JSON; NO_FIELD takes a field out."""
    fields = {name: value for name, value in (SAMPLE | changes).items() if value is not NO_FIELD}
    return json.dumps(fields, ensure_ascii=False).encode()


def rows(count: int, **changes: Any) -> list[bytes]:
    return [row(segmentId=f"segment-{number}", **changes) for number in range(count)]


def page(*raws: bytes) -> bytes:
    return b'{"timeframe": {}, "segments": [' + b", ".join(raws) + b'], "pagination": {"count": 1}}'


def records(batch: SegmentBatch) -> list[dict[str, Any]]:
    return pa.Table.from_pandas(batch.frame, preserve_index=False).to_pylist()  # type: ignore[no-any-return]


def batch_of(*raws: bytes) -> SegmentBatch:
    """What a pull of one page makes."""
    (batch,) = normalize([page(*raws)], WINDOW)
    return batch


def accepted(raw: bytes) -> dict[str, Any]:
    batch = batch_of(raw)
    assert batch.rejects == ()
    (record,) = records(batch)
    return record


def rejected(raw: bytes) -> Reject:
    batch = batch_of(raw)
    assert len(batch.frame) == 0
    (reject,) = batch.rejects
    return reject


# What a row means


def test_the_sample_of_the_api_reference_becomes_one_typed_row() -> None:
    assert accepted(row()) == {
        "segment_id": SAMPLE["segmentId"],
        "conversation_id": SAMPLE["conversationId"],
        "agent_id": 3000000101,
        "employee_id": "00042",
        "skill_id": 4100000001,
        "group_id": 510001,
        "end_reason": "skillTransfer",
        "start_time": datetime(2025, 12, 31, 22, 10, 4, 500_000, UTC),
        "end_time": datetime(2026, 1, 1, 0, 14, 9, 40_000, UTC),
        "total_handle_time_ms": 412350,
        "quality_flags": [],
        "extra": None,
    }


def test_the_oldest_sample_whose_epochs_are_seconds_and_contradict_the_text_keeps_the_text_and_is_flagged() -> None:
    record = accepted(row(startTimeL=1667219004, endTimeL=1667226449))
    assert record["start_time"] == datetime(2025, 12, 31, 22, 10, 4, 500_000, UTC)
    assert record["end_time"] == datetime(2026, 1, 1, 0, 14, 9, 40_000, UTC)
    assert record["quality_flags"] == ["start_epoch_disagrees", "end_epoch_disagrees"]


def test_frames_have_the_declared_columns_in_arrow_dtypes_even_without_rows() -> None:
    for batch in (batch_of(row()), batch_of()):
        assert list(batch.frame.dtypes.items()) == [(field.name, pd.ArrowDtype(field.type)) for field in SEGMENT_SCHEMA]


@pytest.mark.parametrize(
    ("sent", "number"),
    [
        (0, 0),
        ("0", 0),
        ("3000000101", 3000000101),
        ("007", 7),
        ("-5", -5),
        (5.0, 5),
        (2**53 - 1.0, 2**53 - 1),
        (2**63 - 1, 2**63 - 1),
        (str(2**63 - 1), 2**63 - 1),
        (-(2**63), -(2**63)),
        ("0" * 5000 + "7", 7),
    ],
)
def test_longs_may_be_integers_digits_in_text_or_floats_without_a_fraction(sent: Any, number: int) -> None:
    record = accepted(row(agentId=sent, skillId=sent, groupId=sent))
    assert [record["agent_id"], record["skill_id"], record["group_id"]] == [number] * 3


@pytest.mark.parametrize("name", ["agentId", "skillId", "groupId", "totalHandleTimeMillis"])
@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (5.5, "5.5 has a fraction"),
        (1e-300, "1e-300 has a fraction"),
        (2.0**53, "9007199254740992.0 is a float too large to be exact"),
        (2**63, "9223372036854775808 does not fit into 64 bits"),
        (str(-(2**63) - 1), '"-9223372036854775809" does not fit into 64 bits'),
        (True, "true is not a whole number"),
        ({"id": 1}, '{"id": 1} is not a whole number'),
        ([], "[] is not a whole number"),
        ("5.0", '"5.0" is not a whole number'),
        ("٣", '"٣" is not a whole number'),
        ("+1", '"+1" is not a whole number'),
        (" 1", '" 1" is not a whole number'),
        ("null", '"null" is not a whole number'),
    ],
)
def test_a_long_that_is_none_sets_the_whole_row_aside_even_where_null_is_allowed(
    name: str, sent: Any, reason: str
) -> None:
    assert rejected(row(**{name: sent})).reasons == (f"{name}: {reason}",)


@pytest.mark.parametrize("huge", [b"1e400", b"1" * 5000, b'"' + b"1" * 5000 + b'"', b"1e99999999999999999999"])
def test_numbers_beyond_all_measure_are_rejects_not_crashes(huge: bytes) -> None:
    (reason,) = rejected(row().replace(b"3000000101,", huge + b",")).reasons
    assert reason.startswith("agentId: ")
    assert len(reason) < 200


@pytest.mark.parametrize("none", [-1, "-1", "", None, NO_FIELD])
def test_no_skill_and_no_group_are_null_however_the_api_says_so(none: Any) -> None:
    record = accepted(row(skillId=none, groupId=none))
    assert (record["skill_id"], record["group_id"]) == (None, None)


@pytest.mark.parametrize("none", ["", None, NO_FIELD])
def test_no_employee_and_no_end_reason_are_null(none: Any) -> None:
    record = accepted(row(employeeId=none, endReason=none))
    assert (record["employee_id"], record["end_reason"]) == (None, None)


def test_minus_one_is_an_ordinary_agent() -> None:
    assert accepted(row(agentId=-1))["agent_id"] == -1


def test_the_end_reason_may_be_spelled_as_in_the_table_of_the_reference() -> None:
    assert accepted(row(endReason=NO_FIELD, EndReason="backToQueue"))["end_reason"] == "backToQueue"
    assert accepted(row(endReason="other", EndReason="backToQueue"))["end_reason"] == "other"
    assert accepted(row(endReason="", EndReason="backToQueue", agentId="7"))["end_reason"] == "backToQueue"


def test_a_new_end_reason_is_loaded_and_reported() -> None:
    batch = batch_of(row(endReason="closedByBot"), row(segmentId="2"))
    assert [record["end_reason"] for record in records(batch)] == ["closedByBot", "skillTransfer"]
    assert batch.unknown_end_reasons == {"closedByBot"}


@pytest.mark.parametrize(
    "text",
    ['"', "\\N", "\\", "a\nb\rc\td", ",;'\"", "😀", "\u200fعربى\u202e", " padded ", "null", "\u0001", "\\u0000", "{}"],
)
def test_text_is_kept_exactly(text: str) -> None:
    record = accepted(row(segmentId=text, conversationId=text, employeeId=text, endReason=text, note=text))
    assert [record[name] for name in ("segment_id", "conversation_id", "employee_id", "end_reason")] == [text] * 4
    assert json.loads(record["extra"]) == {"note": text}


def test_of_two_equal_keys_in_one_row_the_last_wins() -> None:
    record = accepted(row(note=1).replace(b'"agentId"', b'"agentId": "no number", "note": 0, "agentId"'))
    assert record["agent_id"] == 3000000101
    assert json.loads(record["extra"]) == {"note": 1}


# Times


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-01T10:20:30Z", datetime(2026, 1, 1, 10, 20, 30, 0, UTC)),
        ("2026-01-01T10:20:30.1Z", datetime(2026, 1, 1, 10, 20, 30, 100_000, UTC)),
        ("2026-01-01T10:20:30.123456Z", datetime(2026, 1, 1, 10, 20, 30, 123_456, UTC)),
        ("2026-01-01T10:20:30.123456999Z", datetime(2026, 1, 1, 10, 20, 30, 123_456, UTC)),
        ("2026-01-01t10:20:30z", datetime(2026, 1, 1, 10, 20, 30, 0, UTC)),
        ("2026-01-01T23:20:30+05:30", datetime(2026, 1, 1, 17, 50, 30, 0, UTC)),
        ("2026-01-01T10:20:30.1234567-00:30", datetime(2026, 1, 1, 10, 50, 30, 123_456, UTC)),
        ("2026-01-01T10:20:30.1234569999Z", datetime(2026, 1, 1, 10, 20, 30, 123_456, UTC)),
        ("2026-01-01T10:20:30." + "9" * 5000 + "Z", datetime(2026, 1, 1, 10, 20, 30, 999_999, UTC)),
        ("2026-01-01t12:20:30.123456789012+02:00", datetime(2026, 1, 1, 10, 20, 30, 123_456, UTC)),
        ("2026-01-01 10:20:30Z", datetime(2026, 1, 1, 10, 20, 30, 0, UTC)),
        ("2026-01-01T10:20:30-00:00", datetime(2026, 1, 1, 10, 20, 30, 0, UTC)),
        ("2026-01-02T00:20:30+14:00", datetime(2026, 1, 1, 10, 20, 30, 0, UTC)),
        ("2025-12-31T22:20:30-12:00", datetime(2026, 1, 1, 10, 20, 30, 0, UTC)),
        ("2026-01-02T00:00:00+23:59", datetime(2026, 1, 1, 0, 1, 0, 0, UTC)),
        ("2025-12-31T23:00:00-23:59", datetime(2026, 1, 1, 22, 59, 0, 0, UTC)),
    ],
)
def test_times_are_read_in_every_form_of_rfc_3339(text: str, moment: datetime) -> None:
    assert accepted(row(endTime=text, endTimeL=NO_FIELD))["end_time"] == moment
    assert accepted(row(endTime=text, endTimeL=NO_FIELD, agentId="7"))["end_time"] == moment


NOT_RFC_3339 = "is not an RFC 3339 time with an offset"
NO_DAY, NO_TIME_OF_DAY = "is no time: there is no such day", "is no time: there is no such time of day"
LEAP_SECOND = "has a second 60, which could only be a leap second: no stored time can be one"
NO_TIMES = {
    "never": NOT_RFC_3339,
    "2026-01-01T10:20Z": NOT_RFC_3339,
    "2026-01-01T10:20+01:00": NOT_RFC_3339,
    "2026-01-01T102030+0100": NOT_RFC_3339,
    "2026-01-01T10:20:30.Z": NOT_RFC_3339,
    "2026-01-01T10:20:30,5Z": NOT_RFC_3339,
    "2026-01-01T10:20:30 Z": NOT_RFC_3339,
    "2026-01-01  10:20:30Z": NOT_RFC_3339,
    "2026-01-01T10:20:30+5": NOT_RFC_3339,
    "2026-01-01T10:20:30+05:3": NOT_RFC_3339,
    "2026-01-01T10:20:30UTC": NOT_RFC_3339,
    " 2026-01-01T10:20:30Z": NOT_RFC_3339,
    "2026-01-01T10:20:30Z\n": NOT_RFC_3339,
    "２026-01-01T10:20:30Z": NOT_RFC_3339,
    "1767226449040": NOT_RFC_3339,
    "20260101T102030Z": NOT_RFC_3339,
    "2026-1-1T10:20:30Z": NOT_RFC_3339,
    "026-01-01T10:20:30Z": NOT_RFC_3339,
    "02026-01-01T10:20:30Z": NOT_RFC_3339,
    "+2026-01-01T10:20:30Z": NOT_RFC_3339,
    "2026-01-01": "is a date without a time of day",
    "2026-01-01T10:20:30": "has no offset, so that it is no moment",
    "2026-01-01 10:20:30.5": "has no offset, so that it is no moment",
    "2026-00-01T10:20:30Z": "is no time: there is no such month",
    "2026-13-01T10:20:30Z": "is no time: there is no such month",
    "2026-13-01": "is no time: there is no such month",
    "2026-01-00T10:20:30Z": NO_DAY,
    "2026-02-29T10:20:30Z": NO_DAY,
    "2026-02-30T10:20:30": NO_DAY,
    "2100-02-29T10:20:30Z": NO_DAY,
    "2026-04-31T10:20:30Z": NO_DAY,
    "2026-01-01T24:00:00Z": NO_TIME_OF_DAY,
    "2026-01-01T10:60:00Z": NO_TIME_OF_DAY,
    "2026-01-01T10:20:61Z": NO_TIME_OF_DAY,
    "2026-01-01T25:20:60Z": NO_TIME_OF_DAY,
    "2016-12-31T23:59:60Z": LEAP_SECOND,
    "2016-12-31T15:59:60.5-08:00": LEAP_SECOND,
    "2026-01-01t10:20:60z": LEAP_SECOND,
    "2026-01-01T10:20:30+24:00": "is no time: there is no such offset",
    "2026-01-01T10:20:30-25": "is no time: there is no such offset",
    "2026-01-01T10:20:30+05:60": "is no time: there is no such offset",
    "2026-01-01T10:20:30+0560": "is no time: there is no such offset",
    "0000-12-31T10:20:30Z": "is outside the years 1 to 9999",
    "0000-13-31": "is outside the years 1 to 9999",
    "-0001-01-01T10:20:30Z": "is outside the years 1 to 9999",
    "10000-01-01T00:00:00Z": "is outside the years 1 to 9999",
    "+12026-01-01T10:20:30Z": "is outside the years 1 to 9999",
    "9" * 5000 + "-01-01T10:20:30Z": "is outside the years 1 to 9999",
    "0001-01-01T00:00:00+00:01": "is outside the years 1 to 9999 in UTC",
    "9999-12-31T23:59:59-00:01": "is outside the years 1 to 9999 in UTC",
}


@pytest.mark.parametrize(("text", "reason"), NO_TIMES.items(), ids=[text[:40] for text in NO_TIMES])
def test_a_text_that_is_no_time_is_never_replaced_by_a_guess_and_rejected_for_what_is_wrong_with_it(
    text: str, reason: str
) -> None:
    for raw in (row(startTime=text), row(startTime=text, agentId="7")):
        (given,) = rejected(raw).reasons
        assert given == f"startTime: {_as_shown(text)} {reason}"


def _as_shown(text: str) -> str:
    shown = json.dumps(text, ensure_ascii=False)
    return shown if len(shown) <= 60 else f"{shown[:60]}…"


OFFSETS = {"Z": 0, "z": 0, "+00:00": 0, "-00:00": 0, "+14": 840, "-1200": -720, "+23:59": 1439, "-23:59": -1439}


def test_a_time_is_read_exactly_where_it_is_on_the_calendar_and_its_fraction_is_cut() -> None:
    dice = random.Random(1)
    found = {"read": 0, "outside": 0, "none": 0}
    for _ in range(1500):
        year, month, day = dice.choice([1, 2024, 2026, 9999]), dice.choice([0, 1, 2, 12, 12]), dice.choice([1, 29, 31])
        hour, minute, second = dice.choice([0, 0, 23, 23, 24]), dice.choice([0, 59]), dice.choice([0, 59, 60])
        fraction, offset = (
            dice.choice(["", ".5", ".1234569", ".00000099999"]),
            dice.choice([*OFFSETS, "+24:00", "-0060"]),
        )
        text = f"{year:04}-{month:02}-{day:02}{dice.choice('Tt ')}{hour:02}:{minute:02}:{second:02}{fraction}{offset}"
        (moment,) = parse_times(pa.array([text])).to_pylist()
        try:
            local = datetime(year, month, day, hour, minute, second, int(f"{fraction[1:]:0<6}"[:6]), UTC)
            expected = local - timedelta(minutes=OFFSETS[offset])
        except OverflowError:
            assert why_no_time(text) == "is outside the years 1 to 9999 in UTC"
            expected = None
            found["outside"] += 1
        except (ValueError, KeyError):
            assert "outside" not in why_no_time(text)
            expected = None
            found["none"] += 1
        assert moment == expected, text
        found["read"] += moment is not None
    assert min(found.values()) > 3


@pytest.mark.parametrize("none", ["", None, NO_FIELD])
@pytest.mark.parametrize("epoch", [1767219004500, "1767219004500", 1767219004500.0])
def test_without_a_text_the_epoch_is_the_time_and_the_row_is_flagged(none: Any, epoch: Any) -> None:
    record = accepted(row(startTime=none, startTimeL=epoch))
    assert record["start_time"] == datetime(2025, 12, 31, 22, 10, 4, 500_000, UTC)
    assert record["quality_flags"] == ["start_time_from_epoch"]


def test_an_epoch_below_ten_to_the_eleventh_is_seconds() -> None:
    record = accepted(row(startTime=None, startTimeL="1767219004", endTime=None, endTimeL=1767226449))
    assert record["start_time"] == datetime(2025, 12, 31, 22, 10, 4, 0, UTC)
    assert record["end_time"] == datetime(2026, 1, 1, 0, 14, 9, 0, UTC)
    assert record["quality_flags"] == ["start_time_from_epoch", "end_time_from_epoch"]


@pytest.mark.parametrize("epoch", [10**15, -(10**18), 2**63 - 1])
def test_an_epoch_beyond_every_calendar_is_no_time(epoch: int) -> None:
    (reason,) = rejected(row(endTime=None, endTimeL=epoch)).reasons
    assert reason == f"endTimeL: {epoch} is outside the years 1 to 9999"


@pytest.mark.parametrize(
    ("epoch", "flags"),
    [
        (1767219004, []),
        (1767219004500, []),
        ("1767219004500", []),
        (1767219005500, []),
        (1767219005501, ["start_epoch_disagrees"]),
        (1767219003499, ["start_epoch_disagrees"]),
        (0, ["start_epoch_disagrees"]),
        (2**63 - 1, ["start_epoch_disagrees"]),
        (-(2**63), ["start_epoch_disagrees"]),
        (2**63, ["start_epoch_disagrees"]),
        ("soon", ["start_epoch_disagrees"]),
        ({}, ["start_epoch_disagrees"]),
        ("", []),
        (None, []),
        (NO_FIELD, []),
    ],
)
def test_an_epoch_more_than_a_second_away_from_the_text_is_flagged(epoch: Any, flags: list[str]) -> None:
    for raw in (row(startTimeL=epoch), row(startTimeL=epoch, agentId="7")):
        record = accepted(raw)
        assert record["start_time"] == datetime(2025, 12, 31, 22, 10, 4, 500_000, UTC)
        assert record["quality_flags"] == flags


def test_a_handle_time_may_fill_the_duration_but_not_exceed_it_unflagged() -> None:
    duration_ms = 1767226449040 - 1767219004500
    assert accepted(row(totalHandleTimeMillis=0))["quality_flags"] == []
    assert accepted(row(totalHandleTimeMillis=duration_ms))["quality_flags"] == []
    for total in (duration_ms + 1, 2**63 - 1):
        record = accepted(row(totalHandleTimeMillis=total))
        assert record["total_handle_time_ms"] == total
        assert record["quality_flags"] == ["handle_time_exceeds_duration"]


def test_a_segment_that_ends_before_it_starts_is_kept_and_flagged() -> None:
    record = accepted(row(startTime="2026-01-01T05:00:00Z", startTimeL=None, totalHandleTimeMillis=0))
    assert record["quality_flags"] == ["ends_before_start", "handle_time_exceeds_duration"]


def test_a_row_lists_all_its_flags_in_the_declared_order() -> None:
    record = accepted(row(startTime=None, startTimeL=1767319004500, endTimeL="?"))
    assert record["quality_flags"] == [
        "start_time_from_epoch",
        "end_epoch_disagrees",
        "ends_before_start",
        "handle_time_exceeds_duration",
    ]
    assert record["quality_flags"] == sorted(record["quality_flags"], key=QUALITY_FLAGS.index)


# What sets a row aside


@pytest.mark.parametrize("name", ["segmentId", "conversationId", "agentId", "totalHandleTimeMillis"])
@pytest.mark.parametrize(("sent", "absence"), [(NO_FIELD, "missing"), (None, "null"), ("", "empty")])
def test_a_row_without_a_required_field_is_a_reject_that_names_it(name: str, sent: Any, absence: str) -> None:
    assert rejected(row(**{name: sent})).reasons == (f"{name}: {absence}",)


@pytest.mark.parametrize(("sent", "absence"), [(NO_FIELD, "missing"), (None, "null"), ("", "empty")])
def test_a_row_with_neither_text_nor_epoch_of_a_time_is_a_reject(sent: Any, absence: str) -> None:
    assert rejected(row(endTime=sent, endTimeL=NO_FIELD)).reasons == (f"endTime: {absence}",)
    assert rejected(row(endTime=sent, endTimeL="soon")).reasons == ('endTimeL: "soon" is not a whole number',)


@pytest.mark.parametrize("name", ["segmentId", "conversationId", "employeeId", "endReason", "startTime", "endTime"])
@pytest.mark.parametrize("sent", [7, True, {"id": "x"}, ["x"]])
def test_a_text_of_another_type_is_a_reject(name: str, sent: Any) -> None:
    assert rejected(row(**{name: sent})).reasons == (f"{name}: {json.dumps(sent)} is not text",)


def test_a_negative_handle_time_is_impossible() -> None:
    for sent in (-1, "-1", -1.0):
        assert rejected(row(totalHandleTimeMillis=sent)).reasons == ("totalHandleTimeMillis: -1 is negative",)


def test_an_id_too_long_for_a_key_of_postgres_is_a_reject() -> None:
    assert accepted(row(segmentId="😀" * 600))["segment_id"] == "😀" * 600
    assert rejected(row(segmentId="x" * 601)).reasons == ("segmentId: longer than 600 characters, too long for a key",)


def test_a_reject_gives_every_reason_and_the_row_exactly_as_sent() -> None:
    raw = row(agentId=None, skillId="x", employeeId=42, endTime="never", totalHandleTimeMillis=0.5, note="\0")
    reject = rejected(raw)
    assert set(reject.reasons) == {
        "agentId: null",
        'skillId: "x" is not a whole number',
        "employeeId: 42 is not text",
        'endTime: "never" is not an RFC 3339 time with an offset',
        "totalHandleTimeMillis: 0.5 has a fraction",
        "note: NUL character",
    }
    assert reject.raw == raw.decode()
    assert reject.raw_sha256 == hashlib.sha256(raw).hexdigest()


@pytest.mark.parametrize("name", ["segmentId", "conversationId", "employeeId", "endReason", "note"])
def test_a_nul_in_any_stored_text_is_a_reject(name: str) -> None:
    assert rejected(row(**{name: "a\0b"})).reasons == (f"{name}: NUL character",)


@pytest.mark.parametrize("note", [{"deep": ["a\0"]}, {"key\0": 1}, "\\\0", "\\\\\0"])
def test_a_nul_anywhere_in_an_added_field_is_a_reject(note: Any) -> None:
    assert rejected(row(note=note)).reasons == ("note: NUL character",)


def test_a_nul_in_the_name_of_an_added_field_is_a_reject_whose_reason_can_be_stored() -> None:
    assert rejected(row(**{"no\0te": 1})).reasons == ("no\\x00te: NUL character",)


@pytest.mark.parametrize("name", ["segmentId", "employeeId", "endReason", "note", "startTime", "endTimeL"])
def test_bytes_that_are_no_utf_8_are_a_reject_kept_as_escapes(name: str) -> None:
    raw = row(**{name: "BROKEN"}).replace(b"BROKEN", b"\xff\xfe")
    reject = rejected(raw)
    assert all("not valid UTF-8" in reason for reason in reject.reasons)
    assert reject.raw == raw.decode(errors="backslashreplace")
    assert "\\xff\\xfe" in reject.raw
    assert reject.raw_sha256 == hashlib.sha256(raw).hexdigest()


def test_a_field_name_that_is_no_utf_8_is_a_reject() -> None:
    assert rejected(row(BROKEN=1).replace(b"BROKEN", b"\xff")).reasons == ("row: a field name is not valid UTF-8",)


# Each value with the reason that sets its row aside, in whichever field it stands
NO_JSON = {
    b"NaN": "NaN is not JSON",
    b"-Infinity": "-Infinity is not JSON",
    b"1_0": "1_0 is not JSON",
    b"01": "01 is not JSON",
    b"tru": "tru is not JSON",
    b"[1,]": "[1,] is not JSON",
    b"{1: 2}": "{1: 2} is not JSON",
    b'"\\x"': '"\\x" is not JSON',
    b"": "no value",
    b'"\\ud800"': "half a surrogate pair",
    b'"\\\\\\udfff."': "half a surrogate pair",
    b'"\\ud83d\\ude00\\ud83d"': "half a surrogate pair",
    b'"\\udc00\\ud800"': "half a surrogate pair",
    b'"\\ud800\\u0041"': "half a surrogate pair",
    b'{"a": ["\\ud800"]}': "half a surrogate pair",
    b'{"\\ud800": 1}': "half a surrogate pair",
    b'"\n"': "a control character that is not escaped",
    b'"\0"': "a control character that is not escaped",
    b'{"a": "\x1f"}': "a control character that is not escaped",
    b"[" * 201 + b"]" * 201: "nested more than 200 levels deep",
    b"[" * 100_000 + b"]" * 100_000: "nested more than 200 levels deep",
    b'{"a":' * 1000 + b"NaN" + b"}" * 1000: "nested more than 200 levels deep",
}


def with_value(name: str, value: bytes, **changes: Any) -> bytes:
    return row(**changes, **{name: "VALUE"}).replace(b'"VALUE"', value)


@pytest.mark.parametrize("name", ["segmentId", "agentId", "startTime", "endTimeL", "note"])
@pytest.mark.parametrize(("value", "reason"), NO_JSON.items(), ids=NO_JSON.values())
def test_a_value_that_is_no_json_is_a_reject_that_names_its_field(name: str, value: bytes, reason: str) -> None:
    raw = with_value(name, value)
    reject = rejected(raw)
    assert reject.reasons == (f"{name}: {reason}",)
    assert reject.raw_sha256 == hashlib.sha256(raw).hexdigest()
    assert reject.raw == raw.decode().replace("\0", "\\x00")


@pytest.mark.parametrize(
    "value", [b'"\\ud83d\\ude00"', b'"\\\\ud800"', b"1" * 4301, b"1" * 100_000, b"[" * 200 + b"]" * 200, b'"]}{["']
)
def test_a_value_that_readers_stumble_over_is_kept_where_it_is_json(value: bytes) -> None:
    for pages in (
        [page(with_value("note", value))],
        [page(row(segmentId="1", note=1)), page(with_value("note", value))],
    ):
        (batch,) = normalize(pages, WINDOW)
        assert records(batch)[-1]["extra"] == '{"note":' + value.decode() + "}"


@pytest.mark.parametrize("first", [b"[" * 300 + b"]" * 300, b"[" * 100_000 + b"]" * 100_000, b'"\xff"'])
def test_what_is_no_json_to_some_reader_harms_nothing_where_a_later_field_of_its_name_counts(first: bytes) -> None:
    raw = with_value("note", first + b', "note": 7')
    for pages in ([page(raw)], [page(row(segmentId="1", note=1)), page(raw)]):
        (batch,) = normalize(pages, WINDOW)
        assert [json.loads(record["extra"])["note"] for record in records(batch)][-1] == 7


def test_a_field_before_another_of_its_name_must_still_be_json() -> None:
    assert rejected(with_value("note", b'NaN, "note": 7')).reasons == ("note: NaN is not JSON",)


def test_a_row_that_is_no_json_gives_every_reason() -> None:
    raw = with_value("note", b'NaN, "more": "\\ud800", "most": "\xff"', agentId=None, endTime="never")
    assert set(rejected(raw).reasons) == {
        "note: NaN is not JSON",
        "more: half a surrogate pair",
        "most: not valid UTF-8",
        "agentId: null",
        'endTime: "never" is not an RFC 3339 time with an offset',
    }


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (b'"\\ud800"', "row: a field name: half a surrogate pair"),
        (b'"\x01"', "row: a field name: a control character that is not escaped"),
        (b"note", "row: a field name: note is not JSON"),
    ],
)
def test_a_field_name_that_is_no_json_is_a_reject(name: bytes, reason: str) -> None:
    assert rejected(row(NAME=1).replace(b'"NAME"', name)).reasons == (reason,)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"NaN", "row: not a JSON object"),
        (b"[NaN]", "row: not a JSON object"),
        (b'{"a": 1,}', "row: not JSON"),
        (b'{"a": 1} {"b": 2}', "row: not JSON"),
        (b'{"a" 1}', "row: not JSON"),
    ],
)
def test_a_row_of_which_no_field_can_be_told_is_a_reject(raw: bytes, reason: str) -> None:
    batch = batch_of(*rows(2), raw, row(segmentId="last"))
    assert [(reject.raw, reject.reasons) for reject in batch.rejects] == [(raw.decode(), (reason,))]
    assert len(batch.frame) == 3


def test_rows_that_are_no_json_in_different_ways_leave_the_others_of_their_page_loaded() -> None:
    bad = [with_value("note", value, segmentId=f"bad-{n}") for n, value in enumerate(NO_JSON)]
    bad += [with_value("note", b'"\xff"', segmentId="no UTF-8"), b"NaN", b"{}", with_value("segmentId", b"NaN")]
    good = [*rows(3), with_value("note", b"1" * 4301, segmentId="digits")]
    body = page(*good[:2], *bad, *good[2:])

    (batch,) = normalize([body], WINDOW)

    assert len(batch.frame) == len(good)
    assert [reject.raw_sha256 for reject in batch.rejects] == [hashlib.sha256(raw).hexdigest() for raw in bad]
    assert find_superseded([body]).tolist() == []
    assert len(np.unique(segment_keys(body, read_page(body)))) == len(good) + len(bad)


def test_a_row_that_is_no_json_is_replaced_by_a_later_one_of_its_id() -> None:
    pages = [page(with_value("note", b"NaN", segmentId="a"), row(segmentId="b")), page(row(segmentId="a"))]
    (batch,) = normalize(pages, WINDOW, find_superseded(pages))
    assert {record["segment_id"] for record in records(batch)} == {"a", "b"}
    assert batch.rejects == ()


def test_pages_with_a_byte_order_mark_are_normalised_as_those_without() -> None:
    pages = [
        page(*rows(3)),
        page(row(segmentId="a", agentId="7"), with_value("note", b"NaN")),
        page(row(segmentId="a")),
    ]
    marked = [b"\xef\xbb\xbf" + body for body in pages]
    superseded = find_superseded(marked)
    (plain,), (batch,) = normalize(pages, WINDOW, superseded), normalize(marked, WINDOW, superseded)
    assert superseded.tolist() == find_superseded(pages).tolist() == [3]
    assert records(batch) == records(plain)
    assert batch.rejects == plain.rejects


@pytest.mark.parametrize("raw", [b"null", b"7", b'"text"', b"[]", b"true"])
def test_a_row_that_is_no_object_is_a_reject(raw: bytes) -> None:
    reject = rejected(raw)
    assert (reject.raw, reject.reasons) == (raw.decode(), ("row: not a JSON object",))


@pytest.mark.parametrize(
    "number", [b"1e131072", b"1e-16384", b"1e400000", b"-1e99999999999999999999", b"1" * 131_073, b"[1,[2e200000]]"]
)
def test_an_added_number_that_jsonb_would_refuse_sets_only_its_row_aside(number: bytes) -> None:
    batch = batch_of(row(note="BIG").replace(b'"BIG"', number), row(segmentId="2", note=1))
    (reject,) = batch.rejects
    assert reject.reasons[0].startswith("note: ")
    assert "a number that Postgres cannot hold" in reject.reasons[0]
    assert [record["segment_id"] for record in records(batch)] == ["2"]


@pytest.mark.parametrize("odd", [row(agentId=None), row(endTime="never"), row(employeeId="\0"), b"null"])
def test_an_odd_row_leaves_its_neighbours_loaded(odd: bytes) -> None:
    batch = batch_of(*rows(20), odd, row(segmentId="last"))
    assert {record["segment_id"] for record in records(batch)} == {f"segment-{number}" for number in range(20)} | {
        "last"
    }
    assert len(batch.rejects) == 1


# Fields that the API added


@pytest.mark.parametrize(
    "value", [b"1e400", b"1.10", b"-0.0", b'{"b": 1,  "a": [null, 12345678901234567890123]}', b'"\\u00e9"', b"null"]
)
def test_an_added_field_is_kept_exactly_as_sent_whichever_path_reads_it(value: bytes) -> None:
    raws = [raw.replace(b'"VALUE"', value) for raw in rows(3, note="VALUE")]
    pages = [page(raw) for raw in raws]  # the first is read with care; the others by what was learnt from it
    (batch,) = normalize(pages, WINDOW)
    assert [record["extra"] for record in records(batch)] == ['{"note":' + value.decode() + "}"] * 3
    assert batch.unknown_fields == {"note"}


def test_added_fields_are_sorted_by_name_and_each_row_has_only_its_own() -> None:
    mixed: list[dict[str, Any]] = [{"zone": 1}, {}, {"alpha": "x", "zone": 2}, {"alpha": "y"}]
    pages = [page(*(row(segmentId=f"{turn}-{i}", **added) for i, added in enumerate(mixed))) for turn in range(3)]
    (batch,) = normalize(pages, WINDOW)
    extra_of_id = {record["segment_id"]: record["extra"] for record in records(batch)}
    for turn in range(3):
        assert [extra_of_id[f"{turn}-{i}"] for i in range(4)] == [
            '{"zone":1}',
            None,
            '{"alpha":"x","zone":2}',
            '{"alpha":"y"}',
        ]
    assert batch.unknown_fields == {"alpha", "zone"}


@pytest.mark.parametrize(
    "name", ['quo"te', "back\\slash", "line\nend", "", "naïve 😀", "added_0", "segmentid", "x" * 99]
)
def test_an_added_field_may_have_any_name(name: str) -> None:
    (batch,) = normalize([page(raw) for raw in rows(3, **{name: 5})], WINDOW)
    assert [json.loads(record["extra"]) for record in records(batch)] == [{name: 5}] * 3


def test_names_without_end_are_all_kept() -> None:
    pages = [page(row(segmentId=f"{n}", **{f"key-{n}": n})) for n in range(100)]
    (batch,) = normalize(pages, WINDOW)
    assert {record["segment_id"]: json.loads(record["extra"]) for record in records(batch)} == {
        f"{n}": {f"key-{n}": n} for n in range(100)
    }


def test_a_field_that_only_a_reject_has_is_not_reported_as_kept() -> None:
    assert batch_of(row(agentId=None, note=1), row(segmentId="2")).unknown_fields == frozenset()


# The day and the pull


def test_the_day_is_half_open_by_close_time() -> None:
    edges = {
        "before": "2025-12-31T23:59:59.999999Z",
        "first": "2026-01-01T00:00:00Z",
        "last": "2026-01-01T23:59:59.999999Z",
        "after": "2026-01-02T00:00:00Z",
    }
    batch = batch_of(*(row(segmentId=name, endTime=text, endTimeL=None) for name, text in edges.items()))
    assert [record["segment_id"] for record in records(batch)] == ["first", "last"]
    assert batch.outside_day == 2


@pytest.mark.parametrize("close", ["2025-12-31T23:59:58.9Z", "2026-01-02T00:00:01.1Z", "2026-01-02T03:00:01.1+03:00"])
def test_a_close_beyond_the_days_edges_is_no_neighbours_and_rejected(close: str) -> None:
    wrong = row(endTime=close, endTimeL=None)
    for neighbour in (row(segmentId="plain"), row(segmentId="careful", agentId="1")):
        batch = batch_of(wrong, neighbour)
        assert [reject.raw for reject in batch.rejects] == [wrong.decode()]
        assert "is outside the day that the API files the row under" in batch.rejects[0].reasons[0]
        assert (len(batch.frame), batch.outside_day) == (1, 0)


def test_a_long_pull_comes_in_batches_that_share_nothing() -> None:
    raws = rows(52_000)
    batches = list(normalize([page(*raws[at : at + 500]) for at in range(0, len(raws), 500)], WINDOW))
    assert len(batches) > 1
    assert all(len(batch.frame) < 30_000 for batch in batches)
    assert sorted(pd.concat([batch.frame for batch in batches])["segment_id"]) == sorted(
        f"segment-{number}" for number in range(52_000)
    )


def test_nothing_comes_of_a_pull_without_pages() -> None:
    assert list(normalize([], WINDOW)) == []
    assert find_superseded([]).tolist() == []


def test_of_a_repeated_segment_only_the_last_row_is_left_even_across_pages() -> None:
    pages = [
        page(row(segmentId="a", agentId=1), row(segmentId="b", agentId=None), row(segmentId="c", agentId=3)),
        page(row(segmentId="a", agentId=None), row(segmentId="b", agentId=5), b"[1]"),
        page(b"[1]", row(segmentId="c", agentId=8), b"[2]"),
    ]
    superseded = find_superseded(pages)
    assert superseded.tolist() == [0, 1, 2, 5]
    (batch,) = normalize(pages, WINDOW, superseded)
    assert {record["segment_id"]: record["agent_id"] for record in records(batch)} == {"b": 5, "c": 8}
    assert [reject.raw for reject in batch.rejects] == [row(segmentId="a", agentId=None).decode(), "[1]", "[2]"]


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"segments": 7}', page(row())[:-20], page(b"[")])
def test_a_body_that_is_no_reply_raises(body: bytes) -> None:
    with pytest.raises(PageError):
        list(normalize([page(row(segmentId="2")), body], WINDOW))
    with pytest.raises(PageError):
        find_superseded([body])


# The two paths, and the ledger

ODD_VALUES: dict[str, list[Any]] = {
    "segmentId": ["", None, NO_FIELD, 7, "a\0", "x" * 601, "x" * 600, "é\\u0000"],
    "conversationId": ["", None, NO_FIELD, 7, "a\0", "\\N"],
    "agentId": ["", None, NO_FIELD, "12", "x", 1.0, 1.5, 2**63, -(2**63), True, -1],
    "skillId": ["", None, NO_FIELD, "12", "x", 1.0, 1.5, 2**63, -1, "-1", []],
    "groupId": ["", None, NO_FIELD, "12", "x", 1.0, 1.5, 2**63, -1, "-1", {}],
    "employeeId": ["", None, NO_FIELD, "a\0", 7, "😀\n"],
    "endReason": ["", None, NO_FIELD, "a\0", 7, "new"],
    "EndReason": ["", None, "a\0", 7, "new"],
    "startTime": ["", None, NO_FIELD, 7, "never", "2026-02-30T00:00:00Z", "2026-01-01t00:00:00.123456789z", "a\0"],
    "endTime": ["", None, NO_FIELD, "2026-01-01T10:00Z", "2026-01-01T10:00:00-0100", "0000-01-01T00:00:00Z"],
    "startTimeL": ["", None, NO_FIELD, 1767219004, "1767219004500", "x", 2**70, 0, 1.5, -(2**63)],
    "endTimeL": ["", None, NO_FIELD, 1767226449, 10**17, "x", 99_999_999_999, 100_000_000_000],
    "totalHandleTimeMillis": ["", None, NO_FIELD, "12", 0, -1, 2**63 - 1, 7_444_540, 7_444_541, 0.5],
    "note": [None, "a\0", "\\u0000", 7, {"a": ["\0"]}, [1, 2], "1e99999"],
    "other": [None, "", -1.5e300],
}


STUMBLING_BLOCKS = [
    *NO_JSON,
    b'"\xff"',
    b'"\xed\xa0\x80"',
    b"1" * 4301,
    b"1e131072",
    b"[" * 200 + b"]" * 200,
    b'{"a":' * 199 + b"[]" + b"}" * 199,
    b'"' + b"[" * 300 + b'"',
    b'"\xff", "note": 7',
    b"[" * 300 + b"]" * 300 + b', "note": 7',
    b'NaN, "note": 7',
    b'7, "note": NaN',
]


def poisoned_row(dice: random.Random, number: int, oddities: int) -> bytes:
    end_ms = WINDOW.start_ms + dice.choice([dice.randrange(-60_000, 86_460_000)] * 9 + [86_400_000])
    changes: dict[str, Any] = {
        "segmentId": f"segment-{number}",
        "agentId": dice.randrange(2**40),
        "endTime": iso(from_millis(end_ms)),
        "endTimeL": end_ms,
    }
    for name in dice.sample(list(ODD_VALUES), oddities):
        changes[name] = dice.choice(ODD_VALUES[name])
    return row(**changes)


def test_the_fast_and_the_careful_path_agree_on_every_row() -> None:
    dice = random.Random(20260101)
    decoder = PlainDecoder(["note", "other"])
    agreed = {"plain": 0, "suspect": 0}
    for number in range(3000):
        raw = msgspec.Raw(poisoned_row(dice, number, dice.randrange(4)))
        plain = decoder.decode_row(raw)
        if plain is None:
            continue
        careful = read_row(raw, WINDOW)
        fields = by_field(decoder.fields, [[plain]])
        fast = as_table([columns_of(fields, np.array([0]), extra_of(added_of(fields)))])
        if suspects(fast, WINDOW).any():
            agreed["suspect"] += isinstance(careful, Reject)
            continue
        assert isinstance(careful, Repaired), bytes(raw)
        fields = by_field(Segment.__struct_fields__, [[careful.segment]])
        slow = columns_of(fields, np.array([0]), pa.array([careful.extra], pa.string()), [careful.flags])
        assert as_table([slow]).equals(fast), bytes(raw)
        agreed["plain"] += 1
    assert min(agreed.values()) > 100


def test_what_becomes_of_a_row_does_not_depend_on_its_neighbours() -> None:
    dice = random.Random(7)
    raws = [poisoned_row(dice, number, dice.randrange(3)) for number in range(300)]
    repeats = find_superseded([page(*raws)]).tolist()  # some of the odd ids
    raws = [raw for ordinal, raw in enumerate(raws) if ordinal not in repeats]
    raws += [with_value("note", value, segmentId=f"no-json-{number}") for number, value in enumerate(STUMBLING_BLOCKS)]
    dice.shuffle(raws)
    together = list(normalize([page(*raws)], WINDOW))
    apart = list(normalize([page(raw) for raw in raws], WINDOW))
    alone = [batch for raw in raws for batch in normalize([page(raw)], WINDOW)]
    for batches in (apart, alone):
        assert _loaded(batches) == _loaded(together)
        assert _rejects(batches) == _rejects(together)


DAMAGE = [b"NaN", b'"', b"\\", b"\\ud800", b"\xff", b"\0", b"{", b"}", b"[", b"]", b",", b":", b"1" * 4301, b'"note":']


@pytest.mark.parametrize("seed", range(3))
def test_a_page_that_is_damaged_is_refused_or_each_of_its_rows_is_accounted_for(seed: int) -> None:
    dice = random.Random(seed)
    refused = read = 0
    for _ in range(60):
        body = bytearray(page(*(poisoned_row(dice, number, dice.randrange(2)) for number in range(4))))
        for _ in range(dice.choice([1, 1, 2])):
            at = dice.randrange(len(body))
            body[at : at + dice.randrange(3)] = dice.choice(DAMAGE)
        pages = [page(row(segmentId="whole", note=1)), bytes(body)]
        try:
            keys = segment_keys(pages[1], read_page(pages[1]))
        except PageError:
            refused += 1
            with pytest.raises(PageError):
                list(normalize(pages, WINDOW))
            continue
        read += 1
        batches = list(normalize(pages, WINDOW, find_superseded(pages)))
        outside_day = sum(batch.outside_day for batch in batches)
        assert len(_loaded(batches)) + len(_rejects(batches)) + outside_day == 1 + len(np.unique(keys)), bytes(body)
    assert min(refused, read) > 5


@pytest.mark.parametrize("seed", range(5))
def test_every_distinct_key_of_a_pull_is_loaded_or_rejected_or_outside_the_day(seed: int) -> None:
    dice = random.Random(seed)
    raws = [poisoned_row(dice, number, dice.choice([0, 0, 0, 1, 2])) for number in range(3000)]
    raws += [b"null", b"[]", b'"x"', row(segmentId=None), row(segmentId=None, note=1)]
    raws += dice.choices(raws, k=500)  # the pages moved during the walk: rows repeat,
    raws += [poisoned_row(dice, number, 1) for number in dice.sample(range(3000), 200)]  # and some were restated
    dice.shuffle(raws)
    pages = [page(*raws[at : at + 100]) for at in range(0, len(raws), 100)]
    keys = np.concatenate([segment_keys(body, read_page(body)) for body in pages])

    batches = list(normalize(pages, WINDOW, find_superseded(pages)))

    loaded, rejects = _loaded(batches), _rejects(batches)
    outside_day = sum(batch.outside_day for batch in batches)
    assert len(loaded) + len(rejects) + outside_day == len(np.unique(keys))
    assert min(len(loaded), len(rejects), outside_day) > 0
    assert len({record["segment_id"] for record in loaded.values()}) == len(loaded)


def test_a_window_that_is_no_day_is_as_half_open() -> None:
    window = Window(from_millis(1767226449040), from_millis(1767226449041))
    (batch,) = normalize([page(row(), row(segmentId="2", endTime="2026-01-01T00:14:09.041Z"))], window)
    assert [record["segment_id"] for record in records(batch)] == [SAMPLE["segmentId"]]
    assert batch.outside_day == 1


def _loaded(batches: list[SegmentBatch]) -> dict[str, dict[str, Any]]:
    found = [record for batch in batches for record in records(batch)]
    by_id = {record["segment_id"]: record for record in found}
    assert len(by_id) == len(found)
    return by_id


def _rejects(batches: list[SegmentBatch]) -> set[Reject]:
    found = [reject for batch in batches for reject in batch.rejects]
    assert len(set(found)) == len(found)
    return set(found)
