"""`psql`: SQL on the warehouse, with the user's psql or the embedded server's."""

from __future__ import annotations

import os
import shutil

import click

from aht_pipeline import embedded
from aht_pipeline.commands.configured import configured
from aht_pipeline.errors import CannotTell
from aht_pipeline.home import warehouse_url
from aht_pipeline.postgres_url import PostgresUrl, read_postgres_url


def run_psql(only_url: bool, arguments: tuple[str, ...]) -> None:
    """Never returns but for `only_url`: psql takes this process's place, so its exit code is ours."""
    settings = configured()
    url = read_postgres_url(warehouse_url(settings))
    if only_url:
        click.echo(url.complete)
        return
    # The embedded psql knows no TLS; for a server of the user's own theirs comes first.
    own = None if settings.warehouse_url is None else shutil.which("psql")
    program = own or str(embedded.binaries() / "psql")
    environment = {**os.environb, **_password(url)}
    os.execve(program, [program, "-d", url.shown, *arguments], environment)  # noqa: S606 - no shell is wanted


def _password(url: PostgresUrl) -> dict[bytes, bytes]:
    """As psql takes it unseen: its arguments stand in the process list."""
    if url.password is None:
        return {}
    if "service" in url.parameters or "PGSERVICE" in os.environ:
        raise CannotTell(
            "psql cannot be given the password of WAREHOUSE_URL beside a service, whose own password would win: "
            "write the password into the service's section, and leave it out of WAREHOUSE_URL"
        )
    return {b"PGPASSWORD": url.password.encode()}
