"""Brings a warehouse to a migration: all in one transaction, one at a time, and tells where a warehouse stands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
from psycopg2 import errors

from aht_pipeline.errors import CannotTell
from aht_pipeline.warehouse.connection import engine
from aht_pipeline.warehouse.tables import SCHEMA

if TYPE_CHECKING:  # Alembic takes longer to import than a command takes to look at the revision
    from alembic.config import Config

_LOCK = 0x6168745F6D696772  # "aht_migr"

# What roles.sql cannot give before there are tables, where it gave the schema to aht_owner; as it gives it afterwards.
_RIGHTS_BY_TABLE = """
    DO $$
    BEGIN
        IF (SELECT nspowner FROM pg_namespace WHERE nspname = 'aht') = to_regrole('aht_owner')::oid
            AND to_regclass('aht.agent_segments') IS NOT NULL
        THEN
            GRANT UPDATE ON aht.agent_segments, aht.rejected_segments TO aht_loader;
            REVOKE INSERT ON aht.alembic_version FROM aht_loader;
            IF to_regclass('aht.names') IS NOT NULL THEN
                GRANT UPDATE ON aht.names, aht.name_revisions TO aht_loader;
            END IF;
        END IF;
    END $$
"""

_ENCODING = sa.text(
    """
    SELECT
        pg_encoding_to_char(encoding) AS encoding,
        quote_ident(current_database()) AS name,
        quote_ident(current_database() || '_utf8') AS other_name,
        (
            SELECT encoding = 6 OR datctype IN ('C', 'POSIX') FROM pg_database WHERE datname = 'template0'
        ) AS template_will_do
    FROM pg_database
    WHERE datname = current_database()
    """
)

_version = sa.table("alembic_version", sa.column("version_num", sa.Text), schema=SCHEMA)


class NotMigrated(CannotTell):
    """The warehouse is not at the migration that this code is written for; the text says what brings it there."""


class WrongEncoding(CannotTell):
    """The database is not in UTF-8, so that it cannot keep every text; this says how to make one that can."""


def upgrade(url: str) -> None:
    """Bring the warehouse to the newest migration; nothing happens when it is there.

    Needs a role that may create schemas, or that owns the schemas `aht` and `reporting`. Raises NotMigrated when a
    newer version of the package migrated it, and WrongEncoding when the database is not in UTF-8.
    """
    from alembic import command

    _migrate(url, lambda config: command.upgrade(config, "head"))


def downgrade(url: str, revision: str) -> None:
    """Undo every migration after this one (`base`: all), and lose what they held; Alembic's own table stays."""
    from alembic import command

    _migrate(url, lambda config: command.downgrade(config, revision))


def head_revision() -> str:
    """The newest migration that this code knows."""
    return max(_known_revisions())


def current_revision(warehouse: sa.Engine) -> str | None:
    """The migration that the warehouse is at; None when it was never migrated."""
    with warehouse.connect() as connection:
        return _current_revision(connection)


def require_current(warehouse: sa.Engine) -> None:
    """Raise NotMigrated unless the warehouse is at this code's newest migration."""
    current, head = current_revision(warehouse), head_revision()
    _refuse_newer(current)
    if current is None:
        raise NotMigrated("the warehouse has not been set up: run `aht-pipeline migrate`")
    if current != head:
        raise NotMigrated(f"the warehouse is at migration {current}, not at {head}: run `aht-pipeline migrate`")


def require_utf8(warehouse: sa.Engine) -> None:
    """Raise WrongEncoding unless the database is in UTF-8."""
    with warehouse.connect() as connection:
        _refuse_other_encodings(connection)


def _migrate(url: str, run: Callable[[Config], None]) -> None:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_script_location()).replace("%", "%%"))
    with engine(url).begin() as connection:
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
        _refuse_other_encodings(connection)
        # Not "if not exists", which needs the right to create even where the schema is there.
        if not connection.scalar(sa.text("SELECT to_regnamespace(:schema) IS NOT NULL"), {"schema": SCHEMA}):
            connection.execute(sa.schema.CreateSchema(SCHEMA))
        _refuse_newer(_current_revision(connection))
        config.attributes["connection"] = connection
        run(config)
        connection.exec_driver_sql(_RIGHTS_BY_TABLE)


def _refuse_other_encodings(connection: sa.Connection) -> None:
    """Also SQL_ASCII, which keeps any bytes, and whose readers must guess what they mean."""
    database = connection.execute(_ENCODING).one()
    if database.encoding != "UTF8":
        locale = "" if database.template_will_do else " LOCALE 'C'"
        raise WrongEncoding(
            f"the warehouse's database {database.name} has the encoding {database.encoding}, which cannot keep every "
            "text (names, emoji), and cannot be changed: make another one, as with CREATE DATABASE "
            f"{database.other_name} ENCODING 'UTF8'{locale} TEMPLATE template0, and name that one in WAREHOUSE_URL"
        )


def _script_location() -> Path:
    """The migrations inside the installed package, else those of the checkout."""
    package = Path(__file__).parents[1]
    packaged = package / "_migrations"
    return packaged if packaged.is_dir() else package.parent / "migrations"


def _known_revisions() -> set[str]:
    """Each migration's number leads its file's name, so that no migration is imported to know it."""
    return {path.name.split("_")[0] for path in (_script_location() / "versions").glob("[0-9]*_*.py")}


def _current_revision(connection: sa.Connection) -> str | None:
    try:
        with connection.begin_nested():
            return connection.scalar(sa.select(_version.c.version_num))
    except sa.exc.ProgrammingError as error:
        if isinstance(error.orig, errors.UndefinedTable):
            return None
        raise


def _refuse_newer(current: str | None) -> None:
    if current is not None and current not in _known_revisions():
        raise NotMigrated(
            f"the warehouse is at migration {current}, which this version of the package does not know "
            f"(its newest is {head_revision()}): upgrade aht-pipeline"
        )
