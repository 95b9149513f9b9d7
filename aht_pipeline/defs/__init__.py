"""What Dagster sees of the pipeline: partitions, assets, the schedule. It wires; the work is done in the rooms."""

from __future__ import annotations

import dagster as dg

from aht_pipeline.defs.alerts import alert_sensors
from aht_pipeline.defs.assets import SEGMENTS, Announce, segments_by_day
from aht_pipeline.defs.names import account_names, nightly_names
from aht_pipeline.defs.resources import pipeline_resource
from aht_pipeline.defs.rollups import reporting_rollups, rollups_sensor
from aht_pipeline.defs.schedules import nightly, weekly
from aht_pipeline.settings import Settings

__all__ = ["Announce", "build_defs"]


def build_defs(settings: Settings, announce: Announce | None = None) -> dg.Definitions:
    """Everything that a code location holds, for these settings; nothing is opened before a run or a tick needs it.

    announce: told of each step of each day as it is done, for whoever watches the run.
    """
    assets = segments_by_day(settings, announce or _say_nothing)
    return dg.Definitions(
        assets=[assets, reporting_rollups(settings, SEGMENTS), *account_names(settings)],
        schedules=[nightly(settings, assets), weekly(settings, assets), nightly_names(settings)],
        sensors=[*alert_sensors(settings), rollups_sensor()],
        resources={"pipeline": pipeline_resource(settings)},
        executor=dg.in_process_executor,  # a process a step costs seconds, and a day's memory is small
    )


def _say_nothing(*_: object) -> None:
    pass
