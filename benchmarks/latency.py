"""Pulling a day from an API that takes 30 ms for a page, with 1, 4 and 8 requests at once."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from aht_pipeline.archive import StoredPull
from benchmarks import pulls, rig
from benchmarks.api import count_of
from benchmarks.figures import Figure, check, faster_at_least
from benchmarks.rig import Rig


def measure(bench: Rig, say: Callable[[str], None]) -> list[Figure]:
    del say
    day = rig.weekdays(1)[0]
    with bench.simulator([day], bench.size(200_000, smoke=4_000), "--fault", "latency=30ms") as api:
        segments = count_of(api, day)

        def pulled(concurrency: int) -> float:
            with (
                bench.database() as url,
                tempfile.TemporaryDirectory(dir=bench.directory) as archive,
                pulls.open_pipeline(api, Path(archive), url, concurrency) as pipeline,
            ):
                stored: list[StoredPull] = []
                took = rig.seconds(lambda: stored.append(pulls.pull(pipeline, day)))
                reported = stored[0].pull.reported
                check(reported == segments, f"{reported} of {segments} segments were pulled")
            return took

        samples = bench.alternate({str(number): partial(pulled, number) for number in (1, 4, 8)})
    what = f"pulling {segments:,} segments at 30 ms a page into the archive, AHT_CONCURRENCY"
    return [
        faster_at_least(3.3, f"{what} 4", "AHT_CONCURRENCY 1", samples["4"], samples["1"]),
        faster_at_least(5.5, f"{what} 8", "AHT_CONCURRENCY 1", samples["8"], samples["1"]),
    ]
