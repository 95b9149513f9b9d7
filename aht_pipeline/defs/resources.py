"""The open parts that a run works with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import dagster as dg

from aht_pipeline.home import open_pipeline
from aht_pipeline.settings import Settings

if TYPE_CHECKING:
    from aht_pipeline.pipeline import Pipeline


def pipeline_resource(settings: Settings) -> dg.ResourceDefinition:
    """The pipeline of these settings, opened inside the run and closed with it. It has no config: no secret to show."""

    @dg.resource(description="The API, the archive and the warehouse of the account, opened inside the run.")
    def pipeline(_: dg.InitResourceContext) -> Iterator[Pipeline]:
        with open_pipeline(settings) as opened:
            yield opened

    return pipeline
