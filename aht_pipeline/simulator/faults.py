"""What goes wrong, and when: small values that compose."""

from __future__ import annotations

import random
import re
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta

import msgspec

from aht_pipeline.simulator.exchange import Endpoint, Reply, Request, Sent, json_reply

_LISTING = re.compile(
    rb'.*?"segments":\[(?P<rows>.*)\](?:,"pagination":\{"count":(?P<count>[0-9]+),"references":.*)?\}', re.DOTALL
)


@dataclass(frozen=True)
class When:
    """Which requests a fault strikes: all of them, narrowed by every field that is given.

    Only requests that match `on`, `day` and `above` are counted; `after`, `first`, `every` and `chance` go by that
    count, and `first` and `every` count from `after` on.
    day: the UTC day in which the middle of the request's window lies.
    above: strikes while more requests than this are under way, this one included.
    """

    first: int | None = None
    after: int = 0
    every: int | None = None
    burst: int = 1
    chance: float | None = None
    seed: int = 0
    day: date | None = None
    above: int | None = None
    on: Endpoint = Endpoint.SEGMENTS

    def matches(self, request: Request, in_flight: int) -> bool:
        return (
            request.endpoint is self.on
            and (self.day is None or request.day == self.day)
            and (self.above is None or in_flight > self.above)
        )

    def picks(self, number: int) -> bool:
        """Whether it strikes the `number`th matching request, from 1."""
        since = number - self.after
        return (
            since > 0
            and (self.first is None or since <= self.first)
            and (self.every is None or (since >= self.every and since % self.every < self.burst))
            and (self.chance is None or random.Random(f"{self.seed} {number}").random() < self.chance)  # noqa: S311
        )


@dataclass(frozen=True)
class Latency:
    """Waits before answering."""

    delay: timedelta
    when: When = When()


@dataclass(frozen=True)
class ErrorStatus:
    """An error as the API words it: with an `internalCode` from 500 on, without a body for 429."""

    status: int
    retry_after_s: float | None = None
    when: When = When()


@dataclass(frozen=True)
class HtmlError:
    """An error page of something in between."""

    status: int = 502
    when: When = When()


@dataclass(frozen=True)
class Reset:
    """A TCP reset instead of an answer."""

    when: When = When()


@dataclass(frozen=True)
class Cut:
    """Half of the right body: fewer bytes than Content-Length says, or, `as_json`, as many, which are no JSON."""

    as_json: bool = False
    when: When = When()


@dataclass(frozen=True)
class RevokeTokens:
    """Every token granted so far is refused, this request's first."""

    when: When = When()


@dataclass(frozen=True)
class Redirect:
    """A 302 to this URL."""

    to: str
    when: When = When()


@dataclass(frozen=True)
class Cached:
    """A cache in front: the first answer to a URL again and again, whatever the request says of caches.

    age: how old it is when it is given again, by its `Age`; where that is not `told`, by its `Date` alone.
    """

    age: timedelta
    told: bool = True
    when: When = When()
    kept: dict[str, Reply] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True)
class Misdated:
    """A `Date` that is ahead by so much; behind, below 0."""

    by: timedelta
    when: When = When()


@dataclass(frozen=True)
class Trickle:
    """One byte after the other, with this pause in between: of the body, or of the headers too."""

    pause: timedelta
    from_head: bool = False
    when: When = When()


@dataclass(frozen=True)
class Empty:
    """No segments, under this count; None: under the right one."""

    count: int | None = None
    when: When = When()


@dataclass(frozen=True)
class WrongCount:
    """A count that is off by `by`."""

    by: int
    when: When = When()


@dataclass(frozen=True)
class Capped:
    """A count that stops at `most`, as a search engine's does, and no rows beyond it."""

    most: int
    when: When = When()


@dataclass(frozen=True)
class Deepest:
    """A 400 to pages that reach beyond row `most`, as a search engine gives it."""

    most: int
    when: When = When()


@dataclass(frozen=True)
class Meanwhile:
    """Does something just before the request is answered, such as adding or restating rows between two pages."""

    act: Callable[[], object]
    when: When = When()


Fault = (
    Latency
    | ErrorStatus
    | HtmlError
    | Reset
    | Cut
    | RevokeTokens
    | Redirect
    | Cached
    | Misdated
    | Trickle
    | Empty
    | WrongCount
    | Capped
    | Deepest
    | Meanwhile
)


def strike(fault: Fault, request: Request, answer: Callable[[], Reply], revoke_tokens: Callable[[], None]) -> Reply:
    """The reply under this fault. `answer` makes the one that it spoils: the right one, or the next fault's."""
    match fault:
        case Cached():
            return _cached(fault, f"{request.path}?{request.query}", answer)
        case Misdated(by):
            return replace(answer(), dated_off=by)
        case Trickle(pause, from_head):
            return replace(answer(), byte_every_s=pause.total_seconds(), trickles_from_head=from_head)
        case Latency(delay):
            time.sleep(delay.total_seconds())
            return answer()
        case ErrorStatus(status, retry_after_s):
            headers = () if retry_after_s is None else (("Retry-After", f"{retry_after_s:g}"),)
            return replace(_error(status), headers=headers)
        case HtmlError(status):
            page = f"<html><head><title>{status}</title></head><body><h1>{status} from a gateway</h1></body></html>"
            return Reply(status, page.encode(), content_type="text/html")
        case Reset():
            return Reply(0, sent=Sent.RESET)
        case Cut(as_json):
            reply = answer()
            return replace(reply, body=_half(reply.body)) if as_json else replace(reply, sent=Sent.SHORT)
        case RevokeTokens():
            revoke_tokens()
            return answer()
        case Redirect(to):
            return Reply(302, headers=(("Location", to),))
        case Empty(count):
            return _emptied(answer(), count)
        case WrongCount(by):
            return _miscounted(answer(), by)
        case Capped(most):
            return _capped(answer(), request, most)
        case Deepest(most):
            if sum(_asked_rows(request)) <= most:
                return answer()
            return json_reply(400, {"causes": [f"offset: offset + limit must be at most {most}"], "message": "no"})
        case Meanwhile(act):
            act()
            return answer()


class ArmedFaults:
    """The faults, each with its own count of the requests that match it."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self._lock = threading.Lock()
        self._faults = tuple(faults)
        self._matched = [0] * len(self._faults)

    def striking(self, request: Request, in_flight: int) -> list[Fault]:
        striking = []
        with self._lock:
            for place, fault in enumerate(self._faults):
                if fault.when.matches(request, in_flight):
                    self._matched[place] += 1
                    if fault.when.picks(self._matched[place]):
                        striking.append(fault)
        return striking


def _error(status: int) -> Reply:
    if status >= 500:
        return json_reply(status, {"internalCode": str(uuid.uuid4()), "message": "An internal error occurred"})
    if status == 429:
        return Reply(429)
    return json_reply(status, {"message": f"The request was answered with {status}"})


def _cached(cache: Cached, url: str, answer: Callable[[], Reply]) -> Reply:
    kept = cache.kept.get(url)
    if kept is None:
        cache.kept[url] = answer()
        return cache.kept[url]
    if cache.told:
        return replace(kept, headers=(*kept.headers, ("Age", f"{cache.age.total_seconds():.0f}")))
    return replace(kept, dated_off=-cache.age)


def _half(body: bytes) -> bytes:
    return body[: len(body) // 2]


def _emptied(reply: Reply, count: int | None) -> Reply:
    """Without rows, and with this count if one is given."""
    emptied = _edited(reply, "rows", lambda _: b"")
    return emptied if count is None else _edited(emptied, "count", lambda _: b"%d" % count)


def _miscounted(reply: Reply, by: int) -> Reply:
    return _edited(reply, "count", lambda count: b"%d" % (int(count) + by))


def _capped(reply: Reply, request: Request, most: int) -> Reply:
    offset, _ = _asked_rows(request)
    counted = _edited(reply, "count", lambda count: b"%d" % min(int(count), most))
    return _edited(counted, "rows", lambda rows: _first_rows(rows, max(0, most - offset)))


def _first_rows(rows: bytes, most: int) -> bytes:
    return b",".join(msgspec.json.decode(b"[" + rows + b"]", type=list[msgspec.Raw])[:most])


def _asked_rows(request: Request) -> tuple[int, int]:
    """The offset and the limit of a request for segments."""
    asked = dict(request.parameters)
    return int(asked.get("offset", 0)), int(asked.get("limit", 100))


def _edited(reply: Reply, part: str, edit: Callable[[bytes], bytes]) -> Reply:
    """The reply with one part of its body changed, where it has it; every other byte stays, whatever the rows hold."""
    parts = _LISTING.fullmatch(reply.body)
    if reply.status != 200 or parts is None or parts[part] is None:
        return reply
    start, end = parts.span(part)
    return replace(reply, body=reply.body[:start] + edit(parts[part]) + reply.body[end:])
