"""Connections to the warehouse: an engine whose foreseen failures are told, and COPY."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg2
import sqlalchemy as sa
from psycopg2 import errors
from psycopg2.extensions import TransactionRollbackError
from sqlalchemy.pool import NullPool

from aht_pipeline.errors import AhtError
from aht_pipeline.postgres_url import PostgresUrl, read_postgres_url
from aht_pipeline.warehouse.locks import in_the_way
from aht_pipeline.warehouse.refusals import SETTING_CODES, code_of, last_words, set_by_others, what_to_do
from aht_pipeline.warehouse.session import Session, connect

_COPY_CHUNK = 4 * 1024 * 1024  # a batch in one or two: between chunks, what else runs in the process has its turn

Buffers = Sequence[bytes | memoryview]
"""Bytes that follow each other."""


class WarehouseError(AhtError):
    """The warehouse cannot be reached, or refuses; the text names host, port, database and the cause."""


def engine(url: str) -> sa.Engine:
    """An engine that keeps no connection open and whose foreseen failures are WarehouseErrors.

    Its transactions read and write the same whatever the role or the database sets, and no time-out of theirs ends
    them. None waits longer than 60 s for a lock: someone's open transaction must not stop the night. A time-out that
    the URL's `options` set holds. Connects on first use. Raises WarehouseError when this is no URL of Postgres.
    """
    try:
        target = read_postgres_url(url)
    except ValueError as error:
        raise WarehouseError(f"the warehouse's URL {error}") from None
    made = sa.create_engine(
        _for_people(target),
        creator=lambda: connect(target),
        poolclass=NullPool,
        isolation_level="READ COMMITTED",
        use_native_hstore=False,  # no column is one, and to look for it would take a statement of every session
    )

    @sa.event.listens_for(made, "begin")
    def set_for_the_transaction(connection: sa.Connection) -> None:
        session = _session(connection)
        role = connection.exec_driver_sql(session.at_begin).scalar()
        session.is_bound = True
        if role == "replica":
            raise _without_triggers(target)

    @sa.event.listens_for(made, "handle_error")
    def tell(context: sa.engine.ExceptionContext) -> None:
        error, connection = context.original_exception, context.connection
        if isinstance(error, errors.LockNotAvailable):
            raise _kept_waiting(made, target, error) from error
        if connection is None:
            session = error.cursor.connection if isinstance(error, psycopg2.Error) and error.cursor else None
            raise _told(error, target, session if isinstance(session, Session) else None) from error
        if _is_foreseen(error):
            raise _told(error, target, None if connection.invalidated else _session(connection)) from error

    return made


def copy_in(connection: sa.Connection, statement: str, buffers: Buffers) -> None:
    """Run `COPY … FROM STDIN` in the connection's transaction; what it reads is in these buffers, one after the other.

    Raises WarehouseError for foreseen failures, as the engine does; what else psycopg2 raises as it is.
    """
    session = _session(connection)
    try:
        connection.connection.cursor().copy_expert(statement, _Buffers(buffers), _COPY_CHUNK)
    except psycopg2.Error as error:
        if isinstance(error, errors.LockNotAvailable):
            raise _kept_waiting(connection.engine, session.target, error) from error
        told = _told(error, session.target, session) if _is_foreseen(error) else None
        if session.closed:
            connection.invalidate(error)  # else the roll-back fails, and hides why
        if told:
            raise told from error
        raise


class _Buffers:
    """Reads as a file what would have to be copied to be one."""

    def __init__(self, buffers: Buffers) -> None:
        self._chunks = (
            buffer[at : at + _COPY_CHUNK] for buffer in buffers for at in range(0, len(buffer), _COPY_CHUNK)
        )

    def read(self, size: int) -> bytes:
        del size  # psycopg2 always asks for a chunk
        return bytes(next(self._chunks, b""))


def _for_people(target: PostgresUrl) -> sa.URL:
    """What an engine shows of itself, the password hidden; it connects by the parameters as libpq reads them."""
    parameters = target.parameters
    port = parameters.get("port", "")
    return sa.URL.create(
        "postgresql+psycopg2",
        parameters.get("user"),
        target.password,
        parameters.get("host"),
        int(port) if port.isdecimal() else None,
        parameters.get("dbname"),
    )


def _session(connection: sa.Connection) -> Session:
    session = connection.connection.driver_connection
    assert isinstance(session, Session)  # noqa: S101 - as the engine made it
    return session


def _is_foreseen(error: BaseException) -> bool:
    """A failure of the server or of its rights. A transaction that lost against another one can be tried again."""
    if isinstance(error, TransactionRollbackError):
        return False
    return (
        isinstance(error, psycopg2.OperationalError | errors.InsufficientPrivilege) or code_of(error) in SETTING_CODES
    )


def _told(error: BaseException, target: PostgresUrl, session: Session | None) -> WarehouseError:
    fix = what_to_do(error, target, session) or "Check WAREHOUSE_URL, the server and its rights."
    return WarehouseError(f"the warehouse at {target.place} failed. {fix} Postgres says: {last_words(error, session)}")


def _without_triggers(target: PostgresUrl) -> WarehouseError:
    fix = set_by_others(target, ["session_replication_role"]) or "Set it to origin."
    return WarehouseError(
        f"the warehouse at {target.place} runs our sessions without triggers (session_replication_role is replica), so "
        f"that reports would not follow what is loaded. {fix}"
    )


def _kept_waiting(warehouse: sa.Engine, target: PostgresUrl, error: BaseException) -> WarehouseError:
    with warehouse.connect() as another:  # the one that waited can do nothing before it is rolled back
        holder = in_the_way(another)
    return WarehouseError(
        f"the warehouse at {target.place} keeps a lock from us: {holder}. Let it finish, or end it there, "
        f"then try again. Postgres says: {last_words(error, None)}"
    )
