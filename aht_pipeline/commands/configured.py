"""The settings a command works with, and the one line that says when these are the demo's."""

from __future__ import annotations

import click

from aht_pipeline.settings import Settings, read_settings


def configured() -> Settings:
    """The settings of this command's environment. Raises SettingsError before anything is done."""
    settings = read_settings()
    if settings.demo:
        click.echo(
            f"aht-pipeline: no LivePerson credentials and no WAREHOUSE_URL are set: using the demo at {settings.home}",
            err=True,
        )
    return settings
