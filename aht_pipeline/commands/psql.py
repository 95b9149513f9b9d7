"""`psql`: SQL on the warehouse, with the user's psql or the embedded server's."""

from __future__ import annotations

import os
import shutil

import click

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
    plain, password = _without_password(url)
    environment = {**os.environ, "PGPASSWORD": password} if password else dict(os.environ)
    os.execve(program, [program, "-d", plain, *arguments], environment)  # noqa: S606 - no shell is wanted


def _without_password(url: str) -> tuple[str, str | None]:
    """The URL as it may stand in a process list, and the password for psql's environment."""
    from sqlalchemy import make_url

    parsed = make_url(url)
    return parsed.set(password=None).render_as_string(), parsed.password
