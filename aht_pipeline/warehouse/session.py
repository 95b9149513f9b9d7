"""A session of ours on the server, and what holds in each of its transactions whatever a role or a database sets."""

from __future__ import annotations

import re

import psycopg2
from psycopg2.extensions import make_dsn

from aht_pipeline.postgres_url import PostgresUrl

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

# Only these bound a transaction of ours. What the URL's `options` say of one holds instead, also behind a pooler that
# passes over them. The order counts: what others set may be too short for what follows.
_BOUNDS = {
    "statement_timeout": "0",
    "transaction_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "lock_timeout": "60s",
}
_SINCE = {"transaction_timeout": 170000}  # the server's version, as libpq tells it
_OPTION = re.compile(r"(?:-c\s*|--)([A-Za-z_-]+)=(\S*)")

# The server notices a client that fell silent as we notice a server: else the locks of one without power stay for
# hours. And what else may be set so that the same statement reads or writes something else, or is lost by a crash
# after it was called done. (A backslash is no trap: psycopg2 quotes by the session's standard_conforming_strings.)
_SETTINGS = """
    SET LOCAL tcp_keepalives_idle = 30;
    SET LOCAL tcp_keepalives_interval = 10;
    SET LOCAL tcp_keepalives_count = 3;
    SET LOCAL tcp_user_timeout = '60s';
    SET LOCAL search_path = pg_catalog, pg_temp;
    SET LOCAL DateStyle = 'ISO, MDY';
    SET LOCAL IntervalStyle = 'postgres';
    SET LOCAL TimeZone = 'UTC';
    SET LOCAL extra_float_digits = 1;
    SET LOCAL array_nulls = on;
    SET LOCAL transform_null_equals = off;
    SET LOCAL synchronous_commit = on;
    SHOW session_replication_role
"""


class Session(psycopg2.extensions.connection):
    """A connection that knows where it leads. is_bound: whether a transaction of it has begun with our own bounds."""

    target: PostgresUrl
    is_bound = False

    @property
    def bounds(self) -> str:
        """Statements that bound a transaction, and nothing after it: a pooler may give the session to someone else."""
        options = _OPTION.findall(self.target.parameters.get("options", ""))
        named = {name.lower().replace("-", "_"): value for name, value in options}
        return "".join(
            "SET LOCAL {} = '{}';".format(name, named.get(name, value).replace("'", "''"))
            for name, value in _BOUNDS.items()
            if self.info.server_version >= _SINCE.get(name, 0)
        )

    @property
    def at_begin(self) -> str:
        """What is run first in every transaction; its result is the session's replication role.

        No query is among it, after which a transaction could not become one that reads only, or that writes.
        """
        return self.bounds + _SETTINGS


def connect(target: PostgresUrl) -> Session:
    """A new session, in UTF-8. Raises psycopg2.Error."""
    dsn = make_dsn(**{**_PARAMETERS, **target.parameters, "client_encoding": "utf8"})
    session = psycopg2.connect(dsn, connection_factory=Session)
    session.target = target
    return session
