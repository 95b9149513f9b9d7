"""The tables of the warehouse, declared once: the load, the frames, the asset's columns and the migrations follow this.

Only a migration changes the database; a test compares what the migrations make with what is declared here. The comments
are part of the declaration: they are what `\\d+` and the Dagster UI show.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

SCHEMA = "aht"

metadata = sa.MetaData(schema=SCHEMA)


def _of_segment(name: str, kind: sa.types.TypeEngine[Any], comment: str, **options: Any) -> sa.Column[Any]:
    """A column whose value the segment itself determines; the others are the load's own."""
    return sa.Column(name, kind, comment=comment, info={"of_segment": True}, **options)


_moment = sa.DateTime(timezone=True)

agent_segments = sa.Table(
    "agent_segments",
    metadata,
    _of_segment(
        "segment_id",
        sa.Text(collation="C"),
        "LivePerson's key of the segment, opaque and case-sensitive",
        primary_key=True,
    ),
    sa.Column("account_id", sa.Text, nullable=False, comment="LivePerson account that the segment belongs to"),
    _of_segment("conversation_id", sa.Text(), "Conversation that the segment is one agent's part of", nullable=False),
    _of_segment("agent_id", sa.BigInteger(), "LivePerson's id of the agent", nullable=False),
    _of_segment("employee_id", sa.Text(), "The brand's own id of the agent, leading zeros kept; null for none"),
    _of_segment("skill_id", sa.BigInteger(), "LivePerson's id of the skill; null for none"),
    _of_segment("group_id", sa.BigInteger(), "LivePerson's id of the agent group; null for none"),
    _of_segment("end_reason", sa.Text(), "Why the segment ended, as the API says it, for example closedByAgent"),
    _of_segment("start_time", _moment, "When the conversation was assigned to the agent", nullable=False),
    _of_segment(
        "end_time",
        _moment,
        "When the segment closed; the whole segment is filed under the day of this time",
        nullable=False,
    ),
    _of_segment(
        "total_handle_time_ms",
        sa.BigInteger(),
        "Actual handle time in milliseconds: how long the agent really worked on the segment; 0 is a real value",
        nullable=False,
    ),
    _of_segment(
        "quality_flags",
        ARRAY(sa.Text),
        "What is doubtful about the row, which is kept as it came; empty when nothing is",
        nullable=False,
        server_default=sa.text("'{}'"),
    ),
    _of_segment("extra", JSONB(none_as_null=True), "Fields that the API sent and the pipeline has no column for"),
    sa.Column("pulled_at", _moment, nullable=False, comment="Begin of the pull whose values the row holds"),
    sa.Column("first_loaded_at", _moment, nullable=False, comment="When the row was first loaded; never moves"),
    sa.Column("updated_at", _moment, nullable=False, comment="When a stored value last changed, or first_loaded_at"),
    sa.Column(
        "revision", sa.Integer, nullable=False, comment="1 at first, and one more with every change of a stored value"
    ),
    sa.Index(
        "agent_segments_end_time",
        "end_time",
        postgresql_using="brin",
        postgresql_ops={"end_time": "timestamptz_minmax_multi_ops"},
        postgresql_with={"autosummarize": "on"},
    ),
    comment="Agent segments: one agent's part of one conversation, with its handle time. Nothing is ever deleted",
)

rejected_segments = sa.Table(
    "rejected_segments",
    metadata,
    sa.Column("account_id", sa.Text, primary_key=True, comment="LivePerson account whose day held the row"),
    sa.Column("raw_sha256", sa.Text, primary_key=True, comment="SHA-256 of the raw row, in hexadecimal"),
    sa.Column("day", sa.Date, nullable=False, comment="Day whose pull last held the row"),
    sa.Column("raw", sa.Text, nullable=False, comment="The row as the API sent it"),
    sa.Column("reasons", ARRAY(sa.Text), nullable=False, comment="Why the row cannot be loaded"),
    sa.Column("first_seen_at", _moment, nullable=False, comment="First load that met the row; never moves"),
    sa.Column("last_seen_at", _moment, nullable=False, comment="Last load that met the row"),
    sa.Column(
        "resolved_at", _moment, comment="Load that accepted a mended row of the same segment; null while unresolved"
    ),
    comment="Rows of the API that lack what agent_segments needs. A day with too many of them fails instead of loading",
)

loads = sa.Table(
    "loads",
    metadata,
    sa.Column(
        "load_id",
        sa.BigInteger,
        sa.Identity(always=True),
        primary_key=True,
        comment="Number of the load; of two loads of one day the greater is the later",
    ),
    sa.Column("account_id", sa.Text, nullable=False, comment="LivePerson account"),
    sa.Column("day", sa.Date, nullable=False, comment="Day that was loaded, by the close time of its segments"),
    sa.Column("timezone", sa.Text, nullable=False, comment="IANA time zone in which the day begins and ends"),
    sa.Column("window_start", _moment, nullable=False, comment="Begin of the day"),
    sa.Column("window_end", _moment, nullable=False, comment="End of the day, itself not in it"),
    sa.Column("pulled_at", _moment, nullable=False, comment="When the pull began: no later change is in it"),
    sa.Column("loaded_at", _moment, nullable=False, comment="When the load began"),
    sa.Column("dagster_run_id", sa.Text, comment="Dagster run that loaded the day; null outside Dagster"),
    sa.Column("archive_file", sa.Text, nullable=False, comment="Archived pull that was loaded"),
    sa.Column("archive_sha256", sa.Text, nullable=False, comment="SHA-256 that the archive gave the pull"),
    sa.Column("requests", sa.Integer, nullable=False, comment="Requests that the pull took"),
    sa.Column("reported", sa.Integer, nullable=False, comment="Segments that the API reported for the day's window"),
    sa.Column("inserted", sa.Integer, nullable=False, comment="Segments that were new to the warehouse"),
    sa.Column("updated", sa.Integer, nullable=False, comment="Segments of which a stored value changed"),
    sa.Column(
        "unchanged", sa.Integer, nullable=False, comment="Segments that the warehouse held already, or a newer state of"
    ),
    sa.Column("rejected", sa.Integer, nullable=False, comment="Rows that went to rejected_segments"),
    sa.Column(
        "outside_day", sa.Integer, nullable=False, comment="Rows on the window's edge that belong to a neighbouring day"
    ),
    sa.Column(
        "settled",
        sa.Boolean,
        nullable=False,
        comment="Whether the pull began after the last moment at which late data of the day could appear",
    ),
    sa.CheckConstraint(
        "reported = inserted + updated + unchanged + rejected + outside_day", name="loads_reported_adds_up"
    ),
    sa.Index("loads_account_id_day", "account_id", "day"),
    comment="The ledger: one row for every load of a day, all its figures proved. Rows are only ever added",
)

refused_days = sa.Table(
    "refused_days",
    metadata,
    sa.Column("account_id", sa.Text, primary_key=True, comment="LivePerson account"),
    sa.Column("day", sa.Date, primary_key=True, comment="Day that was asked for"),
    sa.Column("refused_at", _moment, nullable=False, comment="When the API first refused the day"),
    sa.Column("reason", sa.Text, nullable=False, comment="What the API answered"),
    comment="Days that the API refused as older than its memory of one month",
)

changed_quarters = sa.Table(
    "changed_quarters",
    metadata,
    sa.Column("account_id", sa.Text, primary_key=True, comment="LivePerson account"),
    sa.Column(
        "quarter_start",
        _moment,
        primary_key=True,
        comment="Begin of the quarter in which a changed segment closes, or closed before",
    ),
    sa.Column(
        "changed_by",
        sa.BigInteger,
        primary_key=True,
        autoincrement=False,
        comment="Transaction that changed it: whoever rolls up takes away only the marks that it saw",
    ),
    comment="Quarters of an hour whose segments changed since their day was last rolled up",
)


def _measures() -> list[sa.Column[Any]]:
    counts = {
        "segments": "Segments that closed",
        "closed_by_agent": "Of these, closed by the agent",
        "closed_by_consumer": "Of these, closed by the consumer",
        "closed_by_system": "Of these, closed by the system",
        "transfers": "Of these, transferred to an agent or a skill",
        "back_to_queue": "Of these, given back to the queue",
        "zero_handle_segments": "Of these, with a handle time of 0",
    }
    total = sa.Column(
        "total_handle_time_ms", sa.Numeric, nullable=False, comment="Sum of their actual handle time, in milliseconds"
    )
    return [sa.Column(name, sa.BigInteger, nullable=False, comment=text) for name, text in counts.items()] + [total]


def _key(name: str, kind: type[sa.types.TypeEngine[Any]], comment: str) -> sa.Column[Any]:
    return sa.Column(name, kind, primary_key=True, autoincrement=False, comment=comment)


interval_rollup = sa.Table(
    "interval_rollup",
    metadata,
    _key("account_id", sa.Text, "LivePerson account"),
    _key("close_date", sa.Date, "Day of the quarter, in the account's time zone"),
    sa.Column("interval_start", _moment, primary_key=True, comment="Begin of the quarter in which the segments closed"),
    _key("skill_id", sa.BigInteger, "LivePerson's id of the skill; -1 for none"),
    *_measures(),
    comment="Sums of agent_segments by skill and quarter of an hour; read reporting.skill_interval instead",
)

daily_rollup = sa.Table(
    "daily_rollup",
    metadata,
    _key("account_id", sa.Text, "LivePerson account"),
    _key("grain", sa.Text, "What a row stands for beside its day: agent, skill, group or agent_skill"),
    _key("close_date", sa.Date, "Day on which the segments closed, in the account's time zone"),
    _key("agent_id", sa.BigInteger, "LivePerson's id of the agent; -1 where the grain has none"),
    _key("skill_id", sa.BigInteger, "LivePerson's id of the skill; -1 for none, and where the grain has none"),
    _key("group_id", sa.BigInteger, "LivePerson's id of the agent group; -1 for none, and where the grain has none"),
    *_measures(),
    sa.Column(
        "median_handle_time_ms",
        sa.Double,
        nullable=False,
        comment="Median of their actual handle time, in milliseconds",
    ),
    sa.Column(
        "p90_handle_time_ms",
        sa.Double,
        nullable=False,
        comment="90th percentile of their actual handle time, in milliseconds, interpolated",
    ),
    comment="Sums and quantiles of agent_segments by day and grain; read the views of reporting by day instead",
)

names = sa.Table(
    "names",
    metadata,
    _key("account_id", sa.Text, "LivePerson account"),
    _key("kind", sa.Text, "What the id is one of: agent, skill or group"),
    _key("id", sa.BigInteger, "LivePerson's id of the agent, skill or agent group"),
    sa.Column("name", sa.Text, nullable=False, comment="Nickname of the agent, name of the skill or agent group"),
    sa.Column(
        "is_deleted",
        sa.Boolean,
        nullable=False,
        comment="Whether it is deleted at LivePerson, or no longer listed there",
    ),
    sa.Column("is_enabled", sa.Boolean, comment="Whether the agent can log in; null for skills and groups"),
    sa.Column("user_type_id", sa.BigInteger, comment="LivePerson's id of the kind of user; null for skills and groups"),
    sa.Column("first_seen_at", _moment, nullable=False, comment="First reply that listed it; never moves"),
    sa.Column(
        "last_seen_at",
        _moment,
        nullable=False,
        comment="Last reply that listed it; where nothing has changed, LivePerson lists nothing",
    ),
    comment="What agents, skills and agent groups are called. Those that are deleted at LivePerson stay",
)

former_names = sa.Table(
    "former_names",
    metadata,
    _key("account_id", sa.Text, "LivePerson account"),
    _key("kind", sa.Text, "What the id is one of: agent, skill or group"),
    _key("id", sa.BigInteger, "LivePerson's id of the agent, skill or agent group"),
    sa.Column("replaced_at", _moment, primary_key=True, comment="First reply that listed it under its next name"),
    sa.Column("name", sa.Text, nullable=False, comment="Name that it had until then"),
    comment="Names that were replaced by others",
)

name_revisions = sa.Table(
    "name_revisions",
    metadata,
    _key("account_id", sa.Text, "LivePerson account"),
    _key("kind", sa.Text, "Whose names: agent, skill or group"),
    sa.Column(
        "revision",
        sa.Text,
        comment="LivePerson's revision of the list: sent along with the next request, which lists nothing where it is "
        "the same; null where LivePerson gave none",
    ),
    sa.Column("read_at", _moment, nullable=False, comment="When the list was last read, or found unchanged"),
    comment="How far the names of each kind are read",
)

SEGMENT_COLUMNS: tuple[sa.Column[Any], ...] = tuple(
    column for column in agent_segments.columns if column.info.get("of_segment")
)
"""The columns of `agent_segments` that a segment itself determines, in the table's order: a frame holds just these."""
