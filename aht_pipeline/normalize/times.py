"""RFC 3339 texts → moments in UTC, a whole column at a time."""

from __future__ import annotations

import re
from calendar import monthrange

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from aht_pipeline.normalize.schema import MOMENT

FIRST_MOMENT_US, LAST_MOMENT_US = -62_135_596_800_000_000, 253_402_300_799_999_999
"""The years 1 to 9999 in epoch microseconds: what Python, pandas and Postgres can all hold."""

_SHORTEST = len("2026-01-01T00:00:00Z")
_SECOND_COLON = len("2026-01-01T00:00")
_SECONDS_BELOW = 10**11
_FAR_MS = 10**15
_BEYOND_MICROSECONDS = r"(\.[0-9]{6})[0-9]+([Z+-])"
_PARTS = re.compile(
    r"(?P<year>[+-]?[0-9]{4,})-(?P<month>[0-9]{2})-(?P<day>[0-9]{2})"
    r"(?:[Tt ](?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})(?:\.[0-9]+)?"
    r"(?P<offset>[Zz]|[+-][0-9]{2}(?::?[0-9]{2})?)?)?"
)
_NO_TIME = "is not an RFC 3339 time with an offset"
_SHAPE = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?(Z|[+-][0-9]{2}(:?[0-9]{2})?)$"


def parse_times(texts: pa.StringArray) -> pa.TimestampArray:
    """Each text's moment, in microseconds; null where the text is no RFC 3339 time of the years 1 to 9999.

    `Z` or an offset is required; `t` and `z` may be small; fraction digits after the sixth are dropped. The texts
    themselves must not be null.
    """
    moments = _cast(texts) if _all_have_seconds(texts) else None
    if moments is None:
        plainer = pc.replace_substring_regex(pc.ascii_upper(texts), _BEYOND_MICROSECONDS, r"\1\2")
        shaped = pc.if_else(pc.match_substring_regex(plainer, _SHAPE), plainer, None)
        moments = pa.concat_arrays(_cast_the_readable(shaped))
    return moments


def _all_have_seconds(texts: pa.StringArray) -> bool:
    """Arrow also reads ISO 8601 times without seconds or colons, which RFC 3339 does not allow."""
    if len(texts) == 0:
        return True
    _, offsets, characters = texts.buffers()
    starts = np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + len(texts) + 1]
    if np.diff(starts).min() < _SHORTEST:
        return False
    return bool((np.frombuffer(characters, np.uint8)[starts[:-1] + _SECOND_COLON] == ord(":")).all())


def _cast(texts: pa.StringArray) -> pa.TimestampArray | None:
    """The moments, or None when any of the texts is unreadable."""
    try:
        moments = texts.cast(MOMENT)
    except pa.ArrowInvalid:
        return None
    bounds = pc.min_max(moments.cast(pa.int64())).as_py()
    in_range = bounds["min"] is None or FIRST_MOMENT_US <= bounds["min"] <= bounds["max"] <= LAST_MOMENT_US
    return moments if in_range else None


def _cast_the_readable(texts: pa.StringArray) -> list[pa.TimestampArray]:
    """Of texts in the right shape, a few may be no time of any calendar: halve the column until they are found."""
    moments = _cast(texts)
    if moments is not None:
        return [moments]
    if len(texts) == 1:
        return [pa.nulls(1, MOMENT)]
    middle = len(texts) // 2
    return _cast_the_readable(texts[:middle]) + _cast_the_readable(texts[middle:])


def why_no_time(text: str) -> str:
    """What is wrong with a text that `parse_times` cannot read: the end of a sentence about it."""
    parts = _PARTS.fullmatch(text)
    if parts is None:
        return _NO_TIME
    year, month, day, hour, minute, second, offset = parts.group(*_PARTS.groupindex)
    if year.startswith("-") or not 1 <= len(year.lstrip("+0")) <= 4:
        return "is outside the years 1 to 9999"
    if len(year) > 4:
        return _NO_TIME
    if not 1 <= int(month) <= 12:
        return "is no time: there is no such month"
    if not 1 <= int(day) <= monthrange(int(year), int(month))[1]:
        return "is no time: there is no such day"
    if hour is None:
        return "is a date without a time of day"
    if hour > "23" or minute > "59" or second > "60":
        return "is no time: there is no such time of day"
    if second == "60":
        return "has a second 60, which could only be a leap second: no stored time can be one"
    if offset is None:
        return "has no offset, so that it is no moment"
    if offset[1:3] > "23" or offset[3:].lstrip(":") > "59":
        return "is no time: there is no such offset"
    return "is outside the years 1 to 9999 in UTC"


def epoch_us(epoch: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The API's epochs in microseconds: they are seconds or milliseconds, told apart by their size.

    An epoch beyond the year 9999 stays beyond it, but its distance is not kept.
    """
    near = np.clip(epoch, -_FAR_MS, _FAR_MS)
    return np.where(np.abs(near) < _SECONDS_BELOW, near * 1_000_000, near * 1_000)
