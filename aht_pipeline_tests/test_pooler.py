"""A warehouse behind PgBouncer, which gives a session to one client after the other."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

import psycopg2
import pytest
import sqlalchemy as sa

from aht_pipeline import warehouse
from aht_pipeline_tests.loading import batch, load, query, segment
from aht_pipeline_tests.outside import Outside, free_port

BOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
OPTIONS = "?options=" + quote("-c lock_timeout=7s")


@contextmanager
def pooled(database_url: str, directory: Path, pool_mode: str, *settings: str) -> Iterator[str]:
    """The URL of the database behind a PgBouncer with one session on the server."""
    if BOUNCER is None:
        pytest.skip("no PgBouncer is installed (Debian: apt install pgbouncer)")
    url, port = sa.make_url(database_url), free_port()
    configuration = directory / "pgbouncer.ini"
    configuration.write_text(
        "\n".join(
            [
                "[databases]",
                f"* = host={url.host} port={url.port} user={url.username} password={url.password}",
                "[pgbouncer]",
                *("listen_addr = 127.0.0.1", f"listen_port = {port}", "unix_socket_dir =", "auth_type = any"),
                *(f"pool_mode = {pool_mode}", "default_pool_size = 1", *settings),
            ]
        )
    )
    as_another = ["-u", "nobody"] if os.geteuid() == 0 else []  # it refuses to run as root
    with (directory / "pgbouncer.log").open("wb") as log:
        process = subprocess.Popen([BOUNCER, *as_another, str(configuration)], stdout=log, stderr=log)
    pooled_url = f"postgresql://someone@127.0.0.1:{port}/{url.database}"
    try:
        give_up_at = time.monotonic() + 30
        while b"process up" not in (directory / "pgbouncer.log").read_bytes():
            assert time.monotonic() < give_up_at, (directory / "pgbouncer.log").read_text()
            time.sleep(0.05)
        yield pooled_url
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.mark.parametrize("pool_mode", ["transaction", "session"])
def test_a_warehouse_behind_a_pooler_is_loaded_and_its_sessions_are_left_as_they_were(
    tmp_path: Path, database_url: str, pool_mode: str
) -> None:
    with pooled(database_url, tmp_path, pool_mode) as url:
        warehouse.upgrade(url)
        made = warehouse.engine(url)
        assert load(made, batch(segment(1), segment(2))).inserted == 2
        assert load(made, batch(segment(1, skill_id=None), segment(3)), reported=2).updated == 1
        assert len(list(warehouse.refresh_rollups(made))) == 1
        with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT name FROM pg_settings WHERE source = 'session' AND name NOT IN ('client_encoding')")
            left = {name for (name,) in cursor.fetchall()}
        assert not left & {"search_path", "lock_timeout", "statement_timeout", "IntervalStyle", "synchronous_commit"}


def test_a_pooler_of_statements_is_refused_in_its_own_words(tmp_path: Path, database_url: str) -> None:
    with pooled(database_url, tmp_path, "statement") as url:
        outside = Outside(tmp_path, {"WAREHOUSE_URL": url, "AHT_START_DATE": "2026-01-01"})
        for _ in range(2):
            done = outside.run("migrate", exit_code=1)
            assert "transaction blocks not allowed in statement pooling mode" in done.stderr
            assert "set its pool_mode" in done.stderr
    assert query(warehouse.engine(database_url), "SELECT to_regnamespace('aht') IS NULL") == [True]


def test_a_parameter_that_a_pooler_refuses_is_named_with_the_remedy(tmp_path: Path, database_url: str) -> None:
    words = r"ignore_startup_parameters.*unsupported startup parameter.*options"
    with pooled(database_url, tmp_path, "transaction") as url, pytest.raises(warehouse.WarehouseError, match=words):
        query(warehouse.engine(url + OPTIONS), "SELECT 1")
    with pooled(database_url, tmp_path, "transaction", "ignore_startup_parameters = options") as url:
        assert query(warehouse.engine(url + OPTIONS), "SELECT current_setting('lock_timeout')") == ["7s"]
