"""RFC 3339 texts → moments in UTC, a whole column at a time."""

from __future__ import annotations

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
_BEYOND_MICROSECONDS = r"(\.[0-9]{6})[0-9]{1,3}([Z+-])"
_SHAPE = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?(Z|[+-][0-9]{2}(:?[0-9]{2})?)$"


def parse_times(texts: pa.StringArray) -> pa.TimestampArray:
    """Each text's moment, in microseconds; null where the text is no RFC 3339 time of the years 1 to 9999.

    `Z` or an offset is required; `t` and `z` may be small; up to 9 fraction digits are read, those after the sixth are
    dropped. The texts themselves must not be null.
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


def epoch_us(epoch: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The API's epochs in microseconds: they are seconds or milliseconds, told apart by their size.

    An epoch beyond the year 9999 stays beyond it, but its distance is not kept.
    """
    near = np.clip(epoch, -_FAR_MS, _FAR_MS)
    return np.where(np.abs(near) < _SECONDS_BELOW, near * 1_000_000, near * 1_000)
