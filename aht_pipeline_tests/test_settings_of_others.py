"""What a role or a database sets changes nothing that is read or written; what refuses us is named with its remedy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from time import sleep
from typing import Any
from urllib.parse import quote

import psycopg2
import pytest
import sqlalchemy as sa

from aht_pipeline import warehouse
from aht_pipeline.normalize import SegmentBatch
from aht_pipeline.report.figures import read_figures
from aht_pipeline.source import Name, NameKind, NameList
from aht_pipeline_tests.loading import ACCOUNT, DAY, batch, facts, load, query, reject, segment

LATER = datetime(2026, 3, 13, tzinfo=UTC)

TIME_OUTS = {
    "statement_timeout": "1s",
    "idle_in_transaction_session_timeout": "1s",
    "idle_session_timeout": "1s",
    "transaction_timeout": "1s",
}
HOSTILE = {
    "lock_timeout": "1ms",
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
    "search_path": "evil, pg_catalog",
    "DateStyle": "German, DMY",
    "IntervalStyle": "iso_8601",
    "TimeZone": "Pacific/Chatham",
    "bytea_output": "escape",
    "standard_conforming_strings": "off",
    "escape_string_warning": "off",
    "array_nulls": "off",
    "transform_null_equals": "on",
    "extra_float_digits": "-15",
    "client_min_messages": "error",
    "row_security": "off",
    "temp_tablespaces": "nowhere",
    "enable_nestloop": "off",
    "enable_indexscan": "off",
    "enable_bitmapscan": "off",
    "enable_sort": "off",
    "enable_hashagg": "off",
    "plan_cache_mode": "force_generic_plan",
    "quote_all_identifiers": "on",
    "check_function_bodies": "off",
    "work_mem": "64kB",
    "temp_buffers": "100",
    "synchronous_commit": "off",
    "log_statement": "all",
    "log_min_duration_statement": "0",
    "temp_file_limit": "10MB",
}


@dataclass(frozen=True)
class Owned:
    """A database of a role that is no superuser."""

    url: sa.URL
    role: str
    superuser: sa.Engine

    @property
    def given(self) -> str:
        return self.url.set(username=self.role, password="secret").render_as_string(hide_password=False)

    @property
    def of_superuser(self) -> str:
        return self.url.set(drivername="postgresql").render_as_string(hide_password=False)

    def target(self, where: str) -> str:
        return {
            "database": f"DATABASE {self.url.database}",
            "role": f"ROLE {self.role}",
            "role in database": f"ROLE {self.role} IN DATABASE {self.url.database}",
        }[where]

    def set(self, where: str, settings: dict[str, str]) -> None:
        for name, value in settings.items():
            written = value if name == "search_path" else f"'{value}'"
            query(self.superuser, f"ALTER {self.target(where)} SET {name} = {written}")


@pytest.fixture
def owned(database_url: str) -> Iterator[Owned]:
    url = sa.make_url(database_url)
    owned = Owned(url, f"plain_of_{url.database}", warehouse.engine(database_url))
    query(owned.superuser, f"CREATE ROLE {owned.role} LOGIN PASSWORD 'secret'")
    query(owned.superuser, f"ALTER DATABASE {url.database} OWNER TO {owned.role}")
    try:
        yield owned
    finally:
        query(owned.superuser, f"ALTER DATABASE {url.database} RESET ALL")
        query(owned.superuser, f"ALTER DATABASE {url.database} OWNER TO {url.username}")
        query(owned.superuser, f"DROP OWNED BY {owned.role} CASCADE; DROP ROLE {owned.role}")


def work(url: str) -> list[Any]:
    """All that is done with a warehouse, and all that is read of it, but for the moments at which it was done."""
    warehouse.upgrade(url)
    made = warehouse.engine(url)
    first = batch(
        *(segment(number, extra='{"a\\\\b": "it\'s"}', quality_flags=["NULL", "x,y"]) for number in range(30)),
        rejects=(reject('{"segmentId": "x\\\\y\'"}'),),
    )
    loads = [
        load(made, first),
        load(made, batch(*(segment(number, total_handle_time_ms=5) for number in range(20, 40))), pulled_at=LATER),
    ]
    skills = NameList(NameKind.SKILL, (Name(4_100_000_001, "A\\b 'é😀", is_deleted=False),), skipped=0, revision="1")
    return [
        [(each.inserted, each.updated, each.unchanged, each.rejected, each.settled) for each in loads],
        list(warehouse.refresh_rollups(made)),
        warehouse.mark_differing_days(made, date(2026, 1, 1)),
        warehouse.store_names(made, ACCOUNT, skills, LATER),
        warehouse.day_records(made, ACCOUNT),
        read_figures(made, ACCOUNT, "UTC", DAY.date, DAY.date, LATER),
        query(made, "SELECT raw, reasons, day, day::text FROM aht.rejected_segments"),
        query(
            made, "SELECT extra, quality_flags, end_time, end_time::text FROM aht.agent_segments ORDER BY segment_id"
        ),
        query(made, "SELECT * FROM reporting.skill_interval"),
        query(made, "SELECT interval '1 day 2 hours', interval '1 day'::text, 0.1::float8 + 0.2"),
    ]


@pytest.fixture(scope="module")
def undisturbed(shared_database_url: str) -> list[Any]:
    return work(shared_database_url)


@pytest.mark.parametrize("where", ["database", "role", "role in database"])
def test_what_a_role_or_a_database_sets_changes_nothing(owned: Owned, undisturbed: list[Any], where: str) -> None:
    query(
        owned.superuser,
        "CREATE SCHEMA evil; CREATE FUNCTION evil.now() RETURNS int LANGUAGE sql RETURN 1;"
        "CREATE FUNCTION evil.pg_try_advisory_xact_lock(bigint) RETURNS boolean LANGUAGE sql RETURN false;"
        f"GRANT USAGE ON SCHEMA evil TO {owned.role}",
    )
    owned.set(where, HOSTILE)
    assert work(owned.given) == undisturbed


@pytest.mark.parametrize("where", ["database", "role"])
def test_a_load_outlives_every_time_out_of_the_role_or_the_database(owned: Owned, where: str) -> None:
    warehouse.upgrade(owned.given)
    owned.set(where, TIME_OUTS)
    made = warehouse.engine(owned.given)

    def slowly() -> Iterator[SegmentBatch]:
        for number in range(2):
            sleep(1.2)
            yield batch(segment(number))

    expected = facts(batch(segment(0)), batch(segment(1)))
    with made.begin() as connection:
        connection.execute(sa.text("SELECT pg_sleep(1.2)"))
    assert warehouse.load_day(made, expected, slowly).inserted == 2


def test_a_time_out_of_the_urls_options_holds(owned: Owned) -> None:
    options = quote("-c statement_timeout=7s --lock-timeout=8s -cidle_in_transaction_session_timeout=9s")
    shown = query(
        warehouse.engine(f"{owned.given}?options={options}"),
        "SELECT current_setting(name) FROM unnest(ARRAY['statement_timeout', 'lock_timeout', "
        "'idle_in_transaction_session_timeout', 'transaction_timeout']) AS name",
    )
    assert shown == ["7s", "8s", "9s", "0"]


def test_nothing_of_ours_stays_on_a_session(owned: Owned) -> None:
    with warehouse.engine(owned.given).connect() as connection:
        session = connection.connection.driver_connection
        assert session is not None

        def settings() -> list[Any]:
            with session.cursor() as cursor:
                cursor.execute("SELECT name, setting FROM pg_settings WHERE source = 'session' ORDER BY name")
                found: list[Any] = cursor.fetchall()
                session.rollback()
                return found

        before = settings()
        with connection.begin():
            assert connection.scalar(sa.text("SHOW search_path")) == "pg_catalog, pg_temp"
        assert settings() == before


@pytest.mark.parametrize("where", ["database", "role", "role in database"])
@pytest.mark.parametrize(
    ("setting", "value", "default", "words"),
    [
        ("default_transaction_read_only", "on", "off", "read-only transaction"),
        ("session_replication_role", "replica", "origin", "without triggers"),
    ],
)
def test_a_setting_that_refuses_us_is_named_with_what_removes_it(
    owned: Owned, where: str, setting: str, value: str, default: str, words: str
) -> None:
    warehouse.upgrade(owned.given)
    owned.set(where, {setting: value})
    with pytest.raises(warehouse.WarehouseError) as told:
        load(warehouse.engine(owned.given), batch(segment(1)))
    assert words in str(told.value)
    remedy = f"ALTER {owned.target(where)} RESET {setting}"
    assert f"{remedy}." in str(told.value)
    with psycopg2.connect(owned.of_superuser, options=f"-c {setting}={default}") as connection:
        connection.cursor().execute(remedy)
    assert load(warehouse.engine(owned.given), batch(segment(1))).inserted == 1


@pytest.mark.parametrize("setting", ["statement_timeout", "idle_in_transaction_session_timeout"])
def test_a_time_out_of_a_millisecond_ends_nothing_or_is_named(owned: Owned, setting: str) -> None:
    owned.set("role", {setting: "1ms"})
    for _ in range(5):
        told = None
        try:
            assert query(warehouse.engine(owned.given), "SELECT 1 FROM pg_sleep(0.1)") == [1]
        except warehouse.WarehouseError as ended:
            told = str(ended)
        assert told is None or f"ALTER ROLE {owned.role} RESET {setting}." in told
