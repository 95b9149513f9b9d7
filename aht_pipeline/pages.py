"""What one reply of `agent-segments` holds: read once for the walk, and again, from the archive, for normalising."""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Any, TypeGuard, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
import xxhash

from aht_pipeline.brackets import elements, members
from aht_pipeline.days import to_millis
from aht_pipeline.errors import AhtError

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding may raise. How deep a nesting is too deep for it depends on the stack below."""

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
        return _as_far_as_readable(self.sent_timeframe, _timeframe_decoder)

    @property
    def count(self) -> int | None:
        """The total that the reply claims for the query, in segments; None where it claims none.

        So does the older form of the reply, which has no pagination. Whatever else stands there and is no whole number
        from 0 on claims nothing either, and neither does a 0 beside segments.
        """
        pagination = _as_far_as_readable(self.sent_pagination, _pagination_decoder)
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
_timeframe_decoder = msgspec.json.Decoder(Timeframe, strict=False)  # not strict: numbers may come as text
_pagination_decoder = msgspec.json.Decoder(_Pagination, strict=False)
_ids_decoder = msgspec.json.Decoder(_Ids)
_perhaps_identified_decoder = msgspec.json.Decoder(_PerhapsIdentified)
_close_decoder = msgspec.json.Decoder(_PerhapsClosed)
_text_decoder = msgspec.json.Decoder(str)


def read_page(body: bytes) -> Page:
    """Parse a reply's envelope. Raises PageError, naming what is wrong with the body.

    Where something in it is no JSON to the decoder, its rows are cut out by their brackets, each to be judged alone:
    none takes another with it, and nor does what else the envelope holds.
    """
    json = without_mark(body)
    try:
        return _page_decoder.decode(json)
    except msgspec.ValidationError as error:
        fault = str(error)
    except UNREADABLE:
        try:
            return _cut_apart(json)
        except _UncutError as error:
            fault = str(error)
    raise PageError(f"not a reply of agent-segments ({len(body)} bytes): {fault}")


def without_mark(body: bytes) -> bytes:
    """The body without the byte order mark that some proxies and servers put before UTF-8."""
    return body.removeprefix(codecs.BOM_UTF8)


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
    row = _as_far_as_readable(raw, _close_decoder)
    return read_moment_ms(row.endTime, row.endTimeL) if row else None


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


def segment_id_of(raw: bytes) -> str | None:
    """The usable id of a row, whatever else of it cannot be read; None where it has none."""
    row = _as_far_as_readable(raw, _perhaps_identified_decoder)
    return row.segmentId if row and is_usable_id(row.segmentId) else None


def is_usable_id(segment_id: object) -> TypeGuard[str]:
    """Whether this `segmentId` can be the key of a row: text that is not empty and that Postgres can hold."""
    return isinstance(segment_id, str) and segment_id != "" and "\0" not in segment_id


def _usable_ids(body: bytes) -> list[str] | None:
    """The ids of all segments of the page; None where one of them may be none."""
    try:
        ids = [row.segmentId for row in _ids_decoder.decode(without_mark(body)).segments]
    except UNREADABLE:
        return None
    return None if "\0" in "".join(ids) else ids


def _key_of(raw: msgspec.Raw) -> int:
    segment_id = segment_id_of(raw)
    return hash(segment_id) & _64_BITS if segment_id is not None else xxhash.xxh3_64_intdigest(raw)


def _keys(keys: Iterable[int]) -> npt.NDArray[np.uint64]:
    return np.fromiter(keys, np.uint64)


class _UncutError(Exception):
    """Says why a body cannot be cut apart."""


def _cut_apart(json: bytes) -> Page:
    """A page that is not all JSON, or nested too deeply for the decoder. Raises _UncutError."""
    if json.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or 3 * json.count(b"\0") > len(json):
        raise _UncutError("UTF-16 or UTF-32 instead of UTF-8")
    sent = members(json)
    if sent is None:
        raise _UncutError("it is not one whole JSON object")
    envelope = [(_decoded(name, _text_decoder), value) for name, value in sent]
    arrays = [elements(value) for name, value in envelope if name == "segments"]
    if not arrays or None in arrays:
        raise _UncutError("it has no `segments`, or they are no array")
    segments = [msgspec.Raw(row) for row in arrays[-1] or ()]
    rest = {name: msgspec.Raw(value) for name, value in envelope}
    return Page(segments, rest.get("timeframe", _NULL), rest.get("pagination", _NULL))


def _as_far_as_readable(json: bytes, decoder: msgspec.json.Decoder[_T]) -> _T | None:
    """An object without those of its members that the decoder does not take; None for what is no object.

    Of members with one name the last counts, also where it is left out.
    """
    whole = _decoded(json, decoder)
    sent = members(bytes(json)) if whole is None else None  # msgspec.Raw has no methods of bytes
    if sent is None:
        return whole
    last = {_decoded(name, _text_decoder): name + b":" + value for name, value in sent}
    readable = [member for member in last.values() if _decoded(b"{" + member + b"}", decoder) is not None]
    return decoder.decode(b"{" + b",".join(readable) + b"}")


def _decoded(json: bytes, decoder: msgspec.json.Decoder[_T]) -> _T | None:
    try:
        return decoder.decode(json)
    except UNREADABLE:
        return None
