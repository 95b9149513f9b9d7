"""The segments, the rejects, the ledger of loads and the days that the API refused."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "agent_segments",
        sa.Column(
            "segment_id",
            sa.Text(collation="C"),
            primary_key=True,
            comment="LivePerson's key of the segment, opaque and case-sensitive",
        ),
        sa.Column("account_id", sa.Text, nullable=False, comment="LivePerson account that the segment belongs to"),
        sa.Column(
            "conversation_id",
            sa.Text,
            nullable=False,
            comment="Conversation that the segment is one agent's part of",
        ),
        sa.Column("agent_id", sa.BigInteger, nullable=False, comment="LivePerson's id of the agent"),
        sa.Column("employee_id", sa.Text, comment="The brand's own id of the agent, leading zeros kept; null for none"),
        sa.Column("skill_id", sa.BigInteger, comment="LivePerson's id of the skill; null for none"),
        sa.Column("group_id", sa.BigInteger, comment="LivePerson's id of the agent group; null for none"),
        sa.Column(
            "end_reason", sa.Text, comment="Why the segment ended, as the API says it, for example closedByAgent"
        ),
        _moment("start_time", "When the conversation was assigned to the agent"),
        _moment("end_time", "When the segment closed; the whole segment is filed under the day of this time"),
        sa.Column(
            "total_handle_time_ms",
            sa.BigInteger,
            nullable=False,
            comment="Actual handle time in milliseconds: how long the agent really worked on the segment; "
            "0 is a real value",
        ),
        sa.Column(
            "quality_flags",
            ARRAY(sa.Text),
            nullable=False,
            server_default=sa.text("'{}'"),
            comment="What is doubtful about the row, which is kept as it came; empty when nothing is",
        ),
        sa.Column("extra", JSONB, comment="Fields that the API sent and the pipeline has no column for"),
        _moment("pulled_at", "Begin of the pull whose values the row holds"),
        _moment("first_loaded_at", "When the row was first loaded; never moves"),
        _moment("updated_at", "When a stored value last changed, or first_loaded_at"),
        sa.Column(
            "revision",
            sa.Integer,
            nullable=False,
            comment="1 at first, and one more with every change of a stored value",
        ),
        schema="aht",
        comment="Agent segments: one agent's part of one conversation, with its handle time. Nothing is ever deleted",
    )
    op.create_index("agent_segments_end_time", "agent_segments", ["end_time"], schema="aht", postgresql_using="brin")

    op.create_table(
        "rejected_segments",
        sa.Column("account_id", sa.Text, primary_key=True, comment="LivePerson account whose day held the row"),
        sa.Column("raw_sha256", sa.Text, primary_key=True, comment="SHA-256 of the raw row, in hexadecimal"),
        sa.Column("day", sa.Date, nullable=False, comment="Day whose pull last held the row"),
        sa.Column("raw", sa.Text, nullable=False, comment="The row as the API sent it"),
        sa.Column("reasons", ARRAY(sa.Text), nullable=False, comment="Why the row cannot be loaded"),
        _moment("first_seen_at", "First load that met the row; never moves"),
        _moment("last_seen_at", "Last load that met the row"),
        _moment(
            "resolved_at",
            "Load that accepted a mended row of the same segment; null while unresolved",
            nullable=True,
        ),
        schema="aht",
        comment="Rows of the API that lack what agent_segments needs. "
        "A day with too many of them fails instead of loading",
    )

    op.create_table(
        "loads",
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
        _moment("window_start", "Begin of the day"),
        _moment("window_end", "End of the day, itself not in it"),
        _moment("pulled_at", "When the pull began: no later change is in it"),
        _moment("loaded_at", "When the load began"),
        sa.Column("dagster_run_id", sa.Text, comment="Dagster run that loaded the day; null outside Dagster"),
        sa.Column("archive_file", sa.Text, nullable=False, comment="Archived pull that was loaded"),
        sa.Column("archive_sha256", sa.Text, nullable=False, comment="SHA-256 that the archive gave the pull"),
        _count("requests", "Requests that the pull took"),
        _count("reported", "Segments that the API reported for the day's window"),
        _count("inserted", "Segments that were new to the warehouse"),
        _count("updated", "Segments of which a stored value changed"),
        _count("unchanged", "Segments that the warehouse held already, or a newer state of"),
        _count("rejected", "Rows that went to rejected_segments"),
        _count("outside_day", "Rows on the window's edge that belong to a neighbouring day"),
        sa.Column(
            "settled",
            sa.Boolean,
            nullable=False,
            comment="Whether the pull began after the last moment at which late data of the day could appear",
        ),
        sa.CheckConstraint(
            "reported = inserted + updated + unchanged + rejected + outside_day", name="loads_reported_adds_up"
        ),
        schema="aht",
        comment="The ledger: one row for every load of a day, all its figures proved. Rows are only ever added",
    )
    op.create_index("loads_account_id_day", "loads", ["account_id", "day"], schema="aht")

    op.create_table(
        "refused_days",
        sa.Column("account_id", sa.Text, primary_key=True, comment="LivePerson account"),
        sa.Column("day", sa.Date, primary_key=True, comment="Day that was asked for"),
        _moment("refused_at", "When the API first refused the day"),
        sa.Column("reason", sa.Text, nullable=False, comment="What the API answered"),
        schema="aht",
        comment="Days that the API refused as older than its memory of one month",
    )


def downgrade() -> None:
    for table in ("refused_days", "loads", "rejected_segments", "agent_segments"):
        op.drop_table(table, schema="aht")


def _moment(name: str, comment: str, *, nullable: bool = False) -> sa.Column:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable, comment=comment)


def _count(name: str, comment: str) -> sa.Column:
    return sa.Column(name, sa.Integer, nullable=False, comment=comment)
