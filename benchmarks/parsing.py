"""From the bytes of pages to typed frames, one batch after the other, beside reading them with msgspec into structs.

Both are dropped as soon as they are made, as a load drops them.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from aht_pipeline.days import Day
from aht_pipeline.normalize import normalize
from benchmarks import rig
from benchmarks.api import fetch
from benchmarks.figures import Figure, check, ratio_at_most
from benchmarks.rig import Rig


class _Segment(msgspec.Struct, rename="camel", gc=False):
    segment_id: str
    start_time: str
    end_time: str
    conversation_id: str
    agent_id: int
    end_reason: str
    total_handle_time_millis: int
    start_time_l: int = msgspec.field(name="startTimeL")
    end_time_l: int = msgspec.field(name="endTimeL")
    employee_id: str | None = None
    skill_id: int | None = None
    group_id: int | None = None


class _Reply(msgspec.Struct):
    segments: list[_Segment]


def measure(bench: Rig, say: Callable[[str], None]) -> list[Figure]:
    del say
    day = rig.weekdays(1)[0]
    with bench.simulator([day], bench.size(100_000, smoke=2_000)) as api:
        pages = list(fetch(api, day))
    with_unknown = [page.replace(b'{"segmentId":', b'{"channel":"web","segmentId":') for page in pages]
    check(all(b'"channel"' in page for page in with_unknown), "the simulator's rows begin with another field")
    return [
        _compare(bench, 3, "page bytes to a typed frame", Day(day, "UTC"), pages),
        _compare(bench, 6, "the same, an unknown field in every row", Day(day, "UTC"), with_unknown),
    ]


def _compare(bench: Rig, limit: float, what: str, day: Day, pages: list[bytes]) -> Figure:
    decoder = msgspec.json.Decoder(_Reply)
    rows = sum(len(decoder.decode(page).segments) for page in pages)

    def ours() -> float:
        made: list[int] = []
        took = rig.seconds(lambda: made.extend(len(batch.frame) for batch in normalize(pages, day.window)))
        check(sum(made) == rows, f"{sum(made)} of {rows} rows came out of the pages")
        return took

    def parse_and_drop() -> None:
        for page in pages:
            decoder.decode(page)

    def theirs() -> float:
        return rig.seconds(parse_and_drop)

    ours(), theirs()  # what is imported and learnt on first use
    samples = bench.alternate({"ours": ours, "msgspec": theirs})
    return ratio_at_most(
        limit, f"{what}, {rows:,} rows", "parsed with msgspec, dropped", samples["ours"], samples["msgspec"]
    )
