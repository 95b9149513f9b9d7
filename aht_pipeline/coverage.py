"""Which days are loaded, which are missing or lost, and which ones a night should read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum
from statistics import median

from aht_pipeline.days import Day, date_range, iso, yesterday
from aht_pipeline.warehouse.ledger import DayRecord

WARNING_BEFORE_LOSS = timedelta(days=7)

_WEEKS_TO_KNOW_A_WEEKDAY = 4
_DEVIATIONS_OF_A_DISTANCE = 1.4826  # of the median's: what makes it a standard deviation, where days are normal


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


def days_in_memory(states: Iterable[DayState], now: datetime) -> list[date]:
    """The days that the API surely still remembers: what a re-read of everything reads."""
    return [state.day.date for state in states if now <= state.day.may_be_lost_after]


def usual_volume_from(volumes: Sequence[int]) -> int | None:
    """The least number of segments that is normal for a day, by those of its weekday before; None for too few of them.

    Three times their usual distance from their median below it, which is taken as a tenth of the median at least.
    """
    if len(volumes) < _WEEKS_TO_KNOW_A_WEEKDAY:
        return None
    usual = median(volumes)
    distance = max(_DEVIATIONS_OF_A_DISTANCE * median(abs(volume - usual) for volume in volumes), usual / 10)
    return max(0, math.ceil(usual - 3 * distance))


@dataclass(frozen=True)
class Gaps:
    """Days that are not loaded and cannot be any more (`lost`), or only for a week (`soon_lost`); oldest first."""

    lost: list[DayState]
    soon_lost: list[DayState]

    @property
    def text(self) -> str:
        """What to know and to do, in a line each; empty where there is no gap."""
        lines = []
        if self.soon_lost:
            first = self.soon_lost[0].day
            lines.append(
                f"{_spans(self.soon_lost)}: not loaded, and may be lost for ever from "
                f"{iso(first.may_be_lost_after)} on. Load them now: aht-pipeline load --from {first} "
                f"--to {self.soon_lost[-1].day}"
            )
        if self.lost:
            lines.append(
                f"{_spans(self.lost)}: lost, the API no longer has them. Only a pull in the archive can still be "
                f"loaded: aht-pipeline load --from {self.lost[0].day} --to {self.lost[-1].day} --replay"
            )
        return "\n".join(lines)


def gaps(states: Iterable[DayState], now: datetime) -> Gaps:
    """The days that are lost, and those that are missing with less than a week left."""
    states = list(states)
    return Gaps(
        lost=[state for state in states if state.state is State.LOST],
        soon_lost=[
            state
            for state in states
            if state.state is State.MISSING and now > state.day.may_be_lost_after - WARNING_BEFORE_LOSS
        ],
    )


def _spans(states: Iterable[DayState]) -> str:
    return ", ".join(
        str(first) if first == last else f"{first} to {last}"
        for first, last in ranges(state.day.date for state in states)
    )


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
