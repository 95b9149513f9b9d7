"""A day of 100,000 rows into a table of five million: new, unchanged, and a part of it restated.

Each is the whole load of an archived pull, in this process: reading the archive, normalising, the transaction with its
ledger. For new rows, what reading and normalising took is also taken off: then both sides begin with ready rows.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from aht_pipeline.archive import StoredPull
from aht_pipeline.pipeline import Loaded, Pipeline
from benchmarks import big_table, pulls, rig
from benchmarks.figures import Figure, at_most, check, ratio_at_most
from benchmarks.rig import Rig, Written


def measure(bench: Rig, say: Callable[[str], None]) -> list[Figure]:
    table = bench.size(5_000_000, smoke=20_000)
    with big_table.sampled_day(bench, bench.size(100_000, smoke=2_000)) as day:
        say(f"filling a table with {table:,} rows")
        big_table.fill(day.url, table)
        days = _Days(day.pipeline, day.original, day.url)
        return [
            *_new_rows(bench, days, day.folder / "rows.csv"),
            *_unchanged(bench, days),
            *_restated(bench, days),
        ]


class _Days:
    """Days like the original, each with ids of its own, loaded and counted."""

    def __init__(self, pipeline: Pipeline, original: StoredPull, url: str) -> None:
        self.rows = original.pull.reported
        self.url = url
        self._pipeline = pipeline
        self._original = original

    def another(self) -> StoredPull:
        return pulls.with_other_ids(self._pipeline.archive, self._original)

    def restated(self, stored: StoredPull, every: int) -> StoredPull:
        return pulls.restated(self._pipeline.archive, stored, every)

    def load(self, stored: StoredPull, *, inserted: int = 0, updated: int = 0) -> tuple[Written, Loaded]:
        """Load a pull of which so many rows are new and so many changed."""
        done: list[Loaded] = []
        wrote = rig.written(self.url, lambda: done.append(self._pipeline.load(self._pipeline.read(stored))))
        load = done[0].load
        check((load.inserted, load.updated) == (inserted, updated), f"of {self.rows} rows: {load}")
        return wrote, done[0]


def _new_rows(bench: Rig, days: _Days, file: Path) -> list[Figure]:
    normalizing: list[float] = []

    def ours() -> float:
        wrote, loaded = days.load(days.another(), inserted=days.rows)
        normalizing.append(loaded.normalize_seconds)
        return wrote.seconds

    samples = bench.alternate({"ours": ours, "copy": lambda: big_table.copy_rows_like_the_sample(days.url, file)})
    what = f"loading {days.rows:,} new rows into a table of {bench.size(5_000_000, smoke=20_000):,}"
    against = "psql \\copy of as many ready rows, sorted, into the same table"
    alone = [whole - part for whole, part in zip(samples["ours"], normalizing, strict=True)]
    return [
        ratio_at_most(1.5, f"{what}, without reading and normalising", against, alone, samples["copy"]),
        ratio_at_most(1.5, f"{what}, from the archive", against, samples["ours"], samples["copy"]),
    ]


def _unchanged(bench: Rig, days: _Days) -> list[Figure]:
    firsts: list[Written] = []
    agains: list[Written] = []
    for _ in range(bench.rounds):
        stored = days.another()
        firsts.append(days.load(stored, inserted=days.rows)[0])
        big_table.settle(days.url)
        agains.append(days.load(pulls.read_again(stored))[0])
    what = f"re-loading {days.rows:,} unchanged rows"
    first_seconds, again_seconds = [one.seconds for one in firsts], [one.seconds for one in agains]
    return [
        ratio_at_most(0.5, what, "the same day's first load", again_seconds, first_seconds),
        at_most(1, "MB", f"{what}: write-ahead log", "nothing", [one.wal_mb for one in agains]),
        at_most(0, "rows", f"{what}: dead tuples", "nothing", [one.dead_tuples for one in agains]),
    ]


def _restated(bench: Rig, days: _Days) -> list[Figure]:
    """A checkpoint comes before the first load, none in between: the first change of a page after one logs it whole."""
    changed = {percent: len(range(0, days.rows, 100 // percent)) for percent in (2, 4)}
    wrote: dict[int, list[Written]] = {percent: [] for percent in changed}
    for _ in range(bench.rounds):
        for percent, rows in changed.items():
            stored = days.another()
            bench.checkpoint()
            days.load(stored, inserted=days.rows)
            wrote[percent].append(days.load(days.restated(stored, 100 // percent), updated=rows)[0])
    what = f"re-loading {days.rows:,} rows, {changed[2]:,} restated (2 %)"
    dead = [one.dead_tuples / changed[2] for one in wrote[2]]
    more_wal = [(four.wal_mb - two.wal_mb) * 1000 for two, four in zip(wrote[2], wrote[4], strict=True)]
    each_more = [kb / (changed[4] - changed[2]) for kb in more_wal]
    return [
        at_most(1, "a changed row", f"{what}: dead tuples", "the changed rows", dead),
        at_most(
            2, "kB a changed row", f"{what}: write-ahead log, by what 4 % write more", "the changed rows", each_more
        ),
        at_most(10, "MB", f"{what}: write-ahead log", "the changed rows", [one.wal_mb for one in wrote[2]]),
    ]
