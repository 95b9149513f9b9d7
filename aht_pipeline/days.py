"""A day as the pipeline counts it: half-open, in the account's time zone, by the close time of its segments."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

LATENESS = timedelta(hours=24)
"""How long after its close a segment may take to appear (AHT API overview: "up to 24 hours")."""

MEMORY_IN_DOUBT = timedelta(days=27)
"""From this age of a day's end on, an empty answer may mean "forgotten": the API keeps a month, at least 28 days."""

MAY_BE_LOST_AFTER = timedelta(days=28)
"""From a day's start: when the API may forget it (the shortest month)."""

IS_LOST_AFTER = timedelta(days=31)
"""From a day's end: when the API has certainly forgotten it (the longest month)."""


@dataclass(frozen=True, order=True)
class Window:
    """A span of close times, `[start, end)`, both aware and in UTC, in whole milliseconds."""

    start: datetime
    end: datetime

    @property
    def start_ms(self) -> int:
        return to_millis(self.start)

    @property
    def end_ms(self) -> int:
        return to_millis(self.end)

    def halves(self) -> tuple[Window, Window] | None:
        """The two halves that meet at one edge, cut on a whole second where there is one; None for a millisecond."""
        start_ms, end_ms = self.start_ms, self.end_ms
        if end_ms - start_ms < 2:
            return None
        middle_ms = (start_ms + end_ms) // 2
        whole_second_ms = middle_ms - middle_ms % 1000
        return self.cut(whole_second_ms if whole_second_ms > start_ms else middle_ms)

    def cut(self, at_ms: int) -> tuple[Window, Window]:
        """The two parts that meet at this moment, epoch milliseconds between the window's edges."""
        middle = from_millis(at_ms)
        return Window(self.start, middle), Window(middle, self.end)

    def __str__(self) -> str:
        return f"{iso(self.start)} to {iso(self.end)}"


@dataclass(frozen=True, order=True)
class Day:
    """One calendar day of an account's time zone (an IANA name): 23, 24 or 25 hours long."""

    date: date
    timezone: str

    @property
    def window(self) -> Window:
        """The day's half-open span in UTC."""
        zone = ZoneInfo(self.timezone)
        start, end = (
            datetime.combine(day, time(), tzinfo=zone).astimezone(UTC)
            for day in (self.date, self.date + timedelta(days=1))
        )
        return Window(start, end)

    def is_settled_by(self, pulled_at: datetime) -> bool:
        """Whether a complete pull at this time holds all late data of the day."""
        return pulled_at > self.window.end + LATENESS

    def memory_in_doubt(self, now: datetime) -> bool:
        """Whether the API may have forgotten the day, so that an answer of nothing is no proof."""
        return now > self.window.end + MEMORY_IN_DOUBT

    @property
    def may_be_lost_after(self) -> datetime:
        return self.window.start + MAY_BE_LOST_AFTER

    @property
    def is_lost_after(self) -> datetime:
        return self.window.end + IS_LOST_AFTER

    def __str__(self) -> str:
        return self.date.isoformat()


def yesterday(timezone: str, now: datetime) -> date:
    """The last complete day in this zone."""
    return now.astimezone(ZoneInfo(timezone)).date() - timedelta(days=1)


def date_range(first: date, last: date) -> Iterator[date]:
    """Every date from `first` to `last`, both in; nothing when `last` comes before `first`."""
    for offset in range((last - first).days + 1):
        yield first + timedelta(days=offset)


def to_millis(moment: datetime) -> int:
    """Epoch milliseconds, exact (never through a float)."""
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def from_millis(epoch_ms: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=epoch_ms)


def iso(moment: datetime) -> str:
    """RFC 3339 in UTC with a `Z`, without needless fraction digits."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
