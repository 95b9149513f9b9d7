"""The pipeline from outside: commands as a user types them, in a directory and an environment of their own."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from aht_pipeline.settings import Variables
from aht_pipeline.simulator import Simulator
from aht_pipeline.warehouse import engine, upgrade

COMMAND = Path(sys.executable).with_name("aht-pipeline")
TODAY = datetime.now(UTC).date()
YESTERDAY = TODAY - timedelta(days=1)
NO_NIGHT_NOW = f"15 {(datetime.now(UTC).hour + 12) % 24} * * *"
"""A schedule that is not due while a test runs: the default one is, at a quarter past three."""


def days_ago(days: int) -> date:
    return TODAY - timedelta(days=days)


@dataclass
class Outside:
    """A directory to work in, and the variables that are set there; none of the caller's own."""

    directory: Path
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        return self.directory / self.variables.get("AHT_HOME", ".aht")

    def run(self, *arguments: object, exit_code: int | None = 0, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run the command, and check its exit code unless that is None."""
        done = subprocess.run(
            [str(COMMAND), *map(str, arguments)],
            cwd=self.directory,
            env=self.environment | variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        if exit_code is not None:
            assert done.returncode == exit_code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        return done

    @contextmanager
    def up(self) -> Iterator[str]:
        """The URL of a running UI, ended by SIGTERM; `up` must then end in order. No night comes unless one is set.

        On a port of its own: two that look for a free one at the same moment would both find 3000.
        """
        process = subprocess.Popen(
            [str(COMMAND), "up", "--port", str(free_port())],
            cwd=self.directory,
            env={"AHT_SCHEDULE": NO_NIGHT_NOW} | self.environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout
        try:
            said = ""
            while (found := re.search(r"Dagster UI: (http://127\.0\.0\.1:\d+)", said)) is None:
                line = process.stdout.readline()
                assert line, f"`up` ended by itself: {said}"
                said += line
            yield found[1]
        finally:
            process.terminate()
            assert process.wait(timeout=60) == 0
            process.stdout.close()

    @property
    def environment(self) -> dict[str, str]:
        others = {name: value for name, value in os.environ.items() if name.lower() not in Variables.model_fields}
        return others | self.variables

    def status(self, exit_code: int | None = None) -> dict[str, Any]:
        report: dict[str, Any] = json.loads(self.run("status", "--json", exit_code=exit_code).stdout)
        return report

    def query(self, statement: str) -> list[Any]:
        """The rows of a statement on the warehouse, whichever it is."""
        url = self.variables.get("WAREHOUSE_URL") or self.run("psql", "--url").stdout.strip()
        with engine(url).connect() as connection:
            return list(connection.execute(sa.text(statement)).all())


def of_account(directory: Path, simulator: Simulator, warehouse_url: str, start: date) -> Outside:
    """An account of the simulator's, with a warehouse of its own that is migrated."""
    outside = Outside(
        directory, simulator.variables | {"WAREHOUSE_URL": warehouse_url, "AHT_START_DATE": start.isoformat()}
    )
    upgrade(warehouse_url)
    return outside


def eventually(holds: Callable[[], bool]) -> None:
    """Wait for what another process does in its own time."""
    give_up_at = time.monotonic() + 150
    while not holds():
        assert time.monotonic() < give_up_at, "it did not come to pass"
        time.sleep(0.1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
