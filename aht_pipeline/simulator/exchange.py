"""One request and one reply, as the simulator's parts hand them on."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, timedelta
from enum import Enum

import msgspec


class Endpoint(Enum):
    SEGMENTS = "segments"
    TOKEN = "token"  # noqa: S105 - an endpoint's name
    DOMAIN = "domain"
    USERS = "users"
    SKILLS = "skills"
    GROUPS = "groups"
    UNKNOWN = "unknown"


class Sent(Enum):
    """How a reply goes out."""

    WHOLE = "whole"
    SHORT = "short"  # half the body under the whole Content-Length, then the connection ends
    RESET = "reset"  # nothing but a TCP reset


@dataclass(frozen=True)
class Request:
    """What the client asked; `day`: for segments, the UTC day in which the middle of the asked window lies."""

    method: str
    host: str
    path: str
    query: str
    parameters: tuple[tuple[str, str], ...]
    authorization: str = field(repr=False)
    if_match: str
    body: bytes = field(repr=False)
    endpoint: Endpoint
    account: str
    service: str
    day: date | None


@dataclass(frozen=True)
class Reply:
    status: int
    body: bytes = b""
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    sent: Sent = Sent.WHOLE
    dated_off: timedelta = timedelta(0)
    """By how much its `Date` is ahead of this machine's clock."""
    byte_every_s: float = 0
    """Above 0, one byte leaves each so many seconds, of the body or, from `trickles_from_head` on, of all."""
    trickles_from_head: bool = False


def json_reply(status: int, content: object) -> Reply:
    return Reply(status, msgspec.json.encode(content))


def not_found(what: str) -> Reply:
    return json_reply(404, {"message": f"{what} is not known here"})
