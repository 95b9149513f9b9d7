"""What agents, skills and agent groups are called: an asset each, so that one may fail and the others do not."""

from typing import TYPE_CHECKING, Any

import dagster as dg

from aht_pipeline.defs.schedules import BEFORE_BACKFILLS
from aht_pipeline.errors import AhtError
from aht_pipeline.home import API_POOL
from aht_pipeline.settings import Settings

if TYPE_CHECKING:
    from aht_pipeline.pipeline import NamesRead, Pipeline

_KINDS = {
    dg.AssetKey("agent_names"): ("agent", "agents, which are their nicknames"),
    dg.AssetKey("skill_names"): ("skill", "skills"),
    dg.AssetKey("agent_group_names"): ("group", "agent groups"),
}
NAMES = tuple(_KINDS)


def account_names(settings: Settings) -> list[dg.AssetsDefinition]:
    """One asset a kind of names."""
    return [
        _forgotten(settings, key) if kind == "agent" and not settings.agent_names else _read(key, kind, spoken_of)
        for key, (kind, spoken_of) in _KINDS.items()
    ]


def nightly_names(settings: Settings) -> dg.ScheduleDefinition:
    """Every night, beside the days: names may change at any time, and cost a request each."""
    return dg.ScheduleDefinition(
        name="nightly_names",
        cron_schedule=settings.schedule,
        execution_timezone=settings.timezone,
        target=dg.AssetSelection.assets(*NAMES),
        default_status=dg.DefaultScheduleStatus.RUNNING,
        tags=BEFORE_BACKFILLS,
        description="Reads what agents, skills and agent groups are called. Each of the three may fail alone: reports "
        "then show the names that are known, and ids.",
    )


def _read(key: dg.AssetKey, kind: str, spoken_of: str) -> dg.AssetsDefinition:
    @dg.asset(
        key=key,
        group_name="actual_handle_time",
        kinds={"rest", "postgres"},
        required_resource_keys={"pipeline"},
        pool=API_POOL,
        description=f"The names of {spoken_of}, from LivePerson's account configuration API into `aht.names`. What is "
        "deleted there keeps its name here; what is renamed, its former ones in `aht.former_names`.",
        metadata={"dagster/table_name": "aht.names"},
    )
    def read(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        from aht_pipeline.source import NameKind

        pipeline: Pipeline = context.resources.pipeline
        try:
            names = pipeline.load_names(NameKind(kind))
        except AhtError as failure:
            raise dg.Failure(str(failure), allow_retries=False) from None
        return dg.MaterializeResult(metadata=_metadata(names))

    return read


def _forgotten(settings: Settings, key: dg.AssetKey) -> dg.AssetsDefinition:
    @dg.asset(
        key=key,
        group_name="actual_handle_time",
        kinds={"postgres"},
        required_resource_keys={"pipeline"},
        description="AHT_AGENT_NAMES is off: this asks for no names of agents, and removes those that are stored. "
        "Reports show ids.",
    )
    def forget(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        from aht_pipeline.warehouse import forget_agent_names

        pipeline: Pipeline = context.resources.pipeline
        removed = forget_agent_names(pipeline.warehouse, settings.require_account())
        return dg.MaterializeResult(metadata={"names": 0, "removed": removed})

    return forget


def _metadata(names: "NamesRead") -> dict[str, Any]:
    stored = names.stored
    return {
        "names": stored.known,
        "new": stored.new,
        "renamed": stored.renamed,
        "deleted": stored.deleted,
        "skipped": names.skipped,
        "unchanged": names.is_unchanged,
    }
