"""A backfill of 28 days through a running Dagster UI, asked for as the browser asks, beside the same days by `load`.

The UI is up before the clock starts. Its daemon looks for work every 30 seconds, and as seldom for what has ended;
these waits are in the figures.
"""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable
from datetime import date
from statistics import median
from typing import Any

from benchmarks import rig
from benchmarks.api import Api, count_of
from benchmarks.figures import Figure, check
from benchmarks.rig import Rig

_PATIENCE_S = 900

_LAUNCH = """
mutation($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) {
    ... on LaunchBackfillSuccess { backfillId }
    ... on PythonError { message }
  }
}
"""
_STATUS = """
query($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status } } }
"""


def measure(bench: Rig, say: Callable[[str], None]) -> list[Figure]:
    del say
    days = rig.yesterday_and_before(bench.size(28, smoke=3))
    with bench.simulator(days, len(days) * bench.size(20_000, smoke=100)) as api:
        bench.warm_dagster(api, days[-1])
        segments = sum(count_of(api, day) for day in days)
        until_complete: list[float] = []
        samples = bench.alternate(
            {
                "ours": lambda: _by_backfill(bench, api, days, segments, until_complete),
                "theirs": lambda: _by_load(bench, api, days, segments),
            }
        )
    what = f"{len(days)} days, {segments:,} segments, backfilled through the Dagster UI"
    figures = [_more(f"{what}, until the last day is loaded", samples["ours"], samples["theirs"])]
    if until_complete:
        figures.append(_more(f"{what}, until Dagster calls it complete", until_complete, samples["theirs"]))
    return figures


def _more(what: str, ours: list[float], theirs: list[float]) -> Figure:
    more = median(ours) - median(theirs)
    return Figure(
        what=what,
        against="the same days by `aht-pipeline load`",
        value=more,
        unit="s more",
        goal="at most 60",
        met=more <= 60,
        timed=True,
        samples={"ours": ours, "theirs": theirs},
    )


def _by_load(bench: Rig, api: Api, days: list[date], segments: int) -> float:
    with bench.account(api) as account:
        took = rig.seconds(lambda: account.run("load", "--from", days[0], "--to", days[-1]))
        rig.check_loaded(account.variables["WAREHOUSE_URL"], segments, "`load`")
    return took


def _by_backfill(bench: Rig, api: Api, days: list[date], segments: int, until_complete: list[float]) -> float:
    """Seconds until the last day is loaded. With tiny sizes nobody waits until the daemon looks again and sees it."""
    with bench.account(api) as account:
        warehouse = account.variables["WAREHOUSE_URL"]
        with account.up() as url:
            began = time.perf_counter()
            backfill = _launch(url, days)
            _wait(lambda: rig.query(warehouse, "SELECT count(*) FROM aht.loads")[0][0] == len(days))
            took = time.perf_counter() - began
            if not bench.smoke:
                _wait(lambda: _status(url, backfill) not in ("REQUESTED", "FAILING"))
                until_complete.append(time.perf_counter() - began)
                check(_status(url, backfill) == "COMPLETED_SUCCESS", f"it ended as {_status(url, backfill)}")
        rig.check_loaded(warehouse, segments, "the backfill")
    return took


def _launch(url: str, days: list[date]) -> str:
    asked = {
        "assetSelection": [{"path": ["raw_agent_segments"]}, {"path": ["agent_segments"]}],
        "partitionNames": [str(day) for day in days],
    }
    launched = _ask(url, _LAUNCH, params=asked)["launchPartitionBackfill"]
    check("backfillId" in launched, f"the UI refused the backfill: {launched}")
    return str(launched["backfillId"])


def _status(url: str, backfill: str) -> str:
    return str(_ask(url, _STATUS, id=backfill)["partitionBackfillOrError"]["status"])


def _wait(holds: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + _PATIENCE_S
    while not holds():
        check(time.monotonic() < give_up_at, f"the backfill did not end within {_PATIENCE_S} s")
        time.sleep(0.2)


def _ask(url: str, query: str, **variables: Any) -> dict[str, Any]:
    body = json.dumps({"query": query, "variables": variables}).encode()
    request = urllib.request.Request(f"{url}/graphql", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as reply:
        answer: dict[str, Any] = json.load(reply)["data"]
    return answer
