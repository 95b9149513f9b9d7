"""One load of a day at a time: the lock that a load holds, and who holds what another one cannot get."""

from __future__ import annotations

import hashlib
import time
from datetime import timedelta
from typing import Any

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

# Who waited does not wait any more, so this finds the likeliest: whoever has, or is next to have, the lock that
# excludes most. What only reads comes last, as it stops a migration and no load.
_IN_THE_WAY = sa.text(
    """
    SELECT pid, application_name, client_addr, xact_start, mode, granted, nspname || '.' || relname AS locked
    FROM pg_locks
    JOIN pg_stat_activity AS session USING (pid)
    JOIN pg_class ON pg_class.oid = relation
    JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE locktype = 'relation' AND nspname IN ('aht', 'reporting')
        AND pg_locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    ORDER BY
        mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock') DESC,
        mode <> 'AccessShareLock' DESC,
        granted DESC,
        xact_start
    LIMIT 1
    """
)


class DayBusy(AhtError):
    """Another session is loading the same day; the text names it."""


def hold_day(connection: sa.Connection, account_id: str, day: Day, wait: timedelta) -> None:
    """Take the day's lock until the end of the transaction. Raises DayBusy when another session keeps it so long."""
    key = _key(account_id, day)
    deadline = time.monotonic() + wait.total_seconds()
    while not connection.scalar(sa.select(sa.func.pg_try_advisory_xact_lock(key))):
        if time.monotonic() >= deadline:
            raise DayBusy(
                f"day {day} of account {account_id} is being loaded by {_holder(connection, key)}; waited "
                f"{wait.total_seconds():g} s. Let it finish, or end it there, then load the day again."
            )
        time.sleep(_POLL_SECONDS)


def in_the_way(connection: sa.Connection) -> str:
    """Which session's lock on a table of ours, or on rows of it, another one waited for in vain."""
    holder = connection.execute(_IN_THE_WAY).first()
    if holder is None:
        return "a session that has just ended"
    return f"{_session(holder)} {'holds' if holder.granted else 'waits for'} {holder.mode} on {holder.locked}"


def _key(account_id: str, day: Day) -> int:
    digest = hashlib.sha256(f"aht_pipeline load\0{account_id}\0{day}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def _holder(connection: sa.Connection, key: int) -> str:
    holder = connection.execute(_HOLDER, {"key": key}).first()
    if holder is None:
        return "a session that has just ended"
    return _session(holder)


def _session(row: Any) -> str:
    since = f", since {iso(row.xact_start)}" if row.xact_start else ""
    return (
        f"process {row.pid} of the server ({row.application_name or 'an application without a name'} "
        f"from {row.client_addr or 'a local or hidden address'}{since})"
    )
