"""Other loaders of the same segments into the same Postgres, each in a virtual environment of its own.

What they need conflicts with what the pipeline needs, or may any day. Each is set up as its documentation recommends.
"""

from __future__ import annotations

import json
import os
import subprocess
import venv
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import sqlalchemy as sa

from aht_pipeline.days import Day
from benchmarks.api import Api
from benchmarks.rig import cache_directory

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Peer:
    """name: of its requirements in this folder, and of its environment. table: where it loads the segments."""

    name: str
    label: str
    table: str

    @property
    def _bin(self) -> Path:
        return cache_directory() / self.name / "bin"

    @property
    def is_installed(self) -> bool:
        return (self._bin / ".installed").exists()

    def install(self) -> None:
        """Make its environment anew; needs a package index."""
        venv.create(self._bin.parent, with_pip=True, clear=True)
        requirements = _HERE / f"{self.name}.txt"
        subprocess.run([self._bin / "pip", "install", "--quiet", "-r", requirements], check=True)
        (self._bin / ".installed").touch()

    def versions(self) -> list[str]:
        """What is installed of what was asked for."""
        frozen = subprocess.run([self._bin / "pip", "freeze"], capture_output=True, text=True, check=True).stdout
        asked = {line.split("[")[0].split(">")[0] for line in (_HERE / f"{self.name}.txt").read_text().splitlines()}
        return [line for line in frozen.splitlines() if line.split("==")[0] in asked]

    def load(self, api: Api, first: date, last: date, url: str, work: Path) -> None:
        """Load these days, both in, into the warehouse's database. work: a directory for what it keeps."""
        if self.name == "dlt":
            self._run_dlt(api, first, last, url, work)
        else:
            self._run_singer(api, first, last, url, work)

    def _run_dlt(self, api: Api, first: date, last: date, url: str, work: Path) -> None:
        environment = _asked(api, first, last) | {
            "DESTINATION__POSTGRES__CREDENTIALS": url,
            "DLT_DATA_DIR": str(work / "dlt"),
            "RUNTIME__DLTHUB_TELEMETRY": "false",
        }
        command = [self._bin / "python", _HERE / "dlt_pipeline.py"]
        subprocess.run(command, env=environment, cwd=work, check=True, stdout=subprocess.DEVNULL)

    def _run_singer(self, api: Api, first: date, last: date, url: str, work: Path) -> None:
        database = sa.make_url(url)
        config = work / "target.json"
        config.write_text(
            json.dumps(
                {
                    "host": database.host,
                    "port": database.port,
                    "user": database.username,
                    "password": database.password,
                    "database": database.database,
                    "default_target_schema": "singer",
                    "use_copy": True,
                    "load_method": "upsert",
                }
            )
        )
        environment = _asked(api, first, last)
        tap = subprocess.Popen(
            [self._bin / "python", _HERE / "singer_tap.py"], env=environment, cwd=work, stdout=subprocess.PIPE
        )
        assert tap.stdout
        with (work / "target.log").open("w") as log:
            target = [str(self._bin / "target-postgres"), "--config", str(config)]
            done = subprocess.run(
                target, env=environment, cwd=work, stdin=tap.stdout, stdout=log, stderr=log, check=False
            )
        tap.stdout.close()
        if tap.wait() or done.returncode:
            raise RuntimeError(f"{self.label} failed: {(work / 'target.log').read_text()[-2000:]}")


PEERS = (
    Peer("dlt", "dlt (rest_api, merge by upsert)", "dlt_aht.agent_segments"),
    Peer("singer", "Singer tap and target-postgres (use_copy)", "singer.agent_segments"),
)


def _asked(api: Api, first: date, last: date) -> dict[str, str]:
    """The whole environment of a peer's process: the API, and the span to ask for."""
    ours = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "LC_ALL")}
    start_ms, end_ms = Day(first, "UTC").window.start_ms, Day(last, "UTC").window.end_ms
    return {**ours, **api.variables, "FROM_MS": str(start_ms), "TO_MS": str(end_ms)}
