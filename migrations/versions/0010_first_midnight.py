"""A day with two midnights begins with the first of them, in the sums that reports read, too."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0010"
down_revision = "0009"

_SQL = Path(__file__).with_suffix(".sql")


def upgrade() -> None:
    op.execute(_SQL.read_text("utf-8"))


def downgrade() -> None:
    before = _SQL.with_name("0003_reporting_layer.sql").read_text("utf-8")
    begin = before.index("VIEW aht.changed_days AS")
    op.execute(f"CREATE OR REPLACE {before[begin : before.index(';', begin)]}")
