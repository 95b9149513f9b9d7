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

from aht_pipeline.brackets import members, nests_deeper
from aht_pipeline.days import Window, iso
from aht_pipeline.normalize.columns import member_name
from aht_pipeline.normalize.plain import DEEPEST, KEY_CHARS, LONG_MAX, LONG_MIN, Segment
from aht_pipeline.normalize.schema import EDGE, QUALITY_FLAGS, Reject, storable_text
from aht_pipeline.normalize.times import FIRST_MOMENT_US, LAST_MOMENT_US, epoch_us, parse_times, why_no_time
from aht_pipeline.pages import UNREADABLE

_FLAG_BITS = {flag: 1 << position for position, flag in enumerate(QUALITY_FLAGS)}
_FLOATS_ARE_EXACT_BELOW = 2**53
_NUMERIC_DIGITS_BEFORE_POINT, _NUMERIC_DIGITS_AFTER_POINT = 131_072, 16_383  # what Postgres's numeric, so jsonb, holds
_DIGITS = re.compile(r"-?[0-9]+")
_LONG_DIGITS = len(str(LONG_MAX))
_COMMON_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T([01][0-9]|2[0-3])(:[0-9]{2}){2}(\.[0-9]{1,6})?Z")
_NUL_ESCAPE = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")  # not the text "u0000" after an escaped backslash
_SHOWN_CHARS = 60  # of a value in a reason; the reject keeps the whole row

_PAIR = re.compile(rb"\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}")  # or an escaped backslash
_HALF_PAIR = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_CONTROL = re.compile(rb"[\x00-\x1f]")

_fields_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_value_decoder = msgspec.json.Decoder(msgspec.Raw)
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
        row = _Row.of(bytes(raw))
    except _UnreadableError as fault:
        return Reject.of(bytes(raw), [f"row: {fault}"])
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
    if not row.reasons and not _is_utf8(raw):
        row.refuse_bytes_in_what_is_not_kept()
    if row.reasons:
        return Reject.of(bytes(raw), row.reasons)
    extra = ",".join(member_name(name) + str(row.fields[name], "utf-8") for name in added)
    return Repaired(segment, f"{{{extra}}}" if added else None, row.flags, frozenset(added))


class _UnreadableError(Exception):
    """Says what is wrong with a value, without its field's name."""


@dataclass
class _Row:
    """Reads one field after the other, and gathers what is wrong. A faulty field reads as empty or 0.

    unreadable: the fields that are no JSON, or nested too deeply, whose reasons are already given.
    """

    fields: dict[str, msgspec.Raw]
    reasons: list[str] = field(default_factory=list)
    unreadable: set[str] = field(default_factory=set)
    flags: int = 0

    @classmethod
    def of(cls, json_object: bytes) -> _Row:
        """Of two fields of one name the last counts. Raises _UnreadableError where there are no fields."""
        try:
            row = cls(_fields_decoder.decode(json_object))
        except UNREADABLE:
            row = cls._cut_apart(json_object)
        if nests_deeper(json_object, DEEPEST):
            row._refuse_the_deep()
        return row

    @classmethod
    def _cut_apart(cls, json_object: bytes) -> _Row:
        """A row that is no JSON, or nested too deeply for the decoder."""
        sent = members(json_object)
        if sent is None:
            raise _UnreadableError("not JSON" if json_object.startswith(b"{") else "not a JSON object")
        row = cls({})
        for name_as_sent, value in sent:
            try:
                name = _name(name_as_sent)
            except _UnreadableError as fault:
                row.reasons.append(f"row: {fault}")
                continue
            row.fields[name] = msgspec.Raw(value)
            if not nests_deeper(value, DEEPEST) and not _is_json(value):
                row._refuse(name, _why_no_json(value))
        return row

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
        added = sorted(self.fields.keys() - self.unreadable - set(Segment.__struct_fields__))
        for name in added:
            try:
                _check_storable(name, self.fields[name])
            except _UnreadableError as fault:
                self.reasons.append(f"{storable_text(name.encode())}: {fault}")
        return added

    def refuse_bytes_in_what_is_not_kept(self) -> None:
        """What is kept was read as text: left are an epoch beside a text, and the second spelling of the end reason."""
        self.reasons += [f"{name}: not valid UTF-8" for name, raw in self.fields.items() if not _is_utf8(raw)]

    def _refuse_the_deep(self) -> None:
        for name, raw in self.fields.items():
            if nests_deeper(bytes(raw), DEEPEST):
                self._refuse(name, f"nested more than {DEEPEST} levels deep")

    def _refuse(self, name: str, fault: str) -> None:
        self.unreadable.add(name)
        self.reasons.append(f"{storable_text(name.encode())}: {fault}")

    def _is_given(self, name: str, required: bool = False) -> bool:
        if name in self.unreadable:
            return False
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


def _is_json(value: bytes) -> bool:
    try:
        _value_decoder.decode(value)
    except UNREADABLE:
        return False
    return True


def _why_no_json(value: bytes) -> str:
    if _HALF_PAIR.search(_PAIR.sub(b" ", value)):
        return "half a surrogate pair"
    if _CONTROL.search(value if value.startswith(b'"') else value.translate(None, b"\t\n\r")):
        return "a control character that is not escaped"
    return f"{_shown(value)} is not JSON" if value else "no value"


def _name(as_sent: bytes) -> str:
    try:
        return _text_decoder.decode(as_sent)
    except UnicodeDecodeError:
        raise _UnreadableError("a field name is not valid UTF-8") from None
    except msgspec.DecodeError:
        raise _UnreadableError(f"a field name: {_why_no_json(as_sent)}") from None


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
    significand, _, exponent = number.lower().partition("e")
    if not significand.strip("-0."):
        return 0
    try:
        value = Decimal(number)
    except DecimalException:  # an exponent beyond all measure
        value = Decimal("1e-99" if exponent.startswith("-") else "Infinity")
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


def _shown(raw: msgspec.Raw | bytes) -> str:
    shown = storable_text(bytes(raw))
    return shown if len(shown) <= _SHOWN_CHARS else f"{shown[:_SHOWN_CHARS]}…"
