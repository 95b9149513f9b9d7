"""The production set-up of `deploy/`: its files start Dagster as they stand there, and show no secret."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from configparser import ConfigParser
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError

import dagster as dg
import psutil
import pytest
import sqlalchemy as sa
from dagster._core.test_utils import create_run_for_test

from aht_pipeline.commands.remains import this_process
from aht_pipeline.embedded import EmbeddedServer
from aht_pipeline.settings import Variables
from aht_pipeline.warehouse import engine
from aht_pipeline_tests.test_dagster import Ui

CHECKOUT = Path(__file__).parents[1]
DEPLOY = CHECKOUT / "deploy"
UNITS = sorted(DEPLOY.glob("*.service"))

READY_S = 60


@pytest.fixture
def role(embedded_server: EmbeddedServer, database_url: str) -> Iterator[sa.URL]:
    """The URL of the database for a role that owns it, and has a password that nothing else contains."""
    name, password = f"dagster_{uuid.uuid4().hex}", f"secret/{uuid.uuid4().hex}"
    url = sa.make_url(database_url)
    with engine(database_url).connect() as connection:
        administer = connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql
        administer(f"CREATE ROLE {name} LOGIN PASSWORD '{password}'")
        administer(f"ALTER DATABASE {url.database} OWNER TO {name}")
        yield url.set(username=name, password=password)
        administer(f"REASSIGN OWNED BY {name} TO {url.username}")
        administer(f"DROP ROLE {name}")


@pytest.fixture
def environment(tmp_path: Path, role: sa.URL) -> dict[str, str]:
    """What `env.example`, filled in, sets for the services, as a shell reads it; in directories of this test."""
    filled_in = tmp_path / "env"
    shown = role.render_as_string(hide_password=False)
    text = (DEPLOY / "env.example").read_text().replace("/var/lib/aht", str(tmp_path / "state"))
    text = text.replace("postgresql+psycopg2://dagster:PASSWORD@HOST:5432/dagster", shown)
    filled_in.write_text(text)
    others = {name: value for name, value in os.environ.items() if name.lower() not in Variables.model_fields}
    printed = subprocess.run(
        ["sh", "-c", f"set -a; . {filled_in}; env -0"], env=others, capture_output=True, text=True, check=True
    ).stdout
    environment = dict(line.split("=", 1) for line in printed.split("\0") if line)
    assert environment["DAGSTER_PG_URL"] == shown
    dagster_home = Path(environment["DAGSTER_HOME"])
    dagster_home.mkdir(parents=True)
    shutil.copy(DEPLOY / "dagster.yaml", dagster_home)
    return environment


@pytest.fixture
def instance(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    monkeypatch.setenv("DAGSTER_PG_URL", environment["DAGSTER_PG_URL"])
    with dg.DagsterInstance.from_config(environment["DAGSTER_HOME"]) as instance:
        yield instance


def test_the_services_run_the_nights_on_storage_in_postgres_and_show_no_password(
    environment: dict[str, str], instance: dg.DagsterInstance, role: sa.URL
) -> None:
    with services(environment) as (ui, processes):
        schedules = ("nightly_agent_segments", "weekly_agent_segments", "nightly_names")
        assert states_of_schedules(ui) == dict.fromkeys(schedules, "RUNNING")
        until(lambda: all_healthy(ui))
        lines = [line for process in processes for line in command_lines(process)]
        assert all(any(part in line for line in lines) for part in ("dagster_webserver", "dagster._daemon", "api grpc"))
        assert not [line for line in lines if str(role.password).removeprefix("secret/") in line]
    assert {"runs", "event_logs", "instigators"} <= set(
        sa.inspect(engine(environment["DAGSTER_PG_URL"])).get_table_names(schema="public")
    )
    assert not list(Path(environment["DAGSTER_HOME"]).rglob("*.db"))


def test_what_a_power_cut_left_running_gives_its_place_back(
    environment: dict[str, str], instance: dg.DagsterInstance
) -> None:
    cut_off = create_run_for_test(instance, status=dg.DagsterRunStatus.STARTED)
    loads_by_hand = create_run_for_test(instance, status=dg.DagsterRunStatus.STARTED, tags=this_process())
    subprocess.run(command_of(DEPLOY / "aht-daemon.service", "ExecStartPre"), env=environment, check=True)
    assert status_of(instance, cut_off) is dg.DagsterRunStatus.FAILURE
    assert status_of(instance, loads_by_hand) is dg.DagsterRunStatus.STARTED


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: str(unit.name))
def test_systemd_finds_no_fault_in_a_unit(unit: Path, tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("no systemd-analyze here")
    here = tmp_path / unit.name
    here.write_text(unit.read_text().replace("/opt/aht-pipeline/venv/bin/python", sys.executable))
    done = subprocess.run(["systemd-analyze", "verify", here], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def command_of(unit: Path, what: str = "ExecStart") -> list[str]:
    """A command line of a unit, with this environment and this checkout in the place of those of /opt."""
    parser = ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(unit)
    line = parser["Service"][what].replace("/opt/aht-pipeline/source", str(CHECKOUT))
    return shlex.split(line.replace("/opt/aht-pipeline/venv/bin/python", sys.executable))


@contextmanager
def services(environment: dict[str, str]) -> Iterator[tuple[Ui, list[psutil.Popen]]]:
    """Both services as their units start them, the UI on a port of its own; ended as systemd ends them."""
    port = free_port()
    commands = [command_of(unit) for unit in UNITS]
    assert all(command[:2] == [sys.executable, "-m"] for command in commands)
    commands = [[str(port) if part == "3000" else part for part in command] for command in commands]
    state = Path(environment["AHT_HOME"])
    with (state / "log").open("w") as log:
        started = [psutil.Popen(command, cwd=state, env=environment, stdout=log, stderr=log) for command in commands]
        try:
            ui = Ui(f"http://127.0.0.1:{port}")
            until(lambda: answers(ui), started)
            yield ui, started
        finally:
            everyone = [one for process in started for one in [*process.children(recursive=True), process]]
            for process in everyone:
                process.terminate()
            for process in psutil.wait_procs(everyone, timeout=20)[1]:
                process.kill()


def answers(ui: Ui) -> bool:
    try:
        location = ui.ask("{ workspaceOrError { ... on Workspace { locationEntries { loadStatus } } } }")
    except URLError:
        return False
    entries = location["workspaceOrError"]["locationEntries"]
    return bool(entries) and all(entry["loadStatus"] == "LOADED" for entry in entries)


def states_of_schedules(ui: Ui) -> dict[str, str]:
    locations = ui.ask(
        "{ repositoriesOrError { ... on RepositoryConnection { nodes { schedules { name scheduleState { status } } } } "
        "} }"
    )["repositoriesOrError"]["nodes"]
    return {one["name"]: one["scheduleState"]["status"] for node in locations for one in node["schedules"]}


def all_healthy(ui: Ui) -> bool:
    """Whether the daemon that starts what is scheduled, and the one that starts what is queued, have reported."""
    found = ui.ask("{ instance { daemonHealth { allDaemonStatuses { daemonType required healthy } } } }")
    statuses = found["instance"]["daemonHealth"]["allDaemonStatuses"]
    required = {one["daemonType"]: one["healthy"] for one in statuses if one["required"]}
    return {"SCHEDULER", "QUEUED_RUN_COORDINATOR", "MONITORING"} <= required.keys() and all(required.values())


def command_lines(process: psutil.Popen) -> list[str]:
    return [" ".join(one.cmdline()) for one in [process, *process.children(recursive=True)]]


def until(done: Callable[[], bool], processes: Sequence[psutil.Popen] = ()) -> None:
    give_up_at = time.monotonic() + READY_S
    while not done():
        assert time.monotonic() < give_up_at, "not ready"
        assert all(process.poll() is None for process in processes), "a service ended by itself"
        time.sleep(0.5)


def status_of(instance: dg.DagsterInstance, run: dg.DagsterRun) -> dg.DagsterRunStatus:
    found = instance.get_run_by_id(run.run_id)
    assert found
    return found.status


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
