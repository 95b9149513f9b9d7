"""The reporting layer: rollups that always agree with the segments, and the views that read them."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0003"
down_revision = "0002"

_SQL = Path(__file__).with_suffix(".sql")
_VIEWS = (
    "skill_transfers",
    "conversation_metrics",
    "agent_skill_day",
    "group_day",
    "skill_day",
    "agent_day",
    "skill_interval",
    "agent_segments",
    "day_coverage",
)


def upgrade() -> None:
    op.execute(_SQL.read_text("utf-8"))


def downgrade() -> None:
    for view in _VIEWS:
        op.execute(f"DROP VIEW reporting.{view}")
    op.execute("DROP FUNCTION aht.roll_up_day(text, date)")
    for view in ("interval_measures", "day_measures", "changed_interval_measures", "changed_day_measures"):
        op.execute(f"DROP VIEW aht.{view}")
    for function in ("segments_between", "measure_intervals"):
        op.execute(f"DROP FUNCTION aht.{function}(text, timestamptz, timestamptz)")
    op.execute("DROP VIEW aht.changed_days")
    op.execute("DROP FUNCTION aht.find_changed_days()")
    op.execute("DROP VIEW reporting.account_timezone")
    for change in ("insert", "update", "delete", "truncate"):
        op.execute(f"DROP TRIGGER mark_{change} ON aht.agent_segments")
    op.execute("DROP FUNCTION aht.mark_changed_quarters()")
    for table in ("changed_quarters", "interval_rollup", "daily_rollup"):
        op.execute(f"DROP TABLE aht.{table}")
    op.execute(_SQL.with_name("0002_reporting.sql").read_text("utf-8"))
