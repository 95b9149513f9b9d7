"""`doctor`: each part of the set-up tried for real, one line each, and the fix beside each fault."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import click
import sqlalchemy as sa

from aht_pipeline.commands.configured import configured
from aht_pipeline.days import Window, from_millis, to_millis
from aht_pipeline.errors import AhtError
from aht_pipeline.home import NoHome, open_dagster, refuse_another_timezone, refuse_other_days, warehouse_url
from aht_pipeline.postgres_url import read_postgres_url
from aht_pipeline.settings import Settings
from aht_pipeline.warehouse import (
    NotMigrated,
    WarehouseError,
    agents_named,
    current_revision,
    engine,
    head_revision,
    rehearse_night,
    require_current,
    require_same_time,
    require_utf8,
)

_OLDEST_POSTGRES = 14


def run_doctor() -> int:
    """0 when all is well, 1 when something is not. Raises NoHome, after all other checks, where no home was made."""
    settings = configured()
    account = settings.require_account()
    if not settings.demo:
        settings.require_keys()
    _say(True, "settings", f"account {account}, days of {settings.timezone} since {settings.start_date}")
    faults = 0
    no_home: NoHome | None = None
    for part, check in _CHECKS.items():
        try:
            _say(True, part, check(settings))
        except NoHome as missing:
            no_home = missing
            break  # what comes after it needs the warehouse
        except AhtError as fault:
            faults += 1
            _say(False, part, str(fault))
    if no_home:
        raise no_home
    return 1 if faults else 0


def _say(well: bool, part: str, text: str) -> None:
    mark = click.style("ok   ", fg="green") if well else click.style("FAULT", fg="red")
    click.echo(f"{mark}  {part:<12}{' '.join(text.split())}")


def _api(settings: Settings) -> str:
    from aht_pipeline.home import open_api
    from aht_pipeline.source import SegmentQuery

    end = from_millis(to_millis(datetime.now(UTC)))
    with open_api(settings) as api:
        reply = api.page(SegmentQuery(Window(end - timedelta(hours=24), end)), offset=0, limit=1)
        ahead_s = api.http.clock_ahead_s
    count = "some" if reply.page.count is None else f"{reply.page.count:,}"
    told = "the simulator" if settings.demo else "credentials accepted"
    clock = (
        "its clock is unknown: it dates no reply"
        if ahead_s is None
        else f"its clock is ours within {abs(ahead_s):.0f} s"
    )
    return f"{told}; {count} segments closed in the last 24 hours; {clock}"


def _archive(settings: Settings) -> str:
    from aht_pipeline.archive import Archive

    return Archive(settings.archive_url).check()


def _warehouse(settings: Settings) -> str:
    url = warehouse_url(settings)
    warehouse = engine(url)
    with warehouse.connect() as connection:
        version = connection.scalar(sa.text("SHOW server_version"))
        number = int(connection.scalar(sa.text("SHOW server_version_num")) or 0)
    if number < _OLDEST_POSTGRES * 10_000:
        raise AhtError(f"Postgres {version} is too old: use {_OLDEST_POSTGRES} or newer")
    require_utf8(warehouse)
    return f"Postgres {version} at {read_postgres_url(url).shown}"


def _migrations(settings: Settings) -> str:
    warehouse = engine(warehouse_url(settings))
    require_current(warehouse)
    refuse_another_timezone(settings, warehouse)
    return f"at {current_revision(warehouse)}, the newest"


def _clock(settings: Settings) -> str:
    try:
        with engine(warehouse_url(settings)).connect() as connection:
            ahead = require_same_time(connection)
    except WarehouseError:
        return "unknown: the warehouse cannot be asked"
    return f"within {abs(ahead).total_seconds():.1f} s of Postgres's"


def _days(settings: Settings) -> str:
    with engine(warehouse_url(settings)).connect() as connection:
        refuse_other_days(settings, connection, to_come=True)
    return f"those of {settings.timezone} begin for Postgres as they do here, this coming year, too"


def _load(settings: Settings) -> str:
    try:
        role = rehearse_night(engine(warehouse_url(settings)))
    except NotMigrated:
        return "not rehearsed before the warehouse is migrated"
    return f"rehearsed as role {role}, with names and the sums of reports, and rolled back"


def _names(settings: Settings) -> str:
    """How many agents' ids are users' ids, which no document of LivePerson's says."""
    if not settings.agent_names:
        return "AHT_AGENT_NAMES is off: reports show agents' ids"
    warehouse = engine(warehouse_url(settings))
    if current_revision(warehouse) != head_revision():
        return "none before the warehouse is migrated"
    agents = agents_named(warehouse, settings.require_account())
    if agents is None:
        return "none of agents yet: the schedule nightly_names reads them, or `aht-pipeline load` without days"
    return f"{agents.named:,} of {agents.seen:,} agents of the last 30 days have one; of the others reports show ids"


def _dagster(settings: Settings) -> str:
    if not settings.dagster_home.is_dir():
        return f"{settings.dagster_home} (made by the first load)"
    with open_dagster(settings):
        return f"instance in {settings.dagster_home}"


_CHECKS: dict[str, Callable[[Settings], str]] = {
    "API": _api,
    "archive": _archive,
    "warehouse": _warehouse,
    "clock": _clock,
    "days": _days,
    "migrations": _migrations,
    "load": _load,
    "names": _names,
    "Dagster": _dagster,
}
