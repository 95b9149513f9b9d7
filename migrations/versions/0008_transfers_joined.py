"""Transfers from skill to skill several times faster, most of all those of a few days."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0008"
down_revision = "0007"

_SQL = Path(__file__).with_suffix(".sql")
_BEFORE = (
    ("0004_names.sql", "CREATE OR REPLACE VIEW reporting.skill_transfers"),
    ("0003_reporting_layer.sql", "COMMENT ON VIEW reporting.skill_transfers"),
)


def upgrade() -> None:
    op.execute(_SQL.read_text("utf-8"))


def downgrade() -> None:
    for file, begin in _BEFORE:
        text = _SQL.with_name(file).read_text("utf-8")
        op.execute(text[text.index(begin) : text.index(";\n", text.index(begin))])
