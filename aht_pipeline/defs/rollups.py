"""The rollups that make reports over years fast: an asset of their own, refreshed when segments have changed."""

import warnings
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import dagster as dg

from aht_pipeline.home import open_warehouse
from aht_pipeline.settings import Settings

ROLLUPS = dg.AssetKey("reporting_rollups")
EQUAL_THE_SEGMENTS = "equal_the_segments"

_AUDITED = timedelta(days=31)  # beside what was rolled up: as far back as the API remembers


def reporting_rollups(settings: Settings, segments: dg.AssetKey) -> dg.AssetsDefinition:
    """Rolls up every day that changed. Reports are right without it: what waits for it is read from the segments."""

    @dg.asset(
        key=ROLLUPS,
        deps=[segments],
        group_name="actual_handle_time",
        kinds={"postgres"},
        description="Sums and quantiles of the segments by quarter of an hour and by day, which the views of the "
        "schema `reporting` read for every day that has not changed since. Only days that changed are rolled up again. "
        "Reports are right before it, too: they read such days from the segments.",
        check_specs=[_equal_the_segments()],
        automation_condition=_when_loads_are_done(),
    )
    def roll_up(context: dg.AssetExecutionContext) -> Iterator[Any]:
        from aht_pipeline.warehouse import changed_days, mark_differing_days, refresh_rollups

        warehouse = open_warehouse(settings)
        waiting = len(changed_days(warehouse))
        rolled_up: list[date] = []
        for account_id, day in refresh_rollups(warehouse):
            rolled_up.append(day)
            context.log.info("%s of account %s is rolled up, %d of %d days", day, account_id, len(rolled_up), waiting)
        since = min([*rolled_up, datetime.now(UTC).date() - _AUDITED])
        differing = mark_differing_days(warehouse, since)
        yield dg.MaterializeResult(
            metadata={"days_rolled_up": len(rolled_up)}, check_results=[_audited(since, differing)]
        )

    return roll_up


def _equal_the_segments() -> dg.AssetCheckSpec:
    return dg.AssetCheckSpec(
        EQUAL_THE_SEGMENTS,
        asset=ROLLUPS,
        description="The sums of every day that was rolled up, and of the last month, are those of its segments. They "
        "differ only where segments were written past the trigger that marks changes. Only a warning: reports read "
        "such a day from its segments from then on, and the next refresh rolls it up.",
    )


def _audited(since: date, differing: list[tuple[str, date]]) -> dg.AssetCheckResult:
    told = ", ".join(f"{day} of account {account_id}" for account_id, day in differing)
    return dg.AssetCheckResult(
        check_name=EQUAL_THE_SEGMENTS,
        passed=not differing,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"Not rolled up again although segments had changed: {told}. Reports of them were wrong until now. "
        "Was a trigger on aht.agent_segments switched off, or do its rows come by replication?"
        if differing
        else None,
        metadata={"since": str(since), "days_that_differed": len(differing)},
    )


def rollups_sensor() -> dg.AutomationConditionSensorDefinition:
    """What has the daemon refresh the rollups."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        return dg.AutomationConditionSensorDefinition(
            "rollups_when_segments_changed",
            target=dg.AssetSelection.assets(ROLLUPS),
            default_status=dg.DefaultSensorStatus.RUNNING,
            description="Refreshes the rollups once loads are done: after the night, after a backfill.",
        )


def _when_loads_are_done() -> dg.AutomationCondition[Any]:
    condition = dg.AutomationCondition[Any]
    is_due = condition.any_deps_updated().since(condition.newly_requested() | condition.newly_updated())
    return is_due & ~condition.any_deps_in_progress() & ~condition.in_progress()
