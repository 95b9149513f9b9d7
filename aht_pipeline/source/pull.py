"""What a proved pull of a day is, and what the walk needs of the place that keeps its pages."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from aht_pipeline.days import Day


class PageSink(Protocol):
    """Takes the pages of a walk, in order, and can forget those of a walk that proved nothing."""

    def write(self, page: bytes) -> None:
        """Keep one page, exactly as the API sent it."""

    def mark(self) -> int:
        """The place after the last page, for `rewind`."""

    def rewind(self, mark: int) -> None:
        """Forget every page written since `mark`."""


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
