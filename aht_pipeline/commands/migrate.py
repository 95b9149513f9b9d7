"""`migrate`: the warehouse's schema."""

from __future__ import annotations

import click

from aht_pipeline.commands.configured import configured
from aht_pipeline.home import WAREHOUSE_DATABASE, refuse_other_days, start_server
from aht_pipeline.warehouse import current_revision, engine, upgrade


def run_migrate() -> None:
    settings = configured()
    if settings.warehouse_url is None:
        settings.remember_start_date()
        url = start_server(settings).url(WAREHOUSE_DATABASE)
    else:
        url = settings.warehouse_admin_url or settings.warehouse_url
    before = current_revision(engine(url))
    with engine(url).connect() as connection:
        refuse_other_days(settings, connection, to_come=before is None)
    upgrade(url)
    after = current_revision(engine(url))
    click.echo(f"The warehouse is at migration {after}" + (", as it was." if after == before else "."))
