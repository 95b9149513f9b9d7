"""An index on the close time that a few stray rows cannot spoil.

Postgres fills holes in old pages with new rows. To a plain BRIN index, which keeps one span of time for 128 pages, such
a row stretches the span over all days between; after a year, a day was looked for in a fifth of the table. The multi
variant keeps several spans. Pages are summarised as they fill, not only by the next vacuum.
"""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.drop_index("agent_segments_end_time", schema="aht")
    op.create_index(
        "agent_segments_end_time",
        "agent_segments",
        ["end_time"],
        schema="aht",
        postgresql_using="brin",
        postgresql_ops={"end_time": "timestamptz_minmax_multi_ops"},
        postgresql_with={"autosummarize": "on"},
    )


def downgrade() -> None:
    op.drop_index("agent_segments_end_time", schema="aht")
    op.create_index("agent_segments_end_time", "agent_segments", ["end_time"], schema="aht", postgresql_using="brin")
