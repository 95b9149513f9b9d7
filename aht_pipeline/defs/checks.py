"""The asset checks: each day complete, and no day about to be lost. A day that is not complete did not commit."""

from __future__ import annotations

import warnings
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import (
    AssetCheckEvaluationTargetMaterializationData,  # without it the UI shows no status by day; it has no public name
)

from aht_pipeline.coverage import day_states, gaps
from aht_pipeline.settings import Settings

if TYPE_CHECKING:
    from aht_pipeline.pipeline import Done, Loaded, Pipeline

COMPLETE = "complete"
NO_GAPS = "no_gaps"


def check_specs(asset: dg.AssetKey, days: dg.DailyPartitionsDefinition) -> list[dg.AssetCheckSpec]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.PreviewWarning)  # checks by partition
        return [
            dg.AssetCheckSpec(
                COMPLETE,
                asset=asset,
                partitions_def=days,
                blocking=True,
                description="Every segment that the API reported for the day is in `aht.agent_segments` or, with its "
                "reasons, in `aht.rejected_segments`: the day's line in the ledger adds up.",
            ),
            dg.AssetCheckSpec(
                NO_GAPS,
                asset=asset,
                description="No day since the start date is lost, or missing with less than a week left to fetch it: "
                "the API remembers one month.",
            ),
        ]


def evaluate_complete(context: dg.AssetExecutionContext, asset: dg.AssetKey, done: Done[Loaded]) -> None:
    """Tell of one day: what the ledger says, or why it says nothing. The ledger is checked in the day's transaction."""
    load = done.result.load if done.result else None
    figures = {
        name: getattr(load, name)
        for name in ("reported", "inserted", "updated", "unchanged", "rejected", "outside_day")
        if load is not None
    }
    context.log_event(
        dg.AssetCheckEvaluation(
            asset_key=asset,
            check_name=COMPLETE,
            passed=load is not None,
            blocking=True,
            partition=str(done.day),
            description=done.failure,
            metadata=figures,
            target_materialization_data=_latest_materialization(context, asset, str(done.day)),
        )
    )


def evaluate_no_gaps(
    context: dg.AssetExecutionContext, asset: dg.AssetKey, settings: Settings, pipeline: Pipeline
) -> None:
    """Tell of the days that are lost, and of those that soon will be."""
    from aht_pipeline.warehouse import day_records

    now = datetime.now(UTC)
    records = day_records(pipeline.warehouse, pipeline.account_id)
    states = day_states(records, settings.start_date, settings.timezone, now)
    found = gaps(states, now)
    context.log_event(
        dg.AssetCheckEvaluation(
            asset_key=asset,
            check_name=NO_GAPS,
            passed=not found.lost and not found.soon_lost,
            severity=dg.AssetCheckSeverity.ERROR if found.soon_lost else dg.AssetCheckSeverity.WARN,
            description=found.text or None,
            metadata={"lost": len(found.lost), "soon_lost": len(found.soon_lost)},
        )
    )


def _latest_materialization(
    context: dg.AssetExecutionContext, asset: dg.AssetKey, day: str
) -> AssetCheckEvaluationTargetMaterializationData | None:
    records = context.instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=asset, asset_partitions=[day]), limit=1
    ).records
    if not records:
        return None
    return AssetCheckEvaluationTargetMaterializationData(
        storage_id=records[0].storage_id, run_id=records[0].run_id, timestamp=records[0].timestamp
    )
