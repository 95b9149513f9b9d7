"""The nights and the weeks: which days they read is decided when they begin, from what the warehouse has."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime

import dagster as dg

from aht_pipeline.coverage import DayState, day_states, days_in_memory, days_of_the_night, ranges
from aht_pipeline.home import open_warehouse
from aht_pipeline.settings import Settings
from aht_pipeline.warehouse import day_records

RANGE_START = "dagster/asset_partition_range_start"
RANGE_END = "dagster/asset_partition_range_end"

BEFORE_BACKFILLS = {"dagster/priority": "10"}  # in the queue, where a backfill's runs have 0

_WEEKLY = "45 5 * * 0"  # on Sundays, well after the night

_Requests = Iterator[dg.RunRequest | dg.SkipReason]


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
    def nightly_agent_segments(context: dg.ScheduleEvaluationContext) -> _Requests:
        now = datetime.now(UTC)
        yield from _requests(context, assets, days_of_the_night(_states(settings, now), settings.lookback_days, now))

    return nightly_agent_segments


def weekly(settings: Settings, assets: dg.AssetsDefinition) -> dg.ScheduleDefinition:
    """Every week: all days that the API still remembers, for what was restated long after its day."""

    @dg.schedule(
        name="weekly_agent_segments",
        cron_schedule=_WEEKLY,
        execution_timezone=settings.timezone,
        target=[assets],
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Re-reads every day that the API still remembers: a segment may be restated long after its day. "
        "What did not change costs the warehouse nearly nothing.",
    )
    def weekly_agent_segments(context: dg.ScheduleEvaluationContext) -> _Requests:
        now = datetime.now(UTC)
        yield from _requests(context, assets, days_in_memory(_states(settings, now), now))

    return weekly_agent_segments


def ranges_of_the_night(settings: Settings, now: datetime) -> list[tuple[date, date]]:
    """The days that a night beginning now reads, as contiguous ranges."""
    return ranges(days_of_the_night(_states(settings, now), settings.lookback_days, now))


def _states(settings: Settings, now: datetime) -> list[DayState]:
    records = day_records(open_warehouse(settings), settings.require_account())
    return day_states(records, settings.start_date, settings.timezone, now)


def _requests(context: dg.ScheduleEvaluationContext, assets: dg.AssetsDefinition, days: list[date]) -> _Requests:
    """One run for each contiguous range: one process, and a partition a day."""
    if not days:
        yield dg.SkipReason("no day since the start date is complete yet")
    for first, last in ranges(days):
        yield dg.RunRequest(
            run_key=f"{context.scheduled_execution_time.isoformat()} {first}",
            asset_selection=list(assets.keys),  # named, so that the run says whose it is: alerts look for that
            tags={RANGE_START: str(first), RANGE_END: str(last)} | BEFORE_BACKFILLS,
        )
