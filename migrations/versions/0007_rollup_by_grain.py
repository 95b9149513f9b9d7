"""A partition of the daily rollup for each of its grains."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0007"
down_revision = "0006"

_SQL = Path(__file__).with_suffix(".sql")


def upgrade() -> None:
    op.execute(_SQL.read_text("utf-8"))


def downgrade() -> None:
    text = _SQL.read_text("utf-8")
    op.execute(
        "ALTER TABLE aht.daily_rollup RENAME TO daily_rollup_by_grain;"
        "ALTER INDEX aht.daily_rollup_pkey RENAME TO daily_rollup_by_grain_pkey;"
        "CREATE TABLE aht.daily_rollup (LIKE aht.daily_rollup_by_grain INCLUDING ALL)"
    )
    op.execute("INSERT INTO aht.daily_rollup SELECT * FROM aht.daily_rollup_by_grain")
    for begin in ("COMMENT ON TABLE", "CREATE OR REPLACE VIEW"):
        op.execute(text[text.index(begin) : text.index(";\n", text.index(begin))])
    op.execute("DROP TABLE aht.daily_rollup_by_grain")
