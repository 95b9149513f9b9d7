"""A warehouse that holds millions of rows like those of a day, their ids random within each agent of the account."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from aht_pipeline.archive import StoredPull
from aht_pipeline.pipeline import Pipeline
from aht_pipeline.warehouse.tables import agent_segments
from benchmarks import pulls, rig
from benchmarks.rig import Rig

_CHUNK = 1_000_000

NEW_ID = (
    "split_part(segment_id, ':', 1) || ':' || agent_id || ':' || gen_random_uuid() || ':' || "
    "left(translate(encode(uuid_send(gen_random_uuid()), 'base64'), '+/', '-_'), 22)"
)
OTHERS = [column.name for column in agent_segments.columns if column.name != "segment_id"]
_OTHERS = ", ".join(OTHERS)


@dataclass(frozen=True)
class Sampled:
    """An empty warehouse with a sample of a day's rows, and that day's archived pull; `folder` is for files."""

    url: str
    folder: Path
    pipeline: Pipeline
    original: StoredPull


@contextmanager
def sampled_day(bench: Rig, segments: int) -> Iterator[Sampled]:
    """A day of so many segments, pulled, loaded once, and taken as the sample."""
    day = rig.weekdays(1)[0]
    with (
        bench.simulator([day], segments) as api,
        bench.database() as url,
        tempfile.TemporaryDirectory(dir=bench.directory) as folder,
        pulls.open_pipeline(api, Path(folder) / "archive", url) as pipeline,
    ):
        original = pulls.pull(pipeline, day)
        pipeline.load(pipeline.read(original))
        take_sample(url)
        yield Sampled(url, Path(folder), pipeline, original)


def take_sample(url: str) -> None:
    """Keep the rows of the table as the sample that others are made of, and empty the table."""
    rig.query(url, "CREATE TABLE sample AS TABLE aht.agent_segments")
    empty(url)


def empty(url: str) -> None:
    rig.query(url, "TRUNCATE aht.agent_segments")


def fill(url: str, rows: int) -> None:
    """Add rows like the sample's until there are so many, as years of loads would: in sorted portions."""
    missing = rows - rig.loaded(url)
    while missing > 0:
        portion = min(missing, _CHUNK)
        rig.query(
            url,
            f"INSERT INTO aht.agent_segments (segment_id, {_OTHERS}) "
            f"SELECT {NEW_ID} AS segment_id, {_OTHERS} FROM (SELECT sample.* FROM sample "
            f"CROSS JOIN generate_series(0, {portion} / (SELECT count(*) FROM sample)) LIMIT {portion}) AS rows "
            "ORDER BY 1",
        )
        missing -= portion
    settle(url)


def settle(url: str) -> None:
    """As autovacuum leaves a table that was quiet for a while."""
    rig.query(url, "VACUUM (ANALYZE) aht.agent_segments")


def copy_rows_like_the_sample(url: str, file: Path) -> float:
    """`psql \\copy` of as many rows as the sample has, with ids of their own, ready and sorted; its seconds."""
    names = f"segment_id, {_OTHERS}"
    rows = f"select {NEW_ID} as segment_id, {_OTHERS} from sample order by 1"
    rig.psql(url, f"\\copy ({rows}) to '{file}' with (format csv)")
    return rig.psql(url, f"\\copy aht.agent_segments ({names}) from '{file}' with (format csv)")
