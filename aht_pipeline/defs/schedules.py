"""The night: which days it reads is decided when it begins, from what the warehouse has."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime

import dagster as dg

from aht_pipeline.coverage import day_states, days_of_the_night, ranges
from aht_pipeline.home import open_warehouse
from aht_pipeline.settings import Settings
from aht_pipeline.warehouse import day_records

RANGE_START = "dagster/asset_partition_range_start"
RANGE_END = "dagster/asset_partition_range_end"


def nightly(settings: Settings, assets: dg.AssetsDefinition) -> dg.ScheduleDefinition:
    """Every night: the trailing days, those not settled, those missing; one run for each contiguous range of them."""

    @dg.schedule(
        name="nightly_agent_segments",
        cron_schedule=settings.schedule,
        execution_timezone=settings.timezone,
        target=[assets],
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"Re-reads the last {settings.lookback_days} days, and every day since {settings.start_date} that "
        "is missing or not settled: data may come a day late, and a machine may have been off.",
    )
    def nightly_agent_segments(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        spans = ranges_of_the_night(settings, datetime.now(UTC))
        if not spans:
            yield dg.SkipReason("no day since the start date is complete yet")
        for first, last in spans:
            yield dg.RunRequest(
                run_key=f"{context.scheduled_execution_time.isoformat()} {first}",
                tags={RANGE_START: str(first), RANGE_END: str(last)},
            )

    return nightly_agent_segments


def ranges_of_the_night(settings: Settings, now: datetime) -> list[tuple[date, date]]:
    """The days that a night beginning now reads, as contiguous ranges."""
    warehouse = open_warehouse(settings)
    records = day_records(warehouse, settings.require_account())
    states = day_states(records, settings.start_date, settings.timezone, now)
    return ranges(days_of_the_night(states, settings.lookback_days, now))
