"""What Dagster shows: exactly the failed days red, the schedule on, and what each materialisation says of itself."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
from dagster._core.storage.event_log import SqliteEventLogStorage

from aht_pipeline.days import Day, date_range
from aht_pipeline.defs import build_defs
from aht_pipeline.defs.event_log import KeptOpenEventLog
from aht_pipeline.settings import Variables, read_settings
from aht_pipeline.simulator import ErrorStatus, ExplicitTraffic, GeneratedTraffic, Simulator, When, segment
from aht_pipeline.warehouse import engine
from aht_pipeline.warehouse.tables import agent_segments
from aht_pipeline_tests import loading
from aht_pipeline_tests.loading import batch
from aht_pipeline_tests.outside import COMMAND, NO_NIGHT_NOW, YESTERDAY, Outside, days_ago, eventually, of_account

FIRST = days_ago(12)
POISONED = days_ago(6)


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator(GeneratedTraffic(segments_per_day=60)) as running:
        yield running


@pytest.fixture
def account(tmp_path: Path, simulator: Simulator, database_url: str) -> Outside:
    return of_account(tmp_path, simulator, database_url, start=FIRST)


@dataclass(frozen=True)
class Ui:
    """The running UI, asked as a browser asks it."""

    url: str

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.url}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as reply:
            answer = json.load(reply)
        assert "errors" not in answer, answer
        data: dict[str, Any] = answer["data"]
        return data

    def days(self, status: str) -> dict[str, set[str]]:
        """The days that the UI shows in this status, of each asset."""
        nodes = self.ask(
            "{ assetNodes { assetKey { path } assetPartitionStatuses { ... on TimePartitionStatuses { ranges "
            "{ startKey endKey status } } } } }"
        )["assetNodes"]
        return {
            node["assetKey"]["path"][-1]: {
                str(day)
                for span in node["assetPartitionStatuses"]["ranges"]
                if span["status"] == status
                for day in date_range(date.fromisoformat(span["startKey"]), date.fromisoformat(span["endKey"]))
            }
            for node in nodes
            if "ranges" in node["assetPartitionStatuses"]  # not of an asset without partitions
        }

    def launch_backfill(self, first: date, last: date, *assets: str) -> str:
        """Ask for a backfill of these days, both in; its id."""
        launched = self.ask(
            "mutation($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) "
            "{ ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }",
            params={
                "assetSelection": [{"path": [asset]} for asset in assets or ("raw_agent_segments", "agent_segments")],
                "partitionNames": [str(day) for day in date_range(first, last)],
            },
        )["launchPartitionBackfill"]
        return str(launched["backfillId"])

    def backfill_ends(self, backfill_id: str) -> str:
        """Wait for a backfill (its daemon looks for work every 30 s) and return its last status."""
        give_up_at = time.monotonic() + 180
        status = "REQUESTED"
        while status in ("REQUESTED", "FAILING") and time.monotonic() < give_up_at:
            time.sleep(1)
            backfill = self.ask(
                "query($id: String!) { partitionBackfillOrError(backfillId: $id) "
                "{ ... on PartitionBackfill { status } } }",
                id=backfill_id,
            )
            status = backfill["partitionBackfillOrError"]["status"]
        return status

    def spans_of_steps(self, backfill_ids: list[str]) -> list[tuple[float, float]]:
        """When each run of these backfills began to work and was done, in seconds since 1970."""
        runs = self.ask(
            "{ runsOrError { ... on Runs { results { stepStats { startTime endTime } tags { key value } } } } }"
        )["runsOrError"]["results"]
        return [
            (step["startTime"], step["endTime"])
            for run in runs
            for tag in run["tags"]
            if tag["key"] == "dagster/backfill" and tag["value"] in backfill_ids
            for step in run["stepStats"]
        ]

    def runs_of(self, backfill_id: str) -> list[dict[str, str]]:
        """The tags of each run of a backfill."""
        found = self.ask(
            "query($tags: [ExecutionTag!]) { runsOrError(filter: { tags: $tags }) { ... on Runs { results { runId tags "
            "{ key value } } } } }",
            tags=[{"key": "dagster/backfill", "value": backfill_id}],
        )["runsOrError"]["results"]
        return [{tag["key"]: tag["value"] for tag in run["tags"]} for run in found]


@contextmanager
def running_ui(account: Outside) -> Iterator[Ui]:
    with account.up() as url:
        yield Ui(url)


def test_exactly_the_failed_day_of_a_backfill_is_red_and_a_retry_runs_only_that(
    account: Outside, simulator: Simulator
) -> None:
    everything = {str(day) for day in date_range(FIRST, YESTERDAY)}
    simulator.set_faults(ErrorStatus(403, when=When(day=POISONED)))
    account.home.mkdir()
    (account.home / ".env").write_text("AHT_TIMEZONE=Europe/London\n")  # not for processes that have their settings
    with running_ui(account) as ui:
        schedules = ui.ask(
            '{ schedulesOrError(repositorySelector: { repositoryName: "__repository__", repositoryLocationName: '
            '"aht_pipeline.definitions" }) { ... on Schedules { results { name cronSchedule executionTimezone '
            "scheduleState { status } } } } }"
        )["schedulesOrError"]["results"]
        assert {
            one["name"]: (one["cronSchedule"], one["executionTimezone"], one["scheduleState"]["status"])
            for one in schedules
        } == {
            "nightly_agent_segments": (NO_NIGHT_NOW, "UTC", "RUNNING"),
            "nightly_names": (NO_NIGHT_NOW, "UTC", "RUNNING"),
            "weekly_agent_segments": ("45 5 * * 0", "UTC", "RUNNING"),
        }
        assert simulator.requests == []  # nothing is loaded before the first tick
        assert ui.ask('{ instance { concurrencyLimit(concurrencyKey: "aht_api") { slotCount } } }') == {
            "instance": {"concurrencyLimit": {"slotCount": 1}}
        }

        launched = ui.launch_backfill(FIRST, YESTERDAY)
        assert ui.backfill_ends(launched) == "COMPLETED_FAILED"
        assert len(ui.runs_of(launched)) == 1
        assert ui.days("MATERIALIZED") == in_both_assets(everything - {str(POISONED)})
        assert ui.days("FAILED") == in_both_assets({str(POISONED)})

        simulator.set_faults()
        retried = ui.ask(
            "mutation($params: ReexecutionParams!) { reexecutePartitionBackfill(reexecutionParams: $params) "
            "{ ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }",
            params={"parentRunId": launched, "strategy": "FROM_FAILURE"},
        )["reexecutePartitionBackfill"]["backfillId"]
        assert ui.backfill_ends(retried) == "COMPLETED_SUCCESS"
        assert [_days_of(run) for run in ui.runs_of(retried)] == [(str(POISONED), str(POISONED))]
        assert ui.days("MATERIALIZED") == in_both_assets(everything)

        eventually(lambda: account.query("SELECT count(*) FROM aht.changed_days") == [(0,)])
        rolled_up = account.query("SELECT sum(segments) FROM aht.daily_rollup WHERE grain = 'agent'")
        assert rolled_up == account.query("SELECT count(*) FROM aht.agent_segments")
    assert account.query("SELECT count(*), count(DISTINCT day) FROM aht.loads") == [(12, 12)]


def in_both_assets(days: set[str]) -> dict[str, set[str]]:
    return {"raw_agent_segments": days, "agent_segments": days}


def _days_of(tags: dict[str, str]) -> tuple[str, str]:
    if day := tags.get("dagster/partition"):
        return day, day
    return tags["dagster/asset_partition_range_start"], tags["dagster/asset_partition_range_end"]


@pytest.fixture
def definitions(account: Outside, monkeypatch: pytest.MonkeyPatch) -> dg.Definitions:
    return definitions_of(account, monkeypatch)


def definitions_of(account: Outside, monkeypatch: pytest.MonkeyPatch) -> dg.Definitions:
    for name in Variables.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in account.variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AHT_HOME", str(account.home))
    monkeypatch.chdir(account.directory)
    return build_defs(read_settings())


def materialise(
    definitions: dg.Definitions, instance: dg.DagsterInstance, first: date, last: date, *assets: str
) -> dg.ExecuteInProcessResult:
    return definitions.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=instance,
        asset_selection=[dg.AssetKey(asset) for asset in assets or ("raw_agent_segments", "agent_segments")],
        tags={
            "dagster/asset_partition_range_start": str(first),
            "dagster/asset_partition_range_end": str(last),
        },
        raise_on_error=False,
    )


def metadata_of(instance: dg.DagsterInstance, asset: str, day: date) -> dict[str, Any]:
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=dg.AssetKey(asset), asset_partitions=[str(day)]), limit=1
    ).records
    materialization = records[0].asset_materialization
    assert materialization
    return {name: value.value for name, value in materialization.metadata.items()}


def test_either_asset_can_be_materialised_alone(definitions: dg.Definitions, simulator: Simulator) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        assert not materialise(definitions, instance, days_ago(3), YESTERDAY, "agent_segments").success
        assert simulator.requests == []
        assert materialise(definitions, instance, days_ago(3), YESTERDAY, "raw_agent_segments").success
        requests = len(simulator.requests)
        assert materialise(definitions, instance, days_ago(3), YESTERDAY, "agent_segments").success
        assert len(simulator.requests) == requests
        for asset in ("raw_agent_segments", "agent_segments"):
            three_days = {str(day) for day in date_range(days_ago(3), YESTERDAY)}
            assert instance.get_materialized_partitions(dg.AssetKey(asset)) == three_days


def test_what_was_changed_past_the_trigger_fails_the_audit_of_the_rollups(
    definitions: dg.Definitions, account: Outside
) -> None:
    def audit() -> tuple[bool, str]:
        with dg.DagsterInstance.ephemeral() as instance:
            result = materialise(definitions, instance, YESTERDAY, YESTERDAY, "reporting_rollups")
        assert result.success
        (check,) = result.get_asset_check_evaluations()
        return check.passed, check.description or ""

    with dg.DagsterInstance.ephemeral() as instance:
        assert materialise(definitions, instance, YESTERDAY, YESTERDAY).success
    assert audit() == (True, "")
    with engine(account.variables["WAREHOUSE_URL"]).begin() as connection:
        connection.execute(sa.text("SET LOCAL session_replication_role = replica"))
        connection.execute(sa.text("UPDATE aht.agent_segments SET total_handle_time_ms = total_handle_time_ms + 1"))
    passed, told = audit()
    assert not passed
    assert f"{YESTERDAY} of account" in told
    assert "trigger" in told
    assert audit() == (True, "")


def test_the_event_log_that_is_kept_open_is_the_one_that_dagster_keeps(account: Outside) -> None:
    account.run("load", "--from", str(days_ago(2)))
    home = account.home / "dagster"
    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert isinstance(instance.event_log_storage, KeptOpenEventLog)
        (run,) = instance.get_runs()
        kept_open = instance.all_logs(run.run_id)
    dagsters_own = SqliteEventLogStorage(str(home / "history" / "runs"))
    assert dagsters_own.get_logs_for_run(run.run_id) == kept_open
    assert dagsters_own.get_materialized_partitions(dg.AssetKey("agent_segments")) == {
        str(day) for day in date_range(days_ago(2), YESTERDAY)
    }


def test_a_materialisation_says_what_was_loaded(definitions: dg.Definitions, simulator: Simulator) -> None:
    count = len(simulator.traffic.day(YESTERDAY))
    with dg.DagsterInstance.ephemeral() as instance:
        assert materialise(definitions, instance, days_ago(2), YESTERDAY).success
        loaded = metadata_of(instance, "agent_segments", YESTERDAY)
        pulled = metadata_of(instance, "raw_agent_segments", YESTERDAY)
    assert {name: loaded[name] for name in ("reported", "inserted", "updated", "unchanged", "rejected")} == {
        "reported": count,
        "inserted": count,
        "updated": 0,
        "unchanged": 0,
        "rejected": 0,
    }
    assert loaded["dagster/partition_row_count"] == pulled["dagster/partition_row_count"] == count
    assert loaded["window_start"] == f"{YESTERDAY}T00:00:00Z"
    assert loaded["state"] == "provisional"
    assert loaded["complete"] is True
    assert (loaded["loaded"], loaded["late"]) == (count, 0)
    assert (pulled["requests"], pulled["retries"]) == (loaded["requests"], loaded["retries"]) == (1, 0)
    assert pulled["seconds_api"] > 0
    assert min(loaded["seconds_normalize"], loaded["seconds_load"]) > 0
    assert pulled["archive_file"] == loaded["archive_file"]


def test_what_the_api_added_is_shown(definitions: dg.Definitions, account: Outside, simulator: Simulator) -> None:
    new = segment(1, noon_of(YESTERDAY), endReason="newReason", mood="good")
    simulator.traffic = ExplicitTraffic([new])
    with dg.DagsterInstance.ephemeral() as instance:
        assert materialise(definitions, instance, YESTERDAY, YESTERDAY).success
        loaded = metadata_of(instance, "agent_segments", YESTERDAY)
    assert loaded["unknown_fields"] == ["mood"]
    assert loaded["unknown_end_reasons"] == ["newReason"]
    assert account.query("SELECT end_reason, extra FROM aht.agent_segments") == [("newReason", {"mood": "good"})]


def test_the_asset_shows_the_tables_columns_and_their_comments(definitions: dg.Definitions) -> None:
    schema = definitions.resolve_asset_graph().get(dg.AssetKey("agent_segments")).metadata["dagster/column_schema"]
    shown = {column.name: column.description for column in schema.columns}
    assert shown == {column.name: column.comment for column in agent_segments.columns}


def spans_of(definitions: dg.Definitions, schedule: str) -> list[tuple[str, str]]:
    """The ranges of days that a tick of this schedule asks runs for, now."""
    with dg.DagsterInstance.ephemeral() as instance:
        tick = dg.build_schedule_context(
            instance=instance,
            scheduled_execution_time=datetime.now(UTC),
            repository_def=definitions.get_repository_def(),
        )
        requests = definitions.resolve_schedule_def(schedule).evaluate_tick(tick).run_requests or []
    assert {request.tags["dagster/priority"] for request in requests} == {"10"}  # before a backfill's, which have 0
    for request in requests:  # what failed in the run is told of by the assets that it names
        assert {key.to_user_string() for key in request.asset_selection or ()} == {
            "raw_agent_segments",
            "agent_segments",
        }
    return [_days_of(dict(request.tags)) for request in requests]


def test_the_night_reads_trailing_missing_and_unsettled_days_one_run_a_range(
    definitions: dg.Definitions, account: Outside
) -> None:
    account.run("load", "--from", days_ago(8), "--to", days_ago(2))
    assert spans_of(definitions, "nightly_agent_segments") == [
        (str(FIRST), str(days_ago(9))),
        (str(days_ago(3)), str(YESTERDAY)),
    ]


def test_the_schedules_are_in_the_zone_and_at_the_time_of_the_settings(
    account: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    account.variables |= {"AHT_TIMEZONE": "Asia/Kathmandu", "AHT_SCHEDULE": "5 4 * * 1-5"}
    definitions = definitions_of(account, monkeypatch)
    night, week = (definitions.resolve_schedule_def(f"{each}_agent_segments") for each in ("nightly", "weekly"))
    names = definitions.resolve_schedule_def("nightly_names")
    assert (night.cron_schedule, night.execution_timezone) == ("5 4 * * 1-5", "Asia/Kathmandu")
    assert (names.cron_schedule, names.execution_timezone) == ("5 4 * * 1-5", "Asia/Kathmandu")
    assert week.execution_timezone == "Asia/Kathmandu"
    days = definitions.resolve_asset_graph().get(dg.AssetKey("agent_segments")).partitions_def
    assert isinstance(days, dg.DailyPartitionsDefinition)
    assert days.timezone == "Asia/Kathmandu"


def test_the_week_reads_every_day_that_the_api_remembers(definitions: dg.Definitions) -> None:
    assert spans_of(definitions, "weekly_agent_segments") == [(str(FIRST), str(YESTERDAY))]


def evaluations(
    instance: dg.DagsterInstance, result: dg.ExecuteInProcessResult, check: str
) -> list[dg.AssetCheckEvaluation]:
    """What was found by this check, oldest first."""
    logged = instance.all_logs(result.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION)
    found = [entry.get_dagster_event().asset_check_evaluation_data for entry in logged]
    return [evaluation for evaluation in found if evaluation.check_name == check]


def test_each_day_has_a_check_that_says_whether_it_is_complete(
    definitions: dg.Definitions, simulator: Simulator
) -> None:
    simulator.set_faults(ErrorStatus(403, when=When(day=days_ago(2))))
    with dg.DagsterInstance.ephemeral() as instance:
        result = materialise(definitions, instance, days_ago(3), YESTERDAY)
        assert not result.success
        found = {one.partition: one for one in evaluations(instance, result, "complete")}
    assert {day: one.passed for day, one in found.items()} == {
        str(days_ago(3)): True,
        str(days_ago(2)): False,
        str(YESTERDAY): True,
    }
    good = found[str(YESTERDAY)]
    assert good.metadata["reported"].value == len(simulator.traffic.day(YESTERDAY))
    assert good.target_materialization_data is not None
    assert "403" in (found[str(days_ago(2))].description or "")


def test_an_error_that_nobody_foresaw_fails_its_day_and_no_other(definitions: dg.Definitions, account: Outside) -> None:
    with engine(account.variables["WAREHOUSE_URL"]).begin() as connection:
        connection.execute(
            sa.text(
                "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE division_by_zero; END';"
                "CREATE TRIGGER refuse BEFORE INSERT ON aht.agent_segments FOR EACH ROW "
                f"WHEN (new.end_time >= '{days_ago(2)}Z' AND new.end_time < '{YESTERDAY}Z') EXECUTE FUNCTION refuse()"
            )
        )
    with dg.DagsterInstance.ephemeral() as instance:
        result = materialise(definitions, instance, days_ago(3), YESTERDAY)
        found = {one.partition: one for one in evaluations(instance, result, "complete")}
        materialised = instance.get_materialized_partitions(dg.AssetKey("agent_segments"))
    assert materialised == {str(days_ago(3)), str(YESTERDAY)}
    assert "unforeseen, please report it" in (found[str(days_ago(2))].description or "")
    assert account.query("SELECT day FROM aht.loads ORDER BY day") == [(days_ago(3),), (YESTERDAY,)]


def test_a_day_with_too_many_rejects_fails_its_check_and_nothing_of_it_is_loaded(
    account: Outside, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator.traffic = ExplicitTraffic(
        segment(100 * age + number, noon_of(days_ago(age)), agentId=None if number < bad else 7)
        for age, bad in ((1, 3), (2, 2), (3, 0))
        for number in range(8)
    )
    account.variables["AHT_MAX_REJECTED_PERCENT"] = "30"
    definitions = definitions_of(account, monkeypatch)
    with dg.DagsterInstance.ephemeral() as instance:
        result = materialise(definitions, instance, days_ago(3), YESTERDAY)
        found = {one.partition: one for one in evaluations(instance, result, "few_rejects")}
        within = {one.partition: one.passed for one in evaluations(instance, result, "within_the_day")}
    assert {day: one.passed for day, one in found.items()} == {
        str(days_ago(3)): True,
        str(days_ago(2)): True,
        str(YESTERDAY): False,
    }
    assert within == {str(days_ago(3)): True, str(days_ago(2)): True}
    assert "agentId: null" in (found[str(YESTERDAY)].description or "")
    assert account.query("SELECT max(day) FROM aht.loads") == [(days_ago(2),)]


def test_a_day_with_far_fewer_segments_than_its_weekday_has_is_warned_of_and_loaded(
    account: Outside, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse = engine(account.variables["WAREHOUSE_URL"])
    for weeks, volume in enumerate((50, 48, 55, 47), 1):
        noon = noon_of(YESTERDAY - timedelta(weeks=weeks))
        of_the_day = batch(*(loading.segment(1000 * weeks + number, end_time=noon) for number in range(volume)))
        loading.load(warehouse, of_the_day, day=Day(noon.date(), "UTC"), account_id="demo")
    simulator.traffic = ExplicitTraffic(
        segment(100 * age + number, noon_of(days_ago(age)))
        for age, volume in ((1, 20), (2, 7))
        for number in range(volume)
    )
    definitions = definitions_of(account, monkeypatch)
    with dg.DagsterInstance.ephemeral() as instance:
        result = materialise(definitions, instance, days_ago(2), YESTERDAY)
        (low,) = [one for one in evaluations(instance, result, "usual_volume") if not one.passed]
    assert low.partition == str(YESTERDAY)
    assert low.severity is dg.AssetCheckSeverity.WARN
    assert (low.description or "").startswith(f"{YESTERDAY} has 20 segments; on a {YESTERDAY:%A}, 35 or more are usual")
    assert account.query(f"SELECT reported FROM aht.loads WHERE day = '{YESTERDAY}'") == [(20,)]


def noon_of(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, 12, tzinfo=UTC)


def test_a_check_warns_of_a_day_before_it_is_lost_and_says_so_for_ever_afterwards(
    account: Outside, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    account.variables["AHT_START_DATE"] = str(days_ago(40))
    account.run("load", "--from", days_ago(40), "--to", days_ago(40), exit_code=1)
    definitions = definitions_of(account, monkeypatch)
    with dg.DagsterInstance.ephemeral() as instance:
        result = materialise(definitions, instance, days_ago(20), YESTERDAY)
        assert result.success
        (gap,) = evaluations(instance, result, "no_gaps")
    assert not gap.passed
    lost, soon_lost = (gap.description or "").splitlines()[::-1]
    assert lost.startswith(f"{days_ago(40)}")
    assert "lost, the API no longer has them" in lost
    assert soon_lost.endswith(f"--to {days_ago(21)}")
    assert lost in account.run("status", exit_code=1).stderr


def test_a_code_location_loads_without_any_variable_and_touches_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [COMMAND.with_name("dagster"), "definitions", "validate", "-m", "aht_pipeline.definitions"],
        cwd=tmp_path,
        env=Outside(tmp_path).environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / ".aht").exists()


def test_an_instance_of_the_users_own_is_used_as_it_is(account: Outside) -> None:
    own = account.directory / "own-dagster"
    own.mkdir()
    (own / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    account.run("load", "--from", YESTERDAY, DAGSTER_HOME=str(own))
    assert (own / "dagster.yaml").read_text() == "telemetry:\n  enabled: false\n"
    assert not (account.home / "dagster").exists()
    with dg.DagsterInstance.from_config(str(own)) as instance:
        assert instance.get_materialized_partitions(dg.AssetKey("agent_segments")) == {str(YESTERDAY)}


def test_a_second_up_and_a_taken_port_are_refused(account: Outside, simulator: Simulator) -> None:
    port = simulator.url.rpartition(":")[2]
    assert f"port {port} is taken" in account.run("up", "--port", port, exit_code=1).stderr
    with running_ui(account):
        assert "is up already" in account.run("up", exit_code=1).stderr
        assert "Stopped the Dagster UI and daemon" in account.run("down").stdout
