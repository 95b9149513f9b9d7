"""The settings a command works with, and what is to be said of them first: of which variables it makes no use."""

from __future__ import annotations

from collections.abc import Sequence

import click

from aht_pipeline.environment import Given
from aht_pipeline.settings import Settings, given_variables, read_demo_settings, read_settings

_ACCOUNT = ("LIVEPERSON_ACCOUNT_ID", "LIVEPERSON_CLIENT_ID", "LIVEPERSON_CLIENT_SECRET")
_WAREHOUSE = ("WAREHOUSE_URL", "AHT_START_DATE")


def configured() -> Settings:
    """The settings of this command's environment. Raises SettingsError before anything is done."""
    settings = read_settings(_given())
    if settings.demo:
        _say(
            f"no LivePerson credentials and no WAREHOUSE_URL are set: using the demo at {settings.home}"
            f"{_unused(settings)}{_way_out(settings)}"
        )
    return settings


def configured_demo() -> Settings:
    """The demo's settings, whatever is configured. Raises SettingsError as above."""
    settings = read_demo_settings(_given())
    _say(f"using the demo at {settings.home}: Postgres, archive and Dagster instance{_unused(settings)}")
    return settings


def _given() -> Given:
    given = given_variables()
    for sentence in given.unknown:
        _say(sentence)
    return given


def _unused(settings: Settings) -> str:
    """The variables that were set for an account, which whoever set them may believe to be at work."""
    if not settings.unused:
        return ""
    return f"; {_listed(settings.unused)} {'is' if len(settings.unused) == 1 else 'are'} set, but not used on the demo"


def _way_out(settings: Settings) -> str:
    if not settings.unused:
        return ""
    missing = [_listed([name for name in names if name not in settings.unused]) for names in (_ACCOUNT, _WAREHOUSE)]
    return f": to leave it, set {', or '.join(missing)}"


def _listed(names: Sequence[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def _say(text: str) -> None:
    click.echo(f"aht-pipeline: {text}", err=True)
