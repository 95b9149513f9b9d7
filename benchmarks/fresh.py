"""A fresh load of four days by `aht-pipeline load`, beside a floor and beside other loaders.

The floor is what no loader can do without: the same pages fetched one after the other with http.client and dropped,
then the rows as they must be, ready in one CSV a day and sorted, by `psql \\copy` into the same table with its key.

Whoever is compared also loads one day without segments; where process start is taken off, that is what is taken off.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from datetime import date, timedelta
from functools import partial
from pathlib import Path

from benchmarks import pulls, rig
from benchmarks.api import Api, count_of, fetch
from benchmarks.figures import Figure, check, faster_at_least, ratio_at_most
from benchmarks.peers import PEERS, Peer
from benchmarks.rig import Rig


def measure(bench: Rig, say: Callable[[str], None]) -> list[Figure]:
    days = rig.weekdays(4)
    empty = days[0] - timedelta(days=1)
    with bench.simulator(days, bench.size(200_000, smoke=2_000)) as api:
        bench.warm_dagster(api, empty)
        peers = [peer for peer in PEERS if peer.is_installed]
        for peer in PEERS:
            if peer not in peers:
                say(f"{peer.label} is left out, it is not installed: python -m benchmarks --install-peers")
        segments = sum(count_of(api, day) for day in days)
        with tempfile.TemporaryDirectory(dir=bench.directory) as folder:
            files = _ready_rows(bench, api, days, Path(folder))
            starts: dict[str, list[float]] = {"ours": [], **{peer.name: [] for peer in peers}}
            samples = bench.alternate(
                {
                    "floor": partial(_floor, bench, api, files, segments),
                    "ours": partial(_ours, bench, api, days, empty, segments, starts["ours"]),
                    **{
                        peer.name: partial(_peer, bench, peer, api, days, empty, segments, starts[peer.name])
                        for peer in peers
                    },
                }
            )
    what = f"a fresh load of {segments:,} segments over four days"
    work = {name: _without(samples[name], starts[name]) for name in starts}
    figures = [
        ratio_at_most(
            1.5, f"{what}, process start and Dagster run taken off", "the floor", work["ours"], samples["floor"]
        )
    ]
    for peer in peers:
        figures += [
            faster_at_least(9, f"{what}, process start taken off", peer.label, work["ours"], work[peer.name]),
            faster_at_least(4, f"{what}, with process start", peer.label, samples["ours"], samples[peer.name]),
        ]
    return figures


def _without(whole: list[float], start: list[float]) -> list[float]:
    """Round by round, what a load took beyond loading a day of nothing."""
    return [took - began for took, began in zip(whole, start, strict=True)]


def _floor(bench: Rig, api: Api, files: dict[date, Path], segments: int) -> float:
    def fetch_all() -> None:
        for day in files:
            for _ in fetch(api, day):
                pass

    with bench.database() as url:
        bench.checkpoint()
        copies = [f"\\copy aht.agent_segments from '{file}' with (format csv)" for file in files.values()]
        took = rig.seconds(fetch_all) + rig.psql(url, *copies)
        rig.check_loaded(url, segments, "the floor")
    return took


def _ours(bench: Rig, api: Api, days: list[date], empty: date, segments: int, starts: list[float]) -> float:
    with bench.account(api) as account:
        bench.checkpoint()
        starts.append(rig.seconds(lambda: account.run("load", "--from", empty, "--to", empty)))
        took = rig.seconds(lambda: account.run("load", "--from", days[0], "--to", days[-1]))
        url = account.variables["WAREHOUSE_URL"]
        rig.check_loaded(url, segments, "aht-pipeline")
        ledger = rig.query(url, "SELECT count(*), sum(inserted) FROM aht.loads")
        check(ledger == [(len(days) + 1, segments)], f"the ledger says {ledger}")
        kept = list(Path(account.variables["AHT_ARCHIVE_URL"]).rglob("*.manifest.json"))
        check(len(kept) == len(days) + 1, f"the archive holds {len(kept)} pulls")
    return took


def _peer(bench: Rig, peer: Peer, api: Api, days: list[date], empty: date, segments: int, starts: list[float]) -> float:
    with bench.database() as url, tempfile.TemporaryDirectory(dir=bench.directory) as before:
        starts.append(rig.seconds(lambda: peer.load(api, empty, empty, url, Path(before))))
    with bench.database() as url, tempfile.TemporaryDirectory(dir=bench.directory) as work:
        bench.checkpoint()
        took = rig.seconds(lambda: peer.load(api, days[0], days[-1], url, Path(work)))
        held = rig.query(url, f"SELECT count(*) FROM {peer.table}")[0][0]
        check(held == segments, f"{peer.label} loaded {held} of {segments} segments")
    return took


def _ready_rows(bench: Rig, api: Api, days: list[date], folder: Path) -> dict[date, Path]:
    """The rows of each day as they are in the table in the end, whole, in CSV, sorted by the key."""
    with (
        bench.database() as url,
        tempfile.TemporaryDirectory(dir=bench.directory) as archive,
        pulls.open_pipeline(api, Path(archive), url) as pipeline,
    ):
        files = {day: folder / f"{day}.csv" for day in days}
        for day, file in files.items():
            pipeline.load(pipeline.read(pulls.pull(pipeline, day)))
            rows = f"select * from aht.agent_segments where end_time::date = '{day}' order by segment_id"
            rig.psql(url, f"\\copy ({rows}) to '{file}' with (format csv)")
        return files
