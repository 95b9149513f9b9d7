"""The commands' contract, from outside: what each prints, what it exits with, and what it leaves alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from time import sleep

import pytest
import sqlalchemy as sa

from aht_pipeline.simulator import ExplicitTraffic, GeneratedTraffic, Latency, Simulator, segment
from aht_pipeline.warehouse import engine, head_revision
from aht_pipeline_tests.outside import COMMAND, YESTERDAY, Outside, days_ago, eventually, of_account

NOON = datetime.combine(YESTERDAY, time(12), UTC)


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    rows = (segment(number, NOON + timedelta(minutes=number)) for number in range(5))
    with Simulator(ExplicitTraffic(rows)) as running:
        yield running


@pytest.fixture
def account(tmp_path: Path, simulator: Simulator, database_url: str) -> Outside:
    return of_account(tmp_path, simulator, database_url, start=days_ago(2))


@pytest.mark.parametrize("command", ["status", "doctor", "psql"])
def test_looking_at_a_home_that_is_not_there_makes_none_and_names_the_path(tmp_path: Path, command: str) -> None:
    done = Outside(tmp_path).run(command, exit_code=2)
    assert f"there is no warehouse at {tmp_path}/.aht/demo: run `aht-pipeline demo` to make one" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_down_is_content_where_nothing_runs(tmp_path: Path) -> None:
    Outside(tmp_path).run("down")
    assert list(tmp_path.iterdir()) == []


def test_status_says_what_is_missing_and_until_when_it_can_be_fetched(account: Outside) -> None:
    account.run("load", "--from", YESTERDAY)
    report = account.status(exit_code=1)
    missing = days_ago(2)
    assert report == {
        "account": "demo",
        "timezone": "UTC",
        "days": [
            {
                "day": str(missing),
                "state": "missing",
                "reported": None,
                "loaded": None,
                "rejected": None,
                "lost_after": f"{missing + timedelta(days=28)}T00:00:00Z",
            },
            {
                "day": str(YESTERDAY),
                "state": "provisional",
                "reported": 5,
                "loaded": 5,
                "rejected": 0,
                "lost_after": None,
            },
        ],
    }
    assert f"lost for ever after {missing + timedelta(days=28)}T00:00:00Z" in account.run("status", exit_code=1).stdout


def test_a_day_that_the_api_has_forgotten_is_lost_and_the_night_leaves_it_alone(
    tmp_path: Path, simulator: Simulator, database_url: str
) -> None:
    account = of_account(tmp_path, simulator, database_url, start=days_ago(33))
    done = account.run("load", "--from", days_ago(33), "--to", days_ago(33), exit_code=1)
    assert "--replay" in done.stdout
    states = {day["day"]: day["state"] for day in account.status(exit_code=1)["days"]}
    assert (states[str(days_ago(33))], states[str(days_ago(20))]) == ("lost", "missing")
    account.run("load", exit_code=None)  # where the days of 27 to 31 days ago fail, and which, goes by the month
    asked = {request.parameters["fromMillis"] for request in simulator.segment_requests[1:]}
    forgotten = datetime.combine(days_ago(33), time(), UTC)
    assert str(int(forgotten.timestamp()) * 1000) not in asked
    assert len(asked) >= 27


def test_a_day_that_the_api_refused_is_lost_though_its_age_alone_does_not_say_so(
    tmp_path: Path, database_url: str
) -> None:
    refused = days_ago(28)
    with Simulator(ExplicitTraffic(), now=lambda: datetime.now(UTC) + timedelta(days=4)) as forgetful:
        account = of_account(tmp_path, forgetful, database_url, start=refused)
        done = account.run("load", "--from", refused, "--to", refused, exit_code=1)
    assert f"aht-pipeline load --from {refused} --to {refused} --replay" in done.stdout
    states = [day["state"] for day in account.status(exit_code=1)["days"]]
    assert states == ["lost"] + ["missing"] * 27
    assert f"{refused}: lost, the API no longer has them." in account.run("status", exit_code=1).stderr


@pytest.mark.parametrize(
    ("days", "complaint"),
    [
        (("--from", days_ago(0)), "days from"),
        (("--to", days_ago(0)), "days from"),
        (("--from", days_ago(3)), "days from"),
        (("--from", YESTERDAY, "--to", days_ago(2)), "comes after"),
        (("--from", "yesterday"), "is no day"),
        (("--since", "2026-01-01"), "No such option"),
    ],
)
def test_days_that_cannot_be_loaded_are_refused_with_the_range_that_can(
    account: Outside, simulator: Simulator, days: tuple[object, ...], complaint: str
) -> None:
    done = account.run("load", *days, exit_code=2)
    assert complaint in done.stderr
    if complaint == "days from":
        assert f"{days_ago(2)} (the start date) to {YESTERDAY}" in done.stderr
    assert simulator.requests == []


def test_a_given_warehouse_is_never_migrated_by_itself(tmp_path: Path, simulator: Simulator, database_url: str) -> None:
    account = Outside(tmp_path, simulator.variables | {"WAREHOUSE_URL": database_url, "AHT_START_DATE": str(YESTERDAY)})
    for command in ("load", "status", "up"):
        assert "aht-pipeline migrate" in account.run(command, exit_code=2).stderr
    assert "FAULT  migrations" in account.run("doctor", exit_code=1).stdout
    assert account.query("SELECT count(*) FROM pg_namespace WHERE nspname IN ('aht', 'reporting')") == [(0,)]
    assert f"at migration {head_revision()}" in account.run("migrate").stdout
    assert "as it was" in account.run("migrate").stdout


def test_another_time_zone_than_the_warehouse_was_loaded_with_is_refused(account: Outside) -> None:
    account.run("load", "--from", YESTERDAY)
    for command in ("load", "status"):
        refused = account.run(command, exit_code=2, AHT_TIMEZONE="Europe/London")
        assert "AHT_TIMEZONE is Europe/London, but this warehouse was loaded with UTC" in refused.stderr


def test_without_credentials_only_what_needs_no_api_works(account: Outside) -> None:
    account.variables |= {"LIVEPERSON_CLIENT_ID": "", "LIVEPERSON_CLIENT_SECRET": ""}
    for command in ("load", "up", "segments", "doctor"):
        assert "LIVEPERSON_CLIENT_ID" in account.run(command, exit_code=2).stderr
    account.run("migrate")
    account.run("status", exit_code=1)
    assert account.run("psql", "-Atc", "select 7").stdout == "7\n"


def test_a_warehouse_that_cannot_be_reached_is_told_without_its_password(account: Outside) -> None:
    away = {"WAREHOUSE_URL": "postgresql://someone:the-secret@127.0.0.1:1/nowhere"}
    assert "127.0.0.1" in account.run("load", exit_code=1, **away).stderr
    assert "127.0.0.1" in account.run("status", exit_code=2, **away).stderr
    for command in ("load", "status", "doctor"):
        done = account.run(command, exit_code=None, **away)
        assert "the-secret" not in done.stdout + done.stderr


def test_psql_is_psql(account: Outside) -> None:
    assert account.run("psql", "-At", "-c", "select 1, 'two'").stdout == "1|two\n"
    assert account.run("psql", "-c", "select nothing", exit_code=1).stderr.startswith("ERROR:")
    url = account.run("psql", "--url").stdout.strip()
    assert url.startswith("postgresql://")
    assert url.partition("//")[2] == account.variables["WAREHOUSE_URL"].partition("//")[2]


def test_doctor_finds_nothing_wrong_with_a_good_setup_and_shows_no_secret(account: Outside) -> None:
    account.run("load", "--from", YESTERDAY)
    done = account.run("doctor")
    parts = [line.split()[:2] for line in done.stdout.splitlines()]
    assert parts == [
        ["ok", part]
        for part in (
            *("settings", "API", "archive", "warehouse", "clock", "days", "migrations", "load", "names", "Dagster"),
        )
    ]
    password = account.variables["WAREHOUSE_URL"].split(":")[2].partition("@")[0]
    for secret in (password, account.variables["LIVEPERSON_CLIENT_SECRET"]):
        assert secret not in done.stdout + done.stderr


def test_doctor_names_the_fix_beside_each_fault(account: Outside, tmp_path: Path) -> None:
    blocked = tmp_path / "a-file"
    blocked.touch()
    done = account.run(
        "doctor", exit_code=1, LIVEPERSON_CLIENT_SECRET="wrong", AHT_ARCHIVE_URL=str(blocked / "archive")
    )
    faults = {line.split()[1]: line for line in done.stdout.splitlines() if line.startswith("FAULT")}
    assert set(faults) == {"API", "archive"}
    assert "LIVEPERSON_CLIENT_SECRET" in faults["API"]
    assert "AHT_ARCHIVE_URL" in faults["archive"]


def test_segments_prints_what_the_api_holds_and_stores_nothing(account: Outside, simulator: Simulator) -> None:
    done = account.run("segments", "--from", YESTERDAY, "--to", days_ago(0))
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert sorted(row["segmentId"] for row in rows) == sorted(segment(number, NOON)["segmentId"] for number in range(5))
    one = account.run(
        "segments", "--from", NOON.isoformat(), "--to", (NOON + timedelta(hours=1)).isoformat(),
        "--conversation", rows[0]["conversationId"], "--agent", rows[0]["agentId"], "--employee", rows[0]["employeeId"],
        "--skill", rows[0]["skillId"], "--group", rows[0]["groupId"], "--sort", "skill",
    )  # fmt: skip
    assert [json.loads(line) for line in one.stdout.splitlines()] == [rows[0]]
    sent = simulator.segment_requests[-1].parameters
    assert {name: sent[name] for name in ("ConversationId", "AgentId", "EmployeeId", "SkillId", "GroupId", "sort")} == {
        "ConversationId": rows[0]["conversationId"],
        "AgentId": str(rows[0]["agentId"]),
        "EmployeeId": rows[0]["employeeId"],
        "SkillId": str(rows[0]["skillId"]),
        "GroupId": str(rows[0]["groupId"]),
        "sort": "Skill",
    }
    assert not account.home.exists()
    assert account.query("SELECT count(*) FROM aht.agent_segments") == [(0,)]


def test_segments_asks_for_longer_windows_week_by_week(tmp_path: Path) -> None:
    traffic = GeneratedTraffic(segments_per_day=30)
    with Simulator(traffic) as simulator:
        outside = Outside(tmp_path, simulator.variables)
        lines = outside.run("segments", "--from", days_ago(16), "--to", days_ago(0)).stdout.splitlines()
        windows = {request.parameters["fromMillis"] for request in simulator.segment_requests}
    ids = [json.loads(line)["segmentId"] for line in lines]
    assert len(ids) == len(set(ids)) == sum(len(traffic.day(days_ago(day))) for day in range(1, 17))
    assert len(windows) == 3


def test_segments_exits_1_when_the_api_fails_and_2_when_it_is_used_wrong(account: Outside) -> None:
    refused = account.run("segments", exit_code=1, LIVEPERSON_CLIENT_SECRET="wrong")
    assert refused.stdout == ""
    account.run("segments", "--from", days_ago(0), "--to", YESTERDAY, exit_code=2)
    account.run("segments", "--from", "noon", exit_code=2)
    account.run("segments", "--sort", "Size", exit_code=2)


def test_the_version_and_the_help_need_no_settings(tmp_path: Path) -> None:
    wrong = Outside(tmp_path, {"AHT_PAGE_SIZE": "wrong"})
    assert "aht-pipeline, version" in wrong.run("--version").stdout
    assert "LIVEPERSON" in wrong.run("--help").stdout or "LivePerson" in wrong.run("--help").stdout
    assert "public documentation" in " ".join(wrong.run("simulator", "--help").stdout.split())


@pytest.mark.parametrize("stdout", ["a reader that has gone", "closed", "a full disk"])
def test_days_are_loaded_though_nobody_reads_what_is_said(account: Outside, stdout: str) -> None:
    to = {"a reader that has gone": "| true; exit ${PIPESTATUS[0]}", "closed": ">&-", "a full disk": "> /dev/full"}
    done = in_bash(account, f'"{COMMAND}" load {to[stdout]}')
    assert (done.returncode, done.stderr) == (0, "")
    assert account.query("SELECT count(*) FROM aht.loads") == [(2,)]


def test_segments_ends_in_peace_when_its_reader_has_enough(account: Outside, simulator: Simulator) -> None:
    simulator.traffic = ExplicitTraffic(segment(number, NOON) for number in range(1000))
    done = in_bash(account, f'"{COMMAND}" segments --from {YESTERDAY} | head -1; exit ${{PIPESTATUS[0]}}')
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 1


def in_bash(account: Outside, line: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", line],
        cwd=account.directory,
        env=account.environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_ctrl_c_ends_a_load_with_its_days_named_and_nothing_else(account: Outside, simulator: Simulator) -> None:
    loaded = days_ago(3)  # between two ranges of days
    account.variables |= {"AHT_START_DATE": str(days_ago(4)), "AHT_LOOKBACK_DAYS": "1"}
    account.run("load", "--from", str(loaded), "--to", str(loaded))
    simulator.set_faults(Latency(timedelta(seconds=5)))
    process = subprocess.Popen(
        [str(COMMAND), "load"],
        cwd=account.directory,
        env=account.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    eventually(lambda: simulator.in_flight > 0)
    os.killpg(process.pid, signal.SIGINT)  # to the whole group, as a terminal sends it
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in said
    assert f"{days_ago(4)}  failed: the run was interrupted before it came to this" in said
    assert f"{days_ago(2)} to {YESTERDAY}  failed: the run was interrupted before it came to this" in said
    assert account.query("SELECT day FROM aht.loads") == [(loaded,)]
    simulator.set_faults()
    account.run("load")


def test_ctrl_c_while_a_day_is_loaded_leaves_nothing_of_it(account: Outside, simulator: Simulator) -> None:
    a_third = YESTERDAY.weekday() >= 5  # of a weekday's segments
    simulator.traffic = GeneratedTraffic(segments_per_day=120_000 if a_third else 40_000)  # more than written at once
    warehouse = engine(account.variables["WAREHOUSE_URL"])
    with warehouse.begin() as rival:
        rival.execute(sa.text("LOCK TABLE aht.agent_segments IN SHARE MODE"))
        process = subprocess.Popen(
            [str(COMMAND), "load", "--from", str(YESTERDAY)],
            cwd=account.directory,
            env=account.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'aht.agent_segments'::regclass"
        eventually(lambda: account.query(waiting) == [(1,)])
        os.killpg(process.pid, signal.SIGINT)
        sleep(3)  # until it has seen to it, which nothing outside shows
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in said
    assert f"{YESTERDAY}  failed: the run was interrupted before it came to this" in said
    assert account.query("SELECT count(*) FROM aht.agent_segments") == [(0,)]
    assert account.query("SELECT count(*) FROM aht.loads") == [(0,)]


@pytest.mark.parametrize("variable", ["AHT_HOME", "DAGSTER_HOME"])
def test_a_place_that_is_no_folder_is_refused_by_its_name(account: Outside, variable: str) -> None:
    done = account.run("load", exit_code=2, **{variable: "/etc/passwd"})
    assert "/etc/passwd" in done.stderr
    assert variable in done.stderr
    assert account.query("SELECT count(*) FROM aht.loads") == [(0,)]


def test_an_instance_of_the_users_own_that_does_not_work_is_refused_before_any_work(account: Outside) -> None:
    own = account.directory / "own-dagster"
    own.mkdir()
    for text in ("storage: [", "no_such_key: 1\n"):
        (own / "dagster.yaml").write_text(text)
        done = account.run("load", exit_code=2, DAGSTER_HOME=str(own))
        assert f"the Dagster instance in {own} cannot be used" in done.stderr
        assert "DAGSTER_HOME" in done.stderr
        assert "Loading" not in done.stdout


def test_an_env_file_in_another_encoding_is_refused(account: Outside) -> None:
    (account.directory / ".env").write_bytes("AHT_TIMEZONE=UTC".encode("utf-16"))
    assert ".env is not written in UTF-8" in account.run("status", exit_code=2).stderr


def test_names_with_spaces_reach_psql(account: Outside) -> None:
    url = sa.make_url(account.variables["WAREHOUSE_URL"])
    with engine(account.variables["WAREHOUSE_URL"]).begin() as connection:
        connection.execute(sa.text(f"CREATE ROLE \"{(role := f'we ird {uuid.uuid4().hex}')}\" LOGIN PASSWORD 'p w'"))
    account.variables["WAREHOUSE_URL"] = url.set(username=role, password="p w").render_as_string(hide_password=False)
    assert account.run("psql", "-At", "-c", "SELECT current_user").stdout.strip() == role


@pytest.mark.parametrize("times", [("--from", "0001-01-01", "--to", "0001-01-02"), ("--to", "0001-01-01")])
def test_segments_of_times_that_never_were_are_refused(account: Outside, times: tuple[str, ...]) -> None:
    assert "too far away" in account.run("segments", *times, exit_code=2).stderr
