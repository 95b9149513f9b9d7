"""`psql`: SQL on the warehouse, with the user's psql or the embedded server's."""

from __future__ import annotations

import os
import shutil

import click
import sqlalchemy as sa

from aht_pipeline import embedded
from aht_pipeline.commands.configured import configured
from aht_pipeline.home import warehouse_url
from aht_pipeline.warehouse import libpq_url


def run_psql(only_url: bool, arguments: tuple[str, ...]) -> None:
    """Never returns but for `only_url`: psql takes this process's place, so its exit code is ours."""
    settings = configured()
    url = libpq_url(warehouse_url(settings))
    if only_url:
        click.echo(url)
        return
    # The embedded psql knows no TLS; for a server of the user's own theirs comes first.
    own = None if settings.warehouse_url is None else shutil.which("psql")
    program = own or str(embedded.binaries() / "psql")
    parsed = sa.make_url(url)
    in_sight = sa.URL.create(
        parsed.drivername, parsed.username, None, parsed.host, parsed.port, parsed.database, parsed.query
    )
    password = {"PGPASSWORD": parsed.password} if parsed.password else {}  # not in the process list
    os.execve(  # noqa: S606 - no shell is wanted
        program, [program, "-d", in_sight.render_as_string(), *arguments], {**os.environ, **password}
    )
