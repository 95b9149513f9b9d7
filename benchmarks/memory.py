"""The most memory that the process of `aht-pipeline load` holds, for a day of a million segments and for a tenth."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

from benchmarks import rig
from benchmarks.figures import Figure, at_most
from benchmarks.rig import Rig


def measure(bench: Rig, say: Callable[[str], None]) -> list[Figure]:
    big, small = bench.size(1_000_000, smoke=2_000), bench.size(100_000, smoke=200)
    day = rig.weekdays(1)[0]
    peaks: dict[int, list[float]] = {}
    for segments in (big, small):  # each size has a simulator of its own, so rounds do not alternate
        say(f"a day of {segments:,} segments")
        with bench.simulator([day], segments) as api:
            peaks[segments] = []
            for _ in range(bench.rounds):
                with bench.account(api) as account:
                    peaks[segments].append(rig.peak_memory_mb(account, "load", "--from", day, "--to", day))
                    rig.check_loaded(account.variables["WAREHOUSE_URL"], _reported(account.variables), "aht-pipeline")
    value = median(peaks[big]) / median(peaks[small])
    return [
        Figure(
            what=f"peak memory of loading one day of {big:,} segments",
            against=f"one day of {small:,}",
            value=value,
            unit="times",
            goal="at most 1.3",
            met=value <= 1.3,
            timed=False,
            samples={"ours": peaks[big], "theirs": peaks[small]},
            sample_unit="MB",
        ),
        at_most(600, "MB", f"peak memory of loading one day of {big:,} segments", "600 MB", peaks[big]),
    ]


def _reported(variables: dict[str, str]) -> int:
    """But for rows that closed with the day's last moment, which the API reports and are the next day's."""
    return int(rig.query(variables["WAREHOUSE_URL"], "SELECT sum(reported - outside_day) FROM aht.loads")[0][0])
