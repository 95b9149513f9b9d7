"""Settings: each one refused by name when it is wrong, before any work; the demo and the real account never mixed."""

from __future__ import annotations

from pathlib import Path

import pytest

from aht_pipeline.errors import SettingsError
from aht_pipeline.settings import Settings, Variables, process_environment, read_demo_settings, read_settings
from aht_pipeline_tests.outside import Outside

REAL = {"LIVEPERSON_ACCOUNT_ID": "123", "LIVEPERSON_CLIENT_ID": "id", "LIVEPERSON_CLIENT_SECRET": "the-secret"}


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """No variable of ours is set, and the working directory holds no `.env`."""
    for name in Variables.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.chdir(tmp_path)
    return monkeypatch


def read(variables: pytest.MonkeyPatch, **values: str) -> Settings:
    for name, value in values.items():
        variables.setenv(name, value)
    return read_settings()


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("AHT_SOURCE", {"AHT_SOURCE": "has-hyphen"}),
        ("AHT_SOURCE", {"AHT_SOURCE": "a" * 21}),
        ("AHT_PAGE_SIZE", {"AHT_PAGE_SIZE": "501"}),
        ("AHT_PAGE_SIZE", {"AHT_PAGE_SIZE": "many"}),
        ("AHT_CONCURRENCY", {"AHT_CONCURRENCY": "0"}),
        ("AHT_TIMEZONE", {"AHT_TIMEZONE": "Mars/Olympus"}),
        ("AHT_TIMEZONE", {"AHT_TIMEZONE": "../etc/passwd"}),
        ("AHT_SCHEDULE", {"AHT_SCHEDULE": "at night"}),
        ("AHT_SCHEDULE", {"AHT_SCHEDULE": "61 3 * * *"}),
        ("AHT_SCHEDULE", {"AHT_SCHEDULE": "* * * * * *"}),
        ("AHT_SCHEDULE", {"AHT_SCHEDULE": "0 3 LW * *"}),
        ("AHT_SCHEDULE", {"AHT_SCHEDULE": "0 3 * * 5L"}),
        ("AHT_START_DATE", {"AHT_START_DATE": "last week"}),
        ("AHT_START_DATE", {"AHT_START_DATE": "1700006400"}),
        ("AHT_START_DATE", {"AHT_START_DATE": "0001-01-01"}),
        ("AHT_ARCHIVE_URL", {"AHT_ARCHIVE_URL": "s3:/bucket"}),
        ("AHT_ARCHIVE_URL", {"AHT_ARCHIVE_URL": "s3://"}),
        ("AHT_ARCHIVE_URL", {"AHT_ARCHIVE_URL": "file://relative/folder"}),
        ("AHT_ARCHIVE_URL", {**REAL, "AHT_ARCHIVE_URL": "~no-such-user/archive"}),
        ("AHT_HOME", {"AHT_HOME": "~no-such-user/home"}),
        ("LIVEPERSON_API_URL", {"LIVEPERSON_API_URL": "http://127.0.0.1:port"}),
        ("LIVEPERSON_API_URL", {"LIVEPERSON_API_URL": "https://exa mple.com"}),
        ("LIVEPERSON_API_URL", {"LIVEPERSON_API_URL": "https://.."}),
        ("LIVEPERSON_API_URL", {"LIVEPERSON_API_URL": "https://example.com?a=1"}),
        ("LIVEPERSON_CLIENT_SECRET", {"LIVEPERSON_CLIENT_SECRET": "the-secret\udcff"}),
        ("WAREHOUSE_URL", {"WAREHOUSE_URL": "postgresql://user:the-secret@host:port/db"}),
        ("WAREHOUSE_URL", {"WAREHOUSE_URL": "postgresql://user:the@secret/the#secret@host/db"}),
        ("WAREHOUSE_URL", {"WAREHOUSE_URL": "postgresql://user:the-secret@host/th@e/db"}),
        ("WAREHOUSE_URL", {"WAREHOUSE_URL": "POSTGRESQL://user:the-secret@host/db"}),
        ("AHT_LOOKBACK_DAYS", {"AHT_LOOKBACK_DAYS": "0"}),
        ("AHT_MAX_REJECTED_PERCENT", {"AHT_MAX_REJECTED_PERCENT": "101"}),
        ("AHT_ARCHIVE_URL", {"AHT_ARCHIVE_URL": "ftp://archive"}),
        ("AHT_ARCHIVE_URL", {"AHT_ARCHIVE_URL": "s3://key:the-secret@bucket/prefix"}),
        ("AHT_ARCHIVE_URL", {"AHT_ARCHIVE_URL": "az://container?sig=the-secret"}),
        ("LIVEPERSON_API_URL", {"LIVEPERSON_API_URL": "http://example.com"}),
        ("LIVEPERSON_API_URL", {"LIVEPERSON_API_URL": "va.example.com"}),
        ("LIVEPERSON_API_URL", {"LIVEPERSON_API_URL": "https://user:the-secret@va.example.com"}),
        ("LIVEPERSON_DOMAIN_API_URL", {"LIVEPERSON_DOMAIN_API_URL": "http://10.0.0.1"}),
        *(
            ("LIVEPERSON_ACCOUNT_ID", {"LIVEPERSON_ACCOUNT_ID": value})
            for value in ("1/2", "..", "1 2", "1'; DROP TABLE aht.loads; --", "1\n2", "%2e", "१२")
        ),
        ("LIVEPERSON_ACCOUNT_ID", {"LIVEPERSON_CLIENT_ID": "a", "LIVEPERSON_CLIENT_SECRET": "b"}),
        ("LIVEPERSON_CLIENT_SECRET", {"LIVEPERSON_CLIENT_ID": "a"}),
        ("LIVEPERSON_CLIENT_ID", {"LIVEPERSON_CLIENT_SECRET": "a"}),
        ("LIVEPERSON_ACCESS_TOKEN_SECRET", {"LIVEPERSON_APP_KEY": "a", "LIVEPERSON_APP_SECRET": "b"}),
        ("WAREHOUSE_URL", {"WAREHOUSE_URL": "mysql://user:the-secret@host/db"}),
        ("WAREHOUSE_URL", {"WAREHOUSE_URL": "postgresql://user:the-secret%00@host/db"}),
        ("WAREHOUSE_ADMIN_URL", {"WAREHOUSE_ADMIN_URL": "postgresql://user:the-secret@127.0.0.1:/db"}),
        ("WAREHOUSE_ADMIN_URL", {"WAREHOUSE_ADMIN_URL": "postgresql://host/db?sslpassword=the-secret"}),
        ("AHT_START_DATE", {"WAREHOUSE_URL": "postgresql://user:the-secret@host/db"}),
        ("AHT_ALERT_WEBHOOK_URL", {"AHT_ALERT_WEBHOOK_URL": "the-secret"}),
        ("AHT_ALERT_WEBHOOK_URL", {"AHT_ALERT_WEBHOOK_URL": "http://hooks.example.test/the-secret"}),
        ("AHT_ALERT_WEBHOOK_URL", {"AHT_ALERT_WEBHOOK_URL": "https://the-secret\u2100/"}),
    ],
)
def test_a_wrong_setting_is_refused_by_its_name(
    variables: pytest.MonkeyPatch, name: str, values: dict[str, str]
) -> None:
    with pytest.raises(SettingsError) as refused:
        read(variables, **values)
    assert name in str(refused.value)
    assert "the-secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("command", "variable", "value"),
    [
        (("load",), "AHT_SOURCE", "has-hyphen"),
        (("status", "--json"), "AHT_PAGE_SIZE", "501"),
        (("doctor",), "LIVEPERSON_CLIENT_ID", "half-a-pair"),
        (("up",), "LIVEPERSON_API_URL", "http://example.com"),
        (("segments",), "AHT_TIMEZONE", "Mars/Olympus"),
        (("migrate",), "WAREHOUSE_URL", "postgresql://user:the-secret@127.0.0.1/db"),
        (("psql",), "WAREHOUSE_URL", "sqlite:///the-secret"),
        (("demo",), "AHT_CONCURRENCY", "none"),
        (("down",), "AHT_PAGE_SIZE", "0"),
    ],
)
def test_a_command_with_a_wrong_setting_does_nothing_and_exits_2(
    tmp_path: Path, command: tuple[str, ...], variable: str, value: str
) -> None:
    done = Outside(tmp_path, {variable: value}).run(*command, exit_code=2)
    # A start date is what that warehouse URL lacks.
    assert ("AHT_START_DATE" if command == ("migrate",) else variable) in done.stderr
    assert "the-secret" not in done.stdout + done.stderr
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_without_credentials_and_warehouse_everything_is_the_demos(
    variables: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = read(variables, LIVEPERSON_ACCOUNT_ID="123", AHT_TIMEZONE="Europe/London", DAGSTER_HOME="/elsewhere")
    assert settings.demo
    assert settings.account_id == "demo"
    assert (settings.timezone, settings.schedule) == ("UTC", "15 3 * * *")
    assert settings.home == tmp_path / ".aht" / "demo"
    assert settings.dagster_home == tmp_path / ".aht" / "demo" / "dagster"


def test_the_demo_ignores_what_is_configured(variables: pytest.MonkeyPatch, tmp_path: Path) -> None:
    read(variables, **REAL, WAREHOUSE_URL="postgresql://host/db", AHT_START_DATE="2026-01-01", AHT_HOME="kept")
    settings = read_demo_settings()
    assert (settings.home, settings.account_id, settings.warehouse_url) == (tmp_path / "kept" / "demo", "demo", None)
    assert settings.archive_url == str(tmp_path / "kept" / "demo" / "archive")


def test_an_empty_variable_counts_as_unset_and_the_environment_wins_over_the_file(
    variables: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text(
        "LIVEPERSON_ACCOUNT_ID=of-the-file\nLIVEPERSON_CLIENT_ID=id\nLIVEPERSON_CLIENT_SECRET=secret\nAHT_SOURCE=file\n"
        "AHT_START_DATE=\n"
    )
    settings = read(variables, AHT_SOURCE="environment", LIVEPERSON_ACCOUNT_ID="", AHT_PAGE_SIZE="")
    assert (settings.account_id, settings.source, settings.page_size) == ("of-the-file", "environment", 500)
    assert settings.given_start_date is None


def test_a_child_process_in_another_directory_reads_the_same_settings(
    variables: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("AHT_TIMEZONE=Europe/London\nAHT_ARCHIVE_URL=kept\n")
    settings = read(variables, **REAL, WAREHOUSE_URL="postgresql://host/db", AHT_START_DATE="2026-01-01")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    variables.chdir(elsewhere)
    for name, value in process_environment(settings).items():
        variables.setenv(name, value)
    child = read_settings()
    assert child.archive_url == settings.archive_url == str(tmp_path / "kept")
    assert (child.home, child.timezone, child.keys) == (settings.home, "Europe/London", settings.keys)


def test_no_secret_is_in_a_repr(variables: pytest.MonkeyPatch) -> None:
    settings = read(
        variables,
        **REAL,
        WAREHOUSE_URL="postgresql://user:the-secret@host/db",
        AHT_START_DATE="2026-01-01",
        AHT_ALERT_WEBHOOK_URL="https://hooks.example.com/the-secret",
    )
    assert "the-secret" not in repr(settings)
    assert "the-secret" not in repr(Variables())


def test_the_first_day_is_remembered_and_never_moves_by_itself(variables: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = read(variables, **REAL)
    first = settings.start_date
    settings.remember_start_date()
    (settings.home / "start-date").write_text("2026-01-31\n")
    settings.remember_start_date()
    assert first.isoformat() != "2026-01-31"
    assert read_settings().start_date.isoformat() == "2026-01-31"
    assert read(variables, AHT_START_DATE="2026-02-01").start_date.isoformat() == "2026-02-01"
