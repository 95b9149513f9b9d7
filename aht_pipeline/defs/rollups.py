"""The rollups that make reports over years fast: an asset of their own, refreshed when segments have changed."""

import warnings
from typing import Any

import dagster as dg

from aht_pipeline.home import open_warehouse
from aht_pipeline.settings import Settings

ROLLUPS = dg.AssetKey("reporting_rollups")


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
        automation_condition=_when_loads_are_done(),
    )
    def roll_up(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        from aht_pipeline.warehouse import changed_days, refresh_rollups

        warehouse = open_warehouse(settings)
        waiting = len(changed_days(warehouse))
        done = 0
        for account_id, day in refresh_rollups(warehouse):
            done += 1
            context.log.info("%s of account %s is rolled up, %d of %d days", day, account_id, done, waiting)
        return dg.MaterializeResult(metadata={"days_rolled_up": done})

    return roll_up


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
