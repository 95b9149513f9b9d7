"""Clocks: by ours a day is settled and a pull is newer than another, so it must agree with everyone else's."""

from __future__ import annotations

from datetime import datetime, timedelta

from aht_pipeline.days import iso
from aht_pipeline.errors import CannotTell

CLOCK_TOLERANCE = timedelta(minutes=2)
"""How far two clocks may differ and be taken for one: far more than NTP leaves, far less than matters to a day."""


class ClockOff(CannotTell):
    """This machine's clock and another one differ by minutes, so that nothing may be loaded by either."""


def require_same_clock(ours: datetime, theirs: datetime, whose: str) -> None:
    """Raise ClockOff where this machine's clock differs from another's (both aware), read at the same moment.

    whose: whose clock `theirs` is, as it stands in the sentence "that of …".
    """
    ahead = ours - theirs
    if abs(ahead) > CLOCK_TOLERANCE:
        raise ClockOff(
            f"this machine's clock says {iso(ours)}, that of {whose} {iso(theirs)}: it is {difference(ahead)}. Nothing "
            "is loaded by such a clock: days would be called settled too early, or corrections taken for older than "
            "what they correct. Set it right (NTP), then try again"
        )


def when_read(theirs: datetime, asked_at: datetime, answered_at: datetime) -> datetime:
    """What our clock said when another one was read, which was between these two: a slow answer is no difference."""
    return min(max(theirs, asked_at), answered_at)


def difference(ahead: timedelta) -> str:
    """By how much a clock is off, for people: `3 h 2 min ahead`, `12 min behind`."""
    hours, minutes = divmod(round(abs(ahead) / timedelta(minutes=1)), 60)
    span = f"{hours} h {minutes} min" if hours else f"{minutes} min"
    return f"{span} {'ahead' if ahead > timedelta(0) else 'behind'}"
