"""What every test may use: one real Postgres server for the session, and in it an empty database for each test."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg2
import pytest

from aht_pipeline import embedded
from aht_pipeline.embedded import EmbeddedServer
from aht_pipeline_tests.outside import Outside

if TYPE_CHECKING:  # not imported for tests that need no browser
    from playwright.sync_api import Page


@pytest.fixture(scope="session")
def embedded_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """An embedded server with a home of its own, deleted at the end."""
    home = tmp_path_factory.mktemp("embedded") / "home"
    try:
        yield embedded.start(home)
    finally:
        embedded.remove(home)


@pytest.fixture
def database_url(embedded_server: EmbeddedServer) -> Iterator[str]:
    """The `postgresql+psycopg2://` URL of an empty database, dropped afterwards whoever is still connected."""
    with _database(embedded_server) as url:
        yield url


@pytest.fixture(scope="module")
def shared_database_url(embedded_server: EmbeddedServer) -> Iterator[str]:
    """The same, one for all tests of a file that only read it."""
    with _database(embedded_server) as url:
        yield url


@contextmanager
def _database(server: EmbeddedServer) -> Iterator[str]:
    name = f"test_{uuid.uuid4().hex}"
    _administer(server, f"create database {name}")
    try:
        yield server.url(name).replace("postgresql://", "postgresql+psycopg2://", 1)
    finally:
        _administer(server, f"drop database {name} with (force)")


def _administer(server: EmbeddedServer, statement: str) -> None:
    connection = psycopg2.connect(server.url("postgres"))
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
    finally:
        connection.close()


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Outside]:
    """Commands in an empty directory; whatever they leave running there is stopped and deleted at the end."""
    directory = tmp_path / "work"
    directory.mkdir()
    outside = Outside(directory)
    try:
        yield outside
    finally:
        for home in (outside.home, outside.home / "demo"):
            embedded.remove(home)


@pytest.fixture
def page() -> Iterator[Page]:
    """A page of a real browser."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no Chromium is installed (Debian: apt install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Chromium's own sandbox refuses to run as root.
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox"] if os.geteuid() == 0 else []
        )
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.set_default_timeout(60_000)
        yield page
        browser.close()
