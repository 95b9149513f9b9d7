"""The two assets, day by day: the raw pull in the archive, and the table of agent segments."""

# No `from __future__ import annotations` here: Dagster reads the annotation of `context` as it is.

import gc
import warnings
from collections.abc import Callable, Iterator
from datetime import date
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import dagster as dg

from aht_pipeline.defs.checks import check_specs, evaluate_day, evaluate_no_gaps
from aht_pipeline.defs.metadata import column_schema, load_metadata, pull_metadata
from aht_pipeline.home import API_POOL
from aht_pipeline.settings import Settings

if TYPE_CHECKING:  # pandas and the like are imported by the run that works with them
    from aht_pipeline.pipeline import Done, Pipeline

RAW = dg.AssetKey("raw_agent_segments")
SEGMENTS = dg.AssetKey("agent_segments")

DAYS_A_RUN = 31

Result = TypeVar("Result")
Announce = Callable[[dg.AssetKey, "Done[Any]"], None]


def segments_by_day(settings: Settings, announce: Announce) -> dg.AssetsDefinition:
    """Both assets as one step, so that exactly the days that fail are shown as failed.

    Two assets of their own could not do that: a failing day would fail every day of the range downstream, or none.
    """
    days = dg.DailyPartitionsDefinition(start_date=settings.start_date.isoformat(), timezone=settings.timezone)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)  # backfill_policy
        return _define(settings, announce, days)


def _define(settings: Settings, announce: Announce, days: dg.DailyPartitionsDefinition) -> dg.AssetsDefinition:
    @dg.multi_asset(
        name="agent_segments_by_day",
        specs=[_raw_spec(settings), _segments_spec()],
        check_specs=check_specs(SEGMENTS, days),
        partitions_def=days,
        can_subset=True,
        backfill_policy=dg.BackfillPolicy.multi_run(DAYS_A_RUN),
        required_resource_keys={"pipeline"},
        pool=API_POOL,
    )
    def agent_segments_by_day(context: dg.AssetExecutionContext) -> Iterator[Any]:
        from aht_pipeline.ahead import one_ahead
        from aht_pipeline.days import Day
        from aht_pipeline.pipeline import attempt

        pipeline: Pipeline = context.resources.pipeline
        gc.freeze()  # all that was imported stays: collecting garbage need not walk over it again and again
        keys = context.selected_asset_keys
        partitions = [Day(date.fromisoformat(key), settings.timezone) for key in context.partition_keys]
        pull = pipeline.pull if RAW in keys else pipeline.latest
        load = partial(pipeline.load, run_id=context.run.run_id)
        failures: dict[str, str] = {}

        def days_pulled() -> Iterator["tuple[Done[Any], Done[Any]]"]:
            for day in partitions:
                pulled = attempt(day, partial(pull, day))
                yield pulled, pulled.then(pipeline.read) if SEGMENTS in keys else pulled

        def days_done() -> Iterator["tuple[Done[Any], Done[Any]]"]:
            for pulled, read in one_ahead(days_pulled()):
                yield pulled, read.then(load) if SEGMENTS in keys else pulled

        # Three at work: one day is told of while the next is loaded and the one after that is pulled.
        for pulled, done in one_ahead(days_done(), pipeline.give_up):
            if RAW in keys:
                _report(context, announce, RAW, pulled, pull_metadata)
            if SEGMENTS in keys:
                _report(context, announce, SEGMENTS, done, load_metadata)
                evaluate_day(context, SEGMENTS, done, pipeline)
            if done.failure is not None:
                failures[str(done.day)] = str(done.failure)

        if SEGMENTS in keys:
            evaluate_no_gaps(context, SEGMENTS, settings, pipeline)
        if failures:
            raise _failed(failures, len(partitions))
        yield from ()  # Dagster takes a function that returns nothing for one that forgot its result

    return agent_segments_by_day


def _report(
    context: dg.AssetExecutionContext,
    announce: Announce,
    key: dg.AssetKey,
    done: "Done[Result]",
    metadata: Callable[[Result, float], dict[str, Any]],
) -> None:
    """Tell of a day as soon as it is done: a crash of a later day takes nothing back."""
    if done.result is None:
        context.log.error("%s of %s failed: %s", key.to_user_string(), done.day, done.failure)
    else:
        said = metadata(done.result, done.seconds)
        context.log_event(dg.AssetMaterialization(asset_key=key, partition=str(done.day), metadata=said))
    announce(key, done)


def _failed(failures: dict[str, str], days: int) -> dg.Failure:
    """The run's failure: which days, why each of them. Dagster shows these days red, and all others as they are."""
    reasons = "\n".join(f"{day}: {reason}" for day, reason in failures.items())
    return dg.Failure(
        description=f"{len(failures)} of {days} days failed, the others are loaded. A day that was loaded before keeps "
        f"what it has.\n{reasons}",
        metadata={day: dg.MetadataValue.text(reason) for day, reason in failures.items()},
        allow_retries=False,  # what may pass was tried again in the day itself
    )


def _raw_spec(settings: Settings) -> dg.AssetSpec:
    return dg.AssetSpec(
        RAW,
        skippable=True,
        group_name="actual_handle_time",
        kinds={"rest"},
        description="The agent segments that closed on this day, as LivePerson's Actual Handle Time API sent them: "
        "pulled whole, proved complete, and kept for ever in the archive.",
        metadata={"dagster/uri": settings.archive_url},
    )


def _segments_spec() -> dg.AssetSpec:
    return dg.AssetSpec(
        SEGMENTS,
        deps=[RAW],
        skippable=True,
        group_name="actual_handle_time",
        kinds={"postgres", "pandas"},
        description="One row for each agent segment that closed on this day, upserted by `segment_id` into "
        "`aht.agent_segments`. Selected alone, it loads the archive's latest complete pull of the day, "
        "without calling the API (a replay).",
        metadata={"dagster/table_name": "aht.agent_segments", "dagster/column_schema": column_schema()},
    )
