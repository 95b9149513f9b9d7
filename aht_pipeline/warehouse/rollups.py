"""Rolls up the days whose segments changed, so that reports over years need not read every segment.

The database itself marks what changed and reads marked days from the segments (migration 0003): reports are right
before, during and after a refresh, and only faster afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date

import sqlalchemy as sa

_CHANGED = sa.text("SELECT account_id, close_date FROM aht.changed_days ORDER BY close_date DESC, account_id")
_ROLL_UP = sa.text("SELECT aht.roll_up_day(:account_id, :day)")
_MARK_DIFFERING = sa.text("SELECT account_id, close_date FROM aht.mark_differing_days(:since)")


def changed_days(warehouse: sa.Engine) -> list[tuple[str, date]]:
    """The account and date of every day that changed since it was rolled up, newest first."""
    with warehouse.connect() as connection:
        return [(row.account_id, row.close_date) for row in connection.execute(_CHANGED)]


def refresh_rollups(warehouse: sa.Engine) -> Iterator[tuple[str, date]]:
    """Roll up every day that changed, one transaction each; yields a day when it is done.

    May run beside loads and beside another refresh: a day that changes meanwhile stays marked.
    """
    for account_id, day in changed_days(warehouse):
        if roll_up(warehouse, account_id, day):
            yield account_id, day


def roll_up(warehouse: sa.Engine, account_id: str, day: date) -> bool:
    """Roll up a day if it changed since it was; whether it had."""
    with warehouse.begin() as connection:
        return bool(connection.execute(_ROLL_UP, {"account_id": account_id, "day": day}).scalar_one())


def mark_differing_days(warehouse: sa.Engine, since: date) -> list[tuple[str, date]]:
    """Mark the days from `since` on whose rollups are not what their segments add up to; which they were.

    There are none unless segments were written past the trigger that marks changes. Reports read what is marked from
    the segments at once, and the next refresh rolls it up.
    """
    with warehouse.begin() as connection:
        return [(row.account_id, row.close_date) for row in connection.execute(_MARK_DIFFERING, {"since": since})]
