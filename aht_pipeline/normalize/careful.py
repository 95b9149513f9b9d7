"""The careful path: one row, field by field → the plain row that it means, or every reason why it cannot be loaded."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal, DecimalException

import msgspec
import numpy as np
import pyarrow as pa

from aht_pipeline.days import Window, iso
from aht_pipeline.normalize.columns import member_name
from aht_pipeline.normalize.plain import KEY_CHARS, LONG_MAX, LONG_MIN, Segment
from aht_pipeline.normalize.schema import EDGE, QUALITY_FLAGS, Reject, storable_text
from aht_pipeline.normalize.times import FIRST_MOMENT_US, LAST_MOMENT_US, epoch_us, parse_times, why_no_time

_FLAG_BITS = {flag: 1 << position for position, flag in enumerate(QUALITY_FLAGS)}
_FLOATS_ARE_EXACT_BELOW = 2**53
_NUMERIC_DIGITS_BEFORE_POINT, _NUMERIC_DIGITS_AFTER_POINT = 131_072, 16_383  # what Postgres's numeric, so jsonb, holds
_DIGITS = re.compile(r"-?[0-9]+")
_LONG_DIGITS = len(str(LONG_MAX))
_COMMON_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T([01][0-9]|2[0-3])(:[0-9]{2}){2}(\.[0-9]{1,6})?Z")
_NUL_ESCAPE = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")  # not the text "u0000" after an escaped backslash
_SHOWN_CHARS = 60  # of a value in a reason; the reject keeps the whole row

_fields_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_text_decoder = msgspec.json.Decoder(str)


@dataclass(frozen=True)
class Repaired:
    """A row that can be loaded, made plain; `flags` (bits of QUALITY_FLAGS) are those that it lost by that."""

    segment: Segment
    extra: str | None
    flags: int
    added_fields: frozenset[str]


def read_row(raw: msgspec.Raw, window: Window) -> Repaired | Reject:
    """What this row of a window's pull means.

    Nothing is guessed: one bad field sets the whole row aside, with the reasons of all. So does a close beyond the
    window's edges: the API would not file the row under another day, and no other day would ever load it.
    """
    try:
        fields = _fields_decoder.decode(raw)
    except UnicodeDecodeError:
        return Reject.of(bytes(raw), ["row: a field name is not valid UTF-8"])
    except msgspec.DecodeError:
        return Reject.of(bytes(raw), ["row: not a JSON object"])
    row = _Row(fields)
    start_time, start_epoch = row.time("startTime", "start")
    end_time, end_epoch = row.time("endTime", "end")
    row.refuse_beyond(window, end_time)
    segment = Segment(
        segmentId=row.key("segmentId"),
        startTime=start_time,
        startTimeL=start_epoch,
        endTime=end_time,
        endTimeL=end_epoch,
        conversationId=row.text("conversationId"),
        agentId=row.long("agentId"),
        employeeId=row.optional_text("employeeId"),
        skillId=row.optional_long("skillId"),
        groupId=row.optional_long("groupId"),
        endReason=row.optional_text("endReason") or row.optional_text("EndReason"),
        totalHandleTimeMillis=row.duration("totalHandleTimeMillis"),
    )
    added = row.added_fields()
    if not row.reasons and not _is_utf8(raw):  # in a value that is not kept: an epoch, or the first of two
        row.reasons.append("row: not valid UTF-8")
    if row.reasons:
        return Reject.of(bytes(raw), row.reasons)
    members = ",".join(member_name(name) + str(fields[name], "utf-8") for name in added)
    return Repaired(segment, f"{{{members}}}" if added else None, row.flags, frozenset(added))


class _UnreadableError(Exception):
    """Says what is wrong with a value, without its field's name."""


@dataclass
class _Row:
    """Reads one field after the other, and gathers what is wrong. A faulty field reads as empty or 0."""

    fields: dict[str, msgspec.Raw]
    reasons: list[str] = field(default_factory=list)
    flags: int = 0

    def text(self, name: str) -> str:
        return self.optional_text(name, required=True) or ""

    def key(self, name: str) -> str:
        key = self.text(name)
        if len(key) > KEY_CHARS:
            self.reasons.append(f"{name}: longer than {KEY_CHARS} characters, too long for a key")
        return key

    def long(self, name: str) -> int:
        return self.optional_long(name, required=True) or 0

    def duration(self, name: str) -> int:
        duration = self.long(name)
        if duration < 0:
            self.reasons.append(f"{name}: {duration} is negative")
        return duration

    def optional_text(self, name: str, required: bool = False) -> str | None:
        if self._is_given(name, required):
            try:
                return _text(self.fields[name])
            except _UnreadableError as fault:
                self.reasons.append(f"{name}: {fault}")
        return None

    def optional_long(self, name: str, required: bool = False) -> int | None:
        if self._is_given(name, required):
            try:
                return _long(self.fields[name])
            except _UnreadableError as fault:
                self.reasons.append(f"{name}: {fault}")
        return None

    def time(self, name: str, edge: str) -> tuple[str, int | None]:
        """The text of a time that `parse_times` reads, and the epoch beside it where one can be read."""
        epoch_name = f"{name}L"
        has_epoch = self._is_given(epoch_name)
        if not self._is_given(name, required=not has_epoch):
            return (self._time_of_epoch(epoch_name, edge) if has_epoch else ""), None
        text = self.text(name)
        if text and _moment(text) is None:
            self.reasons.append(f"{name}: {_shown(self.fields[name])} {why_no_time(text)}")
        try:
            return text, _long(self.fields[epoch_name]) if has_epoch else None
        except _UnreadableError:
            self.flags |= _FLAG_BITS[f"{edge}_epoch_disagrees"]
            return text, None

    def refuse_beyond(self, window: Window, end_time: str) -> None:
        moment = _moment(end_time) if end_time else None
        if moment is not None and not window.start - EDGE <= moment <= window.end + EDGE:
            self.reasons.append(f"endTime: {iso(moment)} is outside the day that the API files the row under, {window}")

    def added_fields(self) -> list[str]:
        """The names of the fields that the API's reference does not list, sorted."""
        added = sorted(self.fields.keys() - set(Segment.__struct_fields__))
        for name in added:
            try:
                _check_storable(name, self.fields[name])
            except _UnreadableError as fault:
                self.reasons.append(f"{storable_text(name.encode())}: {fault}")
        return added

    def _is_given(self, name: str, required: bool = False) -> bool:
        raw = self.fields.get(name)
        absence = "missing" if raw is None else {b"null": "null", b'""': "empty"}.get(bytes(raw))
        if absence and required:
            self.reasons.append(f"{name}: {absence}")
        return absence is None

    def _time_of_epoch(self, name: str, edge: str) -> str:
        epoch = self.optional_long(name)
        if epoch is None:
            return ""
        moment_us = int(epoch_us(np.array([epoch]))[0])
        if not FIRST_MOMENT_US <= moment_us <= LAST_MOMENT_US:
            self.reasons.append(f"{name}: {epoch} is outside the years 1 to 9999")
            return ""
        self.flags |= _FLAG_BITS[f"{edge}_time_from_epoch"]
        return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=moment_us)).isoformat()


def _is_utf8(raw: msgspec.Raw) -> bool:
    try:
        bytes(raw).decode()
    except UnicodeDecodeError:
        return False
    return True


def _moment(text: str) -> datetime | None:
    if _COMMON_TIME.fullmatch(text):  # saves most rows the parser, which is made for columns
        with suppress(ValueError):
            return datetime.fromisoformat(text)
    moment: datetime | None = parse_times(pa.array([text]))[0].as_py()
    return moment


def _text(raw: msgspec.Raw) -> str:
    try:
        text = _text_decoder.decode(raw)
    except UnicodeDecodeError:
        raise _UnreadableError("not valid UTF-8") from None
    except msgspec.DecodeError:
        raise _UnreadableError(f"{_shown(raw)} is not text") from None
    if "\0" in text:
        raise _UnreadableError("NUL character")
    return text


def _long(raw: msgspec.Raw) -> int:
    json_value = bytes(raw)
    is_number = json_value[:1] in b"-0123456789"
    digits = json_value.decode() if is_number else _text(raw) if json_value.startswith(b'"') else ""
    if not _DIGITS.fullmatch(digits):
        if is_number:
            return _integral_float(digits)
        raise _UnreadableError(f"{_shown(raw)} is not a whole number")
    significant = digits.lstrip("-0") or "0"
    number = int(significant[:_LONG_DIGITS]) * (-1 if digits.startswith("-") else 1)  # Python refuses huge texts
    if len(significant) > _LONG_DIGITS or not LONG_MIN <= number <= LONG_MAX:
        raise _UnreadableError(f"{_shown(raw)} does not fit into 64 bits")
    return number


def _integral_float(number: str) -> int:
    try:
        value = Decimal(number)
    except DecimalException:
        value = Decimal("Infinity")
    if value.copy_abs() >= _FLOATS_ARE_EXACT_BELOW:
        raise _UnreadableError(f"{number[:_SHOWN_CHARS]} is a float too large to be exact")
    if value != int(value):
        raise _UnreadableError(f"{number[:_SHOWN_CHARS]} has a fraction")
    return int(value)


def _check_storable(name: str, raw: msgspec.Raw) -> None:
    """Raises _UnreadableError where Postgres's jsonb would refuse the field, and the whole day with it."""
    try:
        text = bytes(raw).decode()
        json.loads(text, parse_float=_check_numeric, parse_int=_check_numeric)
    except UnicodeDecodeError:
        raise _UnreadableError("not valid UTF-8") from None
    except RecursionError:
        raise _UnreadableError("nested too deeply") from None
    if "\0" in name or _NUL_ESCAPE.search(text):
        raise _UnreadableError("NUL character")


def _check_numeric(number: str) -> None:
    try:
        value = Decimal(number)
        fits = (
            value.adjusted() < _NUMERIC_DIGITS_BEFORE_POINT
            and -int(value.as_tuple().exponent) <= _NUMERIC_DIGITS_AFTER_POINT
        )
    except DecimalException:
        fits = False
    if not fits:
        raise _UnreadableError(f"{number[:_SHOWN_CHARS]} is a number that Postgres cannot hold")


def _shown(raw: msgspec.Raw) -> str:
    shown = storable_text(bytes(raw))
    return shown if len(shown) <= _SHOWN_CHARS else f"{shown[:_SHOWN_CHARS]}…"
