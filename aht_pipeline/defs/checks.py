"""The asset checks: what must hold of each day, and no day about to be lost. A day that is wrong did not commit."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import (
    AssetCheckEvaluationTargetMaterializationData,  # without it the UI shows no status by day; it has no public name
)

from aht_pipeline.coverage import day_states, gaps, usual_volume_from
from aht_pipeline.settings import Settings

if TYPE_CHECKING:
    from aht_pipeline.pipeline import Done, Loaded, Pipeline

COMPLETE = "complete"
WITHIN_THE_DAY = "within_the_day"
FEW_REJECTS = "few_rejects"
USUAL_VOLUME = "usual_volume"
NO_GAPS = "no_gaps"

_OF_A_DAY = {
    COMPLETE: "Every segment that the API reported for the day is in `aht.agent_segments` or, with its reasons, in "
    "`aht.rejected_segments`: the day's line in the ledger adds up.",
    WITHIN_THE_DAY: "Every segment loaded for the day closed within it, in the account's time zone.",
    FEW_REJECTS: "Not more of the day's rows are unusable than AHT_MAX_REJECTED_PERCENT allows.",
    USUAL_VOLUME: "The day has not far fewer segments than the same weekday of the eight weeks before. Only a warning.",
}
_WARNS = {USUAL_VOLUME}  # the others stop the day: what a failed one means would make a report wrong


def check_specs(asset: dg.AssetKey, days: dg.DailyPartitionsDefinition) -> list[dg.AssetCheckSpec]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.PreviewWarning)  # checks by partition
        of_a_day = [
            dg.AssetCheckSpec(
                name, asset=asset, partitions_def=days, blocking=name not in _WARNS, description=description
            )
            for name, description in _OF_A_DAY.items()
        ]
    no_gaps = dg.AssetCheckSpec(
        NO_GAPS,
        asset=asset,
        description="No day since the start date is lost, or missing with less than a week left to fetch it: the API "
        "remembers one month.",
    )
    return [*of_a_day, no_gaps]


@dataclass(frozen=True)
class _Finding:
    check: str
    passed: bool
    description: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


def evaluate_day(context: dg.AssetExecutionContext, asset: dg.AssetKey, done: Done[Loaded], pipeline: Pipeline) -> None:
    """Tell of one day. What a failed check means was found in the day's transaction, and rolled it back."""
    materialization = _latest_materialization(context, asset, str(done.day))
    for finding in _failed(done) if done.result is None else _loaded(done.result, pipeline.max_rejected_percent):
        context.log_event(
            dg.AssetCheckEvaluation(
                asset_key=asset,
                check_name=finding.check,
                passed=finding.passed,
                severity=dg.AssetCheckSeverity.WARN if finding.check in _WARNS else dg.AssetCheckSeverity.ERROR,
                blocking=finding.check not in _WARNS,
                partition=str(done.day),
                description=finding.description,
                metadata=finding.metadata,
                target_materialization_data=materialization,
            )
        )


def _failed(done: Done[Loaded]) -> Iterator[_Finding]:
    """A day that failed is not complete; of the other checks only that which failed it is known."""
    from aht_pipeline.warehouse import OutsideDay, RejectedTooMany

    reason = str(done.failure)
    yield _Finding(COMPLETE, False, reason)
    if isinstance(done.failure, OutsideDay):
        yield _Finding(WITHIN_THE_DAY, False, reason)
    if isinstance(done.failure, RejectedTooMany):
        yield _Finding(FEW_REJECTS, False, reason)


def _loaded(loaded: Loaded, max_rejected_percent: float) -> Iterator[_Finding]:
    load, day = loaded.load, loaded.stored.pull.day
    figures = ("reported", "inserted", "updated", "unchanged", "rejected", "outside_day")
    yield _Finding(COMPLETE, True, metadata={name: getattr(load, name) for name in figures})
    yield _Finding(WITHIN_THE_DAY, True, metadata={"outside_day": load.outside_day})
    percent = 100 * load.rejected / load.reported if load.reported else 0.0
    limit = {"rejected_percent": percent, "limit_percent": float(max_rejected_percent)}
    yield _Finding(FEW_REJECTS, True, metadata={"rejected": load.rejected, **limit})

    usual_from = usual_volume_from(load.weekday_volumes)
    if usual_from is None:
        yield _Finding(USUAL_VOLUME, True, "Too few of the same weekdays are loaded to say what is usual.")
    else:
        weekday = f"{day.date:%A}"
        told = f"{day} has {load.reported:,} segments; on a {weekday}, {usual_from:,} or more are usual."
        if not load.settled:
            told += " Late ones may still come."
        numbers = {"reported": load.reported, "usual_from": usual_from}
        yield _Finding(USUAL_VOLUME, load.reported >= usual_from, told, numbers)


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
