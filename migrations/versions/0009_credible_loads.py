"""Lines of the ledger whose pull cannot have begun when it says settle no day, in any view."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0009"
down_revision = "0008"

_SQL = Path(__file__).with_suffix(".sql")
_ONLY_WHAT_SETTLES = (
    ("0004_names.sql", "reporting.agent_segments"),
    ("0004_names.sql", "reporting.skill_interval"),
    ("0004_names.sql", "reporting.agent_day"),
    ("0004_names.sql", "reporting.skill_day"),
    ("0004_names.sql", "reporting.group_day"),
    ("0004_names.sql", "reporting.agent_skill_day"),
    ("0003_reporting_layer.sql", "reporting.conversation_metrics"),
)


def upgrade() -> None:
    op.execute(_SQL.read_text("utf-8"))
    for file, view in _ONLY_WHAT_SETTLES:
        op.execute(_view_of(file, view).replace(" FROM aht.loads ", " FROM aht.credible_loads "))


def downgrade() -> None:
    for file, view in (("0002_reporting.sql", "reporting.day_coverage"), *_ONLY_WHAT_SETTLES):
        op.execute(_view_of(file, view))
    op.execute("DROP VIEW aht.credible_loads")


def _view_of(file: str, view: str) -> str:
    """The view as this file makes it."""
    text = _SQL.with_name(file).read_text("utf-8")
    begin = text.index(f"VIEW {view} AS")
    return f"CREATE OR REPLACE {text[begin : text.index(';', begin)]}"
