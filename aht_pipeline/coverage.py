"""Which days are loaded, which are missing or lost, and which ones a night should read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum

from aht_pipeline.days import Day, date_range, yesterday
from aht_pipeline.warehouse.ledger import DayRecord


class State(StrEnum):
    """What is known of a day.

    settled: read, complete, more than 24 h after its end. provisional: loaded, but late data may still come.
    missing: not loaded, and the API may still have it. lost: not loaded, and the API no longer has it.
    """

    SETTLED = "settled"
    PROVISIONAL = "provisional"
    MISSING = "missing"
    LOST = "lost"


@dataclass(frozen=True)
class DayState:
    """One day of the calendar with what the ledger knows of it; `record` is None where it knows nothing."""

    day: Day
    state: State
    record: DayRecord | None

    @property
    def lost_after(self) -> datetime | None:
        """When the day may be lost for ever (UTC); None once it is loaded."""
        return None if self.state in (State.SETTLED, State.PROVISIONAL) else self.day.may_be_lost_after


def day_states(records: Mapping[date, DayRecord], start: date, timezone: str, now: datetime) -> list[DayState]:
    """The state of every day from `start` to yesterday, oldest first."""
    return [
        DayState(Day(one, timezone), _state(Day(one, timezone), records.get(one), now), records.get(one))
        for one in date_range(start, yesterday(timezone, now))
    ]


def days_of_the_night(states: Iterable[DayState], lookback_days: int, now: datetime) -> list[date]:
    """The days a nightly run reads: the last `lookback_days`, and every one that is missing or not settled.

    A day that the API no longer has is left alone.
    """
    states = list(states)
    trailing = {state.day for state in states[-lookback_days:]}
    return [
        state.day.date
        for state in states
        if state.day in trailing
        or state.state is State.MISSING
        or (state.state is State.PROVISIONAL and now <= state.day.is_lost_after)
    ]


def ranges(days: Iterable[date]) -> list[tuple[date, date]]:
    """Ascending days as contiguous ranges, both ends in."""
    found: list[tuple[date, date]] = []
    for day in sorted(days):
        if found and (day - found[-1][1]).days == 1:
            found[-1] = (found[-1][0], day)
        else:
            found.append((day, day))
    return found


def _state(day: Day, record: DayRecord | None, now: datetime) -> State:
    if record is not None and record.is_loaded:
        return State.SETTLED if record.settled else State.PROVISIONAL
    refused = record is not None and record.refused_at is not None
    return State.LOST if refused or now > day.is_lost_after else State.MISSING
