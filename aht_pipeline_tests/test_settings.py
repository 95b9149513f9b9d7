"""Settings: each one refused by name when it is wrong, before any work; the demo and the real account never mixed."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from aht_pipeline.errors import SettingsError
from aht_pipeline.home import open_api
from aht_pipeline.services import URL_VARIABLES
from aht_pipeline.settings import (
    Settings,
    Variables,
    given_variables,
    process_environment,
    read_demo_settings,
    read_settings,
    read_variables,
)
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
        ("AHT_START_DATE", {"AHT_START_DATE": "2026-02-30"}),
        ("AHT_START_DATE", {"AHT_START_DATE": "2026-06-31"}),
        ("AHT_START_DATE", {"AHT_START_DATE": "٢٠٢٦-٠١-٠١"}),
        *(
            ("AHT_PAGE_SIZE", {"AHT_PAGE_SIZE": value})
            for value in ("9" * 5000, "5e2", "5_00", "+500", "500.0", "0x1F", "-1")
        ),
        *(
            ("AHT_MAX_REJECTED_PERCENT", {"AHT_MAX_REJECTED_PERCENT": value})
            for value in ("100.1", "5%", "nan", "inf", "5_0", "1e1", "5,5", "-0")
        ),
        *(("AHT_AGENT_NAMES", {"AHT_AGENT_NAMES": value}) for value in ("none", "2", "disabled")),
        *(
            ("AHT_TIMEZONE", {"AHT_TIMEZONE": value})
            for value in ("localtime", "Factory", "EST5EDT4", "UTC+2", "posix/UTC", "right/UTC", "Europe", "London")
        ),
        ("AHT_SCHEDULE", {"AHT_SCHEDULE": "@daily"}),
        ("AHT_HOME", {"AHT_HOME": "${HOME}/aht"}),
        ("AHT_HOME", {"AHT_HOME": "$HOME/aht"}),
        ("AHT_HOME", {"AHT_HOME": "file:///var/lib/aht"}),
        ("DAGSTER_HOME", {"DAGSTER_HOME": "${HOME}/dagster"}),
        ("AHT_ARCHIVE_URL", {"AHT_ARCHIVE_URL": "${HOME:-/tmp}/archive"}),
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
            (variable, {variable: value})
            for variable in URL_VARIABLES.values()
            for value in ("va.example.com", "http://example.com", "https://user:the-secret@x.com", "https://x.com?a=1")
        ),
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
        ("WAREHOUSE_ADMIN_URL", {**REAL, "WAREHOUSE_ADMIN_URL": "postgresql://admin:the-secret@host/db"}),
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
    ("value", "what_counts"),
    [
        ("OFF", False),
        ("False", False),
        ("0", False),
        ("no", False),
        ("ON", True),
        ("true", True),
    ],
)
def test_a_switch_is_read_as_it_is_meant(variables: pytest.MonkeyPatch, value: str, what_counts: bool) -> None:
    assert read(variables, **REAL, AHT_AGENT_NAMES=value).agent_names is what_counts


@pytest.mark.parametrize(
    ("value", "name"), [("europe/london", "Europe/London"), ("utc", "UTC"), ("EST5EDT", "EST5EDT")]
)
def test_a_time_zone_has_its_one_name_in_whatever_case_it_is_written(
    variables: pytest.MonkeyPatch, value: str, name: str
) -> None:
    assert read(variables, **REAL, AHT_TIMEZONE=value).timezone == name


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("NAME=a$b", "a$b"),
        ("NAME=${HOME}", "${HOME}"),
        ("NAME='${HOME}'", "${HOME}"),
        ('NAME="${HOME}"', "${HOME}"),
        ("NAME=a${UNSET:-y}$HOME$$", "a${UNSET:-y}$HOME$$"),
        ('export NAME="a${b"', "a${b"),
        ("NAME='a # b'  # why", "a # b"),
        ("NAME=a#b", "a#b"),
        ("NAME=a # b", "a"),
        ("# NAME=c\r\nNAME=a\r\n", "a"),
        ("\ufeffNAME=a", "a"),
        ("  NAME = a b  ", "a b"),
        ("NAME=\nNAME=a", "a"),
        ("NAME=a\nNAME=", "a"),
        ("NAME=a\nname=a", "a"),
        ("name=a", "a"),
        ("NAME\nNAME=a", "a"),
    ],
)
def test_a_value_in_the_env_file_is_exactly_what_is_written_there(
    variables: pytest.MonkeyPatch, tmp_path: Path, line: str, value: str
) -> None:
    text = line.replace("NAME", "LIVEPERSON_CLIENT_SECRET").replace("name", "liveperson_client_secret")
    (tmp_path / ".env").write_bytes(text.encode())
    variables.setenv("HOME", "/another")
    secret = read_variables().liveperson_client_secret
    assert secret is not None
    assert secret.get_secret_value() == value


@pytest.mark.parametrize(
    ("lines", "place"),
    [
        ("\n\nLIVEPERSON_CLIENT_SECRET: the-secret", "line 3"),
        ("# it's a comment\nLIVEPERSON_CLIENT_SECRET:the-secret=", "line 2"),
        ("AHT_SOURCE=a\r\n\r\nset LIVEPERSON_CLIENT_SECRET=the-secret", "line 3"),
        ("LIVEPERSON_CLIENT_SECRET='the-secret\nAHT_SOURCE=a", "line 1"),
        ('LIVEPERSON_CLIENT_SECRET="the-secret"x', "line 1"),
        ('"LIVEPERSON_CLIENT_SECRET"=the-secret', "line 1"),
        ("\u200bLIVEPERSON_CLIENT_SECRET=the-secret", "line 1"),
        ("LIVEPERSON_CLIENT_SECRET=the-secret".encode("utf-16-le").decode(), "line 1"),
        ("LIVEPERSON_CLIENT_SECRET=a\nliveperson_client_secret=the-secret", "LIVEPERSON_CLIENT_SECRET: is set twice"),
    ],
)
def test_a_line_of_the_env_file_that_says_nothing_for_sure_is_refused(
    variables: pytest.MonkeyPatch, tmp_path: Path, lines: str, place: str
) -> None:
    (tmp_path / ".env").write_bytes(lines.encode())
    with pytest.raises(SettingsError) as refused:
        read_settings()
    assert str(tmp_path / ".env") in str(refused.value)
    assert place in str(refused.value)
    assert "the-secret" not in str(refused.value)


@pytest.mark.parametrize("kind", ["a folder", "a link to nothing"])
def test_an_env_file_that_cannot_be_read_is_refused(variables: pytest.MonkeyPatch, tmp_path: Path, kind: str) -> None:
    if kind == "a folder":
        (tmp_path / ".env").mkdir()
    else:
        (tmp_path / ".env").symlink_to(tmp_path / "nothing")
    with pytest.raises(SettingsError, match=r"\.env cannot be read"):
        read_settings()


@pytest.mark.parametrize("around", [" ", "\t", "\n", "\r\n", "\xa0", "\u2003", "\u3000", "\u2028"])
def test_white_space_around_a_value_is_not_part_of_it(variables: pytest.MonkeyPatch, around: str) -> None:
    given = {
        **REAL,
        "WAREHOUSE_URL": "postgresql://user@host/db",
        "AHT_START_DATE": "2026-01-01",
        "AHT_TIMEZONE": "Europe/London",
        "AHT_HOME": "/a path",
        "DAGSTER_HOME": "/another path",
        "AHT_PAGE_SIZE": "7",
    }
    settings = read(variables, **{name: f"{around}{value}{around}" for name, value in given.items()}, AHT_SOURCE=around)
    assert settings.keys == read(variables, **given).keys
    assert (settings.warehouse_url, settings.timezone) == (given["WAREHOUSE_URL"], "Europe/London")
    assert (str(settings.home), str(settings.dagster_home)) == ("/a path", "/another path")
    assert (settings.page_size, settings.source) == (7, "aht_pipeline")
    assert settings.environment["DAGSTER_HOME"] == process_environment(settings)["DAGSTER_HOME"] == "/another path"


@pytest.mark.parametrize(
    "char",
    [
        *("\t", "\n", "\r", "\0", "\x1b", "\x7f", "\x85"),  # control characters
        *("\u200b", "\u200d", "\u2060", "\ufeff", "\xad", "\u200f", "\u202e", "\u2066", "\U000e0041"),
        *("\xa0", "\u2003", "\u202f", "\u3000", "\u2028", "\u2029"),  # white space that is no blank
        *("\u034f", "\u115f", "\u2800", "\u3164", "\ufe0f", "\ufffd"),  # not seen, or lost
        *("\ue000", "\uffff", "\u0378"),  # no character
    ],
)
@pytest.mark.parametrize("name", ["LIVEPERSON_CLIENT_SECRET", "AHT_HOME", "WAREHOUSE_URL"])
def test_a_character_that_cannot_be_seen_is_refused_by_its_place(
    variables: pytest.MonkeyPatch, tmp_path: Path, name: str, char: str
) -> None:
    (tmp_path / ".env").write_bytes(f"{name}='postgresql://the{char}secret@host/db'".encode())
    with pytest.raises(SettingsError) as refused:
        read_settings()
    assert f"{name}: holds U+{ord(char) if char != chr(13) else 10:04X}" in str(refused.value)
    assert "as character 17" in str(refused.value)
    assert "secret@" not in str(refused.value)


@pytest.mark.parametrize("char", ["\u200b", "\ufeff", "\xad", "\x1f", "\0"])
def test_what_is_no_white_space_is_refused_around_a_value_too(
    variables: pytest.MonkeyPatch, tmp_path: Path, char: str
) -> None:
    for value in (f"{char}a", f"a{char}"):
        (tmp_path / ".env").write_text(f"LIVEPERSON_CLIENT_SECRET='{value}'", "utf-8")
        with pytest.raises(SettingsError, match="LIVEPERSON_CLIENT_SECRET: holds"):
            read_settings()


@pytest.mark.parametrize("quotes", ["''", '""', "``", "“”", "„“", "‘’", "«»", "»«", "‹›", "『』", "＂＂"])
@pytest.mark.parametrize("text", ["the-secret", "", " the secret "])
def test_quotes_that_came_with_a_value_are_refused(variables: pytest.MonkeyPatch, quotes: str, text: str) -> None:
    for name in ("LIVEPERSON_CLIENT_SECRET", "AHT_SCHEDULE", "AHT_HOME"):
        with variables.context() as one, pytest.raises(SettingsError) as refused:
            read(one, **{name: f"{quotes[0]}{text}{quotes[1]}"})
        assert f"{name}: " in str(refused.value)
        assert "without the quotes" in str(refused.value)
        assert "secret" not in str(refused.value)


def test_quotes_within_a_value_are_part_of_it(variables: pytest.MonkeyPatch) -> None:
    for secret in ("a'b", "'ab", 'ab"', "a b"):
        assert read(variables, **REAL | {"LIVEPERSON_CLIENT_SECRET": secret}).keys is not None
        settings = read(variables, **REAL | {"LIVEPERSON_CLIENT_SECRET": secret})
        assert settings.environment["LIVEPERSON_CLIENT_SECRET"] == secret


def test_a_variable_may_be_written_in_any_case_but_not_in_two_with_two_values(
    variables: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert read(variables, aht_home="here", Aht_Home=" here\n").home == tmp_path / "here" / "demo"
    with pytest.raises(SettingsError, match="AHT_HOME: is set twice"):
        read(variables, AHT_HOME="there")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("AHT_TIMEZNE", "AHT_TIMEZNE is no variable of aht-pipeline, and is not used: did you mean AHT_TIMEZONE?"),
        ("LIVEPERSON_CLIENTID", "did you mean LIVEPERSON_CLIENT_ID?"),
        ("LIVEPRESON_CLIENT_ID", "did you mean LIVEPERSON_CLIENT_ID?"),
        ("WAREHOUSE_ULR", "did you mean WAREHOUSE_URL?"),
        ("AHT_WAREHOUSE_URL", "did you mean WAREHOUSE_URL?"),
        ("aht_timezne", "aht_timezne is no variable of aht-pipeline, and is not used: did you mean AHT_TIMEZONE?"),
        ("AHT_QUITE_ANOTHER_THING", "AHT_QUITE_ANOTHER_THING is no variable of aht-pipeline, and is not used"),
        ("WAREHOUSE_PORT", "did you mean WAREHOUSE_URL?"),
    ],
)
@pytest.mark.parametrize("place", ["environment", "file"])
def test_a_misspelt_variable_is_told_with_the_nearest_known_one(
    variables: pytest.MonkeyPatch, tmp_path: Path, name: str, sentence: str, place: str
) -> None:
    if place == "file":
        (tmp_path / ".env").write_text(f"export {name}=the-secret\n")
    else:
        variables.setenv(name, "the-secret")
    (told,) = given_variables().unknown
    assert told.endswith(sentence)
    assert name in told
    assert "the-secret" not in told


def test_what_kubernetes_sets_for_services_and_what_is_anothers_is_not_told(variables: pytest.MonkeyPatch) -> None:
    for service in ("AHT", "AHT_UI", "WAREHOUSE", "LIVEPERSON_SIMULATOR"):
        variables.setenv(f"{service}_SERVICE_HOST", "10.0.0.1")
        variables.setenv(f"{service}_SERVICE_PORT", "8080")
        variables.setenv(f"{service}_SERVICE_PORT_HTTP", "8080")
        variables.setenv(f"{service}_PORT", "tcp://10.0.0.1:8080")
        for port in ("8080_TCP", "53_UDP"):
            variables.setenv(f"{service}_PORT_{port}", "tcp://10.0.0.1:8080")
            for part in ("ADDR", "PORT", "PROTO"):
                variables.setenv(f"{service}_PORT_{port}_{part}", "8080")
    for name in ("AHT_TEST_CALLS", "ANT_HOME", "DAGSTER_HOST", "SALES_WAREHOUSE_URL", "WAREHOUSES"):
        variables.setenv(name, "1")
    variables.setenv("AHT_TIMEZNE", "")  # an empty one counts as unset
    assert given_variables().unknown == []


def test_a_value_that_was_written_into_a_name_is_not_told(tmp_path: Path) -> None:
    done = Outside(tmp_path, {"LIVEPERSON_CLIENT_SECRET:the-secret": "x"}).run("down")
    assert "LIVEPERSON_CLIENT_SECRET… is no variable" in done.stderr
    assert "the-secret" not in done.stderr


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "UTC", "Pacific/Pago_Pago"])
def test_a_start_date_after_today_is_refused_and_today_is_not(variables: pytest.MonkeyPatch, zone: str) -> None:
    today = datetime.now(ZoneInfo(zone)).date()
    assert read(variables, **REAL, AHT_TIMEZONE=zone, AHT_START_DATE=str(today)).start_date == today
    with pytest.raises(SettingsError, match=f"AHT_START_DATE: .* today is {today}"):
        read(variables, AHT_START_DATE=str(today + timedelta(days=1)))
    variables.delenv("AHT_START_DATE")
    remembered = read_settings().home / "start-date"
    remembered.parent.mkdir()
    remembered.write_text(f"{today + timedelta(days=1)}\n")
    with pytest.raises(SettingsError, match=f"{remembered}: .* today is {today}"):
        read_settings()


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
        (("load",), "AHT_START_DATE", str(datetime.now(UTC).date() + timedelta(days=2))),
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


@pytest.mark.parametrize(
    "command",
    [
        *("demo", "up", "down", "migrate", "load", "status", "doctor", "psql", "segments"),
        *("report --html page.html", "export --profile generic"),
    ],
)
def test_every_command_tells_what_is_misspelt_once_and_before_it_refuses_anything(tmp_path: Path, command: str) -> None:
    (tmp_path / ".env").write_text("aht_timezne=the-secret\nWAREHOUSE_ULR=the-secret\nAHT_PAGE_SIZE=0\n")
    outside = Outside(tmp_path, {"WAREHOUSE_ULR": "the-secret", "WAREHOUSE_SERVICE_HOST": "10.0.0.1"})
    done = outside.run(*command.split(), exit_code=2)
    assert done.stdout == ""
    told, also_told, refused = done.stderr.splitlines()
    no_variable = "is no variable of aht-pipeline, and is not used: did you mean"
    assert told == f"aht-pipeline: WAREHOUSE_ULR {no_variable} WAREHOUSE_URL?"
    assert also_told == f"aht-pipeline: aht_timezne {no_variable} AHT_TIMEZONE?"
    assert "AHT_PAGE_SIZE" in refused


def test_the_demo_says_what_was_set_in_vain_and_what_is_missing(tmp_path: Path) -> None:
    usual = {"AHT_HOME": "home", "AHT_PAGE_SIZE": "500", "AHT_SCHEDULE": "15 3 * * *"}  # as it is there anyway
    outside = Outside(tmp_path, usual)
    demo = f"no LivePerson credentials and no WAREHOUSE_URL are set: using the demo at {tmp_path}/home/demo"
    assert outside.run("down").stderr == f"aht-pipeline: {demo}\n"
    assert outside.run("down", LIVEPERSON_ACCOUNT_ID="123", AHT_TIMEZONE="Europe/London").stderr == (
        f"aht-pipeline: {demo}; LIVEPERSON_ACCOUNT_ID and AHT_TIMEZONE are set, but not used on the demo: "
        "to leave it, set LIVEPERSON_CLIENT_ID and LIVEPERSON_CLIENT_SECRET, or WAREHOUSE_URL and AHT_START_DATE\n"
    )
    assert outside.run("down", AHT_START_DATE="2026-01-01").stderr == (
        f"aht-pipeline: {demo}; AHT_START_DATE is set, but not used on the demo: to leave it, set "
        "LIVEPERSON_ACCOUNT_ID, LIVEPERSON_CLIENT_ID and LIVEPERSON_CLIENT_SECRET, or WAREHOUSE_URL\n"
    )


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
    assert settings.unused == (*REAL, "AHT_START_DATE", "WAREHOUSE_URL")


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
    (tmp_path / ".env").write_text(
        "AHT_TIMEZONE=europe/london\nAHT_ARCHIVE_URL=kept\nAHT_MAX_REJECTED_PERCENT=0.00001\nAHT_AGENT_NAMES=OFF\n"
        'LIVEPERSON_CLIENT_SECRET="$a${HOME}\'#"\n'
    )
    variables.setenv("liveperson_account_id", "123")
    variables.setenv("LIVEPERSON_CLIENT_ID", "id")
    settings = read(variables, WAREHOUSE_URL="postgresql://host/db", AHT_START_DATE="2026-01-01")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    child = subprocess.run(
        [sys.executable, "-c", "from aht_pipeline.settings import *; s = read_settings(); print(s, s.environment)"],
        cwd=elsewhere,
        env=process_environment(settings),
        capture_output=True,
        text=True,
        check=True,
    )
    as_given = {"DAGSTER_HOME": str(settings.dagster_home)}
    expected = replace(settings, dagster_home_is_given=True, environment={**settings.environment, **as_given})
    assert child.stdout.strip() == f"{expected} {expected.environment}"
    assert settings.archive_url == str(tmp_path / "kept")
    assert settings.environment["LIVEPERSON_CLIENT_SECRET"] == "$a${HOME}'#"


@pytest.mark.parametrize(("service", "variable"), URL_VARIABLES.items())
def test_a_service_may_have_a_url_of_its_own_which_processes_elsewhere_get_too(
    variables: pytest.MonkeyPatch, service: str, variable: str
) -> None:
    others = "https://others.example.test"
    settings = read(variables, **REAL, LIVEPERSON_API_URL=others, **{variable: "https://own.example.test/base/"})
    for name, value in process_environment(settings).items():
        variables.setenv(name, value)

    with open_api(read_settings()) as api:
        urls = {name: api.url_of(name) for name in URL_VARIABLES}

    assert urls == dict.fromkeys(URL_VARIABLES, others) | {service: "https://own.example.test/base"}


def test_the_demo_asks_no_service_that_is_configured(variables: pytest.MonkeyPatch) -> None:
    settings = read(variables, **dict.fromkeys(URL_VARIABLES.values(), "https://own.example.test"))

    assert settings.demo
    with open_api(settings) as api:
        assert {api.url_of(name) for name in URL_VARIABLES} == {api.url_of("any other")}
    assert not URL_VARIABLES.values() & process_environment(settings).keys()


def test_no_secret_is_in_a_repr(variables: pytest.MonkeyPatch) -> None:
    settings = read(
        variables,
        **REAL,
        WAREHOUSE_URL="postgresql://user:the-secret@host/db",
        AHT_START_DATE="2026-01-01",
        AHT_ALERT_WEBHOOK_URL="https://hooks.example.com/the-secret",
    )
    assert "the-secret" not in repr(settings)
    assert "the-secret" not in repr(read_variables())


def test_the_first_day_is_remembered_and_never_moves_by_itself(variables: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = read(variables, **REAL)
    first = settings.start_date
    settings.remember_start_date()
    (settings.home / "start-date").write_text("2026-01-31\n")
    settings.remember_start_date()
    assert first.isoformat() != "2026-01-31"
    assert read_settings().start_date.isoformat() == "2026-01-31"
    assert read(variables, AHT_START_DATE="2026-02-01").start_date.isoformat() == "2026-02-01"
