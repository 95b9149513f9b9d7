"""One load of a day at a time: the lock that a load holds, and who holds it when another one cannot."""

from __future__ import annotations

import hashlib
import time
from datetime import timedelta

import sqlalchemy as sa

from aht_pipeline.days import Day, iso
from aht_pipeline.errors import AhtError

_POLL_SECONDS = 0.25

_HOLDER = sa.text(
    """
    SELECT pid, application_name, client_addr, xact_start
    FROM pg_locks
    JOIN pg_stat_activity AS session USING (pid)
    WHERE locktype = 'advisory' AND granted
        AND pg_locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND (classid::bigint << 32) | objid::bigint = :key AND objsubid = 1
    """
)


class DayBusy(AhtError):
    """Another session is loading the same day; the text names it."""


def hold_day(connection: sa.Connection, account_id: str, day: Day, wait: timedelta) -> None:
    """Take the day's lock until the end of the transaction. Raises DayBusy when another session keeps it so long.

    No lock on a table or a row is waited for longer either: someone's open transaction must not stop the night.
    """
    key = _key(account_id, day)
    connection.execute(sa.select(sa.func.set_config("lock_timeout", f"{int(wait.total_seconds() * 1000)}ms", True)))
    deadline = time.monotonic() + wait.total_seconds()
    while not connection.scalar(sa.select(sa.func.pg_try_advisory_xact_lock(key))):
        if time.monotonic() >= deadline:
            raise DayBusy(
                f"day {day} of account {account_id} is being loaded by {_holder(connection, key)}; waited "
                f"{wait.total_seconds():g} s. Let it finish, or end it there, then load the day again."
            )
        time.sleep(_POLL_SECONDS)


def _key(account_id: str, day: Day) -> int:
    digest = hashlib.sha256(f"aht_pipeline load\0{account_id}\0{day}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def _holder(connection: sa.Connection, key: int) -> str:
    holder = connection.execute(_HOLDER, {"key": key}).first()
    if holder is None:
        return "a session that has just ended"
    since = f", since {iso(holder.xact_start)}" if holder.xact_start else ""
    return (
        f"process {holder.pid} of the server ({holder.application_name or 'an application without a name'} "
        f"from {holder.client_addr or 'a local or hidden address'}{since})"
    )
