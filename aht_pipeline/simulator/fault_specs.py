"""How faults are written on a command line: `429:every=7`, `latency=30ms`, `day=2026-11-20:status=500`."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

from aht_pipeline.errors import AhtError
from aht_pipeline.simulator.exchange import Endpoint
from aht_pipeline.simulator.faults import (
    Cached,
    Capped,
    Cut,
    Deepest,
    Empty,
    ErrorStatus,
    Fault,
    HtmlError,
    Latency,
    Misdated,
    Redirect,
    Reset,
    RevokeTokens,
    Trickle,
    When,
    WrongCount,
)

GRAMMAR = """\
A fault is NAME[=VALUE][:OPTION=VALUE,...]:
  latency=30ms     wait before answering (ms, s, m, h or d; a bare number is seconds)
  400 to 599       that status, as the API words it (retry_after=SECONDS adds the header)
  html             an error page in HTML (status=502)
  reset            a TCP reset instead of an answer
  cut              the connection ends in the middle of the body (how=json: only the JSON does)
  revoke           every access token granted so far is refused
  redirect=URL     302 to another host
  cached=25h       a cache in front: the first answer to a URL again, with this Age (how=date: an old Date instead)
  clock=+3h        a Date that is so much ahead (clock=-3h: behind)
  trickle=5s       one byte of the body, a pause, and so on (how=head: the headers too)
  empty            no segments, under the right count (count=0: under a count of 0)
  count=+5         a count that is wrong by so much
  capped=10000     a count that stops there, and no segments beyond it
  deepest=10000    400 for pages that reach beyond so many segments
  day=2026-11-20   always status=500 for this day's requests (status=STATUS)
When it strikes, for any of them (without an option: always):
  first=N          the first N requests
  after=N          not the first N requests
  every=N          every Nth request (burst=M: and the M-1 after it)
  chance=0.1       by chance, the same each time (seed=N for another)
  day=2026-11-20   requests whose window has its middle on this UTC day
  above=N          while more than N requests for segments are under way
  on=token         requests for a token; on=domain: for the Domain API; on=users, skills or groups: for names; else
                   for segments
Examples:
  latency=30ms   429:every=7   429:first=3,retry_after=1   429:above=2   503:every=50,burst=3
  500:first=2   reset:every=20   cut:every=15   html:first=1   day=2026-11-20:status=500
  redirect=https://elsewhere.example.test:first=1"""


class FaultSpecError(AhtError):
    """A fault that cannot be understood; the text lists the grammar."""


def parse_fault(spec: str) -> Fault:
    """Read one fault, written in the GRAMMAR. Raises FaultSpecError."""
    parts = _SPEC.fullmatch(spec.strip())
    try:
        if parts is None:
            raise ValueError("it is not NAME[=VALUE][:OPTION=VALUE,...]")
        options = dict(_option(text) for text in parts["options"].split(",")) if parts["options"] else {}
        fault = _build(parts["name"], parts["value"] or "", options)
        if options:
            raise ValueError(f"{parts['name']} has no option {', '.join(options)}")
    except ValueError as error:
        raise FaultSpecError(f"the fault {spec!r} is not understood: {error}.\n\n{GRAMMAR}") from None
    return fault


def parse_duration(text: str) -> timedelta:
    """`30ms`, `2s`, `5m`, `6h`, `1d`, or a bare number of seconds. Raises ValueError."""
    parts = _DURATION.fullmatch(text.strip())
    if parts is None:
        raise ValueError(f"{text!r} is not a duration such as 30ms, 2s, 5m, 6h or 1d")
    return float(parts[1]) * _UNITS[parts[2] or "s"]


_SPEC = re.compile(r"(?P<name>\w+)(=(?P<value>.*?))?(:(?P<options>\w+=[^:]*))?")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)?", re.ASCII)
_UNITS = {
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
}


def _option(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise ValueError(f"{text!r} is not OPTION=VALUE")
    return name.strip(), value.strip()


def _build(name: str, value: str, options: dict[str, str]) -> Fault:
    """The fault of this name; takes the options it knows out of `options`."""
    if (name in _VALUED) != bool(value):
        raise ValueError(f"{name} needs a value" if name in _VALUED else f"{name} takes no value")
    if name == "day":
        options["day"] = value
    when = _when(options)
    if re.fullmatch(r"[45]\d\d", name):
        retry_after = options.pop("retry_after", None)
        return ErrorStatus(int(name), None if retry_after is None else float(retry_after), when)
    match name:
        case "latency":
            return Latency(parse_duration(value), when)
        case "html":
            return HtmlError(_status(options.pop("status", "502")), when)
        case "reset":
            return Reset(when)
        case "cut":
            return Cut(_either(options, "connection", "json") == "json", when)
        case "revoke":
            return RevokeTokens(when)
        case "redirect":
            return Redirect(value, when)
        case "cached":
            return Cached(parse_duration(value), _either(options, "age", "date") == "age", when)
        case "clock":
            return Misdated(_offset(value), when)
        case "trickle":
            return Trickle(parse_duration(value), _either(options, "body", "head") == "head", when)
        case "empty":
            count = options.pop("count", None)
            return Empty(None if count is None else int(count), when)
        case "count":
            return WrongCount(int(value), when)
        case "capped":
            return Capped(_positive(value), when)
        case "deepest":
            return Deepest(_positive(value), when)
        case "day":
            return ErrorStatus(_status(options.pop("status", "500")), when=when)
    raise ValueError(f"there is no fault called {name}")


_VALUED = frozenset({"latency", "redirect", "cached", "clock", "trickle", "count", "capped", "deepest", "day"})


def _when(options: dict[str, str]) -> When:
    readers: dict[str, Callable[[str], Any]] = {
        "first": _positive,
        "after": _positive,
        "every": _positive,
        "burst": _positive,
        "chance": _probability,
        "seed": int,
        "day": date.fromisoformat,
        "above": _positive,
        "on": Endpoint,
    }
    when = When(**{name: read(options.pop(name)) for name, read in readers.items() if name in options})
    if when.burst > 1 and when.every is None:
        raise ValueError("burst needs every")
    return when


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise ValueError(f"{text!r} is not a whole number above 0")
    return int(text)


def _probability(text: str) -> float:
    if not 0 <= float(text) <= 1:
        raise ValueError(f"{text!r} is not a chance from 0 to 1")
    return float(text)


def _status(text: str) -> int:
    if not re.fullmatch(r"[45]\d\d", text):
        raise ValueError(f"{text!r} is not a status from 400 to 599")
    return int(text)


def _offset(text: str) -> timedelta:
    if text[0] not in "+-":
        raise ValueError(f"{text!r} is not a duration with + or - before it")
    return parse_duration(text[1:]) * (-1 if text[0] == "-" else 1)


def _either(options: dict[str, str], usual: str, other: str) -> str:
    """The option `how`, which is one of two."""
    how = options.pop("how", usual)
    if how not in (usual, other):
        raise ValueError(f"how is {usual} or {other}")
    return how
