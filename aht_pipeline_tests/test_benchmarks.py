"""The benchmarks at tiny sizes: they load what they say they measure, and what they write into Postgres is bounded.

Times are never looked at.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.figures import WrongResult, at_most, check, faster_at_least, ratio_at_most

CHECKOUT = Path(__file__).parents[1]


QUICK = ["parsing", "latency", "rows", "growth", "reporting"]  # in one process


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(QUICK, id="quick"),
        pytest.param([*QUICK, "commands", "fresh", "memory", "backfill"], id="all", marks=pytest.mark.long),
    ],
)
def test_every_benchmark_loads_what_it_measures_and_keeps_its_figures(tmp_path: Path, names: list[str]) -> None:
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")}  # without what a developer has there
    command = [sys.executable, "-m", "benchmarks", *names, "--smoke", "--output", str(tmp_path)]
    done = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    kept = json.loads((tmp_path / "results.json").read_text())
    assert set(kept) == set(names)
    table = (tmp_path / "results.md").read_text()
    for benchmark in kept.values():
        assert benchmark["figures"]
        for figure in benchmark["figures"]:
            assert figure["what"] in table
            assert all(figure["samples"].values())


def test_a_goal_is_judged_by_the_medians() -> None:
    assert ratio_at_most(1.5, "ours", "theirs", [3.0, 9.0, 3.0], [2.0, 2.0, 2.0]).met
    assert not ratio_at_most(1.4, "ours", "theirs", [3.0, 9.0, 3.0], [2.0, 2.0, 2.0]).met
    assert faster_at_least(9, "ours", "theirs", [1.0], [9.0]).met
    assert not faster_at_least(9, "ours", "theirs", [1.0], [8.9]).met
    assert at_most(1, "MB", "ours", "nothing", [0.5, 0.5, 40.0]).met
    assert not at_most(1, "MB", "ours", "nothing", [0.5, 1.5, 40.0]).met


def test_a_side_that_did_not_do_its_work_has_no_time() -> None:
    with pytest.raises(WrongResult, match="loaded 3 of 4 segments"):
        check(False, "ours loaded 3 of 4 segments")
