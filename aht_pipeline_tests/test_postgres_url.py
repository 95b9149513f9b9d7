"""URLs of Postgres: all that libpq takes means the same to the engine and to psql, and the rest is refused."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from urllib.parse import quote

import psycopg2
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg2 import sql
from psycopg2.extensions import parse_dsn

from aht_pipeline import embedded
from aht_pipeline.errors import AhtError
from aht_pipeline.postgres_url import read_postgres_url
from aht_pipeline.warehouse import engine
from aht_pipeline_tests.loading import query
from aht_pipeline_tests.outside import Outside

HOSTILE = [
    "two words",
    "a+b",
    "100%25",
    'it\'s "so"',
    "back\\slash\\",
    "a=b&c?d/e@f:g#h",
    "[::1],x",
    "śnieg 雪",
    "\n\t",
]

text = st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=8)
hosts = st.sampled_from(["db.example.com", "10.0.0.1", "::1", "fe80::1%eth0", "/run/a b", "@abstract"])


@st.composite
def parameters(draw: st.DrawFn) -> dict[str, str]:
    """Of libpq, which a URL may or may not name."""
    names = ("user", "password", "dbname", "application_name", "options", "passfile", "sslrootcert")
    named = {name: draw(text) for name in names if draw(st.booleans())}
    servers = draw(st.lists(st.tuples(hosts, st.sampled_from(["", "1", "5432", "65535"])), max_size=3))
    if servers:
        named |= {"host": ",".join(host for host, _ in servers), "port": ",".join(port for _, port in servers)}
    return named


@settings(deadline=None)
@given(parameters())
def test_what_the_url_says_is_what_libpq_reads_in_every_form_of_it(named: dict[str, str]) -> None:
    written = "postgresql://?" + "&".join(f"{name}={quote(value, safe='')}" for name, value in named.items())

    url = read_postgres_url(written)

    assert url.parameters == parse_dsn(written) == named
    assert parse_dsn(url.complete) == named
    assert parse_dsn(url.shown) == {name: value for name, value in named.items() if name != "password"}
    assert read_postgres_url(url.complete) == url


@pytest.mark.parametrize(
    ("url", "meant"),
    [
        ("postgresql://", {}),
        ("postgres:///db", {"dbname": "db"}),
        ("postgresql+psycopg2://u@h/db", {"user": "u", "host": "h", "dbname": "db"}),
        ("postgresql://u:p@h", {"user": "u", "password": "p", "host": "h"}),
        ("postgresql://:5433/db", {"port": "5433", "dbname": "db"}),
        ("postgresql://u:p+q%20r:s@h/a+b", {"user": "u", "password": "p+q r:s", "host": "h", "dbname": "a+b"}),
        ("postgresql://we ird:p w@h/d b", {"user": "we ird", "password": "p w", "host": "h", "dbname": "d b"}),
        ("postgresql://u:p#q?r[s@h/db", {"user": "u", "password": "p#q?r[s", "host": "h", "dbname": "db"}),
        ("postgresql://ü:雪@h/db", {"user": "ü", "password": "雪", "host": "h", "dbname": "db"}),
        ("postgresql://%2Ftmp/db", {"host": "/tmp", "dbname": "db"}),
        ("postgresql:///db?host=/tmp", {"host": "/tmp", "dbname": "db"}),
        ("postgresql://h1,h2/db", {"host": "h1,h2", "port": ",", "dbname": "db"}),
        ("postgresql://h1:5432,h2:5433/db", {"host": "h1,h2", "port": "5432,5433", "dbname": "db"}),
        ("postgresql:///db?host=h1,h2&port=5433", {"host": "h1,h2", "port": "5433", "dbname": "db"}),
        ("postgresql://[::1]:5432/db", {"host": "::1", "port": "5432", "dbname": "db"}),
        ("postgresql://h?options=-c%20lock_timeout%3D5s", {"host": "h", "options": "-c lock_timeout=5s"}),
        ("postgresql://h/db?application_name=a+b@c", {"host": "h", "dbname": "db", "application_name": "a+b@c"}),
        ("postgresql://h/?user=u&password=p", {"host": "h", "user": "u", "password": "p"}),
        ("postgresql://h/db?ssl=true", {"host": "h", "dbname": "db", "sslmode": "require"}),
        ("postgresql://h/?gssencmode=require", {"host": "h", "gssencmode": "require"}),
        (
            "postgresql://h/?target_session_attrs=read-write&passfile=/p&connect_timeout=3",
            {"host": "h", "target_session_attrs": "read-write", "passfile": "/p", "connect_timeout": "3"},
        ),
    ],
)  # fmt: skip
def test_every_form_that_libpq_takes_is_taken(url: str, meant: dict[str, str]) -> None:
    read = read_postgres_url(url)
    assert read.parameters == meant
    assert parse_dsn(read.complete) == meant


@pytest.mark.parametrize(
    "url",
    [
        "",
        "postgresql:",
        "postgresql:/host/db",
        "host/db",
        "mysql://u:the-secret@host/db",
        "POSTGRESQL://u:the-secret@host/db",
        "postgresql://127.0.0.1:/db",
        "postgresql://h1:,h2:5432/db",
        "postgresql://host:0/db",
        "postgresql://host:65536/db",
        "postgresql://host:port/db",
        "postgresql://host:-1/db",
        "postgresql:///db?port=5432x",
        "postgresql://::1/db",
        "postgresql://[::1/db",
        "postgresql://[::1]x/db",
        "postgresql://u:the-secret%@host/db",
        "postgresql://u:the-secret%zz@host/db",
        "postgresql://u:the-secret%00@host/db",
        "postgresql://u:the-secret%ff@host/db",
        "postgresql://u:the@secret@host/db",
        "postgresql://u:the/secret@host/db",
        "postgresql://u:1/the-secret?the-secret@host/db",
        "postgresql://u:1/the?the-secret=the-secret@host/db",
        "postgresql://host/db?no_such=1",
        "postgresql://host/db?sslmode",
        "postgresql://host/db?sslmode=a=b",
        "postgresql://host/db?sslmode=bogus",
        "postgresql://host/db?target_session_attrs=primry",
        "postgresql://host/db?connect_timeout=ten",
        "postgresql://host/db?keepalives_idle=30s",
        "postgresql://host/db?service=no-such-service",
        "postgresql:///db?host=a,b,c&port=1,2",
        "postgresql://h1,h2/db?hostaddr=127.0.0.1",
        "postgresql://host/db?sslpassword=the-secret",
        "postgresql://host/db?oauth_client_secret=the-secret",
    ],
)
def test_what_cannot_be_a_url_of_postgres_is_refused_without_its_secrets(url: str) -> None:
    with pytest.raises(ValueError, match=r"^(must|has|names|cannot|is) ") as refused:
        read_postgres_url(url)
    assert "secret" not in str(refused.value).replace("such a secret stands", "").replace("oauth_client_secret", "")


def test_an_unknown_parameter_is_named() -> None:
    with pytest.raises(ValueError, match="'no_such'"):
        read_postgres_url("postgresql://host/db?sslmode=require&no_such=1")


@pytest.mark.parametrize("variable", ["WAREHOUSE_URL", "WAREHOUSE_ADMIN_URL"])
@pytest.mark.parametrize("command", ["migrate", "psql", "doctor", "load"])
def test_a_command_names_the_variable_and_begins_nothing(tmp_path: Path, command: str, variable: str) -> None:
    given = {"WAREHOUSE_URL": "postgresql://host/db", "AHT_START_DATE": "2026-01-01"}
    outside = Outside(tmp_path, given | {variable: "postgresql://u:the-secret@127.0.0.1:/db"})

    done = outside.run(command, exit_code=2)

    assert f"{variable}: names no port" in done.stderr
    assert "the-secret" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_engine_and_psql_come_to_the_same_with_whatever_is_in_a_url(database_url: str) -> None:
    """A setting of the session tells: libpq hands the options on to the server."""
    for word in HOSTILE:
        escaped = "".join(f"\\{sign}" if sign.isspace() or sign == "\\" else sign for sign in word)
        url = f"{database_url}?application_name=a%20b+c&options={quote(f'-c my.word={escaped}', safe='')}"
        asked = "SELECT current_setting('my.word') || '|' || current_setting('application_name')"
        psql = subprocess.run(
            [embedded.binaries() / "psql", "-d", read_postgres_url(url).complete, "-Atc", asked],
            env=os.environ | {"PGCLIENTENCODING": "UTF8"},
            capture_output=True,
            check=True,
        )
        assert query(engine(url), asked) == [f"{word}|a b+c"]
        assert psql.stdout.decode() == f"{word}|a b+c\n"


def test_psql_is_led_where_the_engine_is_and_its_arguments_hold_no_password(tmp_path: Path, database_url: str) -> None:
    """By a socket's folder, several hosts, and a password that must be encoded."""
    [folder] = query(engine(database_url), "SHOW data_directory")
    url = sa.make_url(database_url)
    role, password = f"we ird+{url.database}", "p+w %@:/?#'\\ 雪"
    with psycopg2.connect(read_postgres_url(database_url).complete) as connection, connection.cursor() as cursor:
        cursor.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD %s").format(sql.Identifier(role)), [password])
    try:
        for servers in (
            quote(folder, safe="") + f":{url.port}",
            f"127.0.0.1:1,127.0.0.1:{url.port}",
            f"/{url.database}?host={folder},127.0.0.1&port={url.port}",
        ):
            place, _, rest = servers.partition("/")
            user = f"{quote(role, safe='')}:{quote(password, safe='')}@"
            given = f"postgresql://{user}{place}/{rest or url.database}"
            outside = Outside(tmp_path, {"WAREHOUSE_URL": given, "AHT_START_DATE": "2026-01-01"})
            assert query(engine(given), "SELECT session_user::text") == [role]
            shown = outside.run("psql", "-Atc", r"\! tr '\0' ' ' < /proc/$PPID/cmdline", "-c", "SELECT session_user")
            assert shown.stdout.endswith(f"{role}\n")
            assert "psql -d postgresql://" in shown.stdout
            assert "p%2Bw" not in shown.stdout
            printed = outside.run("psql", "--url").stdout.strip()
            assert parse_dsn(printed) == read_postgres_url(given).parameters
            assert query(engine(printed), "SELECT session_user::text") == [role]
    finally:
        query(engine(database_url), f'DROP ROLE "{role}"')


def test_psql_is_not_started_where_a_service_would_outdo_the_password(tmp_path: Path) -> None:
    (tmp_path / "services").write_text("[mine]\nhost=127.0.0.1\n")
    outside = Outside(
        tmp_path,
        {
            "WAREHOUSE_URL": "postgresql://u:the-secret@/db?service=mine",
            "AHT_START_DATE": "2026-01-01",
            "PGSERVICEFILE": str(tmp_path / "services"),
        },
    )
    done = outside.run("psql", exit_code=2)
    assert "write the password into the service's section" in done.stderr
    assert "the-secret" not in done.stderr


@pytest.mark.parametrize("password", ["post", "t", "password", "127.0.0.1", "database"])
def test_a_common_password_masks_no_word_of_a_message(database_url: str, password: str) -> None:
    url = sa.make_url(database_url).set(username="nobody", password=password).render_as_string(hide_password=False)
    with pytest.raises(AhtError) as told:
        query(engine(url), "SELECT 1")
    assert "***" not in str(told.value)
    assert 'password authentication failed for user "nobody"' in str(told.value)
    assert 'Postgres says: connection to server at "127.0.0.1"' in str(told.value)


@pytest.mark.parametrize("parameter", ["?password=the-secret", "?user=u&password=the-secret&application_name=x"])
def test_no_object_shows_a_password_wherever_it_stands(parameter: str) -> None:
    url = f"postgresql://127.0.0.1:1/db{parameter}"
    made = engine(url)
    with pytest.raises(AhtError) as told, made.connect():
        pass
    shown = [read_postgres_url(url), read_postgres_url(url).shown, read_postgres_url(url).place, made, made.url]
    assert "the-secret" not in " ".join(f"{each!r} {each}" for each in [*shown, told.value])
