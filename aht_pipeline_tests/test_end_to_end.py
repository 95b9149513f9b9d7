"""From the API into Postgres, by the command, as a user runs it: real HTTP, real Dagster runs, a real server."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from aht_pipeline.simulator import (
    ErrorStatus,
    ExplicitTraffic,
    GeneratedTraffic,
    Latency,
    Simulator,
    Style,
    When,
    segment,
)
from aht_pipeline.simulator.calls import CallTraffic, read_calls
from aht_pipeline_tests.outside import TODAY, YESTERDAY, Outside, days_ago, of_account

NOON = time(12, tzinfo=UTC)


@pytest.fixture
def traffic() -> ExplicitTraffic:
    """Three segments on each of the last three days."""
    return ExplicitTraffic(
        segment(10 * day + number, datetime.combine(days_ago(day), NOON) + timedelta(minutes=number))
        for day in (1, 2, 3)
        for number in range(3)
    )


@pytest.fixture
def simulator(traffic: ExplicitTraffic) -> Iterator[Simulator]:
    with Simulator(traffic) as running:
        yield running


@pytest.fixture
def account(tmp_path: Path, simulator: Simulator, database_url: str) -> Outside:
    return of_account(tmp_path, simulator, database_url, start=days_ago(3))


def ledger(account: Outside) -> list[tuple[str, int, int, int, int, int]]:
    rows = account.query(
        "SELECT day::text, reported, inserted, updated, unchanged, rejected FROM aht.loads ORDER BY load_id"
    )
    return [tuple(row) for row in rows]


@pytest.mark.skipif("AHT_TEST_CALLS" not in os.environ, reason="AHT_TEST_CALLS names no file of real calls")
def test_every_real_call_arrives_field_by_field(tmp_path: Path, database_url: str) -> None:
    calls = read_calls(Path(os.environ["AHT_TEST_CALLS"]), "demo", TODAY)
    with Simulator(CallTraffic(calls)) as simulator:
        account = of_account(tmp_path, simulator, database_url, start=days_ago(27))
        account.run("load", "--from", days_ago(27))
    columns = (
        "segment_id, conversation_id, agent_id, employee_id, skill_id, group_id, end_reason, "
        "start_time, end_time, total_handle_time_ms"
    )
    loaded = account.query(f"SELECT {columns} FROM aht.agent_segments ORDER BY segment_id")
    expected = [
        (
            call.segment_id,
            call.conversation_id,
            call.agent_id,
            call.employee_id,
            call.skill_id,
            None,
            call.end_reason,
            call.start_time,
            call.end_time,
            call.total_handle_time_ms,
        )
        for call in sorted(calls, key=lambda call: call.segment_id)
    ]
    assert len(loaded) == len(calls) > 2_000
    assert [tuple(row) for row in loaded] == expected
    assert sum(row.total_handle_time_ms for row in loaded) == sum(call.total_handle_time_ms for call in calls)


def test_late_rows_are_picked_up_by_the_second_night_and_no_others(tmp_path: Path, database_url: str) -> None:
    clock = datetime.now(UTC).replace(hour=4)  # of yesterday, eight hours are to be had yet
    traffic = GeneratedTraffic(segments_per_day=400)
    with Simulator(traffic, lag=timedelta(hours=20), now=lambda: clock) as simulator:
        account = of_account(tmp_path, simulator, database_url, start=days_ago(2))
        account.run("load")
        first_night = {row.segment_id for row in account.query("SELECT segment_id FROM aht.agent_segments")}
        clock += timedelta(hours=24)
        account.run("load")
    second_night = {row.segment_id for row in account.query("SELECT segment_id FROM aht.agent_segments")}
    everything = {row["segmentId"] for day in (1, 2) for row in _rows_of(traffic, days_ago(day))}
    assert first_night < second_night == everything
    loads = account.query("SELECT sum(inserted) AS inserted, sum(updated) AS updated FROM aht.loads WHERE load_id > 2")
    assert (loads[0].inserted, loads[0].updated) == (len(second_night - first_night), 0)


def _rows_of(traffic: GeneratedTraffic, day: date) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(b"[" + bytes(traffic.day(day).json).rstrip(b",") + b"]")
    return rows


def test_a_restated_segment_raises_its_revision_and_nothing_else(account: Outside, traffic: ExplicitTraffic) -> None:
    account.run("load")
    restated = segment(11, datetime.combine(YESTERDAY, NOON) + timedelta(minutes=1))["segmentId"]
    traffic.restate(restated, totalHandleTimeMillis=0)
    account.run("load")
    changed = account.query(
        "SELECT segment_id, total_handle_time_ms, revision FROM aht.agent_segments WHERE revision > 1"
    )
    assert [tuple(row) for row in changed] == [(restated, 0, 2)]
    assert ledger(account) == [
        *((str(days_ago(day)), 3, 3, 0, 0, 0) for day in (3, 2, 1)),
        *((str(days_ago(day)), 3, 0, 0, 3, 0) for day in (3, 2)),
        (str(YESTERDAY), 3, 0, 1, 2, 0),
    ]


def test_loading_again_doubles_nothing(account: Outside) -> None:
    account.run("load")
    assert account.query("SELECT count(*) FROM aht.changed_days") == [(0,)]  # the reports' rollups are refreshed, too
    account.run("load", "--from", days_ago(3))
    assert account.query("SELECT count(*) FROM aht.agent_segments")[0][0] == 9
    assert ledger(account)[3:] == [(str(days_ago(day)), 3, 0, 0, 3, 0) for day in (3, 2, 1)]


def test_a_failed_day_is_named_and_leaves_its_neighbours_loaded(account: Outside, simulator: Simulator) -> None:
    simulator.set_faults(ErrorStatus(403, when=When(day=days_ago(2))))
    done = account.run("load", exit_code=1)
    assert f"{days_ago(2)}  failed: GET http" in done.stdout
    assert "403" in done.stdout
    assert [day for day, *_ in ledger(account)] == [str(days_ago(3)), str(YESTERDAY)]
    report = account.status(exit_code=1)
    assert {day["day"]: day["state"] for day in report["days"]} == {
        str(days_ago(3)): "settled",
        str(days_ago(2)): "missing",
        str(YESTERDAY): "provisional",
    }
    simulator.set_faults()
    account.run("load")
    account.status(exit_code=0)


def test_a_replay_loads_from_the_archive_without_the_api_and_without_credentials(
    account: Outside, simulator: Simulator
) -> None:
    account.run("load")
    with sa.create_engine(account.variables["WAREHOUSE_URL"]).begin() as connection:
        connection.execute(sa.text("TRUNCATE aht.agent_segments"))
    simulator.forget_requests()
    unset = {name: "" for name in account.variables if name.startswith("LIVEPERSON_CLIENT")}
    without_credentials = replace(account, variables=account.variables | unset)
    without_credentials.run("load", exit_code=2)
    without_credentials.run("load", "--replay")
    without_credentials.run("status")
    assert account.query("SELECT count(*) FROM aht.agent_segments")[0][0] == 9
    assert simulator.requests == []


def test_a_day_that_the_archive_lacks_cannot_be_replayed(account: Outside) -> None:
    account.run("load", "--from", YESTERDAY)
    done = account.run("load", "--replay", "--from", days_ago(2), exit_code=1)
    assert f"{days_ago(2)}  failed: " in done.stdout
    assert "holds no complete pull of this day" in done.stdout


def test_app_keys_are_used_where_no_client_id_is_set(account: Outside, simulator: Simulator) -> None:
    keys = simulator.credentials
    account.run(
        "load",
        LIVEPERSON_CLIENT_ID="",
        LIVEPERSON_CLIENT_SECRET="",
        LIVEPERSON_APP_KEY=keys.app_key,
        LIVEPERSON_APP_SECRET=keys.app_secret,
        LIVEPERSON_ACCESS_TOKEN=keys.access_token,
        LIVEPERSON_ACCESS_TOKEN_SECRET=keys.access_token_secret,
    )
    assert account.query("SELECT count(*) FROM aht.agent_segments")[0][0] == 9
    assert all("/app/token" not in request.path for request in simulator.requests)


def test_the_domain_api_says_where_the_services_are(account: Outside, simulator: Simulator) -> None:
    account.run("load", "--from", YESTERDAY, LIVEPERSON_API_URL="", LIVEPERSON_DOMAIN_API_URL=simulator.url)
    asked = [request.path for request in simulator.requests if "baseURI" in request.path]
    assert sorted(path.split("/")[-2] for path in asked) == ["agentActivityDomain", "sentinel"]
    assert account.query("SELECT count(*) FROM aht.agent_segments")[0][0] == 3


def test_the_older_form_of_the_reply_is_loaded_too(tmp_path: Path, database_url: str, traffic: ExplicitTraffic) -> None:
    with Simulator(traffic, style=Style(pagination=False, epoch_in_seconds=True)) as simulator:
        account = of_account(tmp_path, simulator, database_url, start=days_ago(3))
        account.run("load", AHT_PAGE_SIZE="2")
    assert account.query("SELECT count(*), count(*) FILTER (WHERE quality_flags <> '{}') FROM aht.agent_segments") == [
        (9, 0)
    ]


def test_requests_at_once_follow_the_setting(tmp_path: Path, database_url: str) -> None:
    slow = Latency(timedelta(milliseconds=30))
    with Simulator(GeneratedTraffic(segments_per_day=900), faults=[slow]) as simulator:
        account = of_account(tmp_path, simulator, database_url, start=days_ago(2))
        for concurrency in (1, 6):
            simulator.forget_requests()
            account.run("load", AHT_PAGE_SIZE="20", AHT_CONCURRENCY=str(concurrency))
            assert simulator.max_in_flight == concurrency


def test_bad_rows_are_set_aside_with_their_reasons_and_harm_no_other(
    account: Outside, traffic: ExplicitTraffic
) -> None:
    close = datetime.combine(YESTERDAY, NOON)
    good = json.dumps(segment(99, close))
    poisoned = {
        "NaN": good.replace("360000", "NaN"),
        "surrogate": good.replace("closedByConsumer", "\\ud83d"),
        "NUL": good.replace("closedByConsumer", "a\\u0000b"),
        "fraction": good.replace("360000", "1.5"),
        "no agent": good.replace("agentId", "agentNumber"),
        "no row": "null",
    }
    for name, row in poisoned.items():
        traffic.add(row.replace("1111-4111-8111", name).encode(), close=close, name=name)
    too_many = account.run("load", "--from", YESTERDAY, exit_code=1)
    assert "6 of the first 9 rows (of 9) cannot be loaded" in too_many.stdout
    assert "AHT_MAX_REJECTED_PERCENT" in too_many.stdout
    assert account.query("SELECT count(*) FROM aht.loads") == [(0,)]
    account.run("load", "--from", YESTERDAY, AHT_MAX_REJECTED_PERCENT="100")
    assert account.query("SELECT count(*) FROM aht.agent_segments") == [(3,)]
    assert ledger(account) == [(str(YESTERDAY), 9, 3, 0, 0, 6)]
    rejected = account.query("SELECT raw, reasons FROM aht.rejected_segments")
    assert {row.raw for row in rejected} == {row.replace("1111-4111-8111", name) for name, row in poisoned.items()}
    assert all(row.reasons for row in rejected)


def test_the_documented_sample_is_loaded_and_flagged_where_its_epochs_contradict_its_texts(
    tmp_path: Path, database_url: str
) -> None:
    close = datetime.combine(YESTERDAY, time(0, 14, 9, 40_000), UTC)
    sample = {
        "segmentId": "12345678:3000000101:0b6f0c0e-1111-4111-8111-000000000001:AAAAAAAAQACAAAAAAAAAAQ",
        "startTime": f"{days_ago(2)}T22:10:04.5Z",
        "startTimeL": 1_484_219_004,  # in seconds, and years away, as in the oldest sample
        "endTime": f"{YESTERDAY}T00:14:09.04Z",
        "endTimeL": int(close.timestamp() * 1000),
        "conversationId": "0b6f0c0e-1111-4111-8111-000000000001",
        "agentId": 3000000101,
        "employeeId": "00042",
        "skillId": 4100000001,
        "groupId": 510001,
        "endReason": "skillTransfer",
        "totalHandleTimeMillis": 412350,
    }
    with Simulator(ExplicitTraffic([sample])) as simulator:
        account = of_account(tmp_path, simulator, database_url, start=YESTERDAY)
        account.run("load")
    (row,) = account.query(
        "SELECT start_time, end_time, agent_id, employee_id, skill_id, total_handle_time_ms, quality_flags "
        "FROM aht.agent_segments"
    )
    started = datetime.combine(days_ago(2), time(22, 10, 4, 500_000), UTC)
    assert tuple(row) == (started, close, 3000000101, "00042", 4100000001, 412350, ["start_epoch_disagrees"])


def test_the_embedded_server_is_the_warehouse_of_an_account_without_one(outside: Outside, simulator: Simulator) -> None:
    outside.variables |= simulator.variables | {"AHT_HOME": "kept here"}
    done = outside.run("load", "--from", days_ago(3))
    assert (outside.home / "archive").is_dir()
    assert not (outside.directory / ".aht").exists()
    assert "3 of 3 days are complete, with 9 segments." in done.stdout
    assert [day["state"] for day in outside.status(exit_code=1)["days"]].count("missing") == 24
    outside.run("load", "--from", days_ago(28), exit_code=2)
    assert not (outside.home / "demo").exists()
    assert outside.run("down").stdout.startswith("Stopped the embedded Postgres")
