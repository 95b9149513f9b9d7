"""How long commands that need neither API nor Dagster take, beside starting Python and importing SQLAlchemy."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path

from aht_pipeline_tests.outside import Outside
from benchmarks import pulls, rig
from benchmarks.api import Api
from benchmarks.figures import Figure, ratio_at_most
from benchmarks.rig import Rig

_COMMANDS: dict[str, tuple[str, ...]] = {
    "aht-pipeline status": ("status",),
    "aht-pipeline psql --url": ("psql", "--url"),
    "aht-pipeline --help": ("--help",),
}
_IMPORT = 'python -c "import sqlalchemy"'


def measure(bench: Rig, say: Callable[[str], None]) -> list[Figure]:
    del say
    days = rig.yesterday_and_before(28)
    with bench.simulator(days, bench.size(28_000, smoke=280)) as api, bench.account(api) as account:
        _load(api, account, days)
        account.run("status", exit_code=0)  # every day is there, and what the commands import is compiled
        sides = {name: partial(_command, account, arguments) for name, arguments in _COMMANDS.items()}
        samples = bench.alternate({**sides, _IMPORT: _import_sqlalchemy})
    return [ratio_at_most(3, name, _IMPORT, samples[name], samples[_IMPORT]) for name in _COMMANDS]


def _load(api: Api, account: Outside, days: list[date]) -> None:
    archive, url = Path(account.variables["AHT_ARCHIVE_URL"]), account.variables["WAREHOUSE_URL"]
    with pulls.open_pipeline(api, archive, url) as pipeline:
        for day in days:
            pipeline.load(pipeline.read(pulls.pull(pipeline, day)))


def _command(account: Outside, arguments: tuple[str, ...]) -> float:
    return rig.seconds(lambda: account.run(*arguments))


def _import_sqlalchemy() -> float:
    return rig.seconds(lambda: subprocess.run([sys.executable, "-c", "import sqlalchemy"], check=True))
