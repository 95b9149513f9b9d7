"""Why the server or a pooler refused us, in its own words, and what to do about it."""

from __future__ import annotations

from contextlib import closing, suppress

import psycopg2

from aht_pipeline.postgres_url import PostgresUrl
from aht_pipeline.warehouse.session import Session, connect

# What others may set that refuses us, by the code of Postgres's error.
_REFUSING = {"25006": "default_transaction_read_only", "53400": "temp_file_limit"}
# These can end a session of ours only before its own bounds hold, which takes no more than milliseconds.
_TIME_OUTS = {
    "57014": "statement_timeout",
    "25P03": "idle_in_transaction_session_timeout",
    "25P04": "transaction_timeout",
    "57P05": "idle_session_timeout",
}
SETTING_CODES = _REFUSING.keys() | _TIME_OUTS.keys()
"""The codes of Postgres's errors that a setting brings about."""

_SET_BY_OTHERS = """
    SET LOCAL search_path = pg_catalog, pg_temp;
    SELECT format(
        CASE
            WHEN setrole = 0 AND setdatabase = 0 THEN 'ALTER ROLE ALL RESET %%1$s'
            WHEN setrole = 0 THEN 'ALTER DATABASE %%2$I RESET %%1$s'
            WHEN setdatabase = 0 THEN 'ALTER ROLE %%3$I RESET %%1$s'
            ELSE 'ALTER ROLE %%3$I IN DATABASE %%2$I RESET %%1$s'
        END,
        split_part(entry, '=', 1), current_database(), session_user
    )
    FROM pg_db_role_setting
    CROSS JOIN unnest(setconfig) AS entry
    WHERE setrole IN (0, session_user::regrole)
        AND setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
        AND split_part(entry, '=', 1) = ANY (%(settings)s)
    ORDER BY 1
"""
_TRIES = 3  # a time-out of a millisecond may end them, too

_POOLER = {
    "statement pooling mode": "PgBouncer must pool by transaction or by session here: set its pool_mode so.",
    "unsupported startup parameter": "PgBouncer refuses a parameter of the session: name it in PgBouncer's "
    "ignore_startup_parameters, or take it out of the URL.",
}
"""What PgBouncer says, and what to do about it."""


def code_of(error: BaseException) -> str | None:
    """Postgres's code of an error, as far as psycopg2 knows it."""
    return error.pgcode if isinstance(error, psycopg2.Error) else None


def last_words(error: BaseException, session: Session | None) -> str:
    """The cause in one line. Why the server ended a session libpq knows, where psycopg2 tells only that it ended.

    They need no masking: no statement holds a password, and of its parameters libpq tells host, port, user, database.
    """
    words = session.info.error_message if session is not None and session.closed else None
    return " ".join((words or str(error)).split()) or type(error).__name__


def what_to_do(error: BaseException, target: PostgresUrl, session: Session | None) -> str | None:
    """The fix, where the cause is known to be a pooler, or a setting of the role or the database; else None."""
    words = last_words(error, session)
    fix = next((fix for said, fix in _POOLER.items() if said in words), None)
    return fix or set_by_others(target, _suspects(error, session))


def set_by_others(target: PostgresUrl, settings: list[str]) -> str | None:
    """Which of these the role or the database sets, and what removes them; None where neither sets one."""
    for _ in range(_TRIES if settings else 0):
        with suppress(psycopg2.Error), closing(connect(target)) as session, session.cursor() as cursor:
            session.autocommit = True  # all in one message: the session is never idle in a transaction
            cursor.execute("BEGIN;" + session.bounds + _SET_BY_OTHERS, {"settings": settings})
            found = "; ".join(statement for (statement,) in cursor.fetchall())
            return f"A setting of the role or the database is in the way; this removes it: {found}." if found else None
    return None


def _suspects(error: BaseException, session: Session | None) -> list[str]:
    """Settings that may have brought this about."""
    code = code_of(error) or ""
    if code in _REFUSING:
        return [_REFUSING[code]]
    if session is not None and session.is_bound:
        return []
    was_ended = session is not None and session.closed != 0
    return list(_TIME_OUTS.values()) if was_ended or code in _TIME_OUTS else []
