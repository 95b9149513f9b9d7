"""What 100,000 new rows cost as the table grows from nothing to 20 million, beside `psql \\copy` of ready rows.

Each sample adds to the table, so those of a size lie between it and a million more. Those of 0 begin with nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

from aht_pipeline.pipeline import Loaded
from benchmarks import big_table, pulls, rig
from benchmarks.figures import Figure, check
from benchmarks.rig import Rig

SIZES = (0, 1_000_000, 2_000_000, 5_000_000, 10_000_000, 20_000_000)
SMOKE_SIZES = (0, 5_000)


def measure(bench: Rig, say: Callable[[str], None]) -> list[Figure]:
    figures: list[Figure] = []
    with big_table.sampled_day(bench, bench.size(100_000, smoke=1_000)) as day:
        url, pipeline, original = day.url, day.pipeline, day.original
        at_nothing: float | None = None
        for size in SMOKE_SIZES if bench.smoke else SIZES:
            say(f"{size:,} rows")
            big_table.fill(url, size)

            def ours(size: int = size) -> float:
                if size == 0:
                    big_table.empty(url)
                stored = pulls.with_other_ids(pipeline.archive, original)
                done: list[Loaded] = []
                took = rig.seconds(lambda: done.append(pipeline.load(pipeline.read(stored))))
                inserted = done[0].load.inserted
                check(inserted == stored.pull.reported, f"{inserted} of {stored.pull.reported} rows were added")
                return took

            def copy(size: int = size) -> float:
                if size == 0:
                    big_table.empty(url)
                return big_table.copy_rows_like_the_sample(url, day.folder / "rows.csv")

            samples = bench.alternate({"ours": ours, "psql \\copy": copy})
            took = median(samples["ours"])
            at_nothing = at_nothing or took
            figures.append(
                Figure(
                    what=f"loading {original.pull.reported:,} new rows into a table of {size:,}",
                    against="an empty table",
                    value=took / at_nothing,
                    unit="times",
                    goal="shown",
                    met=None,
                    timed=True,
                    samples=samples,
                    table_rows=size,
                )
            )
    return figures
