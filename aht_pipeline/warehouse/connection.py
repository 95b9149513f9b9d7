"""Connections to the warehouse: which URLs are understood, and how a failure is told without its password."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg2
import sqlalchemy as sa
from psycopg2 import errors
from psycopg2.extensions import TransactionRollbackError, make_dsn
from sqlalchemy.pool import NullPool

from aht_pipeline.errors import AhtError
from aht_pipeline.postgres_url import PostgresUrl, read_postgres_url
from aht_pipeline.warehouse.locks import in_the_way

# A parameter of the URL wins over these.
_PARAMETERS = {
    "application_name": "aht_pipeline",
    "connect_timeout": "10",
    "keepalives": "1",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",  # in milliseconds: what was sent and is not acknowledged ends the session
}

# At the begin of every transaction, and for it alone: a pooler may give the session to someone else afterwards. The
# server notices a client that fell silent as we notice a server: else the locks of one without power stay for hours.
_LOCK_TIMEOUT = "SET LOCAL lock_timeout = '60s'"
_NOTICE_SILENCE = """
    SET LOCAL tcp_keepalives_idle = 30;
    SET LOCAL tcp_keepalives_interval = 10;
    SET LOCAL tcp_keepalives_count = 3;
    SET LOCAL tcp_user_timeout = '60s'
"""

_COPY_CHUNK = 4 * 1024 * 1024  # a batch in one or two: between chunks, what else runs in the process has its turn

Buffers = Sequence[bytes | memoryview]
"""Bytes that follow each other."""


class WarehouseError(AhtError):
    """The warehouse cannot be reached, or refuses; the text names host, port, database and the cause."""


def engine(url: str) -> sa.Engine:
    """An engine that keeps no connection open and whose foreseen failures are WarehouseErrors.

    No transaction waits longer than 60 s for a lock, unless the URL's `options` set another `lock_timeout`: someone's
    open transaction must not stop the night. Connects on first use. Raises WarehouseError when this is no URL of
    Postgres.
    """
    try:
        target = read_postgres_url(url)
    except ValueError as error:
        raise WarehouseError(f"the warehouse's URL {error}") from None
    dsn = make_dsn(**{**_PARAMETERS, **target.parameters, "client_encoding": "utf8"})
    made = sa.create_engine(
        _for_people(target),
        creator=lambda: psycopg2.connect(dsn),
        poolclass=NullPool,
        isolation_level="READ COMMITTED",
    )

    has_own_timeout = "lock_timeout" in target.parameters.get("options", "")
    bounds = _NOTICE_SILENCE if has_own_timeout else f"{_LOCK_TIMEOUT};{_NOTICE_SILENCE}"

    @sa.event.listens_for(made, "begin")
    def bound_waits(connection: sa.Connection) -> None:
        connection.exec_driver_sql(bounds)

    @sa.event.listens_for(made, "handle_error")
    def tell(context: sa.engine.ExceptionContext) -> None:
        if isinstance(context.original_exception, errors.LockNotAvailable):
            raise _kept_waiting(made, context.original_exception) from context.original_exception
        if context.connection is None or _is_foreseen(context.original_exception):
            raise _told(context.original_exception, made.url) from context.original_exception

    return made


def copy_in(connection: sa.Connection, statement: str, buffers: Buffers) -> None:
    """Run `COPY … FROM STDIN` in the connection's transaction; what it reads is in these buffers, one after the other.

    Raises WarehouseError for foreseen failures, as the engine does; what else psycopg2 raises as it is.
    """
    raw = connection.connection
    try:
        raw.cursor().copy_expert(statement, _Buffers(buffers), _COPY_CHUNK)
    except psycopg2.Error as error:
        if isinstance(error, errors.LockNotAvailable):
            raise _kept_waiting(connection.engine, error) from error
        told = _told(error, connection.engine.url) if _is_foreseen(error) else None
        if raw.driver_connection is None or raw.driver_connection.closed:
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


def _is_foreseen(error: BaseException) -> bool:
    """A failure of the server or of its rights. A transaction that lost against another one can be tried again."""
    return isinstance(
        error, psycopg2.OperationalError | errors.InsufficientPrivilege | errors.ReadOnlySqlTransaction
    ) and not isinstance(error, TransactionRollbackError)


def _told(error: BaseException, url: sa.URL) -> WarehouseError:
    return WarehouseError(
        f"the warehouse at {_place(url)} failed. Check WAREHOUSE_URL, the server and its rights. "
        f"Postgres says: {_last_words(error)}"
    )


def _kept_waiting(warehouse: sa.Engine, error: BaseException) -> WarehouseError:
    with warehouse.connect() as another:  # the one that waited can do nothing before it is rolled back
        holder = in_the_way(another)
    return WarehouseError(
        f"the warehouse at {_place(warehouse.url)} keeps a lock from us: {holder}. Let it finish, or end it there, "
        f"then try again. Postgres says: {_last_words(error)}"
    )


def _last_words(error: BaseException) -> str:
    """The cause in one line. Why the server ended a session libpq knows, where psycopg2 tells only that it ended.

    They need no masking: no statement holds a password, and of its parameters libpq tells host, port, user, database.
    """
    cursor = error.cursor if isinstance(error, psycopg2.Error) else None
    words = cursor.connection.info.error_message if cursor is not None and cursor.connection.closed else None
    return " ".join((words or str(error)).split()) or type(error).__name__


def _place(url: sa.URL) -> str:
    host = url.host or url.query.get("host") or "the local socket"
    return f'{host}:{url.port or url.query.get("port") or 5432}, database "{url.database or url.username}"'
