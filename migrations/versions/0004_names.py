"""Names of agents, skills and agent groups, and these names beside the ids in the reports."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0004"
down_revision = "0003"

_SQL = Path(__file__).with_suffix(".sql")
_FIRST_VIEW = "CREATE VIEW reporting.agent_segments"
_VIEWS = (
    "skill_transfers",
    "conversation_metrics",
    "agent_skill_day",
    "group_day",
    "skill_day",
    "agent_day",
    "skill_interval",
    "agent_segments",
)


def upgrade() -> None:
    op.execute(_SQL.read_text("utf-8"))


def downgrade() -> None:
    for view in _VIEWS:
        op.execute(f"DROP VIEW reporting.{view}")
    before = _SQL.with_name("0003_reporting_layer.sql").read_text("utf-8")
    op.execute(before[before.index(_FIRST_VIEW) :])
    op.execute("DROP FUNCTION aht.forget_agent_names(text)")
    for table in ("name_revisions", "former_names", "names"):
        op.execute(f"DROP TABLE aht.{table}")
