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


def parse_times(texts: pa.StringArray) -> pa.TimestampArray:
    """Each text's moment, in microseconds; null where the text is no RFC 3339 time of the years 1 to 9999.

    `Z` or an offset is required; `t` and `z` may be small; up to 9 fraction digits are read, those after the sixth are
    dropped. The texts themselves must not be null.
    """
    moments = _cast(texts)
    if moments is None:
        plainer = pc.replace_substring_regex(pc.ascii_upper(texts), _BEYOND_MICROSECONDS, r"\1\2")
        moments = pa.concat_arrays(_cast_the_readable(plainer))
    return moments


def _cast_the_readable(texts: pa.StringArray) -> list[pa.TimestampArray]:
    """Arrow's cast says only that some text is unreadable, so halve the column until it is found."""
    moments = _cast(texts)
    if moments is not None:
        return [moments]
    if len(texts) == 1:
        return [pa.nulls(1, MOMENT)]
    middle = len(texts) // 2
    return _cast_the_readable(texts[:middle]) + _cast_the_readable(texts[middle:])


def _cast(texts: pa.StringArray) -> pa.TimestampArray | None:
    """The moments, or None when any of the texts is unreadable."""
    if len(texts) == 0:
        return pa.array([], MOMENT)
    if not _all_have_seconds(texts):
        return None
    try:
        moments = texts.cast(MOMENT)
    except pa.ArrowInvalid:
        return None
    epoch_us = moments.cast(pa.int64()).to_numpy()
    return moments if epoch_us.min() >= FIRST_MOMENT_US and epoch_us.max() <= LAST_MOMENT_US else None


def _all_have_seconds(texts: pa.StringArray) -> bool:
    """Arrow also reads ISO 8601 times without seconds or colons, which RFC 3339 does not allow."""
    _, offsets_buffer, bytes_buffer = texts.buffers()
    offsets = np.frombuffer(offsets_buffer, np.int32)[texts.offset : texts.offset + len(texts) + 1]
    if np.diff(offsets).min() < _SHORTEST:
        return False
    characters = np.frombuffer(bytes_buffer, np.uint8)
    return bool((characters[offsets[:-1] + _SECOND_COLON] == ord(":")).all())


def epoch_us(epoch: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The API's epochs in microseconds: they are seconds or milliseconds, told apart by their size.

    An epoch beyond the year 9999 stays beyond it, but its distance is not kept.
    """
    near = np.clip(epoch, -_FAR_MS, _FAR_MS)
    return np.where(np.abs(near) < _SECONDS_BELOW, near * 1_000_000, near * 1_000)
