"""What Alembic runs for every command: on the connection of `aht_pipeline.warehouse.migrate`, in its transaction.

A developer's own `alembic` command connects to WAREHOUSE_URL instead.
"""

from __future__ import annotations

import os
import re

import sqlalchemy as sa
from alembic import context

from aht_pipeline.warehouse.connection import engine
from aht_pipeline.warehouse.tables import SCHEMA, metadata

_PARTITION = re.compile("daily_rollup_.+")  # of a table that is declared whole


def _is_declared(name: str | None, kind: str, _: object) -> bool:
    if kind == "schema":
        return name == SCHEMA
    return not (kind == "table" and _PARTITION.fullmatch(name or ""))


def run(connection: sa.Connection) -> None:
    # A role that is named like the schema has it as its default, and then autogenerate looks for tables without schema.
    connection.dialect.default_schema_name = "public"
    context.configure(
        connection=connection,
        target_metadata=metadata,
        version_table_schema=SCHEMA,
        include_schemas=True,
        include_name=_is_declared,
        compare_server_default=True,
    )
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    with engine(os.environ["WAREHOUSE_URL"]).begin() as connection:
        run(connection)
