"""What a night does in the warehouse, by the very functions of a night, in a transaction that is rolled back.

So it is known beforehand what would refuse a night in its middle: a right that is missing, a role, a database or a
server that only reads, a full disk, a trigger that is off, a policy on rows. Other loads go on meanwhile: the account
is nobody's, and no lock is taken that excludes anyone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, cast
from uuid import uuid4

import psycopg2
import sqlalchemy as sa
from psycopg2 import errors

from aht_pipeline.days import Day
from aht_pipeline.warehouse.connection import WarehouseError
from aht_pipeline.warehouse.ledger import day_records, loaded_timezone, record_refusal
from aht_pipeline.warehouse.load import LoadFacts, LoadResult, load_day
from aht_pipeline.warehouse.migrate import require_current
from aht_pipeline.warehouse.names import forget_agent_names, known_revision, note_unchanged_names, store_names
from aht_pipeline.warehouse.rollups import changed_days, mark_differing_days, roll_up

_NO_DAY = date(9999, 12, 31)
_KNOWN, _LENGTH = 10, 1_600  # rows, and signs of each: more than fits on a page, so that a disk without room is noticed

# What of roles.sql a night needs; to say what is missing once something was refused.
_RIGHTS = {
    "SELECT": (
        *("agent_segments", "rejected_segments", "loads", "credible_loads", "refused_days", "changed_days"),
        *("names", "former_names", "name_revisions", "alembic_version"),
    ),
    "INSERT": (
        *("agent_segments", "rejected_segments", "loads", "refused_days"),
        *("names", "former_names", "name_revisions"),
    ),
    "UPDATE": ("agent_segments", "rejected_segments", "names", "name_revisions"),
    "EXECUTE": ("roll_up_day", "mark_differing_days", "forget_agent_names"),
}

_MISSING = sa.text(
    """
    SELECT format('%s ON DATABASE %I', needed, current_database()) AS missing
    FROM unnest(ARRAY['TEMPORARY']) AS needed
    WHERE NOT has_database_privilege(current_database(), needed)
    UNION ALL
    SELECT format('%s ON SCHEMA aht', needed)
    FROM unnest(ARRAY['USAGE']) AS needed
    WHERE NOT has_schema_privilege('aht', needed)
    UNION ALL
    SELECT format('%s ON %s', needed, string_agg(format('aht.%I', relname), ', ' ORDER BY relname))
    FROM json_each(CAST(:rights AS json)) AS rights (needed, names)
    JOIN pg_class ON relnamespace = 'aht'::regnamespace AND relname IN (SELECT json_array_elements_text(names))
    WHERE needed <> 'EXECUTE' AND NOT has_table_privilege(pg_class.oid, needed)
    GROUP BY needed
    UNION ALL
    SELECT format('%s ON FUNCTION %s', needed, string_agg(pg_proc.oid::regprocedure::text, ', ' ORDER BY proname))
    FROM json_each(CAST(:rights AS json)) AS rights (needed, names)
    JOIN pg_proc ON pronamespace = 'aht'::regnamespace AND proname IN (SELECT json_array_elements_text(names))
    WHERE needed = 'EXECUTE' AND NOT has_function_privilege(pg_proc.oid, needed)
    GROUP BY needed
    """
)

_WHY_ONLY_READING = sa.text(
    """
    SELECT
        pg_is_in_recovery() AS is_standby,
        source,
        quote_ident(current_user) AS role,
        quote_ident(current_database()) AS database
    FROM pg_settings
    WHERE name = 'default_transaction_read_only'
    """
)


def rehearse_night(warehouse: sa.Engine) -> str:
    """Do what a night does, and undo it; the role that may.

    Raises WarehouseError, which says what would fail a night and what helps, and NotMigrated.
    """
    try:
        with warehouse.connect() as connection, connection.begin() as transaction:
            role = str(connection.scalar(sa.text("SELECT current_user")))
            _rehearse(cast("sa.Engine", _Inside(connection)))
            transaction.rollback()
            return role
    except WarehouseError as error:
        raise _explained(warehouse, error, error.__cause__) from error
    except (sa.exc.DBAPIError, psycopg2.Error) as error:
        cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
        raise _explained(warehouse, error, cause) from error


class _Inside:
    """Stands for an engine: its transactions are parts of one that is open, and end with it, if they do not fail it."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    @contextmanager
    def begin(self) -> Iterator[sa.Connection]:
        yield self._connection

    connect = begin


def _rehearse(warehouse: sa.Engine) -> None:
    require_current(warehouse)
    now = datetime.now(UTC)
    account, day = f"rehearsal {uuid4()}", Day(now.date() - timedelta(days=1), "UTC")  # no real account has a blank
    loaded_timezone(warehouse, account)
    day_records(warehouse, account)
    record_refusal(warehouse, account, day.date, "a rehearsal", now)
    known = [_row(account, day, number) for number in range(_KNOWN)]
    first = _load(warehouse, account, day, *known, _row(account, day, _KNOWN), _row(account, day, _KNOWN + 1, None))
    again = _load(warehouse, account, day, *known, _row(account, day, _KNOWN, 7), _row(account, day, _KNOWN + 1))
    done = (first.inserted, first.rejected, again.inserted, again.updated, again.unchanged)
    if done != (_KNOWN + 1, 1, 1, 1, _KNOWN):
        raise WarehouseError(
            "a load that was rehearsed did not find again what it had written: is there a trigger, a rule or a policy "
            "on rows of aht.agent_segments that is not of aht-pipeline?"
        )
    if (account, day.date) not in changed_days(warehouse):
        raise WarehouseError(
            "a load that was rehearsed was not marked for the reports: switch on the triggers of aht.agent_segments "
            "(ALTER TABLE aht.agent_segments ENABLE TRIGGER ALL), and leave session_replication_role at origin"
        )
    roll_up(warehouse, account, day.date)
    mark_differing_days(warehouse, since=_NO_DAY)
    _read_names(warehouse, account, now)


def _load(warehouse: sa.Engine, account: str, day: Day, *rows: dict[str, Any]) -> LoadResult:
    from aht_pipeline.normalize import normalize

    page = json.dumps({"segments": rows}).encode()
    facts = LoadFacts(
        account_id=account,
        day=day,
        pulled_at=datetime.now(UTC),
        reported=len(rows),
        requests=0,
        archive_file="",
        archive_sha256="",
        dagster_run_id=None,
        max_rejected_percent=100,
    )
    return load_day(warehouse, facts, lambda: normalize([page], day.window))


def _row(account: str, day: Day, number: int, handle_time_ms: int | None = 1) -> dict[str, Any]:
    """A segment as the API sends it, closed at noon; one without a handle time is a reject."""
    noon = datetime.combine(day.date, time(12), UTC).isoformat()
    return {
        "segmentId": f"{account} {number}",
        "conversationId": (account * _LENGTH)[:_LENGTH],
        "agentId": 1,
        "skillId": 1,
        "groupId": 1,
        "startTime": noon,
        "endTime": noon,
        "totalHandleTimeMillis": handle_time_ms,
    }


def _read_names(warehouse: sa.Engine, account: str, now: datetime) -> None:
    from aht_pipeline.source import Name, NameKind, NameList

    known_revision(warehouse, account, NameKind.AGENT)
    for hours, name in enumerate(("a name", "another")):
        listed = NameList(NameKind.AGENT, (Name(1, name, is_deleted=False),), 0, None)
        store_names(warehouse, account, listed, now - timedelta(hours=2 - hours))
    note_unchanged_names(warehouse, account, NameKind.AGENT, now)
    forget_agent_names(warehouse, account)


def _explained(warehouse: sa.Engine, error: Exception, cause: BaseException | None) -> WarehouseError:
    if isinstance(cause, errors.InsufficientPrivilege):
        return _without_rights(warehouse, cause)
    if isinstance(cause, errors.ReadOnlySqlTransaction):
        return _only_reading(warehouse)
    if isinstance(error, WarehouseError):
        return error
    return WarehouseError(f"a load was rehearsed, and failed. Postgres says: {_words(cause or error)}")


def _without_rights(warehouse: sa.Engine, cause: BaseException) -> WarehouseError:
    with warehouse.connect() as connection:
        role = connection.scalar(sa.text("SELECT quote_ident(current_user)"))
        missing = connection.execute(_MISSING, {"rights": json.dumps(_RIGHTS)}).scalars().all()
    grants = "; ".join(f"GRANT {right} TO {role}" for right in missing)
    lacks = f"it lacks {', '.join(missing)}. As their owner: {grants}; or all at once" if missing else "All rights"
    return WarehouseError(
        f"role {role} cannot load, Postgres says: {_words(cause)}: {lacks}: psql -f migrations/roles.sql, then "
        f"GRANT aht_loader TO {role}"
    )


def _only_reading(warehouse: sa.Engine) -> WarehouseError:
    with warehouse.connect() as connection:
        why = connection.execute(_WHY_ONLY_READING).one()
    if why.is_standby:
        return WarehouseError("the server is a standby, which only reads: WAREHOUSE_URL must name the primary")
    fix = {
        "user": f"ALTER ROLE {why.role} RESET default_transaction_read_only",
        "database": f"ALTER DATABASE {why.database} RESET default_transaction_read_only",
        "database user": f"ALTER ROLE {why.role} IN DATABASE {why.database} RESET default_transaction_read_only",
        "client": "take default_transaction_read_only out of WAREHOUSE_URL and PGOPTIONS",
    }.get(why.source, "ALTER SYSTEM RESET default_transaction_read_only, or take it out of postgresql.conf")
    return WarehouseError(
        f"role {why.role} cannot load: its transactions only read (default_transaction_read_only is on). {fix}"
    )


def _words(error: BaseException) -> str:
    return str(error).partition("\n")[0]
