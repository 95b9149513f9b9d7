"""The roles of `migrations/roles.sql`: each does its work, and can do nothing else."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from aht_pipeline import embedded, warehouse
from aht_pipeline.normalize import SegmentBatch
from aht_pipeline.postgres_url import read_postgres_url
from aht_pipeline.simulator import ExplicitTraffic, Simulator, segment
from aht_pipeline.source import Name, NameKind, NameList
from aht_pipeline_tests import loading
from aht_pipeline_tests.loading import query
from aht_pipeline_tests.outside import YESTERDAY, Outside

SCRIPT = Path(__file__).parents[1] / "migrations" / "roles.sql"
GROUPS = ("aht_owner", "aht_loader", "aht_reader")


class Roles:
    """A database in which nobody may do anything yet, and users that are dropped with all that they own."""

    def __init__(self, database_url: str) -> None:
        self.url = sa.make_url(database_url)
        self.superuser = warehouse.engine(database_url)
        self.users: list[str] = []
        query(self.superuser, f"REVOKE ALL ON DATABASE {self.url.database} FROM PUBLIC")

    def run_script(self, user: str | None = None) -> None:
        done = subprocess.run(
            [embedded.binaries() / "psql", "-d", read_postgres_url(self.url_of(user)).complete, "-f", SCRIPT],
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stderr) == (0, "")

    def make_user(self, name: str, rights: str) -> str:
        user = f"{name}_of_{self.url.database}"
        query(self.superuser, f"CREATE ROLE {user} LOGIN PASSWORD 'secret' {rights}")
        self.users.append(user)
        return user

    def make_users(self) -> tuple[str, str, str]:
        """A migrator, a loader and a reader, as the script's head says."""
        migrator = self.make_user("migrator", "IN ROLE aht_owner")
        query(self.superuser, f"ALTER ROLE {migrator} SET role = aht_owner")
        return migrator, self.make_user("loader", "IN ROLE aht_loader"), self.make_user("reader", "IN ROLE aht_reader")

    def url_of(self, user: str | None) -> str:
        url = self.url.set(username=user, password="secret") if user else self.url
        return url.render_as_string(hide_password=False)

    def engine_of(self, user: str) -> sa.Engine:
        return warehouse.engine(self.url_of(user))

    def rights(self) -> list[tuple[str, str, str]]:
        """Owner and rights of everything in the two schemas, and by default."""
        return query(
            self.superuser,
            """
            SELECT oid::regclass::text AS of, relowner::regrole::text, relacl::text FROM pg_class
            WHERE relnamespace::regnamespace::text IN ('aht', 'reporting')
            UNION ALL SELECT nspname, nspowner::regrole::text, nspacl::text FROM pg_namespace
            UNION ALL SELECT defaclnamespace::regnamespace::text, defaclrole::regrole::text, defaclacl::text
            FROM pg_default_acl
            UNION ALL SELECT datname, datdba::regrole::text, datacl::text FROM pg_database
            ORDER BY 1, 2, 3
            """,
        )

    def drop(self) -> None:
        query(self.superuser, f"ALTER DATABASE {self.url.database} OWNER TO {self.url.username}")
        present = query(self.superuser, "SELECT rolname FROM pg_roles WHERE rolname = ANY (:groups)", groups=[*GROUPS])
        for role in [*present, *self.users]:
            query(self.superuser, f"DROP OWNED BY {role} CASCADE")
        # The groups first: a user may have granted them.
        for role in [*present, *self.users]:
            query(self.superuser, f"DROP ROLE {role}")


@pytest.fixture
def roles(database_url: str) -> Iterator[Roles]:
    roles = Roles(database_url)
    try:
        yield roles
    finally:
        roles.drop()


@pytest.fixture
def users(roles: Roles) -> tuple[sa.Engine, sa.Engine, sa.Engine]:
    """The migrator, the loader and the reader of a migrated warehouse, the script run once, before it was."""
    roles.run_script()
    migrator, loader, reader = roles.make_users()
    warehouse.upgrade(roles.url_of(migrator))
    return roles.engine_of(migrator), roles.engine_of(loader), roles.engine_of(reader)


def check_a_load(loader: sa.Engine) -> None:
    """A load that adds and changes segments and rejects, and a refusal."""
    warehouse.require_current(loader)
    mended = loading.segment(2)
    broken = loading.reject(f'{{"segmentId": "{mended["segment_id"]}"}}')
    loading.load(loader, loading.batch(loading.segment(1), rejects=(broken,)), max_rejected_percent=99.0)
    later = datetime(2026, 3, 13, tzinfo=UTC)
    restated = loading.load(loader, loading.batch(loading.segment(1, skill_id=None), mended), pulled_at=later)
    warehouse.record_refusal(loader, loading.ACCOUNT, YESTERDAY, "too old", later)
    assert (restated.inserted, restated.updated) == (1, 1)


def check_refused(user: sa.Engine, statement: str) -> None:
    with pytest.raises(warehouse.WarehouseError, match=r"permission denied|must be owner"):
        query(user, statement)


def test_run_before_the_first_migration_each_role_can_do_its_work(roles: Roles, tmp_path: Path) -> None:
    roles.run_script()
    roles.run_script()
    migrator, loader, reader = roles.make_users()
    noon = datetime.combine(YESTERDAY, time(12, tzinfo=UTC))
    with Simulator(ExplicitTraffic(segment(number, noon) for number in range(3))) as simulator:
        account = Outside(
            tmp_path,
            simulator.variables
            | {
                "WAREHOUSE_URL": roles.url_of(loader),
                "WAREHOUSE_ADMIN_URL": roles.url_of(migrator),
                "AHT_START_DATE": YESTERDAY.isoformat(),
            },
        )
        account.run("migrate")
        account.run("load")
        account.run("load")
        account.run("status")
        account.run("doctor")

    analyst = roles.engine_of(reader)
    assert query(analyst, "SELECT sum(segments) FROM reporting.skill_day") == [3]
    assert query(analyst, "SELECT day FROM reporting.day_coverage WHERE state = 'provisional'") == [YESTERDAY]
    check_refused(roles.engine_of(loader), "DELETE FROM aht.agent_segments")
    check_refused(analyst, "SELECT FROM aht.agent_segments")


def test_the_loader_can_load(users: tuple[sa.Engine, ...]) -> None:
    _, loader, _ = users

    check_a_load(loader)


def test_the_loader_can_store_names_and_forget_those_of_agents(users: tuple[sa.Engine, ...]) -> None:
    _, loader, _ = users
    seen_at = datetime(2026, 3, 13, tzinfo=UTC)

    for day, called in enumerate(("Ann", "Anne")):
        agents = NameList(NameKind.AGENT, (Name(7, called, is_deleted=False),), 0, "1")
        warehouse.store_names(loader, loading.ACCOUNT, agents, seen_at + timedelta(days=day))
    warehouse.note_unchanged_names(loader, loading.ACCOUNT, NameKind.AGENT, seen_at + timedelta(days=2))

    assert query(loader, "SELECT name FROM aht.names UNION ALL SELECT name FROM aht.former_names") == ["Anne", "Ann"]
    assert warehouse.forget_agent_names(loader, loading.ACCOUNT) == 1


def test_run_again_after_the_migration_it_changes_nothing(roles: Roles, users: tuple[sa.Engine, ...]) -> None:
    before = roles.rights()

    roles.run_script()

    assert roles.rights() == before


def test_the_loader_can_neither_remove_rows_nor_rewrite_the_ledger_nor_create_anything(
    users: tuple[sa.Engine, ...],
) -> None:
    _, loader, _ = users

    for statement in (
        "DELETE FROM aht.agent_segments",
        "DELETE FROM aht.rejected_segments",
        "DELETE FROM aht.loads",
        "DELETE FROM aht.refused_days",
        "DELETE FROM aht.names",
        "DELETE FROM aht.former_names",
        "TRUNCATE aht.agent_segments",
        "DROP TABLE aht.agent_segments",
        "ALTER TABLE aht.agent_segments ADD COLUMN another text",
        "CREATE INDEX ON aht.agent_segments (agent_id)",
        "UPDATE aht.loads SET settled = true",
        "UPDATE aht.refused_days SET reason = ''",
        "UPDATE aht.former_names SET name = ''",
        "UPDATE aht.alembic_version SET version_num = '0000'",
        "INSERT INTO aht.alembic_version VALUES ('0000')",
        "CREATE TABLE aht.another (one int)",
        "CREATE TABLE public.another (one int)",
        "CREATE SCHEMA another",
        "DROP SCHEMA aht CASCADE",
        "SELECT FROM reporting.day_coverage",
        "SET ROLE aht_owner",
    ):
        check_refused(loader, statement)


def test_the_reader_sees_no_table_and_changes_nothing(users: tuple[sa.Engine, ...]) -> None:
    _, _, reader = users

    for statement in (
        "SELECT FROM aht.agent_segments",
        "SELECT FROM aht.rejected_segments",
        "SELECT FROM aht.loads",
        "SELECT FROM aht.refused_days",
        "SELECT FROM aht.names",
        "SELECT FROM aht.alembic_version",
        "INSERT INTO aht.refused_days VALUES ('1', '2026-01-01', now(), '')",
        "DROP VIEW reporting.skill_day",
        "CREATE VIEW reporting.another AS SELECT 1 AS one",
        "CREATE TABLE public.another (one int)",
        "CREATE TEMPORARY TABLE another (one int)",
        "SET ROLE aht_owner",
    ):
        check_refused(reader, statement)


def test_the_owner_is_no_superuser_and_owns_nothing_else(users: tuple[sa.Engine, ...]) -> None:
    migrator, _, _ = users

    for statement in (
        "CREATE TABLE public.another (one int)",
        "CREATE SCHEMA another",
        "CREATE ROLE another",
        "SELECT pg_read_file('PG_VERSION')",
        "COPY aht.loads TO PROGRAM 'cat'",
    ):
        check_refused(migrator, statement)


def test_none_of_the_roles_can_log_in_or_stand_above_rights(roles: Roles) -> None:
    roles.run_script()

    assert query(
        roles.superuser,
        "SELECT count(*) FROM pg_roles WHERE rolname = ANY (:groups) AND NOT "
        "(rolcanlogin OR rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls)",
        groups=[*GROUPS],
    ) == [3]


def test_what_a_later_migration_creates_is_covered(users: tuple[sa.Engine, ...]) -> None:
    migrator, loader, reader = users
    query(migrator, "CREATE TABLE aht.later (one int); CREATE VIEW reporting.later AS SELECT one FROM aht.later")

    query(loader, "INSERT INTO aht.later VALUES (1)")

    assert query(reader, "SELECT one FROM reporting.later") == [1]
    check_refused(loader, "UPDATE aht.later SET one = 2")
    check_refused(loader, "DELETE FROM aht.later")
    check_refused(reader, "SELECT one FROM aht.later")


def test_a_warehouse_that_another_role_has_migrated_is_handed_over(roles: Roles) -> None:
    former = roles.make_user("former", "")
    query(roles.superuser, f"GRANT CREATE, CONNECT, TEMPORARY ON DATABASE {roles.url.database} TO {former}")
    warehouse.upgrade(roles.url_of(former))

    roles.run_script()

    assert (
        query(
            roles.superuser,
            "SELECT relname FROM pg_class WHERE relnamespace::regnamespace::text IN ('aht', 'reporting') "
            "AND relowner <> 'aht_owner'::regrole "
            "UNION ALL SELECT proname FROM pg_proc WHERE pronamespace = 'aht'::regnamespace "
            "AND proowner <> 'aht_owner'::regrole",
        )
        == []
    )
    migrator, loader, reader = roles.make_users()
    query(roles.engine_of(migrator), "ALTER TABLE aht.loads ADD COLUMN later text; DROP VIEW reporting.group_day")
    check_a_load(roles.engine_of(loader))
    assert query(roles.engine_of(reader), "SELECT sum(segments) FROM reporting.skill_day") == [2]
    check_refused(roles.engine_of(former), "DELETE FROM aht.agent_segments")


def test_what_others_keep_in_the_reporting_schema_stays_theirs(roles: Roles) -> None:
    other = roles.make_user("other", "")
    query(
        roles.superuser,
        f"CREATE SCHEMA reporting AUTHORIZATION {other}; SET ROLE {other}; CREATE TABLE reporting.of_others AS "
        "SELECT 1 AS one; CREATE VIEW reporting.view_of_others AS SELECT one FROM reporting.of_others; RESET ROLE",
    )
    roles.run_script()
    migrator, _, reader = roles.make_users()
    warehouse.upgrade(roles.url_of(migrator))
    query(
        roles.superuser,
        f"GRANT USAGE ON SCHEMA aht TO {other}; GRANT SELECT ON aht.loads TO {other}; SET ROLE {other}; "
        "CREATE VIEW reporting.days_of_others AS SELECT day, one FROM aht.loads, reporting.of_others; RESET ROLE",
    )
    roles.run_script()

    query(
        roles.superuser,
        f"SET ROLE {other}; DROP VIEW reporting.view_of_others; SELECT FROM reporting.days_of_others; "
        "DROP VIEW reporting.days_of_others; RESET ROLE",
    )
    assert query(roles.engine_of(reader), "SELECT FROM reporting.day_coverage") == []
    check_refused(roles.engine_of(reader), "SELECT one FROM reporting.of_others")


def test_the_owner_of_the_database_can_run_it_where_no_superuser_is_to_be_had(roles: Roles) -> None:
    admin = roles.make_user("admin", "CREATEROLE")
    query(roles.superuser, f"ALTER DATABASE {roles.url.database} OWNER TO {admin}")

    roles.run_script(admin)
    roles.run_script(admin)

    migrator, loader, _ = roles.make_users()
    warehouse.upgrade(roles.url_of(migrator))
    roles.run_script(admin)
    check_a_load(roles.engine_of(loader))


# --------------------------------------------------------------------------------------- a night, rehearsed by `doctor`


def a_night(loader: sa.Engine, account: str) -> None:
    """What a night does: two loads with a reject that is mended, a refusal, the sums of the reports, and names."""
    warehouse.require_current(loader)
    warehouse.loaded_timezone(loader, account)
    warehouse.day_records(loader, account)
    known, changed, mended = (loading.segment(number, segment_id=f"{account} {number}") for number in range(3))
    broken = loading.reject(f'{{"segmentId": "{account} 2"}}')
    first = loading.batch(known, changed, rejects=(broken,))
    loading.load(loader, first, account_id=account, max_rejected_percent=99.0)
    later = datetime(2026, 3, 13, tzinfo=UTC)
    second = loading.batch(known, {**changed, "skill_id": None}, mended)
    loading.load(loader, second, account_id=account, pulled_at=later)
    warehouse.record_refusal(loader, account, YESTERDAY, "too old", later)
    list(warehouse.refresh_rollups(loader))
    warehouse.mark_differing_days(loader, YESTERDAY)
    warehouse.known_revision(loader, account, NameKind.AGENT)
    for day, called in enumerate(("Ann", "Anne")):
        agents = NameList(NameKind.AGENT, (Name(7, called, is_deleted=False),), 0, "1")
        warehouse.store_names(loader, account, agents, later + timedelta(days=day))
    warehouse.note_unchanged_names(loader, account, NameKind.AGENT, later + timedelta(days=2))
    warehouse.forget_agent_names(loader, account)


def content(engine: sa.Engine) -> list[str]:
    """Every row of every table."""
    tables = query(
        engine, "SELECT oid::regclass::text FROM pg_class WHERE relnamespace = 'aht'::regnamespace AND relkind = 'r'"
    )
    return [
        row for table in sorted(tables) for row in query(engine, f"SELECT row::text FROM {table} AS row ORDER BY 1")
    ]


def test_a_rehearsal_needs_no_right_more_than_the_script_gives_and_leaves_nothing(
    roles: Roles, users: tuple[sa.Engine, ...]
) -> None:
    _, loader, _ = users
    a_night(loader, "1")
    before = content(roles.superuser)

    assert warehouse.rehearse_night(loader) == loader.url.username

    assert content(roles.superuser) == before


def refusal_of(loader: sa.Engine) -> str | None:
    """Why a night would fail, as its rehearsal says."""
    try:
        warehouse.rehearse_night(loader)
    except warehouse.WarehouseError as refusal:
        return str(refusal)
    return None


def test_each_right_that_a_night_would_miss_is_missed_by_its_rehearsal_and_named(
    roles: Roles, users: tuple[sa.Engine, ...]
) -> None:
    _, loader, _ = users
    granted = query(
        roles.superuser,
        "SELECT privilege_type || ' ON aht.' || table_name FROM information_schema.role_table_grants "
        "WHERE grantee = 'aht_loader' AND table_schema = 'aht' ORDER BY 1",
    )
    assert len(granted) > 40
    granted += [f"TEMPORARY ON DATABASE {roles.url.database}", "USAGE ON SCHEMA aht"]
    needed = []
    for number, right in enumerate(granted):
        query(roles.superuser, f"REVOKE {right} FROM aht_loader")
        if refused := refusal_of(loader):
            needed.append(right)
            assert f"GRANT {right} TO {loader.url.username}" in refused
            assert "roles.sql" in refused
        else:
            a_night(loader, str(number))
        query(roles.superuser, f"GRANT {right} TO aht_loader")
    assert len(needed) == 23
    assert refusal_of(loader) is None


@pytest.mark.parametrize("function", ["roll_up_day", "mark_differing_days", "forget_agent_names"])
def test_a_function_that_the_loader_may_not_call_is_named(
    roles: Roles, users: tuple[sa.Engine, ...], function: str
) -> None:
    _, loader, _ = users
    query(roles.superuser, f"REVOKE EXECUTE ON FUNCTION aht.{function} FROM PUBLIC")

    with pytest.raises(warehouse.WarehouseError, match=rf"GRANT EXECUTE ON FUNCTION aht\.{function}\(.* TO loader_of"):
        warehouse.rehearse_night(loader)


@pytest.mark.parametrize(
    ("change", "fix"),
    [
        ("ALTER ROLE {role} SET default_transaction_read_only = on", "ALTER ROLE {role} RESET default"),
        ("ALTER DATABASE {database} SET default_transaction_read_only = on", "ALTER DATABASE {database} RESET default"),
        (
            "ALTER ROLE {role} IN DATABASE {database} SET default_transaction_read_only = on",
            "ALTER ROLE {role} IN DATABASE {database} RESET default",
        ),
        ("ALTER TABLE aht.agent_segments DISABLE TRIGGER USER", "ENABLE TRIGGER ALL"),
        ("ALTER TABLE aht.loads ENABLE ROW LEVEL SECURITY", "row-level security policy"),
        ("ALTER TABLE aht.agent_segments ENABLE ROW LEVEL SECURITY", "with row-level security"),
    ],
)
def test_whatever_else_would_refuse_a_night_is_told_with_what_helps(
    roles: Roles, users: tuple[sa.Engine, ...], change: str, fix: str
) -> None:
    _, loader, _ = users
    names = {"role": loader.url.username, "database": roles.url.database}
    query(roles.superuser, change.format(**names))

    assert fix.format(**names) in (refusal_of(loader) or "")
    query(
        roles.superuser,
        f"SET TRANSACTION READ WRITE; ALTER DATABASE {roles.url.database} RESET default_transaction_read_only",
    )


def test_a_rehearsal_and_a_load_do_not_wait_for_each_other(roles: Roles, users: tuple[sa.Engine, ...]) -> None:
    _, loader, _ = users
    impatient = warehouse.engine(f"{roles.url_of(loader.url.username)}?options=-clock_timeout%3D300ms")

    def batches() -> Iterator[SegmentBatch]:
        yield loading.batch(loading.segment(1))
        yield loading.batch()  # what comes after it is made when the first is written
        warehouse.rehearse_night(impatient)
        yield loading.batch(loading.segment(2))

    assert warehouse.load_day(impatient, loading.facts(reported=2), batches).inserted == 2


def test_doctor_tells_of_a_right_that_only_the_second_load_needs(roles: Roles, tmp_path: Path) -> None:
    roles.run_script()
    migrator, loader, _ = roles.make_users()
    with Simulator(ExplicitTraffic()) as simulator:
        account = Outside(
            tmp_path,
            simulator.variables | {"WAREHOUSE_URL": roles.url_of(loader), "AHT_START_DATE": YESTERDAY.isoformat()},
        )
        warehouse.upgrade(roles.url_of(migrator))
        assert f"ok     load        rehearsed as role {loader}" in account.run("doctor").stdout
        query(roles.superuser, f"REVOKE TEMPORARY ON DATABASE {roles.url.database} FROM aht_loader")

        doctor = account.run("doctor", exit_code=1).stdout

    assert [line.split()[:2] for line in doctor.splitlines() if "FAULT" in line] == [["FAULT", "load"]]
    assert f"GRANT TEMPORARY ON DATABASE {roles.url.database} TO {loader}" in doctor
