"""What agents, skills and agent groups are called: read from the API, kept for ever, shown beside the ids."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa

from aht_pipeline import warehouse as public
from aht_pipeline.days import Day
from aht_pipeline.defs import build_defs
from aht_pipeline.defs.names import NAMES
from aht_pipeline.settings import Variables, read_settings
from aht_pipeline.simulator import (
    Directory,
    Endpoint,
    ErrorStatus,
    ExplicitTraffic,
    HtmlError,
    RequestRecord,
    RevokeTokens,
    Simulator,
    When,
    segment,
)
from aht_pipeline.source import ApiError, Name, NameKind, NameList, Refused, read_names
from aht_pipeline.warehouse import (
    agents_named,
    forget_agent_names,
    known_revision,
    note_unchanged_names,
    store_names,
)
from aht_pipeline_tests import loading
from aht_pipeline_tests.loading import ACCOUNT, batch, load, query
from aht_pipeline_tests.outside import YESTERDAY, Outside, of_account
from aht_pipeline_tests.reading import APP_KEYS, Answer, Reading

LISTS = {NameKind.AGENT: Endpoint.USERS, NameKind.SKILL: Endpoint.SKILLS, NameKind.GROUP: Endpoint.GROUPS}
AGENT, SKILL, GROUP = 3_000_000_101, 4_100_000_001, 510_001
READ_AT = datetime(2026, 3, 11, 3, 15, tzinfo=UTC)
LATER = READ_AT + timedelta(days=1)
PERSONAL = ("example.test", "login.", "Full Name", "+1 555")


@pytest.fixture
def reading() -> Iterator[Reading]:
    with ExitStack() as closing:
        yield Reading(closing)


@pytest.fixture
def warehouse(database_url: str) -> sa.Engine:
    public.upgrade(database_url)
    return public.engine(database_url)


def asked_for_names(sim: Simulator) -> list[RequestRecord]:
    return [request for request in sim.requests if request.endpoint in LISTS.values()]


# ------------------------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize(
    ("kind", "path", "version", "select"),
    [
        (NameKind.AGENT, "users", "6.0", "id,deleted,nickname,isEnabled,userTypeId"),
        (NameKind.SKILL, "skills", "4.0", "id,deleted,name"),
        (NameKind.GROUP, "agentGroups", "4.0", "id,deleted,name"),
    ],
)
def test_only_what_is_kept_is_asked_for(reading: Reading, kind: NameKind, path: str, version: str, select: str) -> None:
    sim = reading.simulator([])

    listed = read_names(reading.api(sim), kind)

    (asked,) = asked_for_names(sim)
    assert asked.path == f"/api/account/demo/configuration/le-users/{path}"
    assert asked.parameters == {"v": version, "select": select, "include_deleted": "true"}
    assert listed is not None
    assert (listed.skipped, listed.revision) == (0, "1")
    assert len(listed.names) == len({name.id for name in listed.names}) > 5


def test_quoted_and_plain_values_are_the_same(reading: Reading) -> None:
    rows = [
        {"id": 1, "deleted": False, "nickname": "One", "isEnabled": True, "userTypeId": 1},
        {"id": "2", "deleted": "false", "nickname": "Two", "isEnabled": "true", "userTypeId": "1"},
        {"id": str(2**63 - 1), "deleted": "true", "nickname": "Gone", "isEnabled": "False", "userTypeId": None},
        {"id": 4, "nickname": " 007 "},
    ]
    server = reading.scripted(lambda _: Answer(rows))

    listed = read_names(reading.api(server), NameKind.AGENT)

    assert listed == NameList(
        NameKind.AGENT,
        (
            Name(1, "One", is_deleted=False, is_enabled=True, user_type_id=1),
            Name(2, "Two", is_deleted=False, is_enabled=True, user_type_id=1),
            Name(2**63 - 1, "Gone", is_deleted=True, is_enabled=False),
            Name(4, " 007 ", is_deleted=False),
        ),
        skipped=0,
        revision=None,
    )


def test_a_row_without_a_usable_id_or_name_is_skipped_and_counted(reading: Reading) -> None:
    bad: list[Any] = [
        {"id": None, "name": "a"},
        {"id": True, "name": "a"},
        {"id": 1.5, "name": "a"},
        {"id": -1, "name": "a"},
        {"id": "1e3", "name": "a"},
        {"id": 2**63, "name": "a"},
        {"id": 1},
        {"id": 1, "name": None},
        {"id": 1, "name": " "},
        {"id": 1, "name": "a\0"},
        {"id": 1, "name": 5},
        {"id": 1, "nickname": "a"},
        "a",
        None,
    ]
    server = reading.scripted(lambda _: Answer([*bad, {"id": 7, "name": "Seven"}]))

    listed = read_names(reading.api(server), NameKind.SKILL)

    assert listed is not None
    assert (listed.names, listed.skipped) == ((Name(7, "Seven", is_deleted=False),), len(bad))


def test_nothing_is_sent_again_for_the_revision_that_is_known(reading: Reading) -> None:
    sim = reading.simulator([])
    api = reading.api(sim)

    assert read_names(api, NameKind.SKILL, "1") is None
    sim.directory.put(Endpoint.SKILLS, SKILL, name="Invoices")
    changed = read_names(api, NameKind.SKILL, "1")

    assert changed is not None
    assert changed.revision == "2"
    assert Name(SKILL, "Invoices", is_deleted=False) in changed.names
    assert [request.status for request in asked_for_names(sim)] == [304, 200]


def test_a_304_that_was_not_asked_for_is_no_answer(reading: Reading) -> None:
    server = reading.scripted(lambda _: Answer(b"", status=304))

    with pytest.raises(ApiError, match="304 Not Modified"):
        read_names(reading.api(server), NameKind.SKILL)


@pytest.mark.parametrize(
    "fault",
    [
        ErrorStatus(503, when=When(first=2, on=Endpoint.USERS)),
        RevokeTokens(When(first=1, on=Endpoint.USERS)),
        HtmlError(200, When(first=1, on=Endpoint.USERS)),
    ],
)
def test_a_fault_that_passes_is_outlasted(reading: Reading, fault: Any) -> None:
    listed = read_names(reading.api(reading.simulator([], faults=[fault])), NameKind.AGENT)

    assert listed is not None
    assert listed.names


def test_a_refusal_says_whose_names_the_key_may_not_read(reading: Reading) -> None:
    sim = reading.simulator([], faults=[ErrorStatus(403, when=When(on=Endpoint.GROUPS))])
    api = reading.api(sim)

    with pytest.raises(ApiError, match=r"403 Forbidden.*the key may read agent groups"):
        read_names(api, NameKind.GROUP)
    assert read_names(api, NameKind.SKILL) is not None


def test_oauth_1_signs_these_requests_too(reading: Reading) -> None:
    assert read_names(reading.api(reading.simulator([]), APP_KEYS), NameKind.AGENT) is not None


def test_the_domain_api_says_who_lists_names(reading: Reading) -> None:
    sim = reading.simulator([])

    assert read_names(reading.api(sim, api_url=None, domain_api_url=sim.url), NameKind.GROUP) is not None

    asked = [request.path.split("/")[-2] for request in sim.requests if request.endpoint is Endpoint.DOMAIN]
    assert sorted(asked) == ["accountConfigReadOnly", "sentinel"]


def test_what_is_no_list_is_an_error_that_repeats_nothing_of_it(
    reading: Reading, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    people = [{"id": 1, "nickname": "One", "email": "one@example.test", "loginName": "login.one"}]
    answers = [Answer({"users": people}), Answer(people, status=206), Answer(people, status=400)]
    server = reading.scripted(lambda _: answers[0])
    while answers:
        with pytest.raises(ApiError) as failure:
            read_names(reading.api(server), NameKind.AGENT)
        assert not any(private in str(failure.value) + caplog.text for private in PERSONAL)
        del answers[0]


def test_the_simulator_demands_a_selection_and_the_version(reading: Reading) -> None:
    sim = reading.simulator([])
    api = reading.api(sim)
    url = f"{sim.url}/api/account/demo/configuration/le-users/users"
    for wrong in ({"v": "6.0"}, {"v": "4.0", "select": "id"}, {"select": "id"}):
        with pytest.raises(Refused, match=r"select|v: must be"):
            api.http.get(url, wrong, bytes, authorisation=api.authorisation)
    with pytest.raises(ApiError, match="401"):
        api.http.get(url, {"v": "6.0", "select": "id"}, bytes)


# ------------------------------------------------------------------------------------------------------------- storing


def skills(*names: Name, revision: str | None = "1", skipped: int = 0) -> NameList:
    return NameList(NameKind.SKILL, names, skipped, revision)


def stored(warehouse: sa.Engine) -> list[Any]:
    return query(warehouse, "SELECT id, name, is_deleted, first_seen_at, last_seen_at FROM aht.names ORDER BY id")


BILLING, ORDERS = Name(1, "Billing", is_deleted=False), Name(2**53 + 1, 'Orders "🙂" \\N', is_deleted=False)


def test_names_are_stored_with_when_they_were_seen_and_their_revision(warehouse: sa.Engine) -> None:
    assert known_revision(warehouse, ACCOUNT, NameKind.SKILL) is None

    first = store_names(warehouse, ACCOUNT, skills(BILLING, ORDERS), READ_AT)
    again = store_names(warehouse, ACCOUNT, skills(BILLING, ORDERS, revision="2"), LATER)

    assert (first.known, first.new, first.renamed, first.deleted) == (2, 2, 0, 0)
    assert (again.known, again.new, again.renamed, again.deleted) == (2, 0, 0, 0)
    assert stored(warehouse) == [
        (1, BILLING.name, False, READ_AT, LATER),
        (2**53 + 1, ORDERS.name, False, READ_AT, LATER),
    ]
    assert known_revision(warehouse, ACCOUNT, NameKind.SKILL) == "2"
    assert known_revision(warehouse, ACCOUNT, NameKind.GROUP) is None
    assert known_revision(warehouse, "other", NameKind.SKILL) is None


def test_a_renamed_skill_keeps_its_old_names_in_a_log(warehouse: sa.Engine) -> None:
    for number, name in enumerate(("Billing", "Invoices", "Invoices", "Billing")):
        last = store_names(warehouse, ACCOUNT, skills(replace(BILLING, name=name)), READ_AT + timedelta(days=number))

    assert last.renamed == 1
    assert query(warehouse, "SELECT name FROM aht.names") == ["Billing"]
    assert query(warehouse, "SELECT id, name, replaced_at FROM aht.former_names ORDER BY replaced_at") == [
        (1, "Billing", READ_AT + timedelta(days=1)),
        (1, "Invoices", READ_AT + timedelta(days=3)),
    ]


def test_a_name_that_is_deleted_upstream_stays_marked_as_that(warehouse: sa.Engine) -> None:
    gone = Name(3, "Gone", is_deleted=False)
    store_names(warehouse, ACCOUNT, skills(BILLING, ORDERS, gone), READ_AT)
    store_names(warehouse, "other", skills(ORDERS), READ_AT)

    marked = store_names(warehouse, ACCOUNT, skills(replace(BILLING, is_deleted=True), gone), LATER)

    assert (marked.known, marked.deleted) == (3, 2)
    assert query(warehouse, "SELECT id, name, last_seen_at FROM aht.names WHERE is_deleted ORDER BY id") == [
        (1, "Billing", LATER),
        (ORDERS.id, ORDERS.name, READ_AT),
    ]
    back = store_names(warehouse, ACCOUNT, skills(BILLING, ORDERS, gone), LATER + timedelta(days=1))
    assert (back.new, back.renamed, back.deleted) == (0, 0, 0)
    assert query(warehouse, "SELECT count(*) FROM aht.names WHERE is_deleted") == [0]


def test_a_list_that_could_not_be_read_whole_deletes_nothing_by_silence(warehouse: sa.Engine) -> None:
    store_names(warehouse, ACCOUNT, skills(BILLING, ORDERS), READ_AT)

    assert store_names(warehouse, ACCOUNT, skills(BILLING, skipped=1, revision="2"), LATER).deleted == 0

    assert query(warehouse, "SELECT count(*) FROM aht.names WHERE is_deleted") == [0]


def test_a_list_of_nothing_is_not_believed(warehouse: sa.Engine) -> None:
    store_names(warehouse, ACCOUNT, skills(BILLING), READ_AT)
    before = stored(warehouse)

    assert store_names(warehouse, ACCOUNT, skills(revision="2"), LATER).known == 1

    assert stored(warehouse) == before
    assert known_revision(warehouse, ACCOUNT, NameKind.SKILL) == "1"


def test_an_older_list_changes_nothing(warehouse: sa.Engine) -> None:
    store_names(warehouse, ACCOUNT, skills(BILLING, revision="2"), LATER)

    store_names(warehouse, ACCOUNT, skills(replace(BILLING, name="Old"), ORDERS), READ_AT)

    assert stored(warehouse) == [(1, "Billing", False, LATER, LATER)]
    assert known_revision(warehouse, ACCOUNT, NameKind.SKILL) == "2"


def test_an_unchanged_list_moves_only_when_it_was_read(warehouse: sa.Engine) -> None:
    store_names(warehouse, ACCOUNT, skills(BILLING), READ_AT)
    before = stored(warehouse)

    assert note_unchanged_names(warehouse, ACCOUNT, NameKind.SKILL, LATER).known == 1

    assert stored(warehouse) == before
    assert query(warehouse, "SELECT revision, read_at FROM aht.name_revisions") == [("1", LATER)]


def test_agents_names_are_forgotten_and_no_others(warehouse: sa.Engine) -> None:
    agents = NameList(NameKind.AGENT, (Name(AGENT, "Ann", is_deleted=False),), 0, "1")
    store_names(warehouse, ACCOUNT, skills(BILLING), READ_AT)
    for account in (ACCOUNT, "other"):
        store_names(warehouse, account, agents, READ_AT)
    store_names(warehouse, ACCOUNT, replace(agents, names=(Name(AGENT, "Anne", is_deleted=False),)), LATER)

    assert forget_agent_names(warehouse, ACCOUNT) == 1

    assert query(warehouse, "SELECT account_id, kind FROM aht.names ORDER BY 1") == [
        (ACCOUNT, "skill"),
        ("other", "agent"),
    ]
    assert query(warehouse, "SELECT count(*) FROM aht.former_names") == [0]
    assert known_revision(warehouse, ACCOUNT, NameKind.AGENT) is None


def test_how_many_agents_have_a_name_is_counted(warehouse: sa.Engine) -> None:
    recent = datetime.combine(YESTERDAY, READ_AT.timetz())
    ids = (AGENT, AGENT + 1, AGENT + 2)
    rows = [loading.segment(number, agent_id=one, end_time=recent) for number, one in enumerate((*ids, AGENT))]
    load(warehouse, batch(*rows), day=Day(YESTERDAY, "UTC"))
    assert agents_named(warehouse, ACCOUNT) is None

    named = tuple(Name(one, f"Agent {one}", is_deleted=False) for one in (*ids[:2], 7))
    store_names(warehouse, ACCOUNT, NameList(NameKind.AGENT, named, 0, None), READ_AT)

    found = agents_named(warehouse, ACCOUNT)
    assert found is not None
    assert (found.seen, found.named) == (3, 2)


# --------------------------------------------------------------------------------------------- in Dagster, and by load


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    noon = datetime.combine(YESTERDAY, datetime.min.time(), UTC) + timedelta(hours=12)
    traffic = ExplicitTraffic(segment(number, noon) for number in range(7))
    with Simulator(traffic, directory=Directory(ignores_select=True)) as running:
        yield running


@pytest.fixture
def account(tmp_path: Path, simulator: Simulator, database_url: str) -> Outside:
    return of_account(tmp_path, simulator, database_url, start=YESTERDAY)


def materialise(account: Outside, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """Materialise the names of all kinds in one run; the metadata of those that succeeded."""
    for name in Variables.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in account.variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AHT_HOME", str(account.home))
    monkeypatch.chdir(account.directory)
    job = build_defs(read_settings()).resolve_implicit_global_asset_job_def()
    with dg.DagsterInstance.ephemeral() as instance:
        result = job.execute_in_process(instance=instance, asset_selection=list(NAMES), raise_on_error=False)
    return {
        event.asset_key.to_user_string(): {name: value.value for name, value in event.materialization.metadata.items()}
        for event in result.get_asset_materialization_events()
        if event.asset_key
    }


def test_one_list_that_is_refused_leaves_the_others_named(
    account: Outside, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in Endpoint.USERS, Endpoint.SKILLS, Endpoint.GROUPS:
        simulator.set_faults(ErrorStatus(403, when=When(on=kind)))
        assert len(materialise(account, monkeypatch)) == 2

    kinds = account.query("SELECT kind, count(*) FROM aht.names GROUP BY kind ORDER BY kind")
    assert [tuple(row) for row in kinds] == [("agent", 7), ("group", 6), ("skill", 12)]


def test_a_materialisation_says_what_became_of_the_names(
    account: Outside, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = materialise(account, monkeypatch)
    unchanged = materialise(account, monkeypatch)
    simulator.directory.put(Endpoint.SKILLS, SKILL, name="Invoices")
    simulator.directory.put(Endpoint.SKILLS, SKILL + 1, deleted="true")
    simulator.directory.remove(Endpoint.SKILLS, SKILL + 2)
    simulator.directory.put(Endpoint.SKILLS, 7, name="New")
    simulator.directory.put(Endpoint.SKILLS, 8, name=None)
    changed = materialise(account, monkeypatch)["skill_names"]

    def said(names: int, new: int, renamed: int, deleted: int, skipped: int, unchanged: bool) -> dict[str, Any]:
        return {
            "names": names,
            "new": new,
            "renamed": renamed,
            "deleted": deleted,
            "skipped": skipped,
            "unchanged": unchanged,
        }

    assert first == {
        "agent_names": said(7, 7, 0, 0, 0, False),
        "skill_names": said(12, 12, 0, 0, 0, False),
        "agent_group_names": said(6, 6, 0, 0, 0, False),
    }
    assert all(one["unchanged"] for one in unchanged.values())
    assert changed == said(13, 1, 1, 1, 1, False)  # the one that vanished may be the row that could not be read
    assert [request.status for request in asked_for_names(simulator)] == [200] * 3 + [304] * 3 + [304, 304, 200]


def test_a_night_names_everything_and_nothing_personal_is_anywhere(account: Outside) -> None:
    account.run("load")

    shown = account.query(
        "SELECT DISTINCT agent_id, agent_name, skill_name, group_name FROM reporting.agent_segments ORDER BY agent_id"
    )
    assert [row.agent_name for row in shown] == [f"Agent {row.agent_id}" for row in shown]
    assert {row.skill_name for row in shown} == {"Billing", "Technical support", "Orders"}
    assert {row.group_name for row in shown} == {"North"}
    tables = ("names", "former_names", "name_revisions")
    dump = "".join(str(row) for table in tables for row in account.query(f"SELECT * FROM aht.{table}"))
    assert "Agent 3000000101" in dump
    written = b"".join(file.read_bytes() for file in account.directory.rglob("*") if file.is_file())
    for private in PERSONAL:
        assert private not in dump
        assert private.encode() not in written
    assert "ok     names       7 of 7 agents" in account.run("doctor").stdout


def test_names_that_cannot_be_read_do_not_fail_a_night(account: Outside, simulator: Simulator) -> None:
    simulator.set_faults(ErrorStatus(403, when=When(on=Endpoint.USERS)))

    said = account.run("load").stderr

    assert len(said.splitlines()) == 1
    assert "agent_names" in said
    assert "403 Forbidden" in said
    assert account.query("SELECT bool_and(agent_name = agent_id::text) FROM reporting.agent_day") == [(True,)]
    assert account.query("SELECT skill_name FROM reporting.skill_day ORDER BY skill_id LIMIT 1") == [("Billing",)]
    assert "ok     names       none of agents yet" in account.run("doctor").stdout


def test_days_that_are_asked_for_and_replays_ask_for_no_names(account: Outside, simulator: Simulator) -> None:
    account.run("load", "--from", YESTERDAY)
    account.run("load", "--replay")

    assert asked_for_names(simulator) == []


def test_with_agent_names_off_agents_are_ids_and_their_stored_names_are_removed(
    account: Outside, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    account.run("load")
    simulator.forget_requests()

    account.variables["AHT_AGENT_NAMES"] = "off"
    assert materialise(account, monkeypatch)["agent_names"] == {"names": 0, "removed": 7}

    assert {request.endpoint for request in asked_for_names(simulator)} == {Endpoint.SKILLS, Endpoint.GROUPS}
    assert account.query("SELECT count(*) FROM aht.names WHERE kind = 'agent'") == [(0,)]
    assert account.query("SELECT bool_and(agent_name = agent_id::text) FROM reporting.agent_day") == [(True,)]
    assert account.query("SELECT skill_name FROM reporting.skill_day ORDER BY skill_id LIMIT 1") == [("Billing",)]
    assert "ok     names       AHT_AGENT_NAMES is off" in account.run("doctor").stdout
    account.variables["AHT_AGENT_NAMES"] = "on"
    assert materialise(account, monkeypatch)["agent_names"]["new"] == 7
    assert account.query("SELECT count(*) FROM aht.names WHERE kind = 'agent'") == [(7,)]


def test_agent_names_are_on_or_off(tmp_path: Path) -> None:
    assert "AHT_AGENT_NAMES" in Outside(tmp_path, {"AHT_AGENT_NAMES": "maybe"}).run("status", exit_code=2).stderr
