"""Connections to the warehouse: which URLs are understood, and how a failure is told without its password."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg2
import sqlalchemy as sa
from psycopg2 import errors
from psycopg2.extensions import TransactionRollbackError
from sqlalchemy.pool import NullPool

from aht_pipeline.errors import AhtError
from aht_pipeline.warehouse.locks import in_the_way

_SCHEMES = ("postgresql", "postgres", "postgresql+psycopg2")

# A parameter of the URL wins over these.
_PARAMETERS = {
    "application_name": "aht_pipeline",
    "connect_timeout": 10,
    "keepalives": 1,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,  # in milliseconds: what was sent and is not acknowledged ends the session
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
    parsed = _parsed(url)
    made = sa.create_engine(
        parsed.set(drivername="postgresql+psycopg2"),
        poolclass=NullPool,
        isolation_level="READ COMMITTED",
        connect_args={name: value for name, value in _PARAMETERS.items() if name not in parsed.query}
        | {"client_encoding": "utf8"},
    )

    has_own_timeout = "lock_timeout" in str(parsed.query.get("options"))
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


def libpq_url(url: str) -> str:
    """The same URL as psql and other clients of libpq read it, password included."""
    rendered = _parsed(url).set(drivername="postgresql").render_as_string(hide_password=False)
    return rendered.replace(" ", "%20")  # SQLAlchemy leaves it in names, and libpq takes it for the end


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


def _parsed(url: str) -> sa.URL:
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        raise WarehouseError(
            "the warehouse's URL cannot be read; it looks like postgresql://user:password@host:5432/database"
        ) from None
    if parsed.drivername not in _SCHEMES:
        raise WarehouseError(
            f"the warehouse's URL begins with {parsed.drivername}://; it must be one of Postgres, "
            "like postgresql://user:password@host:5432/database"
        )
    if "@" in (parsed.host or ""):
        raise WarehouseError("the password in the warehouse's URL holds an @: write it as %40")
    return parsed


def _is_foreseen(error: BaseException) -> bool:
    """A failure of the server or of its rights. A transaction that lost against another one can be tried again."""
    return isinstance(
        error, psycopg2.OperationalError | errors.InsufficientPrivilege | errors.ReadOnlySqlTransaction
    ) and not isinstance(error, TransactionRollbackError)


def _told(error: BaseException, url: sa.URL) -> WarehouseError:
    cause = _last_words(error)
    if url.password:
        cause = cause.replace(str(url.password), "***")
    return WarehouseError(
        f"the warehouse at {_place(url)} failed. Check WAREHOUSE_URL, the server and its rights. Postgres says: {cause}"
    )


def _kept_waiting(warehouse: sa.Engine, error: BaseException) -> WarehouseError:
    with warehouse.connect() as another:  # the one that waited can do nothing before it is rolled back
        holder = in_the_way(another)
    return WarehouseError(
        f"the warehouse at {_place(warehouse.url)} keeps a lock from us: {holder}. Let it finish, or end it there, "
        f"then try again. Postgres says: {_last_words(error)}"
    )


def _last_words(error: BaseException) -> str:
    """The cause in one line. Why the server ended a session libpq knows, where psycopg2 tells only that it ended."""
    cursor = error.cursor if isinstance(error, psycopg2.Error) else None
    words = cursor.connection.info.error_message if cursor is not None and cursor.connection.closed else None
    return " ".join((words or str(error)).split()) or type(error).__name__


def _place(url: sa.URL) -> str:
    host = url.host or url.query.get("host") or "the local socket"
    return f'{host}:{url.port or url.query.get("port") or 5432}, database "{url.database or url.username}"'
