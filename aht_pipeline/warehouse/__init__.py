"""The Postgres warehouse: its tables, its migrations, the load of a day, and the ledger of what is loaded."""

from aht_pipeline.warehouse.agreement import require_same_days, require_same_time
from aht_pipeline.warehouse.connection import WarehouseError, engine
from aht_pipeline.warehouse.ledger import (
    DayRecord,
    day_records,
    doubtful_files,
    loaded_timezone,
    record_refusal,
)
from aht_pipeline.warehouse.load import LedgerMismatch, LoadFacts, LoadResult, OutsideDay, RejectedTooMany, load_day
from aht_pipeline.warehouse.locks import DayBusy
from aht_pipeline.warehouse.merge import ForeignSegment
from aht_pipeline.warehouse.migrate import (
    NotMigrated,
    WrongEncoding,
    current_revision,
    downgrade,
    head_revision,
    require_current,
    require_utf8,
    upgrade,
)
from aht_pipeline.warehouse.names import (
    AgentsNamed,
    NamesStored,
    agents_named,
    forget_agent_names,
    known_revision,
    note_unchanged_names,
    store_names,
)
from aht_pipeline.warehouse.rehearsal import rehearse_night
from aht_pipeline.warehouse.rollups import changed_days, mark_differing_days, refresh_rollups

__all__ = [
    "AgentsNamed",
    "DayBusy",
    "DayRecord",
    "ForeignSegment",
    "LedgerMismatch",
    "LoadFacts",
    "LoadResult",
    "NamesStored",
    "NotMigrated",
    "OutsideDay",
    "RejectedTooMany",
    "WarehouseError",
    "WrongEncoding",
    "agents_named",
    "changed_days",
    "current_revision",
    "day_records",
    "doubtful_files",
    "downgrade",
    "engine",
    "forget_agent_names",
    "head_revision",
    "known_revision",
    "load_day",
    "loaded_timezone",
    "mark_differing_days",
    "note_unchanged_names",
    "record_refusal",
    "refresh_rollups",
    "rehearse_night",
    "require_current",
    "require_same_days",
    "require_same_time",
    "require_utf8",
    "store_names",
    "upgrade",
]
