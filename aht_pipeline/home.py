"""Opens what the settings name: the warehouse, the API, the archive, and Dagster's own home."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
from filelock import FileLock

from aht_pipeline import embedded
from aht_pipeline.credentials import ClientCredentialKeys
from aht_pipeline.errors import CannotTell, SettingsError
from aht_pipeline.settings import DEMO_ACCOUNT, Settings
from aht_pipeline.warehouse import (
    NotMigrated,
    engine,
    loaded_timezone,
    require_current,
    require_same_days,
    require_same_time,
    require_utf8,
    upgrade,
)

if TYPE_CHECKING:  # what needs no API and no Dagster starts without them
    import dagster as dg

    from aht_pipeline.pipeline import Pipeline
    from aht_pipeline.source import AhtApi

API_POOL = "aht_api"
"""Runs take turns in it, as far as the instance limits it: two backfills ask the API no more than one does."""

WAREHOUSE_DATABASE = "warehouse"
DAGSTER_DATABASE = "dagster"

_DEMO_SEGMENTS_A_DAY = 2_000
_A_YEAR = timedelta(days=366)


class NoHome(CannotTell):
    """There is no warehouse to look at yet, and looking does not make one."""


def open_warehouse(settings: Settings) -> sa.Engine:
    """The warehouse, ready to be loaded.

    The embedded server is started where it is not running, and migrated. A given one is used as it is: raises
    NotMigrated where it is not at the newest migration, WrongEncoding where it is not in UTF-8. Raises SettingsError
    when it was loaded in another time zone, and when days are others for Postgres; ClockOff when its clock is minutes
    from ours.
    """
    url = settings.warehouse_url or start_server(settings).url(WAREHOUSE_DATABASE)
    warehouse = engine(url)
    with warehouse.connect() as connection:
        require_same_time(connection)
    if settings.warehouse_url is None:
        settings.remember_start_date()
        try:
            require_current(warehouse)
        except NotMigrated:
            upgrade(url)
    else:
        require_utf8(warehouse)
        require_current(warehouse)
    loaded = refuse_another_timezone(settings, warehouse)
    with warehouse.connect() as connection:
        refuse_other_days(settings, connection, to_come=loaded is None)
    return warehouse


def look_at_warehouse(settings: Settings) -> sa.Engine:
    """The warehouse for reading only: nothing is made or migrated. Raises NoHome where there is none yet."""
    warehouse = engine(warehouse_url(settings))
    require_current(warehouse)
    return warehouse


def look_at_reports(settings: Settings) -> sa.Engine:
    """The warehouse for whoever may read the schema `reporting`, and perhaps nothing else.

    Raises NoHome as above, and NotMigrated where the reports are not there.
    """
    warehouse = engine(warehouse_url(settings))
    with warehouse.connect() as connection:
        if connection.scalar(sa.text("SELECT to_regclass('reporting.skill_interval') IS NULL")):
            raise NotMigrated("the warehouse has no view reporting.skill_interval: run `aht-pipeline migrate`")
    return warehouse


def warehouse_url(settings: Settings) -> str:
    """The warehouse's URL, of the running embedded server or as given. Starts a server that was made before.

    Raises NoHome, naming the path, where no embedded server was ever made.
    """
    if settings.warehouse_url is not None:
        return settings.warehouse_url
    if not embedded.exists(settings.home):
        raise NoHome(f"there is no warehouse at {settings.home}: run `{first_command(settings)}` to make one")
    return start_server(settings).url(WAREHOUSE_DATABASE)


def first_command(settings: Settings) -> str:
    return "aht-pipeline demo" if settings.demo else "aht-pipeline load"


def start_server(settings: Settings) -> embedded.EmbeddedServer:
    """The home's embedded server, started where it is not running."""
    return embedded.start(settings.home, (WAREHOUSE_DATABASE, DAGSTER_DATABASE))


def refuse_another_timezone(settings: Settings, warehouse: sa.Engine) -> str | None:
    """A day of another zone is another day: mixing them would count segments twice or not at all in reports.

    Returns the zone that the warehouse was loaded with; None where nothing of the account was.
    """
    if settings.account_id is None:
        return None
    loaded = loaded_timezone(warehouse, settings.account_id)
    if loaded is not None and loaded != settings.timezone:
        raise SettingsError(
            f"AHT_TIMEZONE is {settings.timezone}, but this warehouse was loaded with {loaded}: set it to {loaded}, "
            "or load another warehouse"
        )
    return loaded


def refuse_other_days(settings: Settings, connection: sa.Connection, *, to_come: bool) -> None:
    """Raise SettingsError where a day since the start date is another one for Postgres than for us.

    to_come: whether days of the coming year count, too: a zone cannot be changed any more once days are loaded by it.
    """
    if settings.account_id is None:
        return
    today = datetime.now(UTC).date()
    last = today + _A_YEAR if to_come else today
    require_same_days(connection, min(settings.start_date, last), last, settings.timezone)


@contextmanager
def open_pipeline(settings: Settings) -> Iterator[Pipeline]:
    """Everything that days run through; the API is connected when the first day is pulled."""
    from aht_pipeline.archive import Archive
    from aht_pipeline.pipeline import Pipeline

    with ExitStack() as stack:
        pipeline = Pipeline(
            account_id=settings.require_account(),
            archive=Archive(settings.archive_url),
            warehouse=open_warehouse(settings),
            connect=lambda: stack.enter_context(open_api(settings)),
            max_rejected_percent=settings.max_rejected_percent,
        )
        stack.callback(pipeline.close)
        yield pipeline


@contextmanager
def open_api(settings: Settings) -> Iterator[AhtApi]:
    """The AHT API of the account; for the demo a simulator in this process, which serves the same days to every one."""
    from aht_pipeline.source import AhtApi

    if settings.demo:
        from aht_pipeline.simulator import Credentials, GeneratedTraffic, Simulator

        known = Credentials()
        keys = ClientCredentialKeys(known.client_id, known.client_secret)
        traffic = GeneratedTraffic(account=DEMO_ACCOUNT, segments_per_day=_DEMO_SEGMENTS_A_DAY)
        with Simulator(traffic, account=DEMO_ACCOUNT, credentials=known) as simulator:
            yield AhtApi(DEMO_ACCOUNT, keys, api_url=simulator.url)
        return
    api = AhtApi(
        settings.require_account(),
        settings.require_keys(),
        service_urls=settings.service_urls,
        api_url=settings.api_url,
        domain_api_url=settings.domain_api_url,
        source=settings.source,
        page_size=settings.page_size,
        concurrency=settings.concurrency,
    )
    try:
        yield api
    finally:
        api.close()


def prepare_dagster_home(settings: Settings) -> Path:
    """Dagster's home, with our instance file in it; one that the user gave is used as it is.

    Storage is a database of its own on the embedded server, or SQLite beside a given warehouse: never the warehouse.
    """
    home = settings.dagster_home
    home.mkdir(parents=True, exist_ok=True)
    if settings.dagster_home_is_given:
        return home
    made = home / ".made"
    with FileLock(home / ".lock"):
        text = _INSTANCE
        if settings.warehouse_url is None:
            url = _url_without_password(start_server(settings).url(DAGSTER_DATABASE), home / "pgpass")
            text += f"storage:\n  postgres:\n    postgres_url: {url}\n"
        else:
            folders = {"history": "history", "runs": "history/runs", "schedules": "schedules"}
            text += _SQLITE.format(**{name: json.dumps(str(home / folder)) for name, folder in folders.items()})
        _write_private(home / "dagster.yaml", text)
        if not made.exists():
            _make_storage(home)
            made.touch()
    return home


@contextmanager
def open_dagster(settings: Settings) -> Iterator[dg.DagsterInstance]:
    """Dagster's instance, seen to work. Raises SettingsError where its file or its storage does not let it."""
    import dagster as dg

    with ExitStack() as stack:
        try:
            instance = stack.enter_context(dg.DagsterInstance.from_config(str(settings.dagster_home)))
            _make_ready(instance)
        except Exception as error:  # noqa: BLE001 - whatever its storage raises
            raise SettingsError(
                f"the Dagster instance in {settings.dagster_home} cannot be used ({type(error).__name__}): check its "
                "dagster.yaml, and that its storage is up; DAGSTER_HOME says which instance is used"
            ) from None
        yield instance


def _url_without_password(url: str, pass_file: Path) -> str:
    """The same database, its password in a file for libpq: Dagster shows the URL to every user, in the process list."""
    database = sa.make_url(url)
    _write_private(pass_file, f"{database.host}:{database.port}:*:{database.username}:{database.password}\n")
    shown = sa.URL.create(
        "postgresql+psycopg2",
        database.username,
        host=database.host,
        port=database.port,
        database=database.database,
        query={"passfile": str(pass_file)},
    )
    return shown.render_as_string()


def _make_storage(home: Path) -> None:
    """Have Dagster make its tables, once: two processes that do it at the same moment leave two heads of migrations."""
    import dagster as dg

    with dg.DagsterInstance.from_config(str(home)) as instance:
        _make_ready(instance)


def _make_ready(instance: dg.DagsterInstance) -> None:
    """Its tables are there, and its pool has its limit: Dagster gives it that only after the first runs."""
    instance.get_run_records(limit=1)
    storage = instance.event_log_storage
    if instance.global_op_concurrency_default_limit and API_POOL not in storage.get_concurrency_keys():
        storage.initialize_concurrency_limit_to_default(API_POOL)


def _write_private(path: Path, text: str) -> None:
    """Whole or not at all, readable by nobody else: it may hold a password."""
    draft = path.with_name(f".{path.name}.draft")
    draft.unlink(missing_ok=True)
    draft.touch(mode=0o600)
    draft.write_text(text)
    draft.replace(path)


_INSTANCE = """\
# Written by aht-pipeline at every start. To use another instance, set DAGSTER_HOME.
telemetry:
  enabled: false
nux:
  enabled: false
# What a run says is in the event log; capturing its stdout takes two more processes, and grows for ever.
compute_logs:
  module: dagster._core.storage.noop_compute_log_manager
  class: NoOpComputeLogManager
python_logs:
  managed_python_loggers: [aht_pipeline]
  python_log_level: INFO
concurrency:
  runs:
    max_concurrent_runs: 4
  pools:
    granularity: run
    default_limit: 1
run_monitoring:
  enabled: true
  start_timeout_seconds: 300
  cancel_timeout_seconds: 180
  max_runtime_seconds: 21600
run_retries:
  enabled: true
  max_retries: 1
  retry_on_asset_or_op_failure: false
retention:
  schedule:
    purge_after_days: 90
  sensor:
    purge_after_days:
      skipped: 7
      success: 90
      failure: 90
"""

# As Dagster keeps them by default, but for the event log's class.
_SQLITE = """\
run_storage:
  module: dagster._core.storage.runs
  class: SqliteRunStorage
  config: {{base_dir: {history}}}
event_log_storage:
  module: aht_pipeline.defs.event_log
  class: KeptOpenEventLog
  config: {{base_dir: {runs}}}
schedule_storage:
  module: dagster._core.storage.schedules
  class: SqliteScheduleStorage
  config: {{base_dir: {schedules}}}
"""
