"""A day's pull: read whole and proved, or refused with the reason."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from aht_pipeline.days import Day
from aht_pipeline.source.api import AhtApi, SegmentQuery
from aht_pipeline.source.errors import Forgotten, NotBelieved, Refused
from aht_pipeline.source.prove import prove
from aht_pipeline.source.walk import PageSink

_AGE = re.compile(r"\b(month|day|old|past|back|earl|ago|before)", re.IGNORECASE)


@dataclass(frozen=True)
class DayPull:
    """The facts of one whole, proved pull of a day; its pages are in the sink it was written to.

    reported: distinct segments of the pull (where one walk proved the day: the count that the API reported, unless its
        only page holds a segment twice).
    rows: rows in the pages, repeats included; equal to `reported` when no segment is there twice.
    content_sha256: of the sorted `content_keys` of the distinct rows; equal for equal segments in any order and paging.
    pulled_at: when the pull began (UTC), so that no later change is claimed to be in it.
    requests, retries: HTTP requests to `agent-segments` in all, and how many of them were repeats after a fault.
    """

    account_id: str
    day: Day
    pulled_at: datetime
    reported: int
    rows: int
    content_sha256: str
    requests: int
    retries: int


def pull_day(api: AhtApi, day: Day, sink: PageSink, now: datetime | None = None) -> DayPull:
    """Read a whole day, closed in its half-open window, into `sink`, proved complete.

    The window is asked for with both edges in: rows that closed on an edge may belong to a neighbour.
    Raises Unproved when the segments do not add up, Forgotten when the API refuses the day as too old, NotBelieved
    when it answers with nothing for a day that it may have forgotten, ApiError when a request fails for good.
    """
    pulled_at = now or datetime.now(UTC)
    in_doubt = day.memory_in_doubt(pulled_at)
    try:
        proof = prove(api, SegmentQuery(day.window), sink)
    except Refused as refused:
        if _speaks_of_age(refused, in_doubt):
            raise Forgotten(
                f"{day}: the API no longer holds this day, it remembers one month ({refused}). If the archive has it, "
                f"load it with: aht-pipeline load --from {day} --to {day} --replay"
            ) from None
        raise
    if in_doubt and proof.reported == 0:
        raise NotBelieved(
            f"{day}: the API answered with no segments, but the day is older than 27 days and may be forgotten, so "
            f"that is no proof. If the archive has it, load it with: aht-pipeline load --from {day} --to {day} --replay"
        )
    return DayPull(
        account_id=api.account_id,
        day=day,
        pulled_at=pulled_at,
        reported=proof.reported,
        rows=proof.rows,
        content_sha256=proof.content_sha256,
        requests=proof.requests,
        retries=proof.retries,
    )


def _speaks_of_age(refused: Refused, in_doubt: bool) -> bool:
    """Whether a 400 says that the window begins too far back: its wording is not documented, the name `from` is."""
    of_the_start = [cause for cause in refused.causes if re.match(r"\s*from", cause, re.IGNORECASE)]
    return any(in_doubt or _AGE.search(cause) for cause in of_the_start)
