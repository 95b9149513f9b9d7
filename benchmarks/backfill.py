"""A backfill of 28 days through a running Dagster UI, asked for as the browser asks, beside the same days by `load`.

The UI is up before the clock starts. Its daemon looks for work every 30 seconds; that wait is in the figure.
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

_PATIENCE_S = 1800

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
        samples = bench.alternate(
            {
                "ours": lambda: _by_backfill(bench, api, days, segments),
                "theirs": lambda: _by_load(bench, api, days, segments),
            }
        )
    more = median(samples["ours"]) - median(samples["theirs"])
    return [
        Figure(
            what=f"{len(days)} days, {segments:,} segments, backfilled through the Dagster UI",
            against="the same days by `aht-pipeline load`",
            value=more,
            unit="s more",
            goal="at most 60",
            met=more <= 60,
            timed=True,
            samples=samples,
        )
    ]


def _by_load(bench: Rig, api: Api, days: list[date], segments: int) -> float:
    with bench.account(api) as account:
        took = rig.seconds(lambda: account.run("load", "--from", days[0], "--to", days[-1]))
        rig.check_loaded(account.variables["WAREHOUSE_URL"], segments, "`load`")
    return took


def _by_backfill(bench: Rig, api: Api, days: list[date], segments: int) -> float:
    with bench.account(api) as account:
        with account.up() as url:
            took = rig.seconds(lambda: _backfill(url, days))
        rig.check_loaded(account.variables["WAREHOUSE_URL"], segments, "the backfill")
    return took


def _backfill(url: str, days: list[date]) -> None:
    asked = {
        "assetSelection": [{"path": ["raw_agent_segments"]}, {"path": ["agent_segments"]}],
        "partitionNames": [str(day) for day in days],
    }
    launched = _ask(url, _LAUNCH, params=asked)["launchPartitionBackfill"]
    check("backfillId" in launched, f"the UI refused the backfill: {launched}")
    give_up_at = time.monotonic() + _PATIENCE_S
    status = "REQUESTED"
    while status in ("REQUESTED", "FAILING") and time.monotonic() < give_up_at:
        time.sleep(0.5)
        status = _ask(url, _STATUS, id=launched["backfillId"])["partitionBackfillOrError"]["status"]
    check(status == "COMPLETED_SUCCESS", f"the backfill ended as {status}")


def _ask(url: str, query: str, **variables: Any) -> dict[str, Any]:
    body = json.dumps({"query": query, "variables": variables}).encode()
    request = urllib.request.Request(f"{url}/graphql", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as reply:
        answer: dict[str, Any] = json.load(reply)["data"]
    return answer
