"""The views of the reporting schema, in the SQL file beside this one."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute(Path(__file__).with_suffix(".sql").read_text("utf-8"))


def downgrade() -> None:
    for view in ("day_coverage", "group_day", "skill_day", "agent_day", "account_timezone"):
        op.execute(f"DROP VIEW reporting.{view}")
    # A schema that others use too stays.
    op.execute("DO $$ BEGIN DROP SCHEMA reporting; EXCEPTION WHEN dependent_objects_still_exist THEN NULL; END $$")
