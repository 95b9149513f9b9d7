"""Takes JSON apart by its strings and brackets alone: what no strict reader takes can then be judged piece by piece."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt

_SPACE = b" \t\n\r"
_QUOTE = ord('"')
_STEPS = np.zeros(256, np.int8)
_STEPS[list(b"{[")], _STEPS[list(b"}]")] = 1, -1
_IS_MARK = np.zeros(256, np.bool_)
_IS_MARK[list(b'"{}[]:,')] = True


def members(json: bytes) -> list[tuple[bytes, bytes]] | None:
    """The names and the values of an object, as they stand there; None where it is not one whole object.

    Neither is judged: a name is in quotes if it is JSON, a value may be anything, even empty.
    """
    parted = _part(json, b"{}", b":,")
    if parted is None:
        return None
    separators, pieces = parted
    if pieces == [b""]:
        return []
    if len(pieces) % 2 or separators != (b":," * len(pieces))[: len(separators)]:
        return None
    return list(zip(pieces[::2], pieces[1::2], strict=True))


def elements(json: bytes) -> list[bytes] | None:
    """The elements of an array, as they stand there, unjudged; None where it is not one whole array."""
    parted = _part(json, b"[]", b",")
    if parted is None:
        return None
    _, pieces = parted
    return [] if pieces == [b""] else pieces


def nests_deeper(json: bytes, levels: int) -> bool:
    """Whether this JSON value has more than so many objects and arrays within each other."""
    if json.count(b"{") + json.count(b"[") <= levels:  # most are known without a look at their strings
        return False
    *_, depths = _scan(json)
    return bool(depths.max(initial=0) > levels)


def _part(json: bytes, brackets: bytes, separators: bytes) -> tuple[bytes, list[bytes]] | None:
    """The separators directly within the outermost brackets, and what stands between them, without white space."""
    json = json.strip(_SPACE)
    if json[:1] != brackets[:1] or json[-1:] != brackets[1:]:
        return None
    places, marks, depths = _scan(json)
    if places[-1] != len(json) - 1 or depths[-1] != 0 or depths[:-1].min() < 1:
        return None
    is_cut = (depths == 1) & np.isin(marks, list(separators))
    cuts = places[is_cut].tolist()
    pieces = [json[start + 1 : end].strip(_SPACE) for start, end in pairwise([0, *cuts, len(json) - 1])]
    return marks[is_cut].tobytes(), pieces


def _scan(json: bytes) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
    """The places of all marks outside strings, the marks, and how many brackets are open after each of them."""
    codes = np.frombuffer(json.replace(b"\\\\", b"  ").replace(b'\\"', b"  "), np.uint8)
    places = np.flatnonzero(_IS_MARK[codes])
    outside = ~np.logical_xor.accumulate(codes[places] == _QUOTE)
    places = places[outside]
    marks = codes[places]
    return places, marks, np.cumsum(_STEPS[marks], dtype=np.int32)
