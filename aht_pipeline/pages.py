"""What one reply of `agent-segments` holds: read once for the walk, and again, from the archive, for normalising."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Annotated, Any, TypeGuard, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
import xxhash

from aht_pipeline.days import to_millis
from aht_pipeline.errors import AhtError

_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_SPACE = frozenset(" \t\n\r")
_64_BITS = (1 << 64) - 1
_Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
_T = TypeVar("_T")


class PageError(AhtError):
    """The body is not a reply of `agent-segments`: cut off, not JSON, or of another shape."""


class Timeframe(msgspec.Struct):
    startTime: str | None = None  # noqa: N815 - the API's names
    endTime: str | None = None  # noqa: N815
    startTimeL: int | str | None = None  # noqa: N815
    endTimeL: int | str | None = None  # noqa: N815


class _Pagination(msgspec.Struct):
    count: _Count | None = None


_NULL = msgspec.Raw(b"null")


class Page(msgspec.Struct, rename={"sent_timeframe": "timeframe", "sent_pagination": "pagination"}):
    """The envelope of a reply; each segment stays the bytes that the API sent."""

    segments: list[msgspec.Raw]
    sent_timeframe: msgspec.Raw = _NULL
    sent_pagination: msgspec.Raw = _NULL

    @property
    def timeframe(self) -> Timeframe | None:
        """The window that the reply says it is for; None where it names none that can be read."""
        return _value(self.sent_timeframe, _timeframe_decoder)

    @property
    def count(self) -> int | None:
        """The total that the reply claims for the query, in segments; None where it claims none.

        So does the older form of the reply, which has no pagination. Whatever else stands there and is no whole number
        from 0 on claims nothing either, and neither does a 0 beside segments.
        """
        pagination = _value(self.sent_pagination, _pagination_decoder)
        count = pagination.count if pagination else None
        return None if count == 0 and self.segments else count


class _Identified(msgspec.Struct, gc=False):
    segmentId: Annotated[str, msgspec.Meta(min_length=1)]  # noqa: N815


class _Ids(msgspec.Struct):
    segments: list[_Identified]


class _PerhapsIdentified(msgspec.Struct):
    segmentId: Any = None  # noqa: N815


class _PerhapsClosed(msgspec.Struct):
    endTime: Any = None  # noqa: N815
    endTimeL: Any = None  # noqa: N815


_page_decoder = msgspec.json.Decoder(Page)
_timeframe_decoder = msgspec.json.Decoder(Timeframe | None, strict=False)  # not strict: numbers may come as text
_pagination_decoder = msgspec.json.Decoder(_Pagination | None, strict=False)
_ids_decoder = msgspec.json.Decoder(_Ids)
_close_decoder = msgspec.json.Decoder(_PerhapsClosed)


def read_page(body: bytes) -> Page:
    """Parse a reply's envelope. Raises PageError, naming what is wrong with the body."""
    try:
        return _page_decoder.decode(body)
    except _UNREADABLE as error:
        # One row with NaN or half a surrogate pair in it must not take the others with it.
        page = _read_row_by_row(body)
        if page is None:
            raise PageError(f"not a reply of agent-segments ({len(body)} bytes): {error}") from None
        return page


def segment_keys(body: bytes, page: Page) -> npt.NDArray[np.uint64]:
    """One 64-bit key for each segment of the page, in order: of its id, or of its content where it has no usable id.

    Two rows with one key are one segment. A collision (one in 37 million for a day of a million segments) makes a day
    seem incomplete, never complete. Python's own hash: fast, and another one in the next process.
    """
    ids = _usable_ids(body)
    if ids is None:
        return _keys(_key_of(raw) for raw in page.segments)
    return np.fromiter(map(hash, ids), np.int64, len(ids)).view(np.uint64)


def content_keys(page: Page) -> npt.NDArray[np.uint64]:
    """One 64-bit key for the exact bytes of each segment of the page, in order."""
    return _keys(map(xxhash.xxh3_64_intdigest, page.segments))


def close_ms(raw: msgspec.Raw) -> int | None:
    """When this row closed, epoch milliseconds; None where that cannot be read."""
    try:
        row = _close_decoder.decode(raw)
    except _UNREADABLE:
        return None
    return read_moment_ms(row.endTime, row.endTimeL)


def read_moment_ms(text: object, epoch: object) -> int | None:
    """A moment as the API writes it twice, in epoch milliseconds; None where neither can be read.

    The text, ISO 8601, in UTC where it names no offset, wins over the epoch, which contradicts it in old samples and is
    in seconds below 10^11.
    """
    try:
        if text:
            moment = datetime.fromisoformat(str(text).upper())
            return to_millis(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
        seconds_or_ms = int(str(epoch))
    except ValueError:
        return None
    return seconds_or_ms * 1000 if seconds_or_ms < 10**11 else seconds_or_ms


def is_usable_id(segment_id: object) -> TypeGuard[str]:
    """Whether this `segmentId` can be the key of a row: text that is not empty and that Postgres can hold."""
    return isinstance(segment_id, str) and segment_id != "" and "\0" not in segment_id


def _usable_ids(body: bytes) -> list[str] | None:
    """The ids of all segments of the page; None where one of them may be none."""
    try:
        ids = [row.segmentId for row in _ids_decoder.decode(body).segments]
    except _UNREADABLE:
        return None
    return None if "\0" in "".join(ids) else ids


def _key_of(raw: msgspec.Raw) -> int:
    try:
        segment_id = msgspec.json.decode(raw, type=_PerhapsIdentified).segmentId
    except _UNREADABLE:  # a row that is no object, or text that is no Unicode
        segment_id = None
    return hash(segment_id) & _64_BITS if is_usable_id(segment_id) else xxhash.xxh3_64_intdigest(raw)


def _value(sent: msgspec.Raw, decoder: msgspec.json.Decoder[_T | None]) -> _T | None:
    """What was sent, where it is what the decoder reads; else None."""
    try:
        return decoder.decode(sent)
    except _UNREADABLE:
        return None


def _keys(keys: Iterable[int]) -> npt.NDArray[np.uint64]:
    return np.fromiter(keys, np.uint64)


def _read_row_by_row(body: bytes) -> Page | None:
    """A page that is JSON only to a lenient reader, each of its rows cut out by one; None when it is no reply to it."""
    decode = json.JSONDecoder().raw_decode
    envelope: dict[str, Any] = {}
    try:
        text = body.decode()
        at = _skip(text, 0, "{")
        while True:
            name, at = decode(text, _skip(text, at))
            at = _skip(text, _skip(text, at, ":"))
            if name == "segments":
                envelope[name], at = _rows(text, _skip(text, at, "["), decode)
            else:
                start = at
                _, at = decode(text, at)
                envelope[name] = msgspec.Raw(text[start:at].encode())
            at = _skip(text, at)
            if text[at] == "}":
                break
            at = _skip(text, at, ",")
        if _skip(text, at, "}") != len(text):
            return None
        return msgspec.convert(envelope, Page)
    except (ValueError, IndexError, RecursionError):  # msgspec.ValidationError is a ValueError
        return None


def _rows(text: str, at: int, decode: Callable[[str, int], tuple[Any, int]]) -> tuple[list[msgspec.Raw], int]:
    """The elements of a JSON array, each as it stands there, and the place after the array."""
    rows: list[msgspec.Raw] = []
    while text[at] != "]":
        _, end = decode(text, at)
        rows.append(msgspec.Raw(text[at:end].encode()))
        at = _skip(text, end)
        if text[at] != "]":
            at = _skip(text, at, ",")
    return rows, at + 1


def _skip(text: str, at: int, mark: str = "") -> int:
    """The place after this mark, if one is given, and the white space around it. Raises ValueError without it."""
    while text[at : at + 1] in _SPACE:
        at += 1
    if mark:
        if not text.startswith(mark, at):
            raise ValueError(mark)
        return _skip(text, at + 1)
    return at
