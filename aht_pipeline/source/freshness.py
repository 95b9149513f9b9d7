"""Whether a reply was made for its request: one that a cache kept, or that another time dates, is no reply."""

from __future__ import annotations

import email.utils
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

from requests.structures import CaseInsensitiveDict

from aht_pipeline.clock import CLOCK_TOLERANCE, difference
from aht_pipeline.days import iso

Headers = CaseInsensitiveDict[str]

ASK_FOR_FRESH = {"Cache-Control": "no-cache", "Pragma": "no-cache"}
"""With every request: no cache may answer without asking LivePerson (RFC 9111, 5.2.1.4 and 5.4)."""

_ROUNDING_S = 1  # `Age` is in whole seconds
_TOLERANCE_S = CLOCK_TOLERANCE.total_seconds()
_CACHED = re.compile(r"HIT|STALE|UPDATING|TCP_(?!REFRESH_HIT)\w*HIT")
"""Words of caches for a copy; after TCP_REFRESH_HIT, RefreshHit and REVALIDATED the cache had asked about its copy."""
_OF_CACHES = ("Via", "X-Cache", "Server")
_DATE = re.compile(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", re.ASCII)
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')


@dataclass(frozen=True)
class Stale:
    """Why a reply is none: what shows it, and what to do, with `{host}` and `{proxy}` to fill in.

    may_pass: whether a cache may be the cause, so that the next reply may be another.
    """

    sign: str
    advice: str
    may_pass: bool = True


def find_stale(headers: Headers, sent_at_s: float, took_s: float, *, may_be_kept: bool = True) -> Stale | None:
    """What shows that a reply was made before its request was sent; None where nothing does.

    may_be_kept: whether well-kept caches keep such replies, as they do those to GET.
    sent_at_s: by this machine's clock, since 1970. took_s: from then until the headers were there.
    A reply that names neither its date nor its age, nor a cache, says nothing about it.
    """
    if sign := _cached_copy(headers, took_s):
        words = dict.fromkeys([sign, *(f"{name}: {headers[name]}" for name in _OF_CACHES if name in headers)])
        return Stale(
            f"a cache answered with a copy that it kept ({'; '.join(words)})", "exclude {host} from caching{proxy}"
        )
    received_at_s = sent_at_s + took_s
    for dated_s in http_dates_s(headers.get("Date", "")):
        if dated_s < sent_at_s - _TOLERANCE_S:
            told, off = _of_two_clocks(dated_s, sent_at_s), _difference(sent_at_s, dated_s)
            return Stale(
                f"{told}: a cache answered with an old reply, or this machine's clock is {off}",
                "set the clock right (NTP); if it is right, exclude {host} from caching{proxy}",
                may_pass=may_be_kept,
            )
        if dated_s > received_at_s + _TOLERANCE_S:
            told, off = _of_two_clocks(dated_s, received_at_s), _difference(received_at_s, dated_s)
            return Stale(f"{told}: this machine's clock is {off}", "set the clock right (NTP)", may_pass=False)
    return None


@lru_cache(maxsize=8)  # many pages come within a second
def http_dates_s(header: str) -> tuple[float, ...]:
    """The moments that an HTTP header names (RFC 9110, 5.6.7), in seconds since 1970: one, two where it came twice."""
    return tuple(moment_s for part in _DATE.findall(header) or [header] if (moment_s := _moment_s(part)) is not None)


def _moment_s(date: str) -> float | None:
    try:
        moment = email.utils.parsedate_to_datetime(date)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


def _cached_copy(headers: Headers, took_s: float) -> str:
    """The header by which a cache says that it answered by itself; empty where none does."""
    for name, value in headers.lower_items():
        if (
            (name == "age" and any(age_s > took_s + _ROUNDING_S for age_s in _ages_s(value)))
            or (name.endswith(("cache", "cache-status")) and _is_hit(value))
            or (name == "warning" and _warns(value))
        ):
            return f"{name.title()}: {value}"
    return ""


def _ages_s(age: str) -> Iterator[float]:
    """Every readable one: each cache on the way may add its own."""
    return (float(part) for part in age.split(",") if re.fullmatch(r"\s*[0-9]+\s*", part))


def _is_hit(value: str) -> bool:
    """`HIT`, `Hit from cloudfront`, `TCP_MEM_HIT from a23-1`, `MISS, HIT`; or RFC 9211's `name; hit; ttl=30`."""
    for member in _members(value):
        word, *parameters = (part.strip().upper() for part in member.split(";"))
        is_hit = (said := re.match(r"[A-Z_]+", word)) and _CACHED.fullmatch(said[0])
        if is_hit or not {"HIT", "HIT=?1"}.isdisjoint(parameters):
            return True
    return False


def _warns(value: str) -> bool:
    """110 to 113 (RFC 7234, 5.5): stale, not revalidated, disconnected, or kept for longer than a day."""
    return any(re.match(r"\s*11[0-3]\b", member) for member in _members(value))


def _members(value: str) -> list[str]:
    return _QUOTED.sub("quoted", value).split(",")


def _of_two_clocks(dated_s: float, ours_s: float) -> str:
    return f"the reply is of {_iso(dated_s)} (Date), this machine's clock said {_iso(ours_s)}"


def _iso(moment_s: float) -> str:
    return iso(datetime.fromtimestamp(int(moment_s), UTC))


def _difference(ours_s: float, theirs_s: float) -> str:
    return difference(datetime.fromtimestamp(ours_s, UTC) - datetime.fromtimestamp(theirs_s, UTC))
